//! Authorization of reads and writes over the admin listener (docs/reference/threats.md §2.10, "admin").

use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::layers::Asked;
use crate::config::Secret;

/// Header field that every write over TCP must carry.
pub(crate) const OWN_FIELD: &str = "x-stickyd";

/// Access rules of one admin listener.
pub(crate) struct AdminAuth {
    reach: Reach,
    token: Option<Secret>,
}

/// Set of peers that can connect to the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Processes that may open the socket's file: browsers cannot, so no protection from web pages is needed.
    Unix,
    /// Every process of this machine, including browsers.
    Loopback,
    /// The whole network: reading needs the token, too.
    Network,
}

impl Reach {
    /// Returns the name of this kind of peer in the audit line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Unix => "unix",
            Self::Loopback => "loopback",
            Self::Network => "network",
        }
    }
}

type AuthRefusal = (StatusCode, &'static str);

impl AdminAuth {
    pub(crate) fn new(reach: Reach, token: Option<Secret>) -> Self {
        Self { reach, token }
    }

    /// Returns the set of peers that can connect to the listener.
    pub(crate) fn reach(&self) -> Reach {
        self.reach
    }

    fn refuses(&self, method: &Method, headers: &HeaderMap) -> Option<AuthRefusal> {
        if self.reach == Reach::Unix {
            return None;
        }
        let mut hosts = headers.get_all(header::HOST).iter();
        let own = hosts.next().and_then(|host| host.to_str().ok()).is_some_and(is_own_host);
        if !own || hosts.next().is_some() {
            return Some((StatusCode::FORBIDDEN, "Host must be an IP address or localhost\n"));
        }
        if is_of_another_site(headers) {
            return Some((StatusCode::FORBIDDEN, "requests from pages of other sites are not allowed\n"));
        }
        let reads = method == Method::GET || method == Method::HEAD;
        if reads && self.reach == Reach::Loopback {
            return None;
        }
        match &self.token {
            None => Some((StatusCode::FORBIDDEN, "writes over TCP need [admin] token_file\n")),
            Some(token) if !bears(headers, token) => {
                Some((StatusCode::UNAUTHORIZED, "wrong or missing bearer token\n"))
            }
            Some(_) if reads => None,
            Some(_) => refuses_write(headers),
        }
    }
}

/// Rejects a write that a form of another site could send: it must have a content type that forms cannot have, and a
/// header field of stickyd's own. Either makes a browser send a preflight first, which stickyd does not answer.
fn refuses_write(headers: &HeaderMap) -> Option<AuthRefusal> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let why = "writes over TCP need Content-Type: application/json\n";
        return Some((StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    }
    let own = headers.get(OWN_FIELD).is_some_and(|value| value == "1");
    (!own).then_some((StatusCode::FORBIDDEN, "writes over TCP need the header field X-Stickyd: 1\n"))
}

/// Whether a browser marks the request as coming from a page of another origin.
fn is_of_another_site(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).map_or(&b""[..], HeaderValue::as_bytes);
    let foreign = |origin: &HeaderValue| origin.as_bytes().strip_prefix(b"http://") != Some(host);
    headers.get_all(header::ORIGIN).iter().any(foreign)
        || headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site" || site == "same-site")
}

/// Rejects what the rules do not allow, before any handler runs; keeps with the answer what was asked, for the audit
/// line.
pub(crate) async fn check(State(guard): State<Arc<AdminAuth>>, request: Request, next: Next) -> Response {
    let asked = Asked { method: request.method().clone(), path: request.uri().path().to_owned() };
    let mut response = match guard.refuses(request.method(), request.headers()) {
        Some(refusal) => refusal.into_response(),
        None => next.run(request).await,
    };
    response.extensions_mut().insert(asked);
    response
}

/// Whether a Host is an IP address or `localhost`. Any other name could be pointed at this listener by a foreign DNS
/// server.
fn is_own_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

fn bears(headers: &HeaderMap, token: &Secret) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    given.is_some_and(|given| verify_slices_are_equal(given, &token.0).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_own_hosts() {
        for host in ["127.0.0.1", "127.0.0.1:9145", "[::1]:9145", "localhost:1", "10.0.0.1"] {
            assert!(is_own_host(host), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "", "evil.example:9145"] {
            assert!(!is_own_host(host), "{host}");
        }
    }
}
