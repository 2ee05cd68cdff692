//! Who may read and who may write over the admin listener (threats §2, "admin").

use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::config::Secret;

/// The rules of one admin listener.
pub(super) struct Guard {
    tcp: bool,
    token: Option<Secret>,
}

impl Guard {
    pub(super) fn new(tcp: bool, token: Option<Secret>) -> Self {
        Self { tcp, token }
    }

    fn refuses(&self, method: &Method, headers: &HeaderMap) -> Option<(StatusCode, &'static str)> {
        if !self.tcp {
            return None;
        }
        if !headers.get(header::HOST).and_then(|host| host.to_str().ok()).is_some_and(is_own_host) {
            return Some((StatusCode::FORBIDDEN, "Host must be an IP address or localhost\n"));
        }
        if method == Method::GET || method == Method::HEAD {
            return None;
        }
        match &self.token {
            None => Some((StatusCode::FORBIDDEN, "writes over TCP need [admin] token_file\n")),
            Some(token) if !bears(headers, token) => {
                Some((StatusCode::UNAUTHORIZED, "wrong or missing bearer token\n"))
            }
            Some(_) => None,
        }
    }
}

/// Refuses what the rules do not allow, before any handler sees it.
pub(super) async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    match guard.refuses(request.method(), request.headers()) {
        Some(refusal) => refusal.into_response(),
        None => next.run(request).await,
    }
}

/// A name a browser can be lured to by DNS is none of ours.
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
    fn hosts() {
        for host in ["127.0.0.1", "127.0.0.1:9145", "[::1]:9145", "localhost:1", "10.0.0.1"] {
            assert!(is_own_host(host), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "", "evil.example:9145"] {
            assert!(!is_own_host(host), "{host}");
        }
    }
}
