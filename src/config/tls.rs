//! `tls = { … }` of a listener: certificates with their keys, client certificates, HSTS.
//!
//! Certificates are tried here: a key that does not match, an expired chain or an impossible name is an error with a
//! place before anything is bound or swapped. Left out: which certificate a client gets; that is in `listener::tls`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};

use rustls::RootCertStore;
use rustls::SignatureAlgorithm;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use super::check::Context;
use super::error::{Report, Span};
use super::file::{ConfigItem, ConfigText, Section};
use super::values::{duration, word};
use super::{files, routes};
use crate::x509;

/// How a listener terminates TLS. A reload applies it to connections accepted later.
#[derive(Debug, PartialEq)]
pub struct Tls {
    /// Certificates, at least one. The first serves clients that name no host, or a host without a certificate.
    pub certificates: Vec<Certificate>,
    /// Application protocols in order of preference (RFC 7301).
    pub alpn: Vec<Vec<u8>>,
    /// Value of `Strict-Transport-Security` in every answer (RFC 6797 §6.1). `None`: left to the workers.
    pub hsts: Option<String>,
    /// Memory that TLS records are read from and written to.
    pub buffers: Buffers,
}

/// The memory in which a connection's TLS records are decrypted and encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Buffers {
    /// The buffers of its thread: a silent connection owns none.
    #[default]
    Shared,
    /// A buffer of its own, of 4 KiB or more, for as long as the connection lives.
    Own,
}

const BUFFERS: [(&str, Buffers); 2] = [("shared", Buffers::Shared), ("own", Buffers::Own)];

/// One certificate with its key, read and matched to each other.
#[derive(Debug, PartialEq)]
pub struct Certificate {
    /// Names it is used for, in lower case, exact or `*.example.com`: the names in the certificate, or `hosts`.
    pub hosts: Vec<String>,
    /// The certificate chain, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key, in PKCS#8, PKCS#1 or SEC1.
    pub key: PrivateKeyDer<'static>,
    /// The last second in which the leaf is valid, in seconds since 1970.
    pub not_after: u64,
    /// Policy for client certificates on its hosts.
    pub client_auth: ClientAuth,
}

