//! The syntax of worker addresses: `127.0.0.1:3001-3004`, `[::1]:3000`, `unix:/run/app/5.sock`, `app.internal:3000`.
//!
//! One entry, a [`Group`], may expand to several workers: every port of a range, every address of a DNS name. DNS names
//! are looked up when the configuration is loaded, and again and again by the running system (`upstream::addresses`);
//! both use [`expand`]. The syntax is shared by the file and the command line, and its part for single addresses by
//! `listener.address` and `admin.address`.

mod groups;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::check::Context;
use super::error::Span;
use super::file::ConfigText;
use super::spawn::PortRange;
use super::{AdminState, Worker};
use groups::Double;
pub(crate) use groups::{Group, GroupPlace, MAX_RANGE, ResolvedNames, expand};

/// The name of this host, which stands for 127.0.0.1 and ::1.
const LOCALHOST: &str = "localhost";

/// Maximum length of a unix socket's path, in bytes (`sun_path` on Linux, without its final NUL).
pub(crate) const MAX_UNIX: usize = 107;

/// An entry of `workers` as written.
pub(crate) struct WorkerEntry {
    pub(crate) address: ConfigText,
    pub(crate) name: Option<ConfigText>,
    pub(crate) weight: u32,
    pub(crate) admin: AdminState,
}

impl WorkerEntry {
    /// An entry that is only an address.
    pub(crate) fn plain(address: ConfigText) -> Self {
        Self { address, name: None, weight: 1, admin: AdminState::Ready }
    }
}

/// Parses all entries of an upstream and looks up their DNS names; also returns the place of the entry of each worker,
/// in the order of [`expand`]. The second of two equal workers is an error, unless a DNS name leads to one of them: the
/// file cannot know the addresses of a name.
pub(crate) fn all(context: &Context<'_>, entries: &[WorkerEntry]) -> (Vec<Group>, ResolvedNames, Vec<Span>) {
    let understood = entries.iter().filter_map(|entry| Some((group(context, entry)?, entry)));
    let (groups, entries): (Vec<_>, Vec<_>) = understood.unzip();
    let mut found = ResolvedNames::new();
    for (group, entry) in groups.iter().zip(&entries) {
        if let GroupPlace::Name(host, _) = &group.at
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
        // One message per entry: two overlapping ranges of a hundred ports are one mistake.
        if said != Some(again.second) {
            said = Some(again.second);
            again.tell(context, first, second, [again.first, again.second].iter().any(|&i| is_named(&groups, i)));
        }
    }
    for entry in expanded.over.iter().filter_map(|&i| entries.get(i)) {
        let message = format!("`{}` expands to more than {MAX_RANGE} workers", entry.address.value);
        context.report.warn(&entry.address.span, message, format!("the first {MAX_RANGE} are used"));
    }
    let span = |&(_, group): &(Worker, usize)| entries.get(group).map_or(0..0, |entry| entry.address.span.clone());
    let spans = expanded.workers.iter().map(span).collect();
    (groups, found, spans)
}

