//! The page that sends a request: whether its origin is among those that a route allows.
//!
//! A browser sends its user's cookies to any host that a page names, and the same-origin policy does not cover
//! WebSockets. So the page's origin is checked here for every WebSocket and Engine.IO request, preflights included. A
//! request without an Origin does not come from a page's script, with one exception: a `<script src>` (JSONP), which
//! browsers mark with `Sec-Fetch-Site`; for it the origin of the Referer counts. Left out: what is answered to other
//! pages.

use hyper::Request;
use hyper::header::{self, HeaderMap, HeaderValue};

use crate::affinity::ask::{RequestFacts, RequestKind};
use crate::client::Client;
use crate::config::guards::{Origin, default_port, split_port};
use crate::engine_io;
use crate::header_list::has_token;

/// The host and port of the URL that a client asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Authority<'a> {
    /// The host, with a port if the client wrote one.
    pub host: &'a str,
    /// The port that a trusted proxy says the client used, for a host without one.
    pub port: Option<u16>,
}

/// Whether the page's origin matters: for any request that a worker could take for Engine.IO or for an upgrade.
pub(super) fn is_session<B>(request: &Request<B>, ask: &RequestFacts) -> bool {
    let upgrade = || {
        let values = request.headers().get_all(header::UPGRADE);
        values.iter().any(|value| has_token(value.as_bytes(), b"websocket"))
    };
    let of_engine = matches!(
        ask.kind,
        RequestKind::Handshake
            | RequestKind::Session { .. }
            | RequestKind::UnknownSid
            | RequestKind::Preflight(Some(_))
    );
    of_engine || ask.upgrade.is_some() || upgrade() || engine_io::may_be_engine_io(request.uri().query())
}

/// Whether the page's origin is in the list, or the request does not come from a page.
pub(super) fn may(origins: &[Origin], headers: &HeaderMap, client: Client, own: Authority<'_>) -> bool {
    let mut given = headers.get_all(header::ORIGIN).iter();
    let fits = |origin: &str| origins.iter().any(|rule| fits(rule, origin, client.secure, own));
    match (given.next().map(HeaderValue::to_str), given.next()) {
        (Some(Ok(origin)), None) => fits(origin),
        // There are two Origin fields, or one that is not text.
        (Some(_), _) => false,
        (None, _) => match headers.get("sec-fetch-site").map(HeaderValue::as_bytes) {
            Some(b"cross-site" | b"same-site") => {
                let referer = headers.get(header::REFERER).and_then(|value| value.to_str().ok());
                referer.and_then(origin_of).is_some_and(fits)
            }
            _ => true,
        },
    }
}

/// Returns the origin of the page that sent the request, if it is in the list.
pub(crate) fn allowed_origin(
    origins: &[Origin],
    headers: &HeaderMap,
    client: Client,
    own: Authority<'_>,
) -> Option<HeaderValue> {
    let mut given = headers.get_all(header::ORIGIN).iter();
    let (Some(origin), None) = (given.next(), given.next()) else { return None };
    let text = origin.to_str().ok()?;
    origins.iter().any(|rule| fits(rule, text, client.secure, own)).then(|| origin.clone())
}

/// The origin part of a URL: its scheme and authority.
fn origin_of(url: &str) -> Option<&str> {
    let start = url.find("://")? + 3;
    let end = url.get(start..)?.find(['/', '?', '#']).map_or(url.len(), |end| start + end);
    url.get(..end)
}

