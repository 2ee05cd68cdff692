//! Whether an answer proves that the session which the request names exists. An ordinary page answers any request, and
//! would make a session of each id that a client makes up.
//!
//! The proof is what a protocol's own answers have and pages do not. It is asked for only where nothing else is known
//! of the session: no worker claimed or refused it, and its path is not one at which workers refuse unknown ids. All
//! functions are pure.

use hyper::header::{self, HeaderMap};
use hyper::{Method, StatusCode};

use super::answer::{is_events, is_text};
use super::contains;
use crate::config::rules::Protocol;
use crate::engine_io::{self, MAX_REFUSAL};

/// Whether an answer is a proof, as far as its head tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProofMatch {
    /// The answer proves nothing.
    No,
    /// The answer proves that the session exists.
    Yes,
    /// The body decides; this many bytes of it are enough.
    Read(usize),
}

/// Judges the head of an answer to a request with this method. `empty`: whether the answer has no body.
pub(crate) fn head_proves(
    protocol: Protocol,
    method: &Method,
    status: StatusCode,
    headers: &HeaderMap,
    empty: bool,
) -> ProofMatch {
    if !status.is_success() {
        return ProofMatch::No;
    }
    let is_kind = |kinds: &[&str]| kind(headers).is_none_or(|kind| kinds.iter().any(|known| kind == known.as_bytes()));
    let yes = |proof: bool| if proof { ProofMatch::Yes } else { ProofMatch::No };
    match protocol {
        Protocol::SocketIo if status != StatusCode::OK || empty || !is_text(headers) => ProofMatch::No,
        Protocol::SocketIo if *method == Method::POST => ProofMatch::Read(b"ok".len() + 1),
        Protocol::SocketIo if !is_kind(&ENGINE_IO) => ProofMatch::No,
        Protocol::SocketIo => ProofMatch::Read(engine_io::MAX_PROOF),
        // A sender's answer is 204, or `ok` for JSONP; receivers send scripts or events.
        Protocol::SockJs if status == StatusCode::NO_CONTENT => ProofMatch::Yes,
        Protocol::SockJs if kind(headers) == Some(b"text/html") => ProofMatch::Read(SOCKJS_PAGE),
        Protocol::SockJs => yes(is_kind(&SOCKJS)),
        // Messages are text or binary; what is sent gets an empty answer.
        Protocol::SignalR => yes(empty || is_events(headers) || (*method == Method::GET && is_kind(&SIGNALR))),
        // Servers repeat the session's id.
        Protocol::Mcp if headers.contains_key("mcp-session-id") => ProofMatch::Yes,
        Protocol::Mcp if empty || is_events(headers) => yes(empty == (status == StatusCode::ACCEPTED)),
        Protocol::Mcp | Protocol::Phoenix | Protocol::CometD if empty || !is_text(headers) => ProofMatch::No,
        Protocol::Mcp | Protocol::Phoenix | Protocol::CometD => ProofMatch::Read(MAX_REFUSAL),
        // "MUST be included in every request and response" (tus 1.0.0, Tus-Resumable).
        Protocol::Tus => yes(headers.contains_key("tus-resumable")),
        // Nothing is known of the answers of an own rule.
        Protocol::Custom => ProofMatch::No,
    }
}

/// Whether the head of an answer may be that of a session which the request has made, by an id of the client. What the
/// body would show is not asked: it is the beginning of a stream.
pub(crate) fn head_allows(protocol: Protocol, status: StatusCode, headers: &HeaderMap) -> bool {
    let is_kind = |kinds: &[&str]| kind(headers).is_none_or(|kind| kinds.iter().any(|known| kind == known.as_bytes()));
    // The page of the old transport `htmlfile` cannot be told apart from others; its id's hash leads to its worker.
    status.is_success() && (protocol != Protocol::SockJs || is_kind(&SOCKJS))
}

