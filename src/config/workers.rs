//! The language of worker addresses: `127.0.0.1:3001-3004`, `[::1]:3000`, `unix:/run/app/5.sock`, `app.internal:3000`.
//!
//! One entry, a [`Group`], may stand for several workers: every port of a range, every address of a DNS name. Names are
//! looked up when the configuration is loaded, and by the running system again and again (`upstream::addresses`); what they
//! stand for is worked out here both times ([`expand`]). Shared by the file and the command line, and (its single-address
//! part) by `listener.address` and `admin.address`.

mod groups;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::check::Context;
use super::error::Span;
use super::file::Text;
use super::{AdminState, Worker};
use groups::Double;
pub use groups::{At, Found, Group};
pub(crate) use groups::{MAX_RANGE, expand};

/// Bytes of a unix socket's path (`sun_path` on Linux, less its final NUL).
const MAX_UNIX: usize = 107;

/// An entry of `workers` as written.
pub(super) struct Entry {
    pub(super) address: Text,
    pub(super) name: Option<Text>,
    pub(super) weight: u32,
    pub(super) admin: AdminState,
}

impl Entry {
    /// An address alone.
    pub(super) fn plain(address: Text) -> Self {
        Self { address, name: None, weight: 1, admin: AdminState::Ready }
    }
}

/// All entries of an upstream: understood, their names looked up, and of each worker (in [`expand`]'s order) the place of
/// its entry. The second of two equal workers is an error, unless a DNS name leads there: that is nothing a file can know.
pub(super) fn all(context: &Context<'_>, entries: &[Entry]) -> (Vec<Group>, Found, Vec<Span>) {
    let understood = entries.iter().filter_map(|entry| Some((group(context, entry)?, entry)));
    let (groups, entries): (Vec<_>, Vec<_>) = understood.unzip();
    let mut found = Found::new();
    for (group, entry) in groups.iter().zip(&entries) {
        if let At::Name(host, _) = &group.at
            && !found.contains_key(host)
            && let Some(ips) = look_up(context, entry, host)
        {
            found.insert(host.clone(), ips);
        }
    }
    namesakes(context, &groups, &entries);
    let expanded = expand(&groups, &found, &[]);
    let mut said = None;
    for again in &expanded.doubles {
        let (Some(first), Some(second)) = (entries.get(again.first), entries.get(again.second)) else { continue };
        // One message an entry: two overlapping ranges of a hundred ports are one mistake.
        if said != Some(again.second) {
            said = Some(again.second);
            again.tell(context, first, second, [again.first, again.second].iter().any(|&i| is_named(&groups, i)));
        }
    }
    for entry in expanded.over.iter().filter_map(|&i| entries.get(i)) {
        let message = format!("`{}` stands for more than {MAX_RANGE} workers", entry.address.value);
        context.report.warn(&entry.address.span, message, format!("the first {MAX_RANGE} are used"));
    }
    let span = |&(_, group): &(Worker, usize)| entries.get(group).map_or(0..0, |entry| entry.address.span.clone());
    let spans = expanded.workers.iter().map(span).collect();
    (groups, found, spans)
}

/// Two entries of one name, one of them a DNS name: how many addresses that has must not decide whether it is a mistake.
fn namesakes(context: &Context<'_>, groups: &[Group], entries: &[&Entry]) {
    let mut names: HashMap<&str, (&Span, bool)> = HashMap::new();
    for (group, entry) in groups.iter().zip(entries) {
        let Some(name) = &entry.name else { continue };
        let dns = group.at.host().is_some();
        match names.get(name.value.as_str()) {
            Some((first, other)) if dns || *other => {
                let message =
                    format!("a worker is already named `{}`, in line {}", name.value, context.report.line_of(first));
                context.report.error(&name.span, message);
            }
            Some(_) => {}
            None => drop(names.insert(&name.value, (&name.span, dns))),
        }
    }
}

fn is_named(groups: &[Group], index: usize) -> bool {
    groups.get(index).is_some_and(|group| group.at.host().is_some())
}

