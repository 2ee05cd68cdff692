//! The language of worker addresses: `127.0.0.1:3001-3004`, `[::1]:3000`, `unix:/run/app/5.sock`, `app.internal:3000`.
//!
//! One entry may stand for several workers: every port of a range, every address of a DNS name. Names are looked up once,
//! when the configuration is loaded. Shared by the file and the command line, and (its single-address part) by
//! `listener.address` and `admin.address`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::check::Context;
use super::error::Span;
use super::file::Text;
use super::{Address, AdminState, Worker};

/// Workers one entry may stand for: a range typed wrong (`3000-30010`) should say so, not start 27,000 health checks.
const MAX_RANGE: usize = 1024;

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

/// All workers of an upstream, each with the place of its entry; the second of two equal ones is an error.
pub(super) fn all(context: &Context<'_>, entries: &[Entry]) -> Vec<(Worker, Span)> {
    let mut addresses: HashMap<Address, &Span> = HashMap::new();
    let mut names: HashMap<String, &Span> = HashMap::new();
    let mut workers = Vec::new();
    for entry in entries {
        let expanded = expand(context, entry);
        // One message an entry: two overlapping ranges of a hundred ports are one mistake.
        let twice = expanded.iter().find_map(|worker| addresses.get(&worker.address).map(|at| (worker, *at)));
        let namesake = expanded.iter().find_map(|worker| names.get(&worker.name).map(|at| (worker, *at)));
        let report = context.report;
        if let Some((worker, first)) = twice {
            let message = format!("worker {} is already there, in line {}", worker.address, report.line_of(first));
            report.error_help(
                &entry.address.span,
                message,
                "a worker stands in an upstream once; `weight` gives it more",
            );
        } else if let Some((worker, first)) = namesake {
            let at = entry.name.as_ref().map_or(&entry.address.span, |name| &name.span);
            report.error(at, format!("a worker is already named `{}`, in line {}", worker.name, report.line_of(first)));
        }
        for worker in expanded {
            addresses.entry(worker.address.clone()).or_insert(&entry.address.span);
            names.entry(worker.name.clone()).or_insert(&entry.address.span);
            workers.push((worker, entry.address.span.clone()));
        }
    }
    workers
}

/// The workers of one entry. A name given to an entry of several gets what tells them apart: `NAME-PORT` for a range,
/// `NAME-IP` for a DNS name of several addresses, `NAME-IP-PORT` for both.
fn expand(context: &Context<'_>, entry: &Entry) -> Vec<Worker> {
    let Some(places) = places(context, &entry.address) else { return Vec::new() };
    let worker = |address: Address, host: Option<&String>, suffix: &str| {
        let name = entry.name.as_ref().map(|name| format!("{}{suffix}", name.value));
        let name = name.unwrap_or_else(|| address.to_string());
        Worker { address, host: host.cloned(), name, weight: entry.weight, admin: entry.admin }
    };
    match places {
        Places::Unix(path) => vec![worker(Address::Unix(path), None, "")],
        Places::Tcp { host, ips, ports } => {
            let several_ports = ports.start() != ports.end();
            let mut workers = Vec::new();
            for ip in &ips {
                for port in ports.clone() {
                    let ip_part = if ips.len() > 1 { format!("-{ip}") } else { String::new() };
                    let port_part = if several_ports { format!("-{port}") } else { String::new() };
                    let address = Address::Tcp(SocketAddr::new(*ip, port));
                    workers.push(worker(address, host.as_ref(), &format!("{ip_part}{port_part}")));
                }
            }
            workers
        }
    }
}

/// What an address stands for.
enum Places {
    Unix(PathBuf),
    Tcp {
        /// As written, where it is a name and no IP.
        host: Option<String>,
        ips: Vec<IpAddr>,
        ports: RangeInclusive<u16>,
    },
}

fn places(context: &Context<'_>, text: &Text) -> Option<Places> {
    if text.value.starts_with("unix:") {
        return unix(context, text).map(Places::Unix);
    }
    let (host, port) = split(context, text)?;
    // Both parts are looked at, so that both are reported.
    let ports = ports(context, &port);
    let ips = ips(context, &host);
    let (ips, ports) = (ips?, ports?);
    let count = ips.len() * usize::from(ports.end() - ports.start()).saturating_add(1);
    if count > MAX_RANGE {
        let message = format!("this stands for {count} workers, {MAX_RANGE} are the most");
        context.report.error(&port.span, message);
        return None;
    }
    let is_ip = host.value.starts_with('[') || host.value.parse::<IpAddr>().is_ok();
    Some(Places::Tcp { host: (!is_ip).then_some(host.value), ips, ports })
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

fn ips(context: &Context<'_>, host: &Text) -> Option<Vec<IpAddr>> {
    if let Some(ip) = literal(&host.value) {
        return Some(vec![ip]);
    }
    let report = context.report;
    if !is_name(&host.value) {
        let help = "an IP (IPv6 in brackets), a DNS name, or unix:/path";
        report.error_help(&host.span, format!("`{}` is no host", host.value), help);
        return None;
    }
    match (context.resolve)(&host.value) {
        Ok(mut ips) if !ips.is_empty() => {
            // Resolvers turn their answers round; the same name should be the same configuration each time.
            ips.sort();
            ips.dedup();
            Some(ips)
        }
        Ok(_) => {
            report.error(&host.span, format!("`{}` resolves to no address", host.value));
            None
        }
        Err(error) => {
            let help = "check the name: getent ahosts NAME";
            report.error_help(&host.span, format!("cannot resolve `{}`: {error}", host.value), help);
            None
        }
    }
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