/// Judges the beginning of a body for which [`head_proves`] asked.
pub(crate) fn body_proves(protocol: Protocol, method: &Method, body: &[u8]) -> bool {
    match protocol {
        Protocol::SocketIo if *method == Method::POST => engine_io::is_post_taken(body),
        Protocol::SocketIo => engine_io::is_payload(body),
        // The page of `htmlfile` calls its parent; the answer to `jsonp_send` is `ok`.
        Protocol::SockJs => body == b"ok" || contains(body, b"document.domain"),
        Protocol::Mcp => contains(body, b"\"jsonrpc\""),
        Protocol::Phoenix => contains(body, b"\"status\":2"),
        Protocol::CometD => contains(body, b"\"channel\"") || contains(body, b"\"successful\""),
        Protocol::SignalR | Protocol::Tus | Protocol::Custom => false,
    }
}

/// Media types of polls: text, binary of EIO3, JSONP (docs/reference/protocols.md §1.1).
const ENGINE_IO: [&str; 4] = ["text/plain", "application/octet-stream", "text/javascript", "application/javascript"];

/// Media types of SockJS receivers.
const SOCKJS: [&str; 4] = ["application/javascript", "text/javascript", "text/event-stream", "text/plain"];

/// Media types of SignalR's long polls.
const SIGNALR: [&str; 2] = ["text/plain", "application/octet-stream"];

/// The prelude of `htmlfile` is at least a kilobyte long and begins with a script.
const SOCKJS_PAGE: usize = 512;

/// The media type of an answer, without parameters.
fn kind(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::CONTENT_TYPE)?.as_bytes();
    value.split(|&b| b == b';').next().map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(protocol: Protocol, method: &str, status: u16, kind: &str, body: &str) -> bool {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut headers = HeaderMap::new();
        if !kind.is_empty() {
            headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
        }
        let status = StatusCode::from_u16(status).unwrap();
        match head_proves(protocol, &method, status, &headers, body.is_empty()) {
            ProofMatch::No => false,
            ProofMatch::Yes => true,
            ProofMatch::Read(_) => body_proves(protocol, &method, body.as_bytes()),
        }
    }

    #[test]
    fn answers_of_each_protocol_are_proofs() {
        for (protocol, method, status, kind, body) in [
            (Protocol::SocketIo, "GET", 200, "text/plain; charset=UTF-8", "2"),
            (Protocol::SocketIo, "GET", 200, "", "42[\"n\",7]"),
            (Protocol::SocketIo, "POST", 200, "text/html", "ok"),
            (Protocol::SockJs, "POST", 204, "text/plain; charset=UTF-8", ""),
            (Protocol::SockJs, "POST", 200, "application/javascript; charset=UTF-8", "a[\"x\"]\n"),
            (Protocol::SockJs, "GET", 200, "text/event-stream; charset=UTF-8", "\r\n"),
            (Protocol::SignalR, "GET", 200, "text/event-stream", ":"),
            (Protocol::SignalR, "GET", 204, "text/plain", ""),
            (Protocol::SignalR, "POST", 200, "text/plain", ""),
            (Protocol::SignalR, "DELETE", 202, "", ""),
            (Protocol::Mcp, "POST", 200, "application/json", "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}"),
            (Protocol::Mcp, "POST", 200, "text/event-stream", "event: message\n"),
            (Protocol::Mcp, "POST", 202, "", ""),
            (Protocol::Phoenix, "POST", 200, "application/json", "{\"status\":200}"),
            (
                Protocol::CometD,
                "POST",
                200,
                "application/json",
                "[{\"channel\":\"/meta/connect\",\"successful\":true}]",
            ),
        ] {
            assert!(judged(protocol, method, status, kind, body), "{protocol:?} {method} {status} {kind} {body}");
        }
    }

    #[test]
    fn pages_prove_nothing() {
        let every = [
            Protocol::SocketIo,
            Protocol::SockJs,
            Protocol::SignalR,
            Protocol::Mcp,
            Protocol::Phoenix,
            Protocol::CometD,
            Protocol::Tus,
            Protocol::Custom,
        ];
        for protocol in every {
            for (method, status, kind, body) in [
                ("GET", 200, "text/html", "<!doctype html><title>a page</title>"),
                ("GET", 200, "text/html; charset=utf-8", "42 items"),
                ("GET", 200, "application/json", "{\"items\":[]}"),
                ("POST", 200, "application/json", "{\"id\":1}"),
                ("GET", 404, "text/plain", "2"),
                ("GET", 500, "", ""),
            ] {
                assert!(!judged(protocol, method, status, kind, body), "{protocol:?} {method} {status} {kind} {body}");
            }
        }
    }
}