/// Policy for client certificates. Equal values are the same policy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ClientAuth {
    /// Clients are not asked for a certificate.
    #[default]
    Off,
    /// Clients may have a certificate signed by these authorities; an invalid one ends the handshake.
    Optional(Vec<CertificateDer<'static>>),
    /// Clients must have a certificate signed by these authorities.
    Required(Vec<CertificateDer<'static>>),
}

#[derive(Clone, Copy)]
enum Mode {
    Off,
    Optional,
    Required,
}

const MODES: [(&str, Mode); 3] = [("off", Mode::Off), ("optional", Mode::Optional), ("required", Mode::Required)];

/// Range of HSTS `max_age`: up to ten years; 0 makes browsers forget the host.
const MAX_AGES: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(10 * 365 * 86_400);
/// Minimum `max_age` for the browsers' preload list (hstspreload.org).
const PRELOAD_AGE: Duration = Duration::from_secs(365 * 86_400);

/// Reads `tls = { certificate, key }` or `tls = { certificates = [{…}, …] }`.
pub(crate) fn read(context: &Context<'_>, mut section: Section<'_>, http2: bool) -> Option<Tls> {
    let several = section.key("certificates");
    let list = section.take("certificates");
    let single = ["certificate", "key", "hosts"].into_iter().find_map(|key| Some((key, section.key(key)?)));
    if let (Some((key, at)), Some(_)) = (single, &several) {
        let help = "move the pair into `certificates`, as the first entry if it is the default";
        context.report.error_help(&at, format!("`{key}` and `certificates` cannot be used together"), help);
    }
    let auth = section.take("client_auth").and_then(|item| client_auth(context, item)).unwrap_or_default();
    let hsts = section.section("hsts", "a table such as { max_age = \"365d\" }").and_then(hsts);
    let buffers = section.text("buffers", "\"shared\" or \"own\"");
    let buffers = buffers.and_then(|text| word(context.report, "buffers", &text, &BUFFERS)).unwrap_or_default();
    let read = match list {
        Some(list) => {
            // These keys are known; the conflict was reported above.
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
    let mut certificates: Vec<_> = read.into_iter().map(|(certificate, _)| certificate).collect();
    prefer_valid(&mut certificates, UnixTime::now().as_secs());
    let alpn = [&b"h2"[..], b"http/1.1"].iter().skip(usize::from(!http2)).map(|name| name.to_vec()).collect();
    Some(Tls { certificates, alpn, hsts, buffers })
}

/// Exchanges each expired certificate with a later one that is valid and for the same names, so that clients get that.
fn prefer_valid(certificates: &mut [Certificate], now: u64) {
    for at in 0..certificates.len() {
        let Some((one, later)) = certificates.get(at..).and_then(<[_]>::split_first) else { return };
        let same = |other: &Certificate| other.hosts == one.hosts && other.client_auth == one.client_auth;
        let valid = later.iter().position(|other| other.not_after >= now && same(other));
        if let Some(ahead) = valid.filter(|_| one.not_after < now) {
            certificates.swap(at, at + 1 + ahead);
        }
    }
}

/// A certificate with its place and the kind of its key.
type ReadCertificate = (Certificate, (Span, SignatureAlgorithm));

fn certificates(context: &Context<'_>, item: ConfigItem<'_>, auth: &ClientAuth) -> Option<Vec<ReadCertificate>> {
    let at = item.span.clone();
    let items = item.list("a list such as [{ certificate = \"a.pem\", key = \"a.key\" }]", "a certificate")?;
    if items.is_empty() {
        context.report.error(&at, "`certificates` is empty: TLS needs at least one");
    }
    let written = items.len();
    let one = |item: ConfigItem<'_>| {
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

/// Reads `certificate`, `key` and `hosts`, in `tls` itself or in an entry of `certificates`.
fn pair(context: &Context<'_>, section: &mut Section<'_>, auth: &ClientAuth) -> Option<ReadCertificate> {
    let read = read_pair(context, section, auth);
    if read.is_none() {
        context.report.certificate_failed();
    }
    read
}

fn read_pair(context: &Context<'_>, section: &mut Section<'_>, auth: &ClientAuth) -> Option<ReadCertificate> {
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

fn hosts(context: &Context<'_>, item: ConfigItem<'_>) -> Vec<String> {
    let items = item.list("a list such as [\"example.com\", \"*.example.com\"]", "a host").unwrap_or_default();
    let texts = items.into_iter().filter_map(|item| item.text("a string such as \"example.com\""));
    texts.map(|text| routes::check_host(context, &text)).collect()
}

/// Reads `client_auth`, such as `{ mode = "required", ca = "ca.pem" }`.
fn client_auth(context: &Context<'_>, item: ConfigItem<'_>) -> Option<ClientAuth> {
    const CA: &str = "write ca = \"ca.pem\": the authorities that sign clients' certificates";
    let mut section = item.section("`client_auth`", "a table such as { mode = \"required\", ca = \"ca.pem\" }")?;
    let mode = section.required("mode", "\"off\", \"optional\" or \"required\"", "\"required\"");
    let path = section.text("ca", "a path");
    section.finish();
    let mode_at = mode.as_ref()?.span.clone();
    let mode = word(context.report, "mode", &mode?, &MODES)?;
    if let (Mode::Off, Some(path)) = (mode, &path) {
        context.report.error(&path.span, "`ca` has no effect with mode = \"off\": remove it, or set another mode");
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

/// Reads the certificates of authorities; each must be one that can sign others.
pub(crate) fn authorities(context: &Context<'_>, path: &ConfigText) -> Option<Vec<CertificateDer<'static>>> {
    let all = files::certificates(context, path, "use a PEM file with the authorities' certificates")?;
    let mut roots = RootCertStore::empty();
    for (i, authority) in all.iter().enumerate() {
        if let Err(error) = roots.add(authority.clone()) {
            let reason = format!("its certificate {} is not an authority's: {error}", i + 1);
            return files::unusable(context, path, &reason, "use a PEM file with the authorities' certificates");
        }
    }
    Some(all)
}

/// Reads `hsts`, such as `{ max_age = "365d", include_subdomains = true, preload = false }`.
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
    let subdomains = section.take("include_subdomains").and_then(ConfigItem::boolean).unwrap_or(false);
    let preload = section.take("preload").and_then(ConfigItem::boolean).unwrap_or(false);
    section.finish();
    let max_age = max_age?;
    if preload && !(subdomains && max_age >= PRELOAD_AGE) {
        let help = "browsers' preload lists require include_subdomains = true and max_age = \"365d\" or more";
        report.warn(&at, "`preload` is set, but browsers will not accept it", help);
    }
    let (subdomains, preload) =
        (if subdomains { "; includeSubDomains" } else { "" }, if preload { "; preload" } else { "" });
    Some(format!("max-age={}{subdomains}{preload}", max_age.as_secs()))
}

/// Checks names that have several certificates: the kinds of their keys must differ and their policies be the same.
fn names_differ(context: &Context<'_>, all: &[ReadCertificate]) {
    let mut seen: HashMap<&str, Vec<&ReadCertificate>> = HashMap::new();
    for (i, read) in all.iter().enumerate() {
        let (certificate, (at, kind)) = read;
        if certificate.hosts.is_empty() && i > 0 {
            let help = "certificates are chosen by name: write hosts = [\"example.com\"]";
            context.report.error_help(at, "this certificate has no DNS name, so no client would get it", help);
        }
        for host in &certificate.hosts {
            let others = seen.entry(host).or_default();
            for (other, (first, other_kind)) in others.iter() {
                let line = context.report.line_of(first);
                if other.client_auth != certificate.client_auth {
                    let message = format!("`{host}` has a different `client_auth` on line {line}");
                    context.report.error_help(at, message, "use one policy: clients could choose the weaker one");
                } else if other_kind == kind {
                    let message =
                        format!("`{host}` already has a certificate with the same kind of key, on line {line}");
                    context.report.warn(at, message, "clients get the first; restrict one of them with `hosts`");
                }
            }
            others.push(read);
        }
    }
}

/// Dates of the leaves that have been read so far. An expired one is an error only if there is no other: a start or a
/// reload that one forgotten certificate prevents would take all other hosts down as well.
#[derive(Default)]
pub(crate) struct Leaves {
    valid: Cell<usize>,
    expired: RefCell<Vec<(Span, String)>>,
}

impl Leaves {
    /// Reports the expired leaves, once all have been read.
    pub(crate) fn report(&self, report: &Report<'_>) {
        for (at, message) in self.expired.take() {
            match self.valid.get() {
                0 => report.error_help(&at, message, "clients reject it: renew it, then reload"),
                _ => report.warn(&at, message, "clients reject it, and others are served: renew it, then reload"),
            }
        }
    }
}

/// Checks the dates of a chain at the time `now`. An expired leaf is noted for [`Leaves::report`]. A leaf that is not
/// valid yet is a warning: in most cases the machine's clock is wrong, and a machine that boots in 1970 must still
/// serve. An expired intermediate is a warning, too: clients may know another path to a root.
pub(crate) fn dates(context: &Context<'_>, path: &ConfigText, chain: &[x509::ParsedCertificate], now: u64) {
    for (i, certificate) in chain.iter().enumerate() {
        let which = match i {
            0 => format!("the certificate {}", path.value),
            _ => format!("certificate {} in {} ({})", i + 1, path.value, certificate.subject()),
        };
        let (after, before) = (certificate.not_after(), certificate.not_before());
        if i == 0 && now <= after {
            context.leaves.valid.set(context.leaves.valid.get() + 1);
        }
        if now > after {
            let message = format!("{which} expired at {}", date(after));
            let help = "some clients will reject it: renew the chain, then reload";
            match i {
                0 => context.leaves.expired.borrow_mut().push((path.span.clone(), message)),
                _ => context.report.warn(&path.span, message, help),
            }
        } else if now < before {
            let message = format!("{which} is not valid before {}", date(before));
            context.report.warn(&path.span, message, "clients reject it until then: check this machine's clock");
        }
    }
}

/// Formats a date, at most the year 9999: `format_rfc3339` panics on later dates, which X.509 can hold.
fn date(unix: u64) -> impl std::fmt::Display {
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(unix.min(253_402_300_799)))
}
