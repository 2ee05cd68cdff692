//! Heads written anew: what is stripped, what is added, and whose word is believed.
//!
//! Hop-by-hop fields and those `Connection` nominates stop here, both ways (RFC 9110 §7.6.1). Identity fields
//! (`X-Forwarded-*`, `X-Real-IP`, `Forwarded`, `X-Request-Id`) are ours: kept from trusted proxies only, and added after
//! stripping, so that a client's `Connection: x-forwarded-for` cannot remove them. What is said of a client's certificate
//! (`X-Client-*`) is ours alone.

use std::net::{IpAddr, Ipv6Addr};

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Uri, Version};

use super::ask::{Ask, Kind};
use super::fields::{self, remove_where};
use super::respond::Problem;
use crate::listener::ClientCertificate;
use crate::listener::conn::Conn;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const CLIENT_VERIFY: HeaderName = HeaderName::from_static("x-client-verify");
const CLIENT_SUBJECT: HeaderName = HeaderName::from_static("x-client-subject");
const CLIENT_FINGERPRINT: HeaderName = HeaderName::from_static("x-client-fingerprint");

/// Who asks: the connection's peer, or what a trusted proxy says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The client's address.
    pub address: IpAddr,
    /// It came over TLS, to us or to the trusted proxy in front.
    pub secure: bool,
}

impl Client {
    /// Reads who asks from a head.
    pub fn read(conn: &Conn, headers: &HeaderMap) -> Self {
        let mut client = Self { address: conn.peer_ip, secure: conn.tls.is_some() };
        if conn.trusted {
            client.address = right_most_untrusted(conn, headers);
            if let Some(proto) = headers.get(FORWARDED_PROTO) {
                client.secure = proto.as_bytes().eq_ignore_ascii_case(b"https");
            }
        }
        client
    }

    /// What of the address counts as one client: IPv4 whole, IPv6 by /64 (one household).
    pub fn key(&self) -> [u8; 16] {
        address_key(self.address)
    }
}

/// What of an address counts as one client: IPv4 whole, IPv6 by /64.
pub fn address_key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).octets(),
    }
}

/// An address as a field value: what its `Display` says. A connection's first cost, so without `fmt` for IPv4 (1,300
/// instructions).
pub fn address_value(address: IpAddr) -> HeaderValue {
    let text = match address {
        IpAddr::V4(v4) => {
            let mut text = Vec::with_capacity("255.255.255.255".len());
            for octet in v4.octets() {
                let digits = [octet / 100, octet / 10 % 10, octet % 10];
                let leading = digits.iter().take(2).take_while(|digit| **digit == 0).count();
                text.extend(digits.iter().skip(leading).map(|digit| b'0' + digit));
                text.push(b'.');
            }
            text.pop();
            text
        }
        IpAddr::V6(v6) => v6.to_string().into_bytes(),
    };
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

/// The right-most hop of `X-Forwarded-For` that is no trusted proxy: everything left of it is hearsay.
fn right_most_untrusted(conn: &Conn, headers: &HeaderMap) -> IpAddr {
    let mut seen = conn.peer_ip;
    for value in headers.get_all(FORWARDED_FOR).iter().rev() {
        let Ok(value) = value.to_str() else { return seen };
        for hop in value.rsplit(',') {
            let Some(address) = parse_hop(hop.trim()) else { return seen };
            seen = address;
            if !conn.listener.trusts(address) {
                return seen;
            }
        }
    }
    seen
}

/// `1.2.3.4`, `1.2.3.4:567`, `::1`, `[::1]:567`.
fn parse_hop(hop: &str) -> Option<IpAddr> {
    let address = hop
        .parse::<IpAddr>()
        .ok()
        .or_else(|| hop.parse::<std::net::SocketAddr>().ok().map(|a| a.ip()))
        .or_else(|| hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok())?;
    Some(address.to_canonical())
}

/// The one host a request is for (RFC 9112 §3.2). An absolute-form target replaces the field, which must be a host all
/// the same; where we connect is never a client's to say.
///
/// # Errors
/// No Host in HTTP/1.1, two of them, or one that is no host.
pub fn host<B>(request: &Request<B>) -> Result<&str, Problem> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(Problem::BadRequest("more than one Host"));
    }
    let host = match first {
        None if request.version() < Version::HTTP_11 => "",
        None => return Err(Problem::BadRequest("no Host")),
        Some(host) => host.to_str().ok().filter(|host| is_host(host)).ok_or(Problem::BadRequest("Host is no host"))?,
    };
    match request.uri().authority() {
        Some(authority) if is_host(authority.as_str()) => Ok(authority.as_str()),
        Some(_) => Err(Problem::BadRequest("the target's host is no host")),
        None => Ok(host),
    }
}

