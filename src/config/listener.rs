//! `[[listener]]`: the addresses that clients connect to, their TLS settings, and the proxies they trust.
//!
//! Left out: checks that need other tables (two listeners on one address, a worker that is a listener); see `check`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};

use super::check::Context;
use super::error::Span;
use super::file::{ConfigItem, ConfigText, Section};
use super::values::word;
use super::{Tls, routes, tls, workers};

/// An address to accept clients on. A reload binds added listeners and closes removed ones; changes to a listener that
/// stays apply to connections accepted after the reload.
#[derive(Debug, PartialEq)]
pub struct Listener {
    /// IP address and port to listen on; port 0 takes a free one.
    pub address: SocketAddr,
    /// `FileDescriptorName=` of the systemd socket to use; unique. `None`: the one bound to `address`, if there is one.
    pub name: Option<String>,
    /// TLS settings, if this listener terminates TLS; `None` is plain HTTP.
    pub tls: Option<Tls>,
    /// Offers HTTP/2 by ALPN; only with `tls`.
    pub http2: bool,
    /// Announces to HTTP/2 clients that they may open WebSockets over HTTP/2 (RFC 8441); only with `http2`.
    pub websocket_over_http2: bool,
    /// Every connection must begin with a PROXY protocol header, sent by a trusted proxy. `false`: PROXY headers are
    /// not accepted.
    pub proxy_protocol: bool,
    /// If set, every request is answered with a redirect to https instead of being forwarded.
    pub redirect: Option<Redirect>,
    /// Path at which stickyd itself answers health checks of it, before guards and redirects. `None`: all paths are the
    /// workers'.
    pub health: Option<String>,
    /// Peers whose `X-Forwarded-*` headers are trusted. Empty: none.
    pub trusted_proxies: Vec<IpNet>,
}

/// Where a redirecting listener sends its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redirect {
    /// Port of the https address; default 443, which is left out of the redirect's URL.
    pub port: u16,
    /// Status of the redirect: 301, 302, 307 or 308; default 308, which keeps the method (RFC 9110 §15.4.9).
    pub status: u16,
}

impl Listener {
    /// A listener for plain HTTP on an address, with every other setting at its default.
    pub fn plain(address: SocketAddr) -> Self {
        Self {
            address,
            name: None,
            tls: None,
            http2: false,
            websocket_over_http2: false,
            proxy_protocol: false,
            redirect: None,
            health: None,
            trusted_proxies: Vec::new(),
        }
    }

    /// Whether this listener, on the unspecified IPv6 address, takes IPv6 clients only: if there is one for IPv4 on the
    /// same port. Without one it takes clients of both kinds.
    pub(crate) fn takes_only_ipv6<'l>(&self, all: impl IntoIterator<Item = &'l Self>) -> bool {
        let ipv4 = |other: &Self| other.address.ip().to_canonical().is_ipv4();
        self.address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
            && self.address.port() != 0
            && all.into_iter().any(|other| other.address.port() == self.address.port() && ipv4(other))
    }
}

/// Reads all listeners, each with the place of its address in the file.
pub(crate) fn all(context: &Context<'_>, root: &mut Section<'_>) -> Vec<(Listener, Span)> {
    let help = "write [[listener]] and below it address = \"0.0.0.0:80\"";
    let Some(item) = root.take("listener") else {
        context.report.missing("there is no listener", help);
        return Vec::new();
    };
    let at = item.span.clone();
    let Some(items) = item.list("a list of tables, each headed [[listener]]", "a listener") else { return Vec::new() };
    if items.is_empty() {
        context.report.error_help(&at, "there is no listener", help);
    }
    let mut names = HashMap::new();
    items.into_iter().filter_map(|item| listener(context, item, &mut names)).collect()
}

fn listener(
    context: &Context<'_>,
    item: ConfigItem<'_>,
    names: &mut HashMap<String, Span>,
) -> Option<(Listener, Span)> {
    let mut section = item.section("[[listener]]", "a table")?;
    let text = section.required("address", "an address such as \"0.0.0.0:443\"", "\"0.0.0.0:80\"");
    let address = text.as_ref().and_then(|text| workers::socket(context, text));
    let name = section.text("name", "a string such as \"web\"");
    let name = name.and_then(|name| listener_name(context, name, names));
    let tls_at = section.key("tls");
    let tls = section.section("tls", "a table such as { certificate = \"fullchain.pem\", key = \"privkey.pem\" }");
    let (http2, websocket_over_http2) = http2(&mut section, tls.is_some());
    let tls = tls.and_then(|section| tls::read(context, section, http2));
    let redirect = section.take("redirect").and_then(redirect);
    if let (Some(_), Some(at)) = (redirect, &tls_at) {
        let help = "write redirect = \"https\" on a separate listener for plain HTTP";
        context.report.error_help(at, "a listener cannot have both `redirect` and `tls`", help);
    }
    let health = section.text("health", "a path such as \"/healthz\"");
    let health = health.inspect(|path| routes::check_path(context, path)).map(|path| path.value);
    let proxies = section.take("trusted_proxies").and_then(|item| item.list("a list of networks", "a network"));
    let proxies = proxies.unwrap_or_default();
    let trusted_proxies: Vec<_> = proxies.into_iter().filter_map(network).collect();
    let proxy_protocol = section.text("proxy_protocol", "\"off\" or \"required\"");
    let proxy_protocol = proxy_protocol.is_some_and(|text| proxy_protocol_of(context, &text, &trusted_proxies));
    section.finish();
    let listener = Listener {
        address: address?,
        name,
        tls,
        http2,
        websocket_over_http2,
        proxy_protocol,
        redirect,
        health,
        trusted_proxies,
    };
    Some((listener, text?.span))
}

