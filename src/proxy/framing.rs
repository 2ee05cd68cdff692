//! Where a message ends, as far as hyper leaves that open: it takes any list of codings that ends in `chunked`, and of an
//! answer with two lengths the chunks. Whoever reads such a message otherwise finds another message behind it (threats
//! §2), so neither kind passes.

use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response};

use super::respond::Problem;

/// A request's target and framing have one meaning; hyper has refused differing lengths and dropped a length beside chunks.
///
/// # Errors
/// A target that is none for its method; codings besides one `chunked`.
pub fn check_request<B>(request: &Request<B>) -> Result<(), Problem> {
    let (uri, headers) = (request.uri(), request.headers());
    let star = uri.path() == "*" && request.method() == Method::OPTIONS;
    // `GET name` is an authority to hyper, whose form is for CONNECT only (RFC 9112 §3.2.3).
    if !star && uri.scheme().is_none() && (uri.authority().is_some() || !uri.path().starts_with('/')) {
        return Err(Problem::BadRequest("the target is no path"));
    }
    if headers.contains_key(header::TRANSFER_ENCODING) && !only_chunked(headers) {
        return Err(Problem::BadRequest("Transfer-Encoding other than chunked"));
    }
    Ok(())
}

/// Whether an answer's body has one length.
pub fn is_sound(answer: &Response<Incoming>) -> bool {
    let headers = answer.headers();
    answer.body().is_end_stream()
        || !headers.contains_key(header::TRANSFER_ENCODING)
        || (only_chunked(headers) && !headers.contains_key(header::CONTENT_LENGTH))
}

/// Says the framing where hyper would not: it takes a GET of unknown length for one without a body.
pub fn declare<B: Body>(headers: &mut HeaderMap, body: &B) {
    if body.size_hint().exact().is_none() {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

fn only_chunked(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let first = codings.next().is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    first && codings.next().is_none()
}