/// `name`, `name:port`, `1.2.3.4:port`, `[::1]:port`; no userinfo, and nothing that could be read as the end of a host.
fn is_host(text: &str) -> bool {
    let (name, port) = match text.split_once(']') {
        Some((address, port)) => match address.strip_prefix('[').map(str::parse::<Ipv6Addr>) {
            Some(Ok(_)) => ("v6", port),
            _ => return false,
        },
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let is_number = |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let is_port = |port: &str| port.strip_prefix(':').is_some_and(|port| port.is_empty() || is_number(port));
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(&b);
    (port.is_empty() || is_port(port)) && !name.is_empty() && name.bytes().all(is_name)
}

/// Makes a client's request head fit for a worker.
pub fn to_worker(conn: &Conn, client: Client, parts: &mut Parts, ask: &Ask) {
    let headers = &mut parts.headers;
    if let Some(authority) = parts.uri.authority() {
        if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
            headers.insert(header::HOST, host);
        }
        // Of `http://a#b` the http crate keeps a path that reads as "/" and is written as nothing.
        parts.uri = match parts.uri.path_and_query() {
            Some(target) if target.as_str() != "/" => Uri::from(target.clone()),
            _ => Uri::from_static("/"),
        };
    }
    if parts.version < Version::HTTP_11 {
        // An old client may leave Host out; what we send may not (RFC 9112 §3.2: then it is empty).
        headers.entry(header::HOST).or_insert(HeaderValue::from_static(""));
        parts.version = Version::HTTP_11;
    }
    if ask.kind == Kind::Handshake || ask.facts.as_ref().is_some_and(|facts| facts.plain) {
        // What is compressed cannot be learned, and 100 bytes gain nothing (protocols §1.2).
        headers.remove(header::ACCEPT_ENCODING);
    }
    let te_trailers = headers.get(header::TE).is_some_and(|te| has_token(te.as_bytes(), b"trailers"));
    // Identity is not a client's `Connection` to take away: trust alone decides on it.
    strip_nominated(headers, fields::is_identity);
    let forwarded_for = chain(conn, client, headers);
    remove_where(headers, if conn.trusted { fields::stops_from_proxy } else { fields::stops_from_client });
    if te_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    tell_certificate(conn, headers);
    headers.insert(FORWARDED_FOR, forwarded_for);
    let proto = HeaderValue::from_static(if client.secure { "https" } else { "http" });
    headers.entry(FORWARDED_PROTO).or_insert(proto);
    if let Some(host) = headers.get(header::HOST).filter(|host| !host.is_empty()).cloned() {
        headers.entry(FORWARDED_HOST).or_insert(host);
    }
    headers.entry(FORWARDED_PORT).or_insert_with(|| conn.listener.port_value.clone());
    headers.entry(REQUEST_ID).or_insert_with(|| request_id(conn.thread.request_id()));
    if ask.upgrade.is_some() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
}

/// What the client has shown, where it was asked.
fn tell_certificate(conn: &Conn, headers: &mut HeaderMap) {
    match conn.tls.as_ref().and_then(|tls| tls.client.as_deref()) {
        None => {}
        Some(ClientCertificate::None) => {
            headers.insert(CLIENT_VERIFY, HeaderValue::from_static("NONE"));
        }
        Some(ClientCertificate::Valid { subject, fingerprint }) => {
            headers.insert(CLIENT_VERIFY, HeaderValue::from_static("SUCCESS"));
            headers.insert(CLIENT_SUBJECT, subject.clone());
            headers.insert(CLIENT_FINGERPRINT, fingerprint.clone());
        }
    }
}

