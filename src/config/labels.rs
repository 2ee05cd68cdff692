//! `[upstream.NAME] labels`: rules that attach labels to sockets, read from the request that opens them.

use std::sync::Arc;

use hyper::header::HeaderName;

use super::check::Context;
use super::error::{Report, Span};
use super::file::{ConfigText, Section};
use super::listener::Listener;
use super::tls::ClientAuth;
use super::upstream::ReadUpstream;

/// Label rules of an upstream, in the order of the config file.
pub type LabelRules = Vec<LabelRule>;

/// Rule for one label of a socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LabelRule {
    /// Name of the label: `[a-z0-9_]{1,32}`.
    pub name: String,
    /// Where the label's value is in a request.
    pub from: LabelSource,
}

/// Source of a label's value in a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LabelSource {
    /// Query parameter of this name, percent-decoded; if it is repeated, the last one.
    Query(String),
    /// Cookie of this name; if there are several, the first one.
    Cookie(String),
    /// Header field of this name; if there are several, the first one.
    Header(HeaderName),
    /// Claim of the client's token (`[route.jwt]`).
    Claim(String),
    /// Part of the client's certificate, which a listener has checked (`client_auth`).
    Certificate(CertificatePart),
    /// The application sets it over the API; no request has it.
    Backend,
}

/// Part of a client's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CertificatePart {
    /// Its subject, such as `CN=device-7,O=Example`.
    Subject,
    /// Its SHA-256 fingerprint, as 64 hexadecimal digits.
    Fingerprint,
}

impl LabelSource {
    /// Name of the claim that the label shows; `None` if it has another source.
    pub(crate) fn claim(&self) -> Option<&str> {
        match self {
            Self::Claim(name) => Some(name),
            Self::Query(_) | Self::Cookie(_) | Self::Header(_) | Self::Certificate(_) | Self::Backend => None,
        }
    }
}

/// Maximum number of labels; each costs memory in every socket.
const MOST: usize = 8;

/// Headers that carry secrets, which must not be shown.
const SECRETS: [&str; 5] = ["authorization", "cookie", "proxy-authorization", "sec-websocket-key", "set-cookie"];

/// Reads the `labels` table; the name of the upstream is needed to know its affinity cookie.
pub(crate) fn read(section: &mut Section<'_>, upstream: &str) -> Arc<LabelRules> {
    let expected = "a table such as { store = \"query:storeId\" }";
    let Some(table) = section.section("labels", expected) else { return Arc::default() };
    let (report, at) = (table.report, table.span.clone());
    let mut labels = LabelRules::new();
    for (name, item) in table.named() {
        let Some(text) =
            item.text("a place such as \"query:storeId\", \"cookie:uid\", \"header:x-tenant\" or \"jwt:sub\"")
        else {
            continue;
        };
        check_name(report, &name);
        if let Some(from) = place(report, &text, upstream) {
            labels.push(LabelRule { name: name.value, from });
        }
    }
    if labels.len() > MOST {
        report.error(&at, format!("there are {} labels; the maximum is {MOST}", labels.len()));
    }
    Arc::new(labels)
}

/// Warns of labels that stay empty, because no listener asks clients for certificates.
pub(crate) fn need_certificates(context: &Context<'_>, upstreams: &[ReadUpstream], listeners: &[(Listener, Span)]) {
    let mut certificates = listeners.iter().filter_map(|(one, _)| one.tls.as_ref()).flat_map(|tls| &tls.certificates);
    if certificates.any(|one| one.client_auth != ClientAuth::Off) {
        return;
    }
    let reads = |label: &LabelRule| matches!(label.from, LabelSource::Certificate(_));
    for read in upstreams.iter().filter(|read| read.upstream.labels.iter().any(reads)) {
        let message = "a label is read from client certificates, but no listener has `client_auth`";
        context.report.warn(&read.name, message, "add client_auth to the tls of a listener, or the label stays empty");
    }
}

/// Checks the name of a label, which becomes a key in answers of the admin API and in filters.
fn check_name(report: &Report<'_>, name: &ConfigText) {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if !(1..=32).contains(&name.value.len()) || !name.value.bytes().all(fits) {
        let help = "use 1 to 32 characters of a-z, 0-9 and `_`: filters are written label.NAME=…";
        report.error_help(&name.span, format!("`{}` is not a valid label name", name.value), help);
    }
}

fn place(report: &Report<'_>, text: &ConfigText, upstream: &str) -> Option<LabelSource> {
    let help = "write \"query:KEY\", \"cookie:NAME\", \"header:NAME\", \"jwt:CLAIM\", \"certificate:subject\", \
                \"certificate:fingerprint\" or \"backend\"";
    if text.value.trim() == "backend" {
        return Some(LabelSource::Backend);
    }
    let (kind, key) = text.value.split_once(':').unwrap_or((&text.value, ""));
    let key = key.trim();
    let wrong = |message: String, help: &str| {
        report.error_help(&text.span, message, help);
        None
    };
    if key.is_empty() || key.len() > 128 || key.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return wrong(format!("`{}` is not a place to read a label from", text.value), help);
    }
    match kind.trim() {
        "query" => Some(LabelSource::Query(key.to_owned())),
        "cookie" if key.eq_ignore_ascii_case(&format!("stickyd_{upstream}")) => {
            wrong("the affinity cookie is secret and cannot be a label".to_owned(), "name another cookie")
        }
        "cookie" => Some(LabelSource::Cookie(key.to_owned())),
        "header" if SECRETS.iter().any(|secret| secret.eq_ignore_ascii_case(key)) => {
            wrong(format!("the header `{key}` carries secrets and cannot be a label"), "name another header")
        }
        "jwt" => Some(LabelSource::Claim(key.to_owned())),
        "certificate" => match key {
            "subject" => Some(LabelSource::Certificate(CertificatePart::Subject)),
            "fingerprint" => Some(LabelSource::Certificate(CertificatePart::Fingerprint)),
            _ => wrong(format!("`{key}` is not a part of a client certificate that can be a label"), help),
        },
        "header" => match HeaderName::try_from(key) {
            Ok(name) => Some(LabelSource::Header(name)),
            Err(_) => wrong(format!("`{key}` is not a valid header name"), help),
        },
        _ => wrong(format!("`{}` is not a place to read a label from", text.value), help),
    }
}
