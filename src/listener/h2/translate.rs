//! Translates a request over HTTP/2 into the HTTP/1.1 request that it stands for (RFC 9113 §8), and a response the
//! other way, so that the rest of stickyd handles only one kind of request.
//!
//! The filter and h2 have checked names, values and pseudo-header fields and reset malformed streams (RFC 9113 §8.1.1,
//! §8.2); what they leave open is decided here.

use std::time::SystemTime;

use h2::RecvStream;
use hyper::body::Body;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::{request, response};
use hyper::{Method, Request, StatusCode, Uri, Version};

use super::body::StreamBody;
use super::inflow::Holding;
use crate::proxy::headers;
use crate::proxy::respond::Problem;
use crate::proxy::response_body::{ClientBody, Reply};
use crate::random;
use crate::websocket::upgrade;

/// A request, translated to HTTP/1.1.
pub(crate) struct TranslatedRequest {
    pub(crate) request: Request<ClientBody>,
    /// Stream of the client's bytes, if the request is for a tunnel.
    pub(crate) tunnel: Option<RecvStream>,
    /// Whether the client waits for a 100 before it sends the body.
    pub(crate) expects: bool,
    pub(crate) fits: Result<(), Problem>,
}

/// Translates a request; `fits` of the result reports whether it is valid.
pub(crate) fn request(request: Request<RecvStream>, most_fields: usize, holding: Holding) -> TranslatedRequest {
    let (mut parts, stream) = request.into_parts();
    let fits = head(&mut parts, most_fields);
    if matches!(fits, Ok(Means::Tunnel)) {
        let request = Request::from_parts(parts, ClientBody::Empty);
        return TranslatedRequest { request, tunnel: Some(stream), expects: false, fits: Ok(()) };
    }
    let expects = !stream.is_end_stream()
        && parts
            .headers
            .get(header::EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let request = Request::from_parts(parts, ClientBody::Http2(StreamBody::new(stream, length, holding)));
    TranslatedRequest { request, tunnel: None, expects, fits: fits.map(|_| ()) }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Means {
    Request,
    Tunnel,
}

fn head(parts: &mut request::Parts, most_fields: usize) -> Result<Means, Problem> {
    let protocol = parts.extensions.remove::<h2::ext::Protocol>();
    parts.version = Version::HTTP_11;
    if parts.method == Method::CONNECT && protocol.as_ref().is_none_or(|protocol| protocol.as_str() != "websocket") {
        return Err(Problem::NotImplemented);
    }
    let star = parts.uri.path() == "*" && parts.method == Method::OPTIONS;
    if !star && !parts.uri.path().starts_with('/') {
        return Err(Problem::BadRequest("the request target is not a path"));
    }
    one_host(parts)?;
    plain_names(&parts.headers)?;
    one_length(&parts.headers)?;
    join_cookies(&mut parts.headers);
    if parts.headers.len() > most_fields {
        return Err(Problem::TooManyFields);
    }
    if protocol.is_some() {
        become_upgrade(parts)?;
        return Ok(Means::Tunnel);
    }
    Ok(Means::Request)
}

/// Sets Host from `:authority`; a Host that is also present must be equal to it (RFC 9113 §8.3.1). The scheme is not
/// taken from the request: the connection determines it.
fn one_host(parts: &mut request::Parts) -> Result<(), Problem> {
    let Some(authority) = parts.uri.authority() else { return Ok(()) };
    let is_same = |host: &HeaderValue| host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes());
    if !parts.headers.get_all(header::HOST).iter().all(is_same) {
        return Err(Problem::BadRequest(":authority and Host differ"));
    }
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Problem::BadRequest("invalid Host"))?;
    parts.headers.insert(header::HOST, host);
    parts.uri = parts.uri.path_and_query().cloned().map_or_else(|| Uri::from_static("/"), Uri::from);
    Ok(())
}

/// Rejects field names with a quote, which the http crate accepts and HTTP/1 does not (RFC 9110 §5.6.2): a worker would
/// reject them, or read another field.
fn plain_names(headers: &HeaderMap) -> Result<(), Problem> {
    let odd = headers.keys().any(|name| name.as_str().contains('"'));
    if odd { Err(Problem::BadRequest("a field name is not a valid token")) } else { Ok(()) }
}

/// Rejects more than one content-length, and one that is not a number. h2 counts DATA by the first one and passes all
/// of them on; a worker might interpret two, even equal ones, differently. For HTTP/1, hyper has rejected or joined
/// them. h2 also takes an empty one for 0, which a worker might not (found by fuzzing).
fn one_length(headers: &HeaderMap) -> Result<(), Problem> {
    let mut all = headers.get_all(header::CONTENT_LENGTH).iter();
    let is_number = |length: &HeaderValue| !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit);
    if !all.next().is_none_or(is_number) {
        return Err(Problem::BadRequest("content-length is not a number"));
    }
    if all.next().is_some() { Err(Problem::BadRequest("more than one content-length")) } else { Ok(()) }
}

/// Joins the pieces of a cookie: HTTP/2 allows one field per piece, HTTP/1 has a single field (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else { return };
    let mut cookie = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        cookie.extend_from_slice(b"; ");
        cookie.extend_from_slice(crumb.as_bytes());
    }
    // The result is valid, because all values and the separator are.
    if let Ok(cookie) = HeaderValue::from_bytes(&cookie) {
        headers.insert(header::COOKIE, cookie);
    }
}

