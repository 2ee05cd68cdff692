//! Which fields stop here: those of one hop, those that tell who asks, and those only stickyd says.
//!
//! By name alone; names of heads and trailers are lower case. What `Connection` nominates, and what is added in their place,
//! is `headers`' to say.

use hyper::header::{HeaderMap, HeaderName};

/// Takes out the fields whose names `doomed` knows: one pass over the names there are, because most heads have none of
/// those there could be, and a look-up for each cost more than the rest of the rewriting.
pub(super) fn remove_where(headers: &mut HeaderMap, doomed: fn(&str) -> bool) {
    let found: Vec<HeaderName> = headers.keys().filter(|name| doomed(name.as_str())).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

/// Of a request from nobody we trust.
pub(super) fn stops_from_client(name: &str) -> bool {
    !plainly_passes(name) && (name == "te" || is_requests_hop(name) || is_identity(name))
}

/// Of a request from a trusted proxy: what not even that says are our own fields, and twins with underscores, which it passes
/// on from its client. Only for what is known of certificates are they common as names of their own (Apache's
/// `SSL_CLIENT_S_DN`).
pub(super) fn stops_from_proxy(name: &str) -> bool {
    let is_twin = || name.contains('_') && !name.starts_with("ssl_client") && is_identity(name);
    !plainly_passes(name) && (name == "te" || is_requests_hop(name) || is_ours(name) || is_twin())
}

/// Of an answer: a worker's `Alt-Svc` tells of its own side of us (RFC 7838), where no client may go around us to.
pub(super) fn stops_from_worker(name: &str) -> bool {
    is_hop(name) || name == "alt-svc"
}

/// Nearly every field of nearly every request, by its first letters: no name below begins so, and a twin has an underscore.
fn plainly_passes(name: &str) -> bool {
    let begins = matches!(
        name.as_bytes(),
        [b'a' | b'b' | b'd' | b'g' | b'i' | b'l'..=b'o' | b'r' | b'v' | b'w', ..]
            | [b'c', b'o', b'o', ..]
            | [b'c', b'o', b'n', b't', ..]
            | [b'h', b'o', ..]
            | [b's', b'e', ..]
            | [b'u', b's', ..]
    );
    begins && !name.bytes().any(|letter| letter == b'_')
}

/// Fields that belong to one hop (RFC 9110 §7.6.1).
const OF_ONE_HOP: [&str; 7] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "transfer-encoding",
    "upgrade",
];

fn is_hop(name: &str) -> bool {
    OF_ONE_HOP.contains(&name)
}

/// Fields of a request that stop here: `Proxy` is what CGI makes `HTTP_PROXY` of (CVE-2016-5385), `Expect` was met by us, as
/// hyper sends the 100, and what workers of the CGI kind would take for framing is not passed on either.
pub(super) fn is_requests_hop(name: &str) -> bool {
    is_hop(name)
        || matches!(name, "proxy" | "http2-settings" | "expect")
        || name.starts_with("proxy-")
        || (name.contains('_') && is_hops_twin(&name.replace('_', "-")))
}

pub(super) fn is_hops_twin(name: &str) -> bool {
    matches!(name, "content-length" | "te" | "trailer") || is_requests_hop(name)
}

/// What only stickyd itself says, whoever asks.
fn is_ours(name: &str) -> bool {
    OURS.contains(&name) || (name.contains('_') && is_ours(&name.replace('_', "-")))
}

const OURS: [&str; 3] = ["x-client-verify", "x-client-subject", "x-client-fingerprint"];

/// Identity fields nobody but a trusted proxy may set: ours, and what other proxies call theirs. Workers that read fields
/// the CGI way take `x_real_ip` for `x-real-ip`, so twins with underscores count, too.
pub(super) fn is_identity(name: &str) -> bool {
    IDENTITY.contains(&name)
        || IDENTITY_BEGINNINGS.iter().any(|begins| name.starts_with(begins))
        || is_ours(name)
        || (name.contains('_') && is_identity(&name.replace('_', "-")))
}

const IDENTITY_BEGINNINGS: [&str; 5] = ["x-forwarded", "x-original-", "x-real-", "x-ssl-", "ssl-client-"];

const IDENTITY: [&str; 20] = [
    "x-request-id",
    "forwarded",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-originating-ip",
    "x-remote-ip",
    "x-remote-addr",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "fastly-client-ip",
    "fly-client-ip",
    "x-envoy-external-address",
    "x-host",
    "x-http-host-override",
    "x-url-scheme",
    "x-rewrite-url",
    "front-end-https",
    "client-cert",
    "client-cert-chain",
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen when the fuzz target `head` got its oracle: Rack reads `X-Forwarded-Scheme` and `X-Forwarded-Ssl`, others have more.
    #[test]
    fn every_x_forwarded_field_is_about_identity() {
        for name in ["x-forwarded-for", "x-forwarded-scheme", "x-forwarded-ssl", "x_forwarded_by", "x-real_ip"] {
            assert!(is_identity(name), "{name}");
        }
        assert!(!is_identity("x-forwarding") && !is_identity("forwarded-to"));
    }

    #[test]
    fn nothing_that_stops_passes_at_first_sight() {
        let others = ["te", "trailer", "content-length", "proxy", "proxy-x", "http2-settings", "expect"];
        let all = [&OF_ONE_HOP[..], &OURS, &IDENTITY, &IDENTITY_BEGINNINGS, &others].concat();
        for name in &all {
            let twin = name.replace('-', "_");
            assert!(name.contains('-') || twin == *name);
            for name in [name, twin.as_str()] {
                let stops = is_requests_hop(name) || is_identity(name);
                assert_eq!(stops_from_client(name), stops || name == "te", "{name}");
            }
        }
        for name in ["host", "cookie", "user-agent", "accept", "content-type", "sec-websocket-key"] {
            assert!(plainly_passes(name) && !stops_from_client(name) && !stops_from_proxy(name), "{name}");
        }
    }

    #[test]
    fn a_trusted_proxys_word_on_others_passes_and_its_clients_twin_does_not() {
        for (name, stops) in [
            ("x-forwarded-for", false),
            ("x-real-ip", false),
            ("ssl_client_s_dn", false),
            ("x_real_ip", true),
            ("x-client-verify", true),
            ("x_client_verify", true),
            ("connection", true),
            ("content_length", true),
        ] {
            assert_eq!(stops_from_proxy(name), stops, "{name}");
        }
    }
}