/// Reports two entries with the same name of which one is a DNS name. This is an error whatever number of addresses the
/// DNS name has today.
fn namesakes(context: &Context<'_>, groups: &[Group], entries: &[&WorkerEntry]) {
    let mut names: HashMap<&str, (&Span, bool)> = HashMap::new();
    for (group, entry) in groups.iter().zip(entries) {
        let Some(name) = &entry.name else { continue };
        let dns = group.at.host().is_some();
        match names.get(name.value.as_str()) {
            Some((first, other)) if dns || *other => {
                let message =
                    format!("a worker is already named `{}`, on line {}", name.value, context.report.line_of(first));
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
    fn tell(&self, context: &Context<'_>, first: &WorkerEntry, second: &WorkerEntry, by_dns: bool) {
        let report = context.report;
        let (line, at) = (report.line_of(&first.address.span), &second.address.span);
        let message = format!("worker {} is already listed, on line {line}", self.worker.address);
        match (self.address, by_dns) {
            (true, false) => {
                report.error_help(at, message, "list it once; to give it a larger share, set its `weight`")
            }
            (true, true) => report.warn(at, message, "it is one worker, with the settings of the first entry"),
            (false, false) => {
                let at = second.name.as_ref().map_or(at, |name| &name.span);
                report.error(at, format!("a worker is already named `{}`, on line {line}", self.worker.name));
            }
            // Not a mistake: the worker gets its address as its name.
            (false, true) => {}
        }
    }
}

/// Parses one entry of `workers`.
fn group(context: &Context<'_>, entry: &WorkerEntry) -> Option<Group> {
    let at = at(context, &entry.address)?;
    let name = entry.name.as_ref().map(|name| name.value.clone());
    Some(Group { at, name, weight: entry.weight, admin: entry.admin })
}

fn at(context: &Context<'_>, text: &ConfigText) -> Option<GroupPlace> {
    if text.value.starts_with("unix:") {
        return unix(context, text).map(GroupPlace::Unix);
    }
    let (host, port) = split(context, text, "write 127.0.0.1:3000, [::1]:3000 or unix:/run/app.sock")?;
    // Both parts are parsed before returning, so that errors in both are reported.
    let ports = ports(context, &port);
    let ip = literal(&host.value);
    if ip.is_none() && !is_name(&host.value) {
        let help = "write an IP address (IPv6 in brackets), a DNS name, or unix:/path";
        context.report.error_help(&host.span, format!("`{}` is not a valid host", host.value), help);
        return None;
    }
    let ports = ports?;
    let count = usize::from(ports.end() - ports.start()).saturating_add(1);
    if count > MAX_RANGE {
        let message = format!("this range has {count} ports; the maximum is {MAX_RANGE}");
        context.report.error(&port.span, message);
        return None;
    }
    Some(match ip {
        Some(_) if host.value.eq_ignore_ascii_case(LOCALHOST) => GroupPlace::Localhost(ports),
        Some(ip) => GroupPlace::Ip(ip, ports),
        None => GroupPlace::Name(host.value.to_ascii_lowercase(), ports),
    })
}

/// Parses `unix:PATH`; a relative path begins in the configuration's folder.
pub(crate) fn unix(context: &Context<'_>, text: &ConfigText) -> Option<PathBuf> {
    let written = text.value.strip_prefix("unix:")?;
    let at = text.inside(context.report, 5..text.value.len());
    let path = context.base.join(written);
    let problem = if written.is_empty() {
        "the path of the unix socket is missing"
    } else if written.starts_with('@') {
        "abstract unix sockets are not supported"
    } else if written.contains('\0') {
        "a path cannot contain a NUL"
    } else if path.as_os_str().len() > MAX_UNIX {
        "the path of the unix socket is too long: Linux allows 107 bytes"
    } else {
        return Some(path);
    };
    context.report.error_help(&at, problem, "write unix:/run/app/1.sock");
    None
}

/// Parses `HOST:PORT` of a single socket: an IP address, or `localhost` for 127.0.0.1. Port 0 is allowed (any free
/// port).
pub(crate) fn socket(context: &Context<'_>, text: &ConfigText) -> Option<SocketAddr> {
    // A listener cannot be a unix socket.
    let (host, port) = split(context, text, "write 0.0.0.0:80, 127.0.0.1:8080 or [::]:443")?;
    let ip = literal(&host.value);
    if ip.is_none() {
        let help = "write an IP address: 0.0.0.0 or [::] for every address of this host, 127.0.0.1 for local clients";
        context.report.error_help(&host.span, format!("`{}` is not an IP address", host.value), help);
    }
    let number = number(&port.value);
    if number.is_none() {
        context.report.error(&port.span, format!("`{}` is not a valid port (0 to 65535)", port.value));
    }
    Some(SocketAddr::new(ip?, number?))
}

/// Splits an address into host and port, each with its place. `help` shows addresses with a port.
fn split(context: &Context<'_>, text: &ConfigText, help: &str) -> Option<(ConfigText, ConfigText)> {
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
        return refuse("the address needs a port", help);
    };
    let part = |range: Span| ConfigText {
        value: value.get(range.clone()).unwrap_or_default().to_owned(),
        span: text.inside(context.report, range),
    };
    let (host, port) = (part(0..colon), part(colon + 1..value.len()));
    if !value.starts_with('[') && host.value.contains(':') {
        return refuse("an IPv6 address must be in brackets", "write [::1]:3000");
    }
    if host.value.is_empty() {
        return refuse("the address needs a host", "write 127.0.0.1:3000, 0.0.0.0:443 or [::]:443");
    }
    Some((host, port))
}

fn ports(context: &Context<'_>, text: &ConfigText) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.value.split_once('-').unwrap_or((&text.value, &text.value));
    let help = "write a port such as 3000, or a range such as 3001-3004";
    let (Some(first), Some(last)) = (number(first), number(last)) else {
        context.report.error_help(&text.span, format!("`{}` is not a valid port", text.value), help);
        return None;
    };
    if first == 0 {
        context.report.error_help(&text.span, "a worker cannot be reached at port 0", help);
    } else if last < first {
        let help = format!("write {last}-{first}");
        context.report.error_help(&text.span, "the range of ports ends before it begins", help);
    } else {
        return Some(first..=last);
    }
    None
}

/// Parses `IP:FIRST-LAST`, or `IP:PORT`.
pub(crate) fn port_range(context: &Context<'_>, text: &ConfigText) -> Option<PortRange> {
    let (host, port) = split(context, text, "write 127.0.0.1:3101-3132")?;
    let ip = literal(&host.value);
    if ip.is_none() {
        let help = "write an IP address, such as 127.0.0.1:3101-3132";
        context.report.error_help(&host.span, format!("`{}` is not an IP address", host.value), help);
    }
    let ports = ports(context, &port);
    Some(PortRange { ip: ip?, ports: ports? })
}

/// Parses a port; stricter than `parse`, which accepts `+80`.
fn number(text: &str) -> Option<u16> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// Parses an IP address, in brackets if it is IPv6, or `localhost`. The latter is always 127.0.0.1 here, also where it
/// resolves to two addresses: it must not become two workers. A worker that listens on ::1 only is reached there
/// ([`GroupPlace::Localhost`]).
fn literal(host: &str) -> Option<IpAddr> {
    if host.eq_ignore_ascii_case(LOCALHOST) {
        return Some(Ipv4Addr::LOCALHOST.into());
    }
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inner) => inner.parse().ok().map(IpAddr::V6),
        None => host.parse().ok().map(IpAddr::V4),
    }
}

