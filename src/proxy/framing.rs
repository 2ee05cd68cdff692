//! Where a message ends, as far as hyper leaves that open: it takes any list of codings that ends in `chunked`, and of an
//! answer with two lengths the chunks. Whoever reads such a message otherwise finds another message behind it (threats
//! §2), so neither kind passes.
//!
//! Leaves out what hyper gives one meaning before anybody can see it: equal lengths made one, bare LF for CRLF, a fragment
//! cut off a target. A second parser in front would be one more opinion, not one less.

use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

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

/// Whether an answer's body has one length.
pub fn is_sound(answer: &Response<Incoming>) -> bool {
    let headers = answer.headers();
    answer.body().is_end_stream()
        || !headers.contains_key(header::TRANSFER_ENCODING)
        || (only_chunked(headers) && !headers.contains_key(header::CONTENT_LENGTH))
}

/// Whether an answer hyper gives one meaning was odd all the same: a length said twice or with zeros in front, a length or
/// chunks where no body may be. Who writes such a head may write more than it says; its connection carries nothing else.
pub fn is_odd(answer: &Response<Incoming>) -> bool {
    let headers = answer.headers();
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let odd = |length: &HeaderValue| !length.as_bytes().iter().all(u8::is_ascii_digit) || is_padded(length);
    let length = lengths.next();
    lengths.next().is_some()
        || length.is_some_and(odd)
        || (headers.contains_key(header::TRANSFER_ENCODING) && (length.is_some() || has_no_body(answer.status())))
        || (answer.status() == StatusCode::NO_CONTENT && length.is_some_and(|length| length != "0"))
}

fn has_no_body(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Makes the odd framing of an answer ([`is_odd`]) plain, before a client reads it.
pub fn straighten(answer: &mut Response<Incoming>) {
    let headers = answer.headers();
    let two = headers.contains_key(header::TRANSFER_ENCODING) || has_no_body(answer.status());
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let length = length.and_then(|text| text.split(',').next()?.trim().parse::<u64>().ok());
    match length.filter(|_| !two) {
        Some(length) => answer.headers_mut().insert(header::CONTENT_LENGTH, length.into()),
        None => answer.headers_mut().remove(header::CONTENT_LENGTH),
    };
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
