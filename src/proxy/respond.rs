//! Every answer stickyd writes itself (invariant 11); hyper's own bare 4xx on unparsable heads excepted.

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};

mod refused;

pub use refused::refused;

use super::ask::Ask;
use super::body::Reply;
use super::guard::Turned;
use crate::affinity::session;
use crate::config::Redirect;

/// Seconds a client is asked to wait where waiting helps.
const RETRY_AFTER: &str = "1";

/// What the client did wrong, or what went wrong behind us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// A head that means nothing or two things.
    BadRequest(&'static str),
    /// No route fits.
    NoRoute,
    /// No worker may take it.
    NoWorker,
    /// The worker's connection broke, or what it sent was no answer.
    BadGateway,
    /// The worker did not answer in time.
    TimedOut,
    /// stickyd is full here: the word says what.
    Full(&'static str),
    /// A body that had to be whole first did not come in time.
    Slow,
    /// A body over `max_body`.
    TooLarge,
    /// A target over `target_bytes`.
    TooLong,
    /// Two or more silent workers could own the session.
    Undecided,
    /// An expectation nobody here meets.
    Expectation,
    /// More header fields than anybody needs.
    TooManyFields,
    /// The method is none that is forwarded.
    NotImplemented,
    /// The host asks clients for another certificate than the one this connection was made for.
    Misdirected,
}

/// The plain-text answer to a problem. What cannot be told apart from an attack closes the connection.
pub fn problem(problem: Problem) -> Response<Reply> {
    let (status, text, close, retry) = match problem {
        Problem::BadRequest(why) => (StatusCode::BAD_REQUEST, why, true, false),
        Problem::NoRoute => (StatusCode::NOT_FOUND, "no route for this host and path", false, false),
        Problem::NoWorker => (StatusCode::SERVICE_UNAVAILABLE, "no worker can take this request", false, true),
        Problem::BadGateway => (StatusCode::BAD_GATEWAY, "the worker gave no valid answer", false, false),
        Problem::TimedOut => (StatusCode::GATEWAY_TIMEOUT, "the worker did not answer in time", false, false),
        Problem::Full(what) => (StatusCode::SERVICE_UNAVAILABLE, what, false, true),
        Problem::Slow => (StatusCode::REQUEST_TIMEOUT, "the body did not come in time", true, false),
        Problem::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than it may be", true, false),
        Problem::TooLong => (StatusCode::URI_TOO_LONG, "the target is longer than it may be", true, false),
        Problem::Undecided => (StatusCode::SERVICE_UNAVAILABLE, "the session's worker is not known yet", false, true),
        Problem::TooManyFields => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too many header fields", true, false),
        // Closed, so that the client makes a connection for this host (RFC 9110 §15.5.20).
        Problem::Misdirected => {
            (StatusCode::MISDIRECTED_REQUEST, "this connection was made for another host", true, false)
        }
        Problem::Expectation => (StatusCode::EXPECTATION_FAILED, "an expectation other than 100-continue", true, false),
        Problem::NotImplemented => (StatusCode::NOT_IMPLEMENTED, "this method is not forwarded", true, false),
    };
    let mut response = Response::new(Reply::whole(format!("{status}: {text}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if retry {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
    }
    if close {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// To the same place over https. `host` has been checked: a name or an address, perhaps with a port.
pub fn redirect(redirect: Redirect, host: &str, uri: &Uri) -> Response<Reply> {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    // `OPTIONS *` names no place.
    let target = if target.starts_with('/') { target } else { "/" };
    let host = super::route::without_port(host);
    let location = match redirect.port {
        443 => format!("https://{host}{target}"),
        port => format!("https://{host}:{port}{target}"),
    };
    let Ok(location) = HeaderValue::try_from(location) else {
        return problem(Problem::BadRequest("the target is no place to go to"));
    };
    let status = StatusCode::from_u16(redirect.status).unwrap_or(StatusCode::PERMANENT_REDIRECT);
    let mut response = Response::new(Reply::whole(format!("{status}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::LOCATION, location);
    response
}

/// The last answer of its connection.
pub fn last(response: &mut Response<Reply>) {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
}

/// What every answer over TLS has, where the listener says so. A worker's own word would be one of two.
pub fn strictly(hsts: &HeaderValue, response: &mut Response<Reply>) {
    response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, hsts.clone());
}

/// Tells who was chosen and why, where an upstream asks for it; of several tries the last.
pub fn explain(decision: Option<(&str, &str, Option<&str>)>, response: &mut Response<Reply>) {
    const DECISION: HeaderName = HeaderName::from_static("x-stickyd-decision");
    let (worker, why, rule) = decision.unwrap_or(("-", "-", None));
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:[]/".contains(&b);
    let worker = match worker.bytes().all(plain) {
        true => worker.to_owned(),
        // A quoted string (RFC 9110 §5.6.4).
        false => format!("\"{}\"", worker.replace('\\', "\\\\").replace('"', "\\\"")),
    };
    // No name has control characters (`config`), so it fits.
    let rule = rule.map(|rule| format!("; rule={rule}")).unwrap_or_default();
    if let Ok(value) = HeaderValue::try_from(format!("worker={worker}; why={why}{rule}")) {
        response.headers_mut().insert(DECISION, value);
    }
}

/// Engine.IO's own refusal, in the form of the transport that asks (protocols §1.4): the client makes a new handshake
/// in one round trip. A browser must be allowed to read it, so an `Origin` is echoed (design.md §3.1).
fn session_unknown(ask: &Ask) -> Response<Reply> {
    let (kind, body) = if ask.upgrade.is_some() {
        ("text/html", "Session ID unknown")
    } else {
        ("application/json", r#"{"code":1,"message":"Session ID unknown"}"#)
    };
    let mut response = Response::new(Reply::whole(body));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(origin) = &ask.origin {
        let_read(origin, headers);
    }
    if ask.upgrade.is_some() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A browser's page may read the answer.
fn let_read(origin: &HeaderValue, headers: &mut HeaderMap) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
}

/// A guard's answer in the form of the transport that asks (protocols §1.4): Engine.IO's JSON for polling (JSONP's script
/// fails by the status), one word for an upgrade, plain text for all else. What came too often may be read by its page;
/// a page that may not ask may not read either.
pub fn turned_away<B>(turned: Turned, upgrade: bool, request: &Request<B>) -> Response<Reply> {
    let (status, message) = match turned {
        Turned::Forbidden => (StatusCode::FORBIDDEN, "Forbidden"),
        Turned::TooOften(_) => (StatusCode::TOO_MANY_REQUESTS, "Too many requests"),
    };
    let (kind, body) = if upgrade {
        ("text/html", message.to_owned())
    } else if session::may_be_engine_io(request.uri().query()) {
        ("application/json", format!(r#"{{"code":4,"message":"{message}"}}"#))
    } else {
        ("text/plain; charset=utf-8", format!("{status}\n"))
    };
    let mut response = Response::new(Reply::whole(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Turned::TooOften(wait) = turned {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        if let Some(origin) = request.headers().get(header::ORIGIN) {
            let_read(origin, headers);
        }
    }
    if upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