/// The peer's address behind what a trusted proxy says; alone otherwise.
fn chain(conn: &Conn, client: Client, headers: &HeaderMap) -> HeaderValue {
    if !conn.trusted || client.address == conn.peer_ip {
        return conn.peer_value.clone();
    }
    let mut text = Vec::with_capacity(64);
    for value in headers.get_all(FORWARDED_FOR) {
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b", ");
    }
    text.extend_from_slice(conn.peer_value.as_bytes());
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| conn.peer_value.clone())
}

fn request_id(number: u64) -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'0'; 16];
    for (place, digit) in text.iter_mut().rev().enumerate() {
        *digit = *HEX.get(((number >> (place * 4)) & 0xf) as usize).unwrap_or(&b'0');
    }
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("0"))
}

/// Makes a worker's answer head fit for a client. `upgrade`: a checked 101, which keeps its two fields.
pub fn to_client(headers: &mut HeaderMap, upgrade: bool) {
    strip_nominated(headers, |_| false);
    remove_where(headers, fields::stops_from_worker);
    if upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
}

/// Takes out what `Connection` nominates, except what `kept` knows.
fn strip_nominated(headers: &mut HeaderMap, kept: fn(&str) -> bool) {
    if !headers.contains_key(header::CONNECTION) {
        return;
    }
    // Nothing to allocate for the usual words, which are no fields, or a field that goes in any case.
    const USUAL: [&[u8]; 3] = [b"keep-alive", b"close", b"upgrade"];
    let nominated: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&b| b == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|name| !USUAL.iter().any(|usual| name.eq_ignore_ascii_case(usual)))
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        // Framing and routing are never a hop's to take away (threats §2).
        .filter(|name| name != header::CONTENT_LENGTH && name != header::HOST && name != header::TRAILER)
        .filter(|name| !kept(name.as_str()))
        .collect();
    for name in nominated {
        headers.remove(name);
    }
}

/// Whether a comma-separated field value has `token`, in any case.
pub fn has_token(value: &[u8], token: &[u8]) -> bool {
    value.split(|&b| b == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn an_address_is_said_as_everywhere(address: IpAddr) {
            proptest::prop_assert_eq!(address_value(address), address.to_string());
        }
    }

    #[test]
    fn zeros_of_an_address_are_said() {
        for text in ["0.0.0.0", "10.0.100.9", "255.1.20.200", "::1"] {
            assert_eq!(address_value(text.parse().unwrap()), text);
        }
    }

    #[test]
    fn hops_are_read_in_every_form() {
        for (text, expected) in [
            ("1.2.3.4", Some("1.2.3.4")),
            ("1.2.3.4:99", Some("1.2.3.4")),
            ("::1", Some("::1")),
            ("[::1]:99", Some("::1")),
            ("[::1]", Some("::1")),
            ("::ffff:1.2.3.4", Some("1.2.3.4")),
            ("unknown", None),
            ("", None),
        ] {
            assert_eq!(parse_hop(text), expected.map(|e| e.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn the_targets_authority_is_no_better_than_a_host_field() {
        let ask = |uri: &'static str| Request::builder().uri(uri).header("host", "a").body(()).unwrap();
        assert_eq!(host(&ask("http://a.example:80/")), Ok("a.example:80"));
        assert!(host(&ask("http://user@a.example/")).is_err());
    }

    #[test]
    fn nominated_fields_stop_here_but_never_framing() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, X-Secret , content-length,host"),
            ("x-secret", "1"),
            ("content-length", "5"),
            ("host", "a"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "h2c"),
            ("accept", "*/*"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        strip_nominated(&mut headers, |_| false);
        remove_where(&mut headers, fields::stops_from_worker);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "content-length", "host"]);
    }

    #[test]
    fn request_ids_are_sixteen_hex_digits() {
        assert_eq!(request_id(0xdead_beef), "00000000deadbeef");
        assert_eq!(request_id(u64::MAX), "ffffffffffffffff");
    }
}
