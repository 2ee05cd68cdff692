//! Rewrites heads: which fields are removed, which are added, and whose values are trusted.
//!
//! Hop-by-hop fields and those that `Connection` nominates are removed in both directions (RFC 9110 §7.6.1). Identity
//! fields (`X-Forwarded-*`, `X-Real-IP`, `Forwarded`, `X-Request-Id`) are kept only from trusted proxies, and are added
//! after the removal, so that a client's `Connection: x-forwarded-for` cannot suppress them. The fields that describe a
//! client certificate (`X-Client-*`) are set by stickyd alone.

use std::net::{IpAddr, Ipv6Addr};

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Uri, Version};

use super::hop_fields::{self, remove_from_head};
use super::respond::Problem;
use super::told;
use crate::affinity::ask::{RequestFacts, RequestKind};
use crate::client::Client;
use crate::header_list::list_has;
use crate::listener::ClientCertificate;
use crate::listener::conn::Conn;

pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(super) const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const CLIENT_VERIFY: HeaderName = HeaderName::from_static("x-client-verify");
const CLIENT_SUBJECT: HeaderName = HeaderName::from_static("x-client-subject");
const CLIENT_FINGERPRINT: HeaderName = HeaderName::from_static("x-client-fingerprint");

/// Determines the client from its connection and, if the peer is a trusted proxy, from the head.
pub fn client(conn: &Conn, headers: &HeaderMap) -> Client {
    let mut client = Client { address: conn.peer_ip, known: conn.is_known, secure: conn.tls.is_some() };
    if conn.trusted {
        client.address = right_most_untrusted(conn, headers);
        if let Some(secure) = told::secure(headers) {
            client.secure = secure;
        }
    }
    client
}

/// An address as a field value, equal to its `Display`. Every connection pays this cost first, so IPv4 is written
/// without `fmt`, which takes 1,300 instructions.
pub(crate) fn address_value(address: IpAddr) -> HeaderValue {
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

/// The right-most hop of `X-Forwarded-For` that is not a trusted proxy. Everything to the left of it is unverified.
fn right_most_untrusted(conn: &Conn, headers: &HeaderMap) -> IpAddr {
    let mut seen = conn.peer_ip;
    for value in headers.get_all(FORWARDED_FOR).iter().rev() {
        let Ok(value) = value.to_str() else { return seen };
        // Empty elements of a list are none (RFC 9110 §5.6.1).
        for hop in value.rsplit(',').filter(|hop| !hop.trim().is_empty()) {
            let Some(address) = parse_hop(hop) else { return seen };
            seen = address;
            if !conn.listener.trusts(address) {
                return seen;
            }
        }
    }
    seen
}

/// Parses a hop of `X-Forwarded-For`: `1.2.3.4`, `1.2.3.4:567`, `::1`, `[::1]` or `[::1]:567`, in quotes (RFC 7239 §4)
/// or not, with spaces around it. `unknown` and `_hidden` (RFC 7239 §6) name no address.
pub(super) fn parse_hop(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    let hop = hop.strip_prefix('"').and_then(|hop| hop.strip_suffix('"')).unwrap_or(hop);
    let address = hop
        .parse::<IpAddr>()
        .ok()
        .or_else(|| hop.parse::<std::net::SocketAddr>().ok().map(|a| a.ip()))
        .or_else(|| hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok())?;
    Some(address.to_canonical())
}

/// The one host that a request is for (RFC 9112 §3.2). An absolute-form target overrides the Host field, which must be
/// valid all the same. A client never decides which address stickyd connects to.
///
/// # Errors
/// An HTTP/1.1 request has no Host field; there are two; or a host is not valid.
pub(crate) fn host<B>(request: &Request<B>) -> Result<&str, Problem> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(Problem::BadRequest("there is more than one Host header"));
    }
    let host = match first {
        None if request.version() < Version::HTTP_11 => "",
        None => return Err(Problem::BadRequest("the Host header is missing")),
        Some(host) => host.to_str().ok().filter(|host| is_host(host)).ok_or(Problem::BadRequest("invalid Host"))?,
    };
    match request.uri().authority() {
        Some(authority) if is_host(authority.as_str()) => Ok(authority.as_str()),
        Some(_) => Err(Problem::BadRequest("the host in the request target is not valid")),
        None => Ok(host),
    }
}

