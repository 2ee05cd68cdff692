//! `tls = { … }` of a listener: certificates with their keys, client certificates, HSTS.
//!
//! Everything is tried here: a key that does not fit, a chain out of date, a name no client can ask for are errors with a
//! place before anything is bound or swapped. Leaves out which certificate a client gets: that is `listener::tls`.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};

use rustls::RootCertStore;
use rustls::SignatureAlgorithm;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::check::Context;
use super::error::Span;
use super::file::{Item, Section, Text};
use super::values::{duration, word};
use super::{files, routes};

/// How a listener ends TLS. Reloaded.
#[derive(Debug, PartialEq)]
pub struct Tls {
    /// At least one; the first serves clients that name no host, or one that no certificate is for.
    pub certificates: Vec<Certificate>,
    /// Application protocols in order of preference (RFC 7301).
    pub alpn: Vec<Vec<u8>>,
    /// `Strict-Transport-Security` of every answer (RFC 6797 §6.1). `None`: the workers' business.
    pub hsts: Option<String>,
    /// Whose memory records are taken apart in.
    pub buffers: Buffers,
}

/// Whose memory a connection's records are taken apart and put together in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Buffers {
    /// Its thread's: a connection that is silent owns none.
    #[default]
    Shared,
    /// Its own, 4 KiB or more for as long as it lives.
    Own,
}

const BUFFERS: [(&str, Buffers); 2] = [("shared", Buffers::Shared), ("own", Buffers::Own)];

/// One certificate with its key, read and matched to each other.
#[derive(Debug, PartialEq)]
pub struct Certificate {
    /// Names it is chosen for, lower case, `*.example.com` or exact: those it bears, or `hosts`.
    pub hosts: Vec<String>,
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS#8, PKCS#1 or SEC1.
    pub key: PrivateKeyDer<'static>,
    /// The last second the leaf is valid in, since 1970.
    pub not_after: u64,
    /// Whether its hosts ask for a client certificate.
    pub client_auth: ClientAuth,
}

/// Whether a client has to show a certificate. Two are the same policy when they are equal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ClientAuth {
    /// It is not asked.
    #[default]
    Off,
    /// It may; a wrong one ends the handshake all the same.
    Optional(Vec<CertificateDer<'static>>),
    /// It must have one that these authorities have signed.
    Required(Vec<CertificateDer<'static>>),
}

#[derive(Clone, Copy)]
enum Mode {
    Off,
    Optional,
    Required,
}

const MODES: [(&str, Mode); 3] = [("off", Mode::Off), ("optional", Mode::Optional), ("required", Mode::Required)];

/// Ten years; 0 makes browsers forget.
const MAX_AGES: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(10 * 365 * 86_400);
/// What browsers' lists ask for (hstspreload.org).
const PRELOAD_AGE: Duration = Duration::from_secs(365 * 86_400);

/// Reads `tls = { certificate, key }` or `tls = { certificates = [{…}, …] }`.
pub(super) fn read(context: &Context<'_>, mut section: Section<'_>, http2: bool) -> Option<Tls> {
    let several = section.key("certificates");
    let list = section.take("certificates");
    let single = ["certificate", "key", "hosts"].into_iter().find_map(|key| Some((key, section.key(key)?)));
    if let (Some((key, at)), Some(_)) = (single, &several) {
        let help = "put the pair into `certificates`, first if it is the default";
        context.report.error_help(&at, format!("`{key}` and `certificates` are both there"), help);
    }
    let auth = section.take("client_auth").and_then(|item| client_auth(context, item)).unwrap_or_default();
    let hsts = section.section("hsts", "a table such as { max_age = \"365d\" }").and_then(hsts);
    let buffers = section.text("buffers", "\"shared\" or \"own\"");
    let buffers = buffers.and_then(|text| word(context.report, "buffers", &text, &BUFFERS)).unwrap_or_default();
    let read = match list {
        Some(list) => {
            // Not unknown here, only one too many.
            for key in ["certificate", "key", "hosts"] {
                section.take(key);
            }
            section.finish();
            certificates(context, list, &auth)?
        }
        None => {
            let one = pair(context, &mut section, &auth);
            section.finish();
            vec![one?]
        }
    };
    names_differ(context, &read);
    let certificates = read.into_iter().map(|(certificate, _)| certificate).collect();
    let alpn = [&b"h2"[..], b"http/1.1"].iter().skip(usize::from(!http2)).map(|name| name.to_vec()).collect();
    Some(Tls { certificates, alpn, hsts, buffers })
}

/// A certificate with its place and the kind of its key.
type Read = (Certificate, (Span, SignatureAlgorithm));

fn certificates(context: &Context<'_>, item: Item<'_>, auth: &ClientAuth) -> Option<Vec<Read>> {
    let at = item.span.clone();
    let items = item.list("a list such as [{ certificate = \"a.pem\", key = \"a.key\" }]", "a certificate")?;
    if items.is_empty() {
        context.report.error(&at, "`certificates` is empty: TLS needs one");
    }
    let written = items.len();
    let one = |item: Item<'_>| {
        let mut section =
            item.section("a certificate", "a table such as { certificate = \"a.pem\", key = \"a.key\" }")?;
        let own = section.take("client_auth").and_then(|item| client_auth(context, item));
        let read = pair(context, &mut section, &own.unwrap_or_else(|| auth.clone()));
        section.finish();
        read
    };
    let read: Vec<_> = items.into_iter().filter_map(one).collect();
    (written > 0 && read.len() == written).then_some(read)
}

