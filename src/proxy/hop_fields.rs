//! Decides which header fields are not forwarded: hop-by-hop fields, fields that state the client's identity, and
//! fields that only stickyd may set.
//!
//! The decision is made by name alone; the names in heads and trailers are lower case. Fields nominated by
//! `Connection`, and the fields added by stickyd, are handled in `headers`.

use hyper::header::{self, HeaderMap, HeaderName};

/// Removes the fields for whose names `doomed` returns true, and returns these names. It makes one pass over the fields
/// present: most heads contain few of the forbidden names, and one look-up for each such name cost more than the rest
/// of the rewriting.
pub(crate) fn remove_where(headers: &mut HeaderMap, doomed: impl Fn(&HeaderName) -> bool) -> Vec<HeaderName> {
    let found: Vec<HeaderName> = headers.keys().filter(|name| doomed(name)).cloned().collect();
    for name in &found {
        headers.remove(name);
    }
    found
}

/// As [`remove_where`] for a head, in which the usual fields are never removed by their name.
pub(crate) fn remove_from_head(headers: &mut HeaderMap, doomed: fn(&str) -> bool) -> Vec<HeaderName> {
    remove_where(headers, |name| !is_usual(name) && doomed(name.as_str()))
}

/// Whether a field is one of those that most heads consist of. The crate http knows these names as numbers, so that no
/// text is compared.
fn is_usual(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::ACCEPT
            | header::ACCEPT_ENCODING
            | header::ACCEPT_LANGUAGE
            | header::CACHE_CONTROL
            | header::CONTENT_LENGTH
            | header::CONTENT_TYPE
            | header::COOKIE
            | header::DATE
            | header::ETAG
            | header::HOST
            | header::LAST_MODIFIED
            | header::ORIGIN
            | header::PRAGMA
            | header::REFERER
            | header::SET_COOKIE
            | header::USER_AGENT
            | header::VARY
    )
}

/// Whether a field of a request from an untrusted client is removed.
pub(crate) fn stops_from_client(name: &str) -> bool {
    !plainly_passes(name) && (name == "te" || is_requests_hop(name) || is_identity(name))
}

/// Whether a field of a request from a trusted proxy is removed: hop-by-hop fields, stickyd's own fields, and identity
/// fields spelled with underscores, which the proxy passes on from its client. Names that begin with `ssl_client` are
/// kept, because they are common in their own right (Apache's `SSL_CLIENT_S_DN`).
pub(crate) fn stops_from_proxy(name: &str) -> bool {
    let is_twin = || name.contains('_') && !name.starts_with("ssl_client") && is_identity(name);
    !plainly_passes(name) && (name == "te" || is_requests_hop(name) || is_ours(name) || is_twin())
}

/// Whether a field of a worker's response is removed. A worker's `Alt-Svc` (RFC 7838) names an address on the worker's
/// side of stickyd, and clients must not bypass the proxy.
pub(crate) fn stops_from_worker(name: &str) -> bool {
    is_hop(name) || name == "alt-svc"
}

/// Fast path: recognises, by its first letters, nearly every field of nearly every request that may pass. No forbidden
/// name below begins with these letters, and spellings with underscores do not qualify.
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

/// Whether a request field ends at this hop. `Proxy` is included because CGI turns it into `HTTP_PROXY`
/// (CVE-2016-5385), and `Expect` because hyper has already sent the 100. Spellings with underscores that a CGI-style
/// worker could read as framing are included as well.
pub(crate) fn is_requests_hop(name: &str) -> bool {
    is_hop(name)
        || matches!(name, "proxy" | "http2-settings" | "expect")
        || name.starts_with("proxy-")
        || (name.contains('_') && is_hops_twin(&name.replace('_', "-")))
}

pub(crate) fn is_hops_twin(name: &str) -> bool {
    matches!(name, "content-length" | "te" | "trailer") || is_requests_hop(name)
}

/// Whether only stickyd may set this field; not even a trusted proxy may.
fn is_ours(name: &str) -> bool {
    OURS.contains(&name) || (name.contains('_') && is_ours(&name.replace('_', "-")))
}

const OURS: [&str; 3] = ["x-client-verify", "x-client-subject", "x-client-fingerprint"];