/// Accepts `name`, `name:port`, `1.2.3.4:port` and `[::1]:port`, but no userinfo, no empty label except a final one
/// (the root), and no character that could be read as the end of a host. Names of hosts have no percent-encoding: some
/// workers would decode it, and others would not.
pub(super) fn is_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        Some((address, port)) if address.parse::<Ipv6Addr>().is_ok() => ("v6", port),
        Some(_) => return false,
        None => text.split_at(text.bytes().position(|byte| byte == b':').unwrap_or(text.len())),
    };
    let is_number = |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let is_port = |port: &str| port.strip_prefix(':').is_some_and(|port| port.is_empty() || is_number(port));
    // One pass: every request pays for it.
    let mut before = b'.';
    let has_labels = name.bytes().all(|b| {
        let fits = OF_NAME.get(usize::from(b)).is_some_and(|fits| *fits) && !(b == b'.' && before == b'.');
        before = b;
        fits
    });
    (port.is_empty() || is_port(port)) && !name.is_empty() && has_labels
}

/// Whether a byte may be part of a host's name, for each byte: a table, because every byte of each host is checked.
static OF_NAME: [bool; 256] = {
    let mut all = [false; 256];
    let mut byte = 0;
    while byte < all.len() {
        #[allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "evaluated by the compiler")]
        {
            all[byte] = is_of_name(byte as u8);
        }
        byte += 1;
    }
    all
};

const fn is_of_name(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~')
        || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'=')
}

/// Rewrites a client's request head for a worker.
pub(crate) fn to_worker(conn: &Conn, client: Client, parts: &mut Parts, ask: &RequestFacts) {
    let headers = &mut parts.headers;
    if let Some(authority) = parts.uri.authority() {
        if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
            headers.insert(header::HOST, host);
        }
        // For `http://a#b` the http crate keeps a path that compares equal to "/" and is written as an empty string.
        parts.uri = match parts.uri.path_and_query() {
            Some(target) if target.as_str() != "/" => Uri::from(target.clone()),
            _ => Uri::from_static("/"),
        };
    }
    if parts.version < Version::HTTP_11 {
        // An HTTP/1.0 client may leave out Host, but stickyd sends HTTP/1.1, which needs one (RFC 9112 §3.2: empty
        // then).
        headers.entry(header::HOST).or_insert(HeaderValue::from_static(""));
        parts.version = Version::HTTP_11;
    }
    if ask.kind == RequestKind::Handshake || ask.facts.as_ref().is_some_and(|facts| facts.plain) {
        // A compressed body cannot be learned from, and compressing 100 bytes gains nothing
        // (docs/reference/protocols.md §1.2).
        headers.remove(header::ACCEPT_ENCODING);
    }
    let te_trailers = headers.contains_key(header::TE) && list_has(headers, &header::TE, b"trailers");
    // A client's `Connection` must not remove identity fields; only trust decides about them.
    strip_nominated(headers, hop_fields::is_identity);
    let forwarded_for = chain(conn, client, headers);
    if conn.trusted {
        remove_from_head(headers, hop_fields::stops_from_proxy);
    } else {
        tell_disbelief(conn, &remove_from_head(headers, hop_fields::stops_from_client));
    }
    if te_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    tell_certificate(conn, headers);
    headers.insert(FORWARDED_FOR, forwarded_for);
    // Before the other fields are set, because the port follows from those that the trusted proxy sent. The field of an
    // untrusted client has been removed above.
    if !conn.trusted || !headers.contains_key(FORWARDED_PORT) {
        let port = told::port(conn, client, headers);
        headers.insert(FORWARDED_PORT, port);
    }
    let proto = HeaderValue::from_static(if client.secure { "https" } else { "http" });
    headers.entry(FORWARDED_PROTO).or_insert(proto);
    if let Some(host) = headers.get(header::HOST).filter(|host| !host.is_empty()).cloned() {
        headers.entry(FORWARDED_HOST).or_insert(host);
    }
    headers.entry(REQUEST_ID).or_insert_with(|| request_id(conn.thread.request_id()));
    if ask.upgrade.is_some() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
}