/// `certificate`, `key` and `hosts`, wherever they stand.
fn pair(context: &Context<'_>, section: &mut Section<'_>, auth: &ClientAuth) -> Option<Read> {
    let certificate = section.required("certificate", "a path", "\"fullchain.pem\"");
    let key = section.required("key", "a path", "\"privkey.pem\"");
    let hosts = section.take("hosts").map(|item| hosts(context, item));
    let chain = certificate.as_ref().and_then(|path| files::chain(context, path));
    let key_der = key.as_ref().and_then(|path| files::private_key(context, path));
    let (certificate, key, (chain, leaf)) = (certificate?, key?, chain?);
    let key_der = key_der?;
    let kind = files::matched(context, &certificate, &key, &chain, &key_der)?;
    let hosts = hosts.unwrap_or_else(|| leaf.dns_names());
    let read = Certificate { hosts, chain, key: key_der, not_after: leaf.not_after(), client_auth: auth.clone() };
    Some((read, (certificate.span, kind)))
}

fn hosts(context: &Context<'_>, item: Item<'_>) -> Vec<String> {
    let items = item.list("a list such as [\"example.com\", \"*.example.com\"]", "a host").unwrap_or_default();
    let texts = items.into_iter().filter_map(|item| item.text("a string such as \"example.com\""));
    texts.map(|text| routes::check_host(context, &text)).collect()
}

/// `{ mode = "required", ca = "ca.pem" }`
fn client_auth(context: &Context<'_>, item: Item<'_>) -> Option<ClientAuth> {
    const CA: &str = "write ca = \"ca.pem\": who signs the certificates of clients";
    let mut section = item.section("`client_auth`", "a table such as { mode = \"required\", ca = \"ca.pem\" }")?;
    let mode = section.required("mode", "\"off\", \"optional\" or \"required\"", "\"required\"");
    let path = section.text("ca", "a path");
    section.finish();
    let mode_at = mode.as_ref()?.span.clone();
    let mode = word(context.report, "mode", &mode?, &MODES)?;
    if let (Mode::Off, Some(path)) = (mode, &path) {
        context.report.error(&path.span, "`ca` says who signs clients' certificates, and mode = \"off\" asks for none");
    }
    let roots = path.map(|path| authorities(context, &path));
    match (mode, roots) {
        (Mode::Off, _) => Some(ClientAuth::Off),
        (_, None) => {
            context.report.error_help(&mode_at, "`client_auth` needs `ca`", CA);
            None
        }
        (Mode::Optional, Some(roots)) => Some(ClientAuth::Optional(roots?)),
        (Mode::Required, Some(roots)) => Some(ClientAuth::Required(roots?)),
    }
}

