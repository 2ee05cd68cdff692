//! Checks where a request ends, as far as hyper leaves that open: hyper accepts any list of codings that ends in
//! `chunked`. A peer that frames such a message differently would find a second message after it
//! (docs/reference/threats.md §2.1), so these requests are rejected.
//!
//! Out of scope: responses (see `upstream::answer`), and what hyper normalises before stickyd sees it: it merges equal
//! lengths, accepts a bare LF for CRLF, and cuts a fragment off a target. A second parser in front of hyper would add
//! one more interpretation instead of removing one.

use hyper::body::Body;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request};

use super::respond::Problem;

/// Checks that a request's target and framing have only one meaning. hyper has already rejected differing lengths and
/// dropped a `Content-Length` next to `chunked`.
///
/// # Errors
/// The target does not fit the method, or its scheme is not http or https; there is a transfer coding other than a
/// single `chunked`; or there is an expectation other than `100-continue`, which peers are known to interpret in two
/// ways.
pub(crate) fn check_request<B>(request: &Request<B>) -> Result<(), Problem> {
    let (uri, headers) = (request.uri(), request.headers());
    let star = uri.path() == "*" && request.method() == Method::OPTIONS;
    // hyper parses `GET name` as an authority, a form reserved for CONNECT (RFC 9112 §3.2.3).
    if !star && uri.scheme().is_none() && (uri.authority().is_some() || !uri.path().starts_with('/')) {
        return Err(Problem::BadRequest("the request target is not a path"));
    }
    if uri.scheme_str().is_some_and(|scheme| !is_known(scheme, headers.contains_key(header::UPGRADE))) {
        return Err(Problem::BadRequest("the scheme of the request target is not http or https"));
    }
    if headers.contains_key(header::TRANSFER_ENCODING) && !only_chunked(headers) {
        return Err(Problem::BadRequest("the only supported Transfer-Encoding is chunked"));
    }
    if headers.contains_key(header::EXPECT) && !only_continue(headers) {
        return Err(Problem::Expectation);
    }
    Ok(())
}

/// Whether a target may have this scheme. Some WebSocket clients write their own URL into an upgrade (RFC 6455 §3).
fn is_known(scheme: &str, upgrades: bool) -> bool {
    let is_one_of = |schemes: [&str; 2]| schemes.iter().any(|known| scheme.eq_ignore_ascii_case(known));
    is_one_of(["http", "https"]) || (upgrades && is_one_of(["ws", "wss"]))
}

/// Whether a field's name could be read as that of a framing field, although it is not: CGI-like servers turn each
/// character that is not a letter or digit into an underscore (RFC 3875 §4.1.18), so `Content_Length` becomes
/// `Content-Length`.
fn is_lookalike(name: &str) -> bool {
    let like = |real: &str| {
        let same = |(a, b): (u8, u8)| a == b || (b == b'-' && !a.is_ascii_alphanumeric());
        name.len() == real.len() && name != real && name.bytes().zip(real.bytes()).all(same)
    };
    like("content-length") || like("transfer-encoding")
}

/// Removes the fields that look like framing fields; returns whether there were any. Their sender may want a peer to
/// find another end of the request, so stickyd reads no further request from its connection.
pub(crate) fn try_remove_lookalikes(headers: &mut HeaderMap) -> bool {
    let found: Vec<_> = headers.keys().filter(|name| is_lookalike(name.as_str())).cloned().collect();
    for name in &found {
        headers.remove(name);
    }
    !found.is_empty()
}

fn only_continue(headers: &HeaderMap) -> bool {
    let mut expectations = headers.get_all(header::EXPECT).iter();
    let first = expectations.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    first && expectations.next().is_none()
}

/// Whether the target names another host than the Host field. RFC 9112 §3.2.2 allows that, but stickyd reads no further
/// request from such a connection.
pub(crate) fn names_two_hosts<B>(request: &Request<B>) -> bool {
    // Nearly no request has an authority, so that is checked first.
    request.uri().authority().is_some_and(|authority| {
        let host = request.headers().get(header::HOST);
        host.is_some_and(|host| !authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()))
    })
}

/// Writes the framing fields where hyper would not, or would repeat the client's spelling. hyper takes a GET of unknown
/// length for one without a body; and some parsers read a length of `010` as eight.
pub(crate) fn declare<B: Body>(headers: &mut HeaderMap, body: &B) {
    match body.size_hint().exact() {
        None => {
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        Some(length) if headers.get(header::CONTENT_LENGTH).is_some_and(is_padded) => {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        Some(_) => {}
    }
}

fn is_padded(length: &HeaderValue) -> bool {
    length.len() > 1 && length.as_bytes().first() == Some(&b'0')
}

fn only_chunked(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let first = codings.next().is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    first && codings.next().is_none()
}
