//! Where a request ends, as far as hyper leaves that open: it takes any list of codings that ends in `chunked`. Whoever reads
//! such a message otherwise finds another message behind it (threats §2), so it does not pass.
//!
//! Leaves out answers (`upstream::answer`), and what hyper gives one meaning before anybody can see it: equal lengths made one, bare LF for CRLF, a fragment
//! cut off a target. A second parser in front would be one more opinion, not one less.

use hyper::body::Body;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request};

use super::respond::Problem;

/// A request's target and framing have one meaning; hyper has refused differing lengths and dropped a length beside chunks.
///
/// # Errors
/// A target that is none for its method, or of another scheme than HTTP's; codings besides one `chunked`; an expectation
/// other than `100-continue`, which peers are known to read in two ways.
pub fn check_request<B>(request: &Request<B>) -> Result<(), Problem> {
    let (uri, headers) = (request.uri(), request.headers());
    let star = uri.path() == "*" && request.method() == Method::OPTIONS;
    // `GET name` is an authority to hyper, whose form is for CONNECT only (RFC 9112 §3.2.3).
    if !star && uri.scheme().is_none() && (uri.authority().is_some() || !uri.path().starts_with('/')) {
        return Err(Problem::BadRequest("the target is no path"));
    }
    if uri.scheme_str().is_some_and(|scheme| !matches!(scheme, "http" | "https")) {
        return Err(Problem::BadRequest("the target's scheme is not http"));
    }
    if headers.contains_key(header::TRANSFER_ENCODING) && !only_chunked(headers) {
        return Err(Problem::BadRequest("Transfer-Encoding other than chunked"));
    }
    if headers.contains_key(header::EXPECT) && !only_continue(headers) {
        return Err(Problem::Expectation);
    }
    Ok(())
}

fn only_continue(headers: &HeaderMap) -> bool {
    let mut expectations = headers.get_all(header::EXPECT).iter();
    let first = expectations.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    first && expectations.next().is_none()
}

/// Whether a target names another host than the Host field: allowed (RFC 9112 §3.2.2), but nothing is read behind it.
pub fn names_two_hosts<B>(request: &Request<B>) -> bool {
    // Nearly no request has an authority, so that is looked at first.
    request.uri().authority().is_some_and(|authority| {
        let host = request.headers().get(header::HOST);
        host.is_some_and(|host| !authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()))
    })
}

/// Says the framing where hyper would not (it takes a GET of unknown length for one without a body), or would as the client
/// wrote it: to some, `010` is eight.
pub fn declare<B: Body>(headers: &mut HeaderMap, body: &B) {
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