/// Certificates of authorities, each of a kind that can sign others.
pub(super) fn authorities(context: &Context<'_>, path: &Text) -> Option<Vec<CertificateDer<'static>>> {
    let all = files::certificates(context, path, "a PEM file with the certificates of the authorities")?;
    let mut roots = RootCertStore::empty();
    for (i, authority) in all.iter().enumerate() {
        if let Err(error) = roots.add(authority.clone()) {
            let reason = format!("its certificate {} is none of an authority: {error}", i + 1);
            return files::unusable(context, path, &reason, "a PEM file with the certificates of the authorities");
        }
    }
    Some(all)
}

/// `{ max_age = "365d", include_subdomains = true, preload = false }`
fn hsts(mut section: Section<'_>) -> Option<String> {
    let (report, at) = (section.report, section.span.clone());
    let Some(item) = section.take("max_age") else {
        report.error_help(&at, "`hsts` needs `max_age`", "write max_age = \"365d\"");
        section.take("include_subdomains");
        section.take("preload");
        section.finish();
        return None;
    };
    let max_age = duration(item, MAX_AGES);
    let subdomains = section.take("include_subdomains").and_then(Item::boolean).unwrap_or(false);
    let preload = section.take("preload").and_then(Item::boolean).unwrap_or(false);
    section.finish();
    let max_age = max_age?;
    if preload && !(subdomains && max_age >= PRELOAD_AGE) {
        let help = "the browsers' lists ask for include_subdomains = true and max_age = \"365d\" or more";
        report.warn(&at, "`preload` is asked for, but browsers will not take it", help);
    }
    let (subdomains, preload) =
        (if subdomains { "; includeSubDomains" } else { "" }, if preload { "; preload" } else { "" });
    Some(format!("max-age={}{subdomains}{preload}", max_age.as_secs()))
}

/// One name, two certificates: fine for two kinds of keys and one policy.
fn names_differ(context: &Context<'_>, all: &[Read]) {
    let mut seen: HashMap<&str, Vec<&Read>> = HashMap::new();
    for (i, read) in all.iter().enumerate() {
        let (certificate, (at, kind)) = read;
        if certificate.hosts.is_empty() && i > 0 {
            let help = "clients are told apart by name: write hosts = [\"example.com\"]";
            context.report.error_help(at, "this certificate bears no DNS name, so no client gets it", help);
        }
        for host in &certificate.hosts {
            let others = seen.entry(host).or_default();
            for (other, (first, other_kind)) in others.iter() {
                let line = context.report.line_of(first);
                if other.client_auth != certificate.client_auth {
                    let message = format!("`{host}` has another `client_auth` in line {line}");
                    context.report.error_help(at, message, "one host, one policy: a client could choose the weaker");
                } else if other_kind == kind {
                    let message =
                        format!("`{host}` has a certificate with the same kind of key already, in line {line}");
                    context.report.warn(at, message, "clients get the first; narrow one of them by `hosts`");
                }
            }
            others.push(read);
        }
    }
}

/// What is wrong with the dates of a chain, at `now`. An expired leaf is an error: every client will refuse it. One that is
/// not valid yet is a warning: mostly it is the machine's clock that is wrong, and a machine that boots in 1970 must
/// still serve. So is an expired intermediate: clients may know another way to a root.
pub(super) fn dates(context: &Context<'_>, path: &Text, chain: &[crate::x509::Certificate], now: u64) {
    for (i, certificate) in chain.iter().enumerate() {
        let which = match i {
            0 => format!("the certificate {}", path.value),
            _ => format!("certificate {} in {} ({})", i + 1, path.value, certificate.subject()),
        };
        let (after, before) = (certificate.not_after(), certificate.not_before());
        if now > after {
            let message = format!("{which} expired at {}", date(after));
            match i {
                0 => context.report.error_help(&path.span, message, "clients refuse it: renew it, then reload"),
                _ => context.report.warn(
                    &path.span,
                    message,
                    "some clients will refuse it; renew the chain, then reload",
                ),
            }
        } else if now < before {
            let message = format!("{which} is not valid before {}", date(before));
            context.report.warn(&path.span, message, "clients will refuse it until then; is the clock right?");
        }
    }
}

/// `format_rfc3339` panics past the year 9999, a date that X.509 can hold.
fn date(unix: u64) -> impl std::fmt::Display {
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(unix.min(253_402_300_799)))
}