/// Turns an extended CONNECT for a WebSocket into the upgrade that it stands for (RFC 8441 §5). It has no key: stickyd
/// makes one, and checks the worker's accept value itself.
fn become_upgrade(parts: &mut request::Parts) -> Result<(), Problem> {
    if parts.headers.contains_key(header::CONTENT_LENGTH) {
        return Err(Problem::BadRequest("CONNECT with a content-length"));
    }
    parts.method = Method::GET;
    let key = upgrade::key(&random::bytes());
    let key = HeaderValue::from_bytes(&key).map_err(|_| Problem::BadRequest("no WebSocket key could be made"))?;
    let headers = &mut parts.headers;
    headers.insert(header::SEC_WEBSOCKET_KEY, key);
    headers.entry(header::SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    Ok(())
}

/// Makes a response's head fit for a stream: removes the fields that belong to a connection (RFC 9113 §8.2.2), and adds
/// what hyper adds for HTTP/1. `to_head` means that it answers a HEAD.
pub(crate) fn answer(parts: &mut response::Parts, body: &Reply, to_head: bool) {
    headers::to_client(&mut parts.headers, false);
    parts.headers.remove(header::TE);
    let bodiless = matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if let Some(length) = body.size_hint().exact()
        && !bodiless
        && !(to_head && length == 0)
    {
        parts.headers.entry(header::CONTENT_LENGTH).or_insert(HeaderValue::from(length));
    }
    dated(&mut parts.headers);
}

/// Adds a `date` field if there is none (RFC 9110 §6.6.1); workers nearly always send it themselves.
pub(crate) fn dated(headers: &mut HeaderMap) {
    if !headers.contains_key(header::DATE)
        && let Ok(date) = HeaderValue::from_str(&httpdate::fmt_http_date(SystemTime::now()))
    {
        headers.insert(header::DATE, date);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(method: &str, uri: &str, fields: &[(&'static str, &'static str)]) -> request::Parts {
        let mut request = Request::builder().method(method).uri(uri).version(Version::HTTP_2);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_authority_becomes_the_host() {
        let mut bare = parts("GET", "https://a.example:8443/x?y", &[]);
        assert_eq!(head(&mut bare, 100), Ok(Means::Request));
        assert_eq!((bare.headers["host"].to_str().unwrap(), bare.uri.to_string()), ("a.example:8443", "/x?y".into()));
        assert!(head(&mut parts("GET", "https://a/x", &[("host", "A")]), 100).is_ok());
        for twice in [&[("host", "b")][..], &[("host", "a"), ("host", "b")]] {
            assert!(
                matches!(head(&mut parts("GET", "https://a/x", twice), 100), Err(Problem::BadRequest(_))),
                "{twice:?}"
            );
        }
    }

    #[test]
    fn fields_that_http_1_reads_differently_are_rejected() {
        let two = head(&mut parts("POST", "https://a/", &[("content-length", "5"), ("content-length", "5")]), 100);
        // h2 accepts names in this way.
        let quoted = header::HeaderName::from_lowercase(b"x\"a").unwrap();
        let mut odd = parts("GET", "https://a/", &[]);
        odd.headers.insert(quoted, HeaderValue::from_static("1"));
        let empty = head(&mut parts("POST", "https://a/", &[("content-length", "")]), 100);
        let signed = head(&mut parts("POST", "https://a/", &[("content-length", "+5")]), 100);
        for got in [two, empty, signed, head(&mut odd, 100)] {
            assert!(matches!(got, Err(Problem::BadRequest(_))), "{got:?}");
        }
    }

    #[test]
    fn the_pieces_of_a_cookie_are_joined() {
        let mut crumbs =
            parts("GET", "https://a/", &[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("cookie", "c")]);
        head(&mut crumbs, 100).unwrap();
        let cookies: Vec<_> = crumbs.headers.get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=1; b=2; c"]);
    }

    #[test]
    fn fields_are_counted_but_pieces_of_cookies_are_not() {
        let names: Vec<String> = (0..=100).map(|n| format!("x-{n}")).collect();
        let mut many = parts("GET", "https://a/", &[]);
        let mut crumbs = parts("GET", "https://a/", &[("cookie", "a=1"); 300]);
        for name in names {
            many.headers.insert(header::HeaderName::try_from(name).unwrap(), HeaderValue::from_static("1"));
        }
        assert_eq!(head(&mut many, 100), Err(Problem::TooManyFields));
        assert_eq!(head(&mut crumbs, 100), Ok(Means::Request));
    }

    #[test]
    fn only_a_websocket_connect_becomes_an_upgrade() {
        let mut connect = parts("CONNECT", "https://a/chat?sid=1", &[("sec-websocket-protocol", "x")]);
        connect.extensions.insert(h2::ext::Protocol::from_static("websocket"));
        assert_eq!(head(&mut connect, 100), Ok(Means::Tunnel));
        assert_eq!((connect.method, connect.version), (Method::GET, Version::HTTP_11));
        assert_eq!(connect.headers["upgrade"], "websocket");
        assert!(upgrade::accept_for(connect.headers["sec-websocket-key"].as_bytes()).is_some());
        let mut other = parts("CONNECT", "https://a/", &[]);
        other.extensions.insert(h2::ext::Protocol::from_static("connect-udp"));
        assert_eq!(head(&mut other, 100), Err(Problem::NotImplemented));
        assert_eq!(head(&mut parts("CONNECT", "a:443", &[]), 100), Err(Problem::NotImplemented));
    }
}