/// Whether a field states the client's identity, so that only a trusted proxy may send it: stickyd's own fields and
/// those that other proxies use. Workers that read fields the CGI way take `x_real_ip` for `x-real-ip`, so spellings
/// with underscores count as well.
pub(crate) fn is_identity(name: &str) -> bool {
    IDENTITY.contains(&name)
        || IDENTITY_BEGINNINGS.iter().any(|begins| name.starts_with(begins))
        || is_ours(name)
        || (name.contains('_') && is_identity(&name.replace('_', "-")))
}

/// Families of names that no application uses for anything else. `X-Forwarded-User`, `-Email` and `-Groups` are logins
/// for workers behind oauth2-proxy, and other proxies have other names.
const IDENTITY_BEGINNINGS: [&str; 3] = ["x-forwarded", "x-ssl-client", "ssl-client-"];

/// Names that some worker or framework trusts. Others that look similar belong to applications, such as
/// `X-Original-Filename` and `X-Real-Name`.
const IDENTITY: [&str; 49] = [
    "x-real-ip",
    "x-real-port",
    "x-real-host",
    "x-real-proto",
    "x-real-scheme",
    // IIS with URL Rewrite, Symfony and Zend; ingress-nginx; ASP.NET Core behind a second proxy.
    "x-original-url",
    "x-original-uri",
    "x-original-path",
    "x-original-host",
    "x-original-method",
    "x-original-scheme",
    "x-original-proto",
    "x-original-prefix",
    "x-original-port",
    "x-original-for",
    "x-original-ip",
    "x-original-client-ip",
    "x-original-remote-addr",
    "x-original-forwarded-for",
    // Certificates and parameters of TLS, as HAProxy, nginx and F5 are often made to send them.
    "x-ssl-cert",
    "x-ssl-issuer",
    "x-ssl-subject",
    "x-ssl-cipher",
    "x-ssl-protocol",
    "x-ssl-verify",
    "x-ssl-session-id",
    "x-request-id",
    "forwarded",
    // The npm package request-ip reads these as well.
    "forwarded-for",
    "cf-pseudo-ipv4",
    "x-appengine-user-ip",
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

    /// Found when the fuzz target `head` got its oracle: Rack reads `X-Forwarded-Scheme` and `X-Forwarded-Ssl`, and
    /// other frameworks read more.
    #[test]
    fn every_x_forwarded_field_is_an_identity_field() {
        for name in ["x-forwarded-for", "x-forwarded-scheme", "x-forwarded-ssl", "x_forwarded_by", "x-real_ip"] {
            assert!(is_identity(name), "{name}");
        }
        for name in ["x-original-url", "x_original_url", "x-real-ip", "x-ssl-client-s-dn", "x-ssl-client"] {
            assert!(is_identity(name), "{name}");
        }
        for name in [
            "x-forwarding",
            "forwarded-to",
            "x-original-filename",
            "x-original-name",
            "x-original-to",
            "x-real-name",
            "x-real-time",
            "x-real-ip-2",
            "x-ssl-labs",
            "x_original_filename",
        ] {
            assert!(!is_identity(name) && !stops_from_client(name), "{name}");
        }
    }

    #[test]
    fn the_fast_path_never_passes_a_removed_field() {
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
    fn no_usual_field_is_one_that_a_head_loses() {
        let usual = HeaderName::from_bytes;
        let all = "accept accept-encoding accept-language cache-control content-length content-type cookie date etag \
                   host last-modified origin pragma referer set-cookie user-agent vary";
        assert_eq!(all.split(' ').count(), 17);
        for name in all.split(' ') {
            assert!(is_usual(&usual(name.as_bytes()).unwrap()), "{name}");
            let stops: [fn(&str) -> bool; 3] = [stops_from_client, stops_from_proxy, stops_from_worker];
            assert!(stops.iter().all(|stops| !stops(name)), "{name}");
        }
        for name in OF_ONE_HOP.iter().chain(&OURS).chain(&IDENTITY).chain(&["te", "expect", "alt-svc", "trailer"]) {
            assert!(!is_usual(&usual(name.as_bytes()).unwrap()), "{name}");
        }
    }

    #[test]
    fn proxy_fields_pass_but_their_underscore_twins_do_not() {
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
