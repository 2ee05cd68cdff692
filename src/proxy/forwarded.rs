//! Adds `Forwarded` (RFC 7239) next to `X-Forwarded-*`, for workers that read it. It is off unless an upstream enables
//! it.
//!
//! It runs after the head was rewritten for the worker, so the fields in it come from stickyd or from a trusted proxy.
//! A `Forwarded` field of a trusted proxy is continued; if the proxy sends only `X-Forwarded-For`, that chain is
//! translated. The parameter `by` is left out, because it would reveal stickyd's own addresses.

use std::net::IpAddr;

use hyper::header::{self, HeaderMap, HeaderValue};

use super::headers::{FORWARDED_FOR, parse_hop};
use super::told;

/// Adds the field, or appends stickyd's own element to it. `peer` is the address that connected to stickyd; `secure` is
/// true if it did so over TLS.
pub(crate) fn add(headers: &mut HeaderMap, peer: IpAddr, secure: bool) {
    let host = headers.get(header::HOST).map_or(&b""[..], HeaderValue::as_bytes);
    let mut text = Vec::with_capacity(96);
    if headers.contains_key(header::FORWARDED) {
        for value in headers.get_all(header::FORWARDED) {
            text.extend_from_slice(value.as_bytes());
            text.extend_from_slice(b", ");
        }
        element(&mut text, Some(peer));
        about(&mut text, host, if secure { b"https" } else { b"http" });
    } else {
        let chain = headers.get(FORWARDED_FOR).map_or(&b""[..], HeaderValue::as_bytes);
        for (place, hop) in chain.split(|&b| b == b',').enumerate() {
            text.extend_from_slice(if place == 0 { b"" } else { b", " });
            match std::str::from_utf8(hop).ok().and_then(parse_hop) {
                None if is_obfuscated(hop.trim_ascii()) => {
                    text.extend_from_slice(b"for=");
                    text.extend_from_slice(hop.trim_ascii());
                }
                address => element(&mut text, address),
            }
            // The scheme and host of the client's own request, which is what workers need, go into the first element.
            if place == 0 {
                let proto: &[u8] = if told::secure(headers) == Some(true) { b"https" } else { b"http" };
                about(&mut text, host, proto);
            }
        }
    }
    if let Ok(value) = HeaderValue::from_bytes(&text) {
        headers.insert(header::FORWARDED, value);
    }
}

/// Writes `for=192.0.2.1`, `for="[2001:db8::1]"` (§6), or `for=unknown` if there is no valid address (§6.2).
fn element(text: &mut Vec<u8>, address: Option<IpAddr>) {
    let node = match address {
        Some(IpAddr::V4(v4)) => format!("for={v4}"),
        Some(IpAddr::V6(v6)) => format!("for=\"[{v6}]\""),
        None => "for=unknown".to_owned(),
    };
    text.extend_from_slice(node.as_bytes());
}

/// Whether a hop is an obfuscated identifier, such as `_hidden` (§6.3), which needs no quotes.
fn is_obfuscated(hop: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    hop.strip_prefix(b"_").is_some_and(|rest| !rest.is_empty() && rest.iter().all(is_part))
}

/// Writes `host` and `proto`. An accepted host contains neither `"` nor `\`, so plain quotes suffice (RFC 9110 §5.6.4).
fn about(text: &mut Vec<u8>, host: &[u8], proto: &[u8]) {
    if !host.is_empty() {
        text.extend_from_slice(b";host=\"");
        text.extend_from_slice(host);
        text.push(b'"');
    }
    text.extend_from_slice(b";proto=");
    text.extend_from_slice(proto);
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderName;

    use super::*;

    fn after(fields: &[(&'static str, &'static str)], peer: &str, secure: bool) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        add(&mut headers, peer.parse().unwrap(), secure);
        assert_eq!(headers.get_all(header::FORWARDED).iter().count(), 1);
        headers[header::FORWARDED].to_str().unwrap().to_owned()
    }

    #[test]
    fn forwarded_describes_a_direct_client() {
        let fields = [("x-forwarded-for", "192.0.2.9"), ("x-forwarded-proto", "https"), ("host", "a.example:81")];
        assert_eq!(after(&fields, "192.0.2.9", true), "for=192.0.2.9;host=\"a.example:81\";proto=https");
        let fields = [("x-forwarded-for", "2001:db8::1"), ("x-forwarded-proto", "http"), ("host", "")];
        assert_eq!(after(&fields, "2001:db8::1", false), "for=\"[2001:db8::1]\";proto=http");
    }

    #[test]
    fn forwarded_continues_the_chain_of_trusted_proxies() {
        let chain =
            [("x-forwarded-for", "192.0.2.9:55, junk, ::ffff:10.0.0.1"), ("x-forwarded-proto", "https"), ("host", "a")];
        assert_eq!(after(&chain, "10.0.0.1", false), "for=192.0.2.9;host=\"a\";proto=https, for=unknown, for=10.0.0.1");
        let chain = [
            ("x-forwarded-for", "_hidden, unknown, _a;b, \"[2001:db8::1]:99\", 10.0.0.1"),
            ("x-forwarded-proto", "wss, http"),
            ("host", "a"),
        ];
        assert_eq!(
            after(&chain, "10.0.0.1", false),
            "for=_hidden;host=\"a\";proto=https, for=unknown, for=unknown, for=\"[2001:db8::1]\", for=10.0.0.1"
        );
        let told = [
            ("forwarded", "for=192.0.2.9;proto=https"),
            ("forwarded", "for=\"_x\""),
            ("x-forwarded-for", "192.0.2.9, 10.0.0.1"),
            ("host", "a"),
        ];
        assert_eq!(
            after(&told, "10.0.0.1", false),
            "for=192.0.2.9;proto=https, for=\"_x\", for=10.0.0.1;host=\"a\";proto=http"
        );
    }
}