/// Removes the fields that tell workers the claims of tokens, in every spelling that a worker could take for one of
/// them: CGI and its heirs read every other character as an underscore.
pub(crate) fn strip_claims(headers: &mut HeaderMap, claims: &[HeaderName]) {
    let found: Vec<HeaderName> = headers.keys().filter(|name| is_claim(name.as_str(), claims)).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

fn is_claim(name: &str, claims: &[HeaderName]) -> bool {
    let same = |a: u8, b: u8| a.eq_ignore_ascii_case(&b) || !(a.is_ascii_alphanumeric() || b.is_ascii_alphanumeric());
    claims.iter().any(|claim| {
        let claim = claim.as_str();
        claim.len() == name.len() && claim.bytes().zip(name.bytes()).all(|(a, b)| same(a, b))
    })
}

/// Logs, once per listener, that fields were removed which a peer that could be a proxy of ours sent.
fn tell_disbelief(conn: &Conn, removed: &[HeaderName]) {
    let is_told = |name: &HeaderName| name.as_str().starts_with("x-forwarded-") || name == header::FORWARDED;
    if removed.iter().any(is_told) && conn.listener.take_disbelief(conn.peer_ip) {
        tracing::warn!(listener = conn.listener.label(), peer = %conn.peer_ip,
            "X-Forwarded-* of a peer that is not among trusted_proxies is removed; if it is a proxy, add its address");
    }
}

/// Adds the fields that describe the client certificate, if the listener requested one.
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

/// The value of `X-Forwarded-For`: the chain sent by a trusted proxy plus the peer's address; otherwise the peer alone.
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

/// Rewrites a worker's response head for a client. `upgrade` marks a checked 101, which keeps `Connection` and
/// `Upgrade`.
pub(crate) fn to_client(headers: &mut HeaderMap, upgrade: bool) {
    strip_nominated(headers, |_| false);
    remove_from_head(headers, hop_fields::stops_from_worker);
    if upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
}

/// Removes the fields that `Connection` nominates, except those for which `kept` returns true.
fn strip_nominated(headers: &mut HeaderMap, kept: fn(&str) -> bool) {
    if !headers.contains_key(header::CONNECTION) {
        return;
    }
    // No allocation for the usual tokens: they name no field, or one that is removed in any case.
    const USUAL: [&[u8]; 3] = [b"keep-alive", b"close", b"upgrade"];
    let nominated: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&b| b == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|name| !USUAL.iter().any(|usual| name.eq_ignore_ascii_case(usual)))
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        // Fields for framing and routing must not be removed on behalf of a hop (docs/reference/threats.md §2.3).
        .filter(|name| name != header::CONTENT_LENGTH && name != header::HOST && name != header::TRAILER)
        .filter(|name| !kept(name.as_str()))
        .collect();
    for name in nominated {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn an_address_value_equals_its_display(address: IpAddr) {
            proptest::prop_assert_eq!(address_value(address), address.to_string());
        }
    }

    #[test]
    fn zeros_in_an_address_are_written() {
        for text in ["0.0.0.0", "10.0.100.9", "255.1.20.200", "::1"] {
            assert_eq!(address_value(text.parse().unwrap()), text);
        }
    }

    #[test]
    fn hops_are_parsed_in_every_form() {
        for (text, expected) in [
            ("1.2.3.4", Some("1.2.3.4")),
            ("1.2.3.4:99", Some("1.2.3.4")),
            ("::1", Some("::1")),
            ("[::1]:99", Some("::1")),
            ("[::1]", Some("::1")),
            ("::ffff:1.2.3.4", Some("1.2.3.4")),
            ("\"[::1]:99\"", Some("::1")),
            ("\"1.2.3.4\"", Some("1.2.3.4")),
            (" \t1.2.3.4 ", Some("1.2.3.4")),
            ("[::ffff:1.2.3.4]:99", Some("1.2.3.4")),
            ("[1.2.3.4]:99", None),
            ("1.2.3.4:", None),
            ("1.2.3.4:99999", None),
            ("1.2.3", None),
            ("01.2.3.4", None),
            ("_hidden", None),
            ("_hidden:_port", None),
            ("unknown", None),
            ("", None),
        ] {
            assert_eq!(parse_hop(text), expected.map(|e| e.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn a_targets_authority_is_checked_like_a_host_field() {
        let ask = |uri: &'static str| Request::builder().uri(uri).header("host", "a").body(()).unwrap();
        assert_eq!(host(&ask("http://a.example:80/")), Ok("a.example:80"));
        assert!(host(&ask("http://user@a.example/")).is_err());
    }

    #[test]
    fn nominated_fields_are_removed_except_framing() {
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
        remove_from_head(&mut headers, hop_fields::stops_from_worker);
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