impl Double {
    fn tell(&self, context: &Context<'_>, first: &Entry, second: &Entry, by_dns: bool) {
        let report = context.report;
        let (line, at) = (report.line_of(&first.address.span), &second.address.span);
        let message = format!("worker {} is already there, in line {line}", self.worker.address);
        match (self.address, by_dns) {
            (true, false) => {
                report.error_help(at, message, "a worker stands in an upstream once; `weight` gives it more")
            }
            (true, true) => report.warn(at, message, "it stays one worker, as the first of the two entries says"),
            (false, false) => {
                let at = second.name.as_ref().map_or(at, |name| &name.span);
                report.error(at, format!("a worker is already named `{}`, in line {line}", self.worker.name));
            }
            // It is called by its address.
            (false, true) => {}
        }
    }
}

/// What one entry says.
fn group(context: &Context<'_>, entry: &Entry) -> Option<Group> {
    let at = at(context, &entry.address)?;
    let name = entry.name.as_ref().map(|name| name.value.clone());
    Some(Group { at, name, weight: entry.weight, admin: entry.admin })
}

fn at(context: &Context<'_>, text: &Text) -> Option<At> {
    if text.value.starts_with("unix:") {
        return unix(context, text).map(At::Unix);
    }
    let (host, port) = split(context, text)?;
    // Both parts are looked at, so that both are reported.
    let ports = ports(context, &port);
    let ip = literal(&host.value);
    if ip.is_none() && !is_name(&host.value) {
        let help = "an IP (IPv6 in brackets), a DNS name, or unix:/path";
        context.report.error_help(&host.span, format!("`{}` is no host", host.value), help);
        return None;
    }
    let ports = ports?;
    let count = usize::from(ports.end() - ports.start()).saturating_add(1);
    if count > MAX_RANGE {
        let message = format!("this stands for {count} workers, {MAX_RANGE} are the most");
        context.report.error(&port.span, message);
        return None;
    }
    Some(match ip {
        Some(ip) => At::Ip(ip, ports),
        None => At::Name(host.value.to_ascii_lowercase(), ports),
    })
}

/// `unix:PATH`; a relative path begins at the configuration's folder.
pub(super) fn unix(context: &Context<'_>, text: &Text) -> Option<PathBuf> {
    let written = text.value.strip_prefix("unix:")?;
    let at = text.inside(context.report, 5..text.value.len());
    let path = context.base.join(written);
    let problem = if written.is_empty() {
        "the path of the unix socket is missing"
    } else if written.starts_with('@') {
        "abstract unix sockets are not supported"
    } else if written.contains('\0') {
        "a path cannot hold a NUL"
    } else if path.as_os_str().len() > MAX_UNIX {
        "the path of the unix socket is too long: Linux takes 107 bytes"
    } else {
        return Some(path);
    };
    context.report.error_help(&at, problem, "write unix:/run/app/1.sock");
    None
}

/// `HOST:PORT` of one socket: an IP, or `localhost` for 127.0.0.1. Port 0 stays what it is (any free one).
pub(super) fn socket(context: &Context<'_>, text: &Text) -> Option<SocketAddr> {
    let (host, port) = split(context, text)?;
    let ip = literal(&host.value);
    if ip.is_none() {
        let help = "an IP address: 0.0.0.0 and [::] are every address of this host, 127.0.0.1 only itself";
        context.report.error_help(&host.span, format!("`{}` is no IP address", host.value), help);
    }
    let number = number(&port.value);
    if number.is_none() {
        context.report.error(&port.span, format!("`{}` is no port (0 to 65535)", port.value));
    }
    Some(SocketAddr::new(ip?, number?))
}

/// Host and port, each with its place.
fn split(context: &Context<'_>, text: &Text) -> Option<(Text, Text)> {
    let value = &text.value;
    let refuse = |message: &str, help: &str| {
        context.report.error_help(&text.span, message, help);
        None
    };
    if value.contains("://") {
        return refuse("an address is not a URL", "write host:port, without http:// or a path");
    }
    let colon = match value.starts_with('[') {
        true => value.find("]:").map(|end| end + 1),
        false => value.rfind(':'),
    };
    let Some(colon) = colon else {
        return refuse("the address needs a port", "write 127.0.0.1:3000, [::1]:3000 or unix:/run/app.sock");
    };
    let part = |range: Span| Text {
        value: value.get(range.clone()).unwrap_or_default().to_owned(),
        span: text.inside(context.report, range),
    };
    let (host, port) = (part(0..colon), part(colon + 1..value.len()));
    if !value.starts_with('[') && host.value.contains(':') {
        return refuse("an IPv6 address stands in brackets", "write [::1]:3000");
    }
    if host.value.is_empty() {
        return refuse("the address needs a host", "write 127.0.0.1:3000, 0.0.0.0:443 or [::]:443");
    }
    Some((host, port))
}