/// Reads `http2` and `websocket_over_http2`: by default both are on if the listener has TLS.
fn http2(section: &mut Section<'_>, tls: bool) -> (bool, bool) {
    let help = "add `tls` to this listener, or remove this";
    let http2 = asked(section, "http2", tls, "clients can choose HTTP/2 only in the TLS handshake", help);
    let help = "set http2 = true, or remove this";
    (http2, asked(section, "websocket_over_http2", http2, "this listener does not offer HTTP/2", help))
}

/// Reads a switch that is on by default where that is possible; where it is not, switching it on is an error.
fn asked(section: &mut Section<'_>, key: &'static str, can: bool, why_not: &str, help: &str) -> bool {
    let Some(item) = section.take(key) else { return can };
    let (report, at) = (item.report, item.span.clone());
    let on = item.boolean().unwrap_or(can);
    if on && !can {
        report.error_help(&at, format!("`{key}` cannot be true: {why_not}"), help);
    }
    on && can
}

/// Whether a PROXY header is required. It needs trusted proxies: a peer that may send one chooses its client address.
fn proxy_protocol_of(context: &Context<'_>, text: &ConfigText, trusted: &[IpNet]) -> bool {
    const WORDS: [(&str, bool); 2] = [("off", false), ("required", true)];
    let required = word(context.report, "proxy_protocol", text, &WORDS).unwrap_or(false);
    if required && trusted.is_empty() {
        let help = "write trusted_proxies = [\"10.0.0.0/8\"] with the balancer's addresses";
        context.report.error_help(&text.span, "a PROXY header is required, but no proxy is trusted to send it", help);
    }
    required
}

/// Reads `redirect`: `"https"`, or a table such as `{ port = 8443, status = 301 }`.
fn redirect(item: ConfigItem<'_>) -> Option<Redirect> {
    const EXPECTED: &str = "\"https\" or a table such as { port = 8443 }";
    const STATUSES: [u16; 4] = [301, 302, 307, 308];
    let mut redirect = Redirect { port: 443, status: 308 };
    let report = item.report;
    if !item.is_table() {
        let text = item.text(EXPECTED)?;
        return word(report, "redirect", &text, &[("https", redirect)]);
    }
    let mut section = item.section("`redirect`", EXPECTED)?;
    redirect.port = section.integer("port", 1..=65_535).unwrap_or(redirect.port);
    if let Some(item) = section.take("status") {
        let at = item.span.clone();
        redirect.status = item.integer(300..=399).unwrap_or(redirect.status);
        if !STATUSES.contains(&redirect.status) {
            report.error(&at, "`status` must be 301, 302, 307 or 308");
        }
    }
    section.finish();
    Some(redirect)
}

/// Checks a listener's name: unique, and valid as a FileDescriptorName in systemd.socket(5).
fn listener_name(context: &Context<'_>, name: ConfigText, names: &mut HashMap<String, Span>) -> Option<String> {
    let fits = |b: u8| b.is_ascii_graphic() && b != b':';
    if !(1..=255).contains(&name.value.len()) || !name.value.bytes().all(fits) {
        let help = "use 1 to 255 ASCII characters without spaces and `:`, as FileDescriptorName= in the socket unit";
        context.report.error_help(&name.span, format!("`{}` is not a valid listener name", name.value), help);
        return None;
    }
    if let Some(first) = names.get(&name.value) {
        let line = context.report.line_of(first);
        context.report.error(&name.span, format!("a listener is already named `{}`, on line {line}", name.value));
        return None;
    }
    names.insert(name.value.clone(), name.span);
    Some(name.value)
}

/// Reads a network such as `10.0.0.0/8`, or a single address.
pub(crate) fn network(item: ConfigItem<'_>) -> Option<IpNet> {
    let report = item.report;
    let text = item.text("a string such as \"10.0.0.0/8\"")?;
    let network = parse_network(&text.value);
    if network.is_none() {
        let message = format!("`{}` is not a valid network", text.value);
        report.error_help(&text.span, message, "write \"10.0.0.0/8\", \"10.1.2.3\" or \"fd00::/8\"");
    }
    network
}

/// Parses a network. Networks of IPv4 addresses that are mapped into IPv6 (RFC 4291 §2.5.5.2) are networks of IPv4,
/// because clients with such an address count as IPv4 clients.
pub(crate) fn parse_network(text: &str) -> Option<IpNet> {
    let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?.trunc();
    let mapped = || match network {
        IpNet::V6(v6) => Ipv4Net::new(v6.addr().to_ipv4_mapped()?, v6.prefix_len().checked_sub(96)?).ok(),
        IpNet::V4(_) => None,
    };
    Some(mapped().map_or(network, IpNet::V4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_networks_are_networks_of_ipv4() {
        for (text, expected) in [
            ("::ffff:127.0.0.0/104", "127.0.0.0/8"),
            ("::ffff:7f00:0/104", "127.0.0.0/8"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("::ffff:192.0.2.1", "192.0.2.1/32"),
            ("::ffff:192.0.2.1/128", "192.0.2.1/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::ffff:0:0/95", "::fffe:0:0/95"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("::/0", "::/0"),
            ("::192.0.2.1", "::192.0.2.1/128"),
            ("2001:db8::1/32", "2001:db8::/32"),
        ] {
            assert_eq!(parse_network(text), Some(expected.parse().unwrap()), "{text}");
        }
        for wrong in ["", "10.0.0.0/33", "::ffff:10.0.0.0/129", "10.0.0", "a", "10.0.0.0/-1"] {
            assert_eq!(parse_network(wrong), None, "{wrong}");
        }
    }
}
