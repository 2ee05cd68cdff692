//! What a trusted proxy says of the client's own request: scheme, host and port (`X-Forwarded-Proto`, `-Host`,
//! `-Port`). Each may be a list over several lines, to which every proxy appends, so the first value is the client's.
//! Nothing here is asked for a client that is not a trusted proxy. Left out: its address (`headers`).

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::headers::{FORWARDED_HOST, FORWARDED_PORT, FORWARDED_PROTO, is_host};
use crate::client::Client;
use crate::config::guards::split_port;
use crate::listener::conn::Conn;
use crate::route::guard::Authority;

/// Whether the proxy says that its client uses TLS; `None` if it says nothing, or nothing known. `wss` is `https` in
/// the words of WebSocket (RFC 6455 §3).
pub(super) fn secure(headers: &HeaderMap) -> Option<bool> {
    let proto = first(headers, &FORWARDED_PROTO)?;
    let is = |words: [&str; 2]| words.iter().any(|word| proto.eq_ignore_ascii_case(word));
    if is(["https", "wss"]) { Some(true) } else { is(["http", "ws"]).then_some(false) }
}

/// The host and port that the client asked for. `host` is the request's own, with which a proxy may have replaced the
/// client's.
pub(super) fn authority<'a>(conn: &Conn, headers: &'a HeaderMap, host: &'a str) -> Authority<'a> {
    if !conn.trusted {
        return Authority { host, port: None };
    }
    let host = first(headers, &FORWARDED_HOST).filter(|host| is_host(host)).unwrap_or(host);
    Authority { host, port: first(headers, &FORWARDED_PORT).and_then(|port| port.parse().ok()) }
}

/// The port that the client asked for, for workers that are told none: behind a trusted proxy the one in the host, or
/// the default port of the scheme; otherwise the listener's.
pub(super) fn port(conn: &Conn, client: Client, headers: &HeaderMap) -> HeaderValue {
    let told = conn.trusted.then(|| {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let written = split_port(authority(conn, headers, host).host).1.and_then(|port| port.parse::<u16>().ok());
        written.or_else(|| secure(headers).map(|_| if client.secure { 443 } else { 80 }))
    });
    told.flatten().map_or_else(|| conn.listener.port_value.clone(), HeaderValue::from)
}

/// The first element of a list field over all its lines (RFC 9110 §5.3); empty elements are none (§5.6.1).
fn first<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let lines = headers.get_all(name).iter();
    let mut elements = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let found = elements.find(|element| !element.is_empty())?;
    let bare = found.strip_prefix(b"\"").and_then(|found| found.strip_suffix(b"\"")).unwrap_or(found);
    std::str::from_utf8(bare).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_PROTO, HeaderValue::from_static(line));
        }
        headers
    }

    #[test]
    fn the_first_scheme_of_a_list_counts() {
        for (lines, expected) in [
            (&["https"][..], Some(true)),
            (&["HTTPS"], Some(true)),
            (&["wss"], Some(true)),
            (&["Wss, http"], Some(true)),
            (&["https, http"], Some(true)),
            (&["https,http"], Some(true)),
            (&["https", "http"], Some(true)),
            (&["http", "https"], Some(false)),
            (&["http, https"], Some(false)),
            (&["ws"], Some(false)),
            (&[" , https"], Some(true)),
            (&["", "https"], Some(true)),
            (&["\"https\""], Some(true)),
            (&["\t https \t"], Some(true)),
            (&["httpsx"], None),
            (&["\""], None),
            (&[""], None),
            (&[","], None),
            (&[], None),
        ] {
            assert_eq!(secure(&fields(lines)), expected, "{lines:?}");
        }
    }
}