fn ports(context: &Context<'_>, text: &Text) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.value.split_once('-').unwrap_or((&text.value, &text.value));
    let help = "write a port, 3000, or a range, 3001-3004";
    let (Some(first), Some(last)) = (number(first), number(last)) else {
        context.report.error_help(&text.span, format!("`{}` is no port", text.value), help);
        return None;
    };
    if first == 0 {
        context.report.error_help(&text.span, "nobody can be reached at port 0", help);
    } else if last < first {
        let help = format!("write {last}-{first}");
        context.report.error_help(&text.span, "the range of ports ends before it begins", help);
    } else {
        return Some(first..=last);
    }
    None
}

/// A port; stricter than `parse`, which takes `+80`.
fn number(text: &str) -> Option<u16> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// An IP, in brackets if it is IPv6; or `localhost`, which is 127.0.0.1 here: what it resolves to differs between hosts,
/// and the worker that listens on one of the two only must not look dead every other time.
fn literal(host: &str) -> Option<IpAddr> {
    if host.eq_ignore_ascii_case("localhost") {
        return Some(Ipv4Addr::LOCALHOST.into());
    }
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inner) => inner.parse().ok().map(IpAddr::V6),
        None => host.parse().ok().map(IpAddr::V4),
    }
}

/// The addresses of a name. A name that does not resolve now is no mistake of the file's: the name server may be late, or
/// the workers; nobody's boot should hang on that.
fn look_up(context: &Context<'_>, entry: &Entry, host: &str) -> Option<Vec<IpAddr>> {
    let text = &entry.address;
    let at = text.inside(context.report, 0..host.len());
    let help =
        "it is looked up again and again; until it resolves a start lacks its workers, a reload keeps those there were";
    match (context.resolve)(host).map(tidy) {
        Ok(ips) if !ips.is_empty() => Some(ips),
        Ok(_) => {
            context.report.warn(&at, format!("`{host}` resolves to no address"), help);
            None
        }
        Err(error) => {
            context.report.warn(&at, format!("cannot resolve `{host}`: {error}"), help);
            None
        }
    }
}

/// Resolvers turn their answers round and say things twice; the same addresses should be the same configuration each time.
/// 0.0.0.0 is how filtering ones say "none", and would be this host. One more than may be, so that it shows.
pub(crate) fn tidy(mut ips: Vec<IpAddr>) -> Vec<IpAddr> {
    ips.retain(|ip| !ip.is_unspecified());
    ips.sort();
    ips.dedup();
    ips.truncate(MAX_RANGE + 1);
    ips
}

/// Whether a text can be a DNS name. One with digits and dots only is a mistyped IPv4 address.
pub(super) fn is_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let number_like = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    host.len() <= 253 && !number_like && host.strip_suffix('.').unwrap_or(host).split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["app", "app.internal", "a-b_c.d", "app.internal.", "1.example.com"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", ".", "a..b", "1.2.3", "1.2.3.4.5", "a b", "a/b", "[::1]", "ü", &"a".repeat(64)] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn answers_are_put_in_order() {
        let ips = |texts: &[&str]| texts.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        assert_eq!(
            tidy(ips(&["::1", "::", "10.0.0.9", "0.0.0.0", "10.0.0.2", "::1"])),
            ips(&["10.0.0.2", "10.0.0.9", "::1"])
        );
    }

    #[test]
    fn literals() {
        for (host, ip) in [("127.0.0.1", "127.0.0.1"), ("LocalHost", "127.0.0.1"), ("[::1]", "::1")] {
            assert_eq!(literal(host), Some(ip.parse().unwrap()), "{host}");
        }
        // No brackets, an IPv4 in them, one bracket only.
        for host in ["::1", "[127.0.0.1]", "[::1", "app"] {
            assert_eq!(literal(host), None, "{host}");
        }
    }

    #[test]
    fn ports_are_digits() {
        assert_eq!((number("0"), number("65535")), (Some(0), Some(65535)));
        for text in ["", "+80", "-1", "65536", "8 0", "http"] {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