/// Whether an origin, as a browser writes it (RFC 6454 §6.1), matches a rule.
fn fits(rule: &Origin, origin: &str, secure: bool, own: Authority<'_>) -> bool {
    if *rule == Origin::Null {
        return origin == "null";
    }
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let (host, port) = split_port(authority);
    let scheme = scheme.to_ascii_lowercase();
    // `None` if the port is not a number.
    let number = |port: Option<&str>| match port {
        None => Some(default_port(&scheme)),
        Some(port) => port.parse().ok().map(Some),
    };
    let Some(given) = number(port) else { return false };
    match rule {
        Origin::Null => false,
        Origin::Same => {
            let (name, own_port) = split_port(own.host);
            // A proxy may name the port apart from the host, or only its own.
            let told = own_port.is_none() && own.port.is_some() && own.port == given;
            // A page loaded without TLS can have been altered on the way. If TLS ends before stickyd, the scheme is
            // unknown.
            let safe = !secure || scheme == "https";
            safe && !name.is_empty() && host.eq_ignore_ascii_case(name) && (told || number(own_port) == Some(given))
        }
        Origin::Site { scheme: wanted, host: rule, below, port } => {
            let end = host.len().checked_sub(rule.len()).filter(|start| (*start > 0) == *below);
            let named = end.and_then(|start| host.get(start..)).is_some_and(|end| end.eq_ignore_ascii_case(rule));
            scheme == *wanted && named && given == *port
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(scheme: &str, host: &str, port: Option<u16>) -> Origin {
        let below = host.starts_with('.');
        Origin::Site { scheme: scheme.to_owned(), host: host.to_owned(), below, port }
    }

    #[test]
    fn origins_match_configured_sites() {
        let (plain, below) = (site("https", "a.example", Some(443)), site("https", ".a.example", Some(443)));
        let odd = site("https", "a.example", Some(8443));
        let app = site("capacitor", "localhost", None);
        for (rule, origin, expected) in [
            (&plain, "https://a.example", true),
            (&plain, "HTTPS://A.Example", true),
            (&plain, "https://a.example:443", true),
            (&plain, "https://a.example:8443", false),
            (&plain, "http://a.example", false),
            (&plain, "https://b.a.example", false),
            (&plain, "https://a.example.evil.example", false),
            (&plain, "https://evil-a.example", false),
            (&plain, "https://a.example@evil.example", false),
            (&plain, "null", false),
            (&plain, "", false),
            (&below, "https://b.a.example", true),
            (&below, "https://c.b.a.example", true),
            (&below, "https://a.example", false),
            (&below, "https://.a.example", false),
            (&below, "https://ba.example", false),
            (&odd, "https://a.example:8443", true),
            (&odd, "https://a.example", false),
            (&odd, "https://a.example:x", false),
            (&app, "capacitor://localhost", true),
            (&app, "capacitor://localhost:1", false),
            (&Origin::Null, "null", true),
            (&Origin::Null, "https://a.example", false),
        ] {
            let own = Authority { host: "own.example", port: None };
            assert_eq!(fits(rule, origin, true, own), expected, "{rule:?} {origin}");
        }
    }

    #[test]
    fn same_origin_compares_host_port_and_scheme() {
        for (origin, secure, host, expected) in [
            ("https://a.example", true, "a.example", true),
            ("https://a.example", true, "A.example:443", true),
            ("http://a.example", true, "a.example", false),
            ("http://a.example", false, "a.example", true),
            ("https://a.example", false, "a.example", true),
            ("http://a.example:8080", false, "a.example:8080", true),
            ("http://a.example:8080", false, "a.example", false),
            ("http://a.example", false, "a.example:8080", false),
            ("https://[::1]:1", true, "[::1]:1", true),
            ("https://b.example", true, "a.example", false),
            ("https://", true, "", false),
            ("null", true, "null", false),
        ] {
            let own = Authority { host, port: None };
            assert_eq!(fits(&Origin::Same, origin, secure, own), expected, "{origin} {secure} {host}");
        }
        for (origin, host, port, expected) in [
            ("https://a.example:8443", "a.example", 8443, true),
            ("https://a.example:8444", "a.example", 8443, false),
            ("https://a.example", "a.example", 8443, true),
            ("https://a.example:8443", "a.example:1", 8443, false),
            ("https://b.example:8443", "a.example", 8443, false),
        ] {
            let own = Authority { host, port: Some(port) };
            assert_eq!(fits(&Origin::Same, origin, true, own), expected, "{origin} {host} {port}");
        }
    }

    #[test]
    fn scripts_without_an_origin_are_judged_by_their_referer() {
        let rules = [site("https", "a.example", Some(443))];
        let client = Client { address: [127, 0, 0, 1].into(), known: true, secure: true };
        let asks = |fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            may(&rules, &headers, client, Authority { host: "own.example", port: None })
        };
        assert!(asks(&[]), "not a browser");
        assert!(asks(&[("sec-fetch-site", "same-origin")]) && asks(&[("sec-fetch-site", "none")]));
        assert!(!asks(&[("sec-fetch-site", "cross-site")]));
        assert!(!asks(&[("sec-fetch-site", "cross-site"), ("referer", "https://evil.example/x?https://a.example")]));
        assert!(asks(&[("sec-fetch-site", "cross-site"), ("referer", "https://a.example/page?x")]));
        assert!(!asks(&[("origin", "https://a.example"), ("origin", "https://evil.example")]));
        assert!(!asks(&[("origin", "https://evil.example"), ("sec-fetch-site", "same-origin")]));
    }
}
