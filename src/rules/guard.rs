//! What a request must show before a rule of `"auto"` applies to it.
//!
//! These rules are on for every application, so each must be unmistakable, and must cost an ordinary request next to
//! nothing: one look for a header, one at the query and one at the end of the path. Pure; whether an id is pinned is an
//! argument. The formats are in docs/reference/protocols.md §3.

use hyper::header::{self, HeaderName};
use hyper::{Method, Request};

use super::contains;
use crate::config::rules::RuleGuard;
use crate::engine_io;
use crate::header_list::has_token;

const MCP_SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const SIGNALR_CLIENT: HeaderName = HeaderName::from_static("x-signalr-user-agent");
const REQUESTED_WITH: HeaderName = HeaderName::from_static("x-requested-with");

/// Length of SignalR's ids: 16 bytes in base64url.
const SIGNALR_ID: usize = 22;

/// Minimum length of SockJS' session ids; the client of its authors makes 8 letters.
const SOCKJS_ID: usize = 8;

/// Whether the request is of the guarded protocol. `is_pinned` tells whether an id of this rule is known.
pub(crate) fn holds<B>(guard: RuleGuard, request: &Request<B>, is_pinned: impl FnOnce(&[u8]) -> bool) -> bool {
    match guard {
        RuleGuard::Mcp => request.headers().contains_key(MCP_SESSION) || accepts_mcp(request),
        RuleGuard::SignalR => is_signalr(request, is_pinned),
        RuleGuard::SockJs => is_sockjs(request.uri().path()),
    }
}

/// A client of Streamable HTTP must accept both kinds of answers to its POST.
fn accepts_mcp<B>(request: &Request<B>) -> bool {
    request.method() == Method::POST && accepts(request, b"application/json") && accepts_events(request)
}

fn accepts_events<B>(request: &Request<B>) -> bool {
    accepts(request, b"text/event-stream")
}

fn accepts<B>(request: &Request<B>, kind: &[u8]) -> bool {
    request.headers().get_all(header::ACCEPT).iter().any(|value| contains(value.as_bytes(), kind))
}

fn is_signalr<B>(request: &Request<B>, is_pinned: impl FnOnce(&[u8]) -> bool) -> bool {
    let Some(query) = request.uri().query() else { return false };
    if request.method() == Method::POST && request.uri().path().ends_with("/negotiate") {
        return engine_io::parameter(query, "negotiateVersion").is_some();
    }
    let Some(id) = engine_io::parameter(query, "id").filter(|id| id.len() == SIGNALR_ID) else { return false };
    if !id.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
        return false;
    }
    let headers = request.headers();
    let upgrades = || headers.get_all(header::UPGRADE).iter().any(|value| has_token(value.as_bytes(), b"websocket"));
    [SIGNALR_CLIENT, REQUESTED_WITH].iter().any(|name| headers.contains_key(name))
        || upgrades()
        || accepts_events(request)
        || is_pinned(id)
}

/// `/{prefix}/{server}/{session}/{transport}`: the server is a number below 1,000.
fn is_sockjs(path: &str) -> bool {
    // Most other requests end here.
    if path.len() < "/0/".len() + SOCKJS_ID + "/xhr".len() {
        return false;
    }
    let mut segments = path.rsplit('/');
    let is_transport = matches!(
        segments.next(),
        Some("xhr" | "xhr_send" | "xhr_streaming" | "eventsource" | "jsonp" | "jsonp_send" | "htmlfile" | "websocket")
    );
    is_transport
        && segments.next().is_some_and(|id| {
            id.len() >= SOCKJS_ID && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        })
        && segments
            .next()
            .is_some_and(|server| (1..=3).contains(&server.len()) && server.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(guard: RuleGuard, method: Method, target: &str, fields: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        holds(guard, &request.body(()).unwrap(), |id| id == b"pinned_pinned_pinned_1")
    }

    #[test]
    fn requests_of_the_protocols_are_recognised() {
        let both = [("accept", "application/json, text/event-stream")];
        let id = "/hub?id=AbCdEfGhIjKlMnOpQrSt_-";
        assert!(asks(RuleGuard::Mcp, Method::POST, "/mcp", &both));
        assert!(asks(RuleGuard::Mcp, Method::GET, "/mcp", &[("mcp-session-id", "x")]));
        assert!(asks(RuleGuard::SignalR, Method::POST, "/hub/negotiate?negotiateVersion=1", &[]));
        assert!(asks(RuleGuard::SignalR, Method::GET, id, &[("upgrade", "websocket")]));
        assert!(asks(RuleGuard::SignalR, Method::GET, id, &[("accept", "text/event-stream")]));
        assert!(asks(RuleGuard::SignalR, Method::POST, id, &[("x-requested-with", "XMLHttpRequest")]));
        assert!(asks(RuleGuard::SignalR, Method::DELETE, id, &[("x-signalr-user-agent", "Microsoft SignalR/8.0")]));
        assert!(asks(RuleGuard::SignalR, Method::GET, "/hub?id=pinned_pinned_pinned_1", &[]));
        for transport in ["xhr", "xhr_send", "websocket", "jsonp_send"] {
            assert!(asks(RuleGuard::SockJs, Method::POST, &format!("/echo/042/abc345de/{transport}"), &[]));
        }
        assert!(asks(RuleGuard::SockJs, Method::POST, "/7/0123456789abcdef0123456789abcdef/xhr", &[]));
    }

    #[test]
    fn requests_of_other_applications_are_not_confused_with_them() {
        for guard in [RuleGuard::Mcp, RuleGuard::SignalR, RuleGuard::SockJs] {
            for (method, target, fields) in [
                (Method::GET, "/", &[("accept", "text/html,application/json")][..]),
                (Method::GET, "/events", &[("accept", "text/event-stream")]),
                (Method::POST, "/chat/completions", &[("accept", "text/event-stream")]),
                (Method::POST, "/api", &[("accept", "application/json")]),
                (Method::GET, "/item?id=AbCdEfGhIjKlMnOpQrSt_-", &[]),
                (Method::GET, "/item?id=550e8400-e29b-41d4-a716-446655440000", &[("x-requested-with", "x")]),
                (Method::GET, "/ws?id=5", &[("upgrade", "websocket")]),
                (Method::POST, "/loan/negotiate", &[]),
                (Method::GET, "/hub/negotiate?negotiateVersion=1", &[]),
                (Method::GET, "/echo/info", &[]),
                (Method::GET, "/echo/websocket", &[]),
                (Method::GET, "/users/john_doe_1/xhr", &[]),
                (Method::GET, "/users/1234/john_doe_1/xhr", &[]),
                (Method::GET, "/users/12/john/xhr", &[]),
            ] {
                assert!(!asks(guard, method.clone(), target, fields), "{guard:?}: {method} {target}");
            }
        }
    }
}