/// Looks up the addresses of a DNS name. A name that does not resolve is only a warning: the name server or the workers
/// may start later, and stickyd must be able to start without them.
fn look_up(context: &Context<'_>, entry: &WorkerEntry, host: &str) -> Option<Vec<IpAddr>> {
    let text = &entry.address;
    let at = text.inside(context.report, 0..host.len());
    let help =
        "it is looked up again and again; until it resolves, a start is without its workers and a reload keeps them";
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

/// Sorts the addresses and removes duplicates: resolvers rotate and repeat them, but the same addresses must give the
/// same configuration. Removes 0.0.0.0, with which filtering resolvers block a name; as an address it would be this
/// host. Keeps one address more than the maximum, so that the caller sees that there are too many.
pub(crate) fn tidy(mut ips: Vec<IpAddr>) -> Vec<IpAddr> {
    ips.retain(|ip| !ip.is_unspecified());
    ips.sort();
    ips.dedup();
    ips.truncate(MAX_RANGE + 1);
    ips
}

/// Whether a text can be a DNS name. A text of only digits and dots is a mistyped IPv4 address.
pub(crate) fn is_name(host: &str) -> bool {
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
    fn dns_names_are_recognised() {
        for name in ["app", "app.internal", "a-b_c.d", "app.internal.", "1.example.com"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", ".", "a..b", "1.2.3", "1.2.3.4.5", "a b", "a/b", "[::1]", "ü", &"a".repeat(64)] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn addresses_are_sorted_and_deduplicated() {
        let ips = |texts: &[&str]| texts.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        assert_eq!(
            tidy(ips(&["::1", "::", "10.0.0.9", "0.0.0.0", "10.0.0.2", "::1"])),
            ips(&["10.0.0.2", "10.0.0.9", "::1"])
        );
    }

    #[test]
    fn ip_literals_are_parsed() {
        for (host, ip) in [("127.0.0.1", "127.0.0.1"), ("LocalHost", "127.0.0.1"), ("[::1]", "::1")] {
            assert_eq!(literal(host), Some(ip.parse().unwrap()), "{host}");
        }
        // IPv6 without brackets, IPv4 in brackets, a single bracket, a name.
        for host in ["::1", "[127.0.0.1]", "[::1", "app"] {
            assert_eq!(literal(host), None, "{host}");
        }
    }

    #[test]
    fn ports_have_only_digits() {
        assert_eq!((number("0"), number("65535")), (Some(0), Some(65535)));
        for text in ["", "+80", "-1", "65536", "8 0", "http"] {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
