//! Every response that stickyd writes itself (ARCHITECTURE.md, invariant 11).

use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode, Uri};

mod refused;

pub(crate) use refused::{ended, refused};

use super::response_body::Reply;
use crate::affinity::ask::RequestFacts;
use crate::config::Redirect;
use crate::engine_io;
use crate::jwt::TokenFault;
use crate::metrics::GuardLabel;
use crate::route::guard::GuardRefusal;
use crate::state::told::ToldReason;
use crate::state::{AppStatus, Readiness};

/// Value of `Retry-After`, in seconds, on responses for which waiting helps.
const RETRY_AFTER: &str = "1";

/// Reason of a refusal of a session that no worker has.
const SESSION_UNKNOWN: &str = "session unknown";

/// What the client did wrong, or what went wrong at the worker or in stickyd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// The head is invalid or ambiguous; the text gives the reason.
    BadRequest(&'static str),
    /// No route matches the host and path.
    NoRoute,
    /// No worker is available for the request.
    NoWorker,
    /// The connection to the worker broke, or what it sent was not a valid response.
    BadGateway,
    /// The worker did not respond in time.
    TimedOut,
    /// A limit of stickyd is reached; the text names it.
    Full(&'static str),
    /// The client sent its request body too slowly.
    Slow,
    /// The request body is larger than `max_body`.
    TooLarge,
    /// The request target is longer than `target_bytes`.
    TooLong,
    /// Two or more unresponsive workers could own the session.
    Undecided,
    /// The request has an expectation that is not supported.
    Expectation,
    /// The head has more fields than the limit allows (`head_fields`).
    TooManyFields,
    /// The head is larger than the limit allows (`head_bytes`).
    HeadTooLarge,
    /// The request method is not supported.
    NotImplemented,
    /// The answer needs a token, and the request had none.
    TokenMissing,
    /// The request's host has other client certificate settings than the host this connection was opened for.
    Misdirected,
}

/// Marks an answer as stickyd's own, with the reason that the access log gives. It is an extension of the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OwnReason(pub(crate) &'static str);

/// An answer of stickyd with this status and body.
pub(super) fn own(status: StatusCode, reason: &'static str, body: impl Into<Bytes>) -> Response<Reply> {
    let mut response = Response::new(Reply::whole(body));
    *response.status_mut() = status;
    response.extensions_mut().insert(OwnReason(reason));
    response
}

/// The plain-text response to a problem. If the problem could be an attack, the connection is closed.
pub(crate) fn problem(problem: Problem) -> Response<Reply> {
    PlainAnswer::of(problem).into_response()
}

/// A plain-text response of stickyd, and what the client is to do after it.
struct PlainAnswer {
    status: StatusCode,
    text: &'static str,
    closes: bool,
    retry_helps: bool,
}

impl PlainAnswer {
    const fn new(status: StatusCode, text: &'static str) -> Self {
        Self { status, text, closes: false, retry_helps: false }
    }

    /// Closes the client's connection after the response.
    const fn closing(self) -> Self {
        Self { closes: true, ..self }
    }

    /// Tells the client that the request may succeed a little later.
    const fn retry_later(self) -> Self {
        Self { retry_helps: true, ..self }
    }

    fn of(problem: Problem) -> Self {
        use StatusCode as S;

        match problem {
            Problem::BadRequest(why) => Self::new(S::BAD_REQUEST, why).closing(),
            Problem::NoRoute => Self::new(S::NOT_FOUND, "no route for this host and path"),
            Problem::NoWorker => Self::new(S::SERVICE_UNAVAILABLE, "no worker can take this request").retry_later(),
            Problem::BadGateway => Self::new(S::BAD_GATEWAY, "the worker gave no valid response"),
            Problem::TimedOut => Self::new(S::GATEWAY_TIMEOUT, "the worker did not respond in time"),
            Problem::Full(what) => Self::new(S::SERVICE_UNAVAILABLE, what).retry_later(),
            Problem::Slow => Self::new(S::REQUEST_TIMEOUT, "the request body was not received in time").closing(),
            Problem::TooLarge => Self::new(S::PAYLOAD_TOO_LARGE, "the request body exceeds the size limit").closing(),
            Problem::TooLong => Self::new(S::URI_TOO_LONG, "the request target exceeds the length limit").closing(),
            Problem::Undecided => {
                Self::new(S::SERVICE_UNAVAILABLE, "the session's worker is not known yet").retry_later()
            }
            Problem::TooManyFields => Self::new(S::REQUEST_HEADER_FIELDS_TOO_LARGE, "too many header fields").closing(),
            Problem::HeadTooLarge => {
                Self::new(S::REQUEST_HEADER_FIELDS_TOO_LARGE, "the request head exceeds the size limit").closing()
            }
            // Closed, so that the client opens a new connection for this host (RFC 9110 §15.5.20).
            Problem::Misdirected => {
                Self::new(S::MISDIRECTED_REQUEST, "this connection was made for another host").closing()
            }
            Problem::Expectation => Self::new(S::EXPECTATION_FAILED, "this expectation is not supported").closing(),
            Problem::TokenMissing => Self::new(S::UNAUTHORIZED, TokenFault::Missing.code()),
            Problem::NotImplemented => Self::new(S::NOT_IMPLEMENTED, "this method is not supported").closing(),
        }
    }

    fn into_response(self) -> Response<Reply> {
        let Self { status, text, closes, retry_helps } = self;
        let mut response = own(status, text, format!("{status}: {text}\n"));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if retry_helps {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        if closes {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Redirects to the same target over https. `host` has been checked: a name or an address, optionally with a port.
pub(crate) fn redirect(redirect: Redirect, host: &str, uri: &Uri) -> Response<Reply> {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    // The target of `OPTIONS *` is not a path.
    let target = if target.starts_with('/') { target } else { "/" };
    let host = crate::route::without_port(host);
    let location = match redirect.port {
        443 => format!("https://{host}{target}"),
        port => format!("https://{host}:{port}{target}"),
    };
    let Ok(location) = HeaderValue::try_from(location) else {
        return problem(Problem::BadRequest("the request target cannot be redirected"));
    };
    let status = StatusCode::from_u16(redirect.status).unwrap_or(StatusCode::PERMANENT_REDIRECT);
    let mut response = own(status, "redirected to https", format!("{status}\n"));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::LOCATION, location);
    response
}

/// Answers a health check of stickyd itself. Once stickyd stops, the connection is closed, too.
pub(crate) fn health(readiness: &Readiness) -> Response<Reply> {
    let mut response = Response::new(Reply::whole(readiness.text()));
    *response.status_mut() = StatusCode::from_u16(readiness.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if *readiness == Readiness::Stopping {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// What a page asks that wants to know whether the application can be reached.
pub(crate) struct StatusRequest {
    /// Whether it can be reached.
    pub(crate) status: AppStatus,
    /// Whether the answer depends on the page's origin.
    pub(crate) varies: bool,
    /// Origin of the page, if it may read the answer.
    pub(crate) origin: Option<HeaderValue>,
}

/// Answers a page that asks whether the application can be reached: one word, and nothing about workers.
pub(crate) fn app_status(asked: &StatusRequest, method: &Method) -> Response<Reply> {
    const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");
    let (code, body) = match *method {
        Method::GET | Method::HEAD => (asked.status.status(), asked.status.json()),
        Method::OPTIONS => (204, ""),
        _ => (405, "{\"error\":\"use GET\"}"),
    };
    let mut response = Response::new(Reply::whole(body));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if code == 204 || code == 405 {
        headers.insert(header::ALLOW, METHODS);
    }
    if code != 204 {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    if asked.varies {
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    }
    if let Some(origin) = &asked.origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if code == 204 {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        }
    }
    response
}

/// Makes this the last response of its connection.
pub(crate) fn last(response: &mut Response<Reply>) {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
}

/// Adds HSTS to a response over TLS, as the listener is configured. It replaces a worker's own header, because a client
/// must not see two.
pub(crate) fn strictly(hsts: &HeaderValue, response: &mut Response<Reply>) {
    response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, hsts.clone());
}

/// Adds the chosen worker and the reason to the response, if the upstream enables it (`debug_header`). After several
/// attempts the last one is shown.
pub(crate) fn explain(decision: Option<(&str, &str, Option<&str>)>, response: &mut Response<Reply>) {
    const DECISION: HeaderName = HeaderName::from_static("x-stickyd-decision");
    let (worker, why, rule) = decision.unwrap_or(("-", "-", None));
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:[]/".contains(&b);
    let worker = match worker.bytes().all(plain) {
        true => worker.to_owned(),
        // The name needs a quoted string (RFC 9110 §5.6.4).
        false => format!("\"{}\"", worker.replace('\\', "\\\\").replace('"', "\\\"")),
    };
    // `config` rejects control characters in names, so the value is valid.
    let rule = rule.map(|rule| format!("; rule={rule}")).unwrap_or_default();
    if let Ok(value) = HeaderValue::try_from(format!("worker={worker}; why={why}{rule}")) {
        response.headers_mut().insert(DECISION, value);
    }
}

/// Engine.IO's own refusal, in the form of the requesting transport (docs/reference/protocols.md §1.4): the client
/// makes a new handshake within one round trip. A browser page must be allowed to read it, so the `Origin` is echoed
/// (docs/reference/routing.md §1).
fn session_unknown(ask: &RequestFacts) -> Response<Reply> {
    let (kind, body) = if ask.upgrade.is_some() {
        ("text/html", "Session ID unknown")
    } else {
        ("application/json", r#"{"code":1,"message":"Session ID unknown"}"#)
    };
    let mut response = own(StatusCode::BAD_REQUEST, SESSION_UNKNOWN, body);
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

/// Allows a page of this origin to read the response.
pub(super) fn let_read(origin: &HeaderValue, headers: &mut HeaderMap) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
}

/// The reason that the access log gives for the refusal of a guard. The client is told less.
fn reason_of(guard: GuardLabel) -> &'static str {
    match guard {
        GuardLabel::Origin => "the page's origin is not allowed",
        GuardLabel::Network => "the client's network is not allowed",
        GuardLabel::RateRequests => "too many requests of this address",
        GuardLabel::RateHandshakes => "too many handshakes of this address",
        GuardLabel::UpstreamRequests => "too many requests of all clients",
        GuardLabel::UpstreamHandshakes => "too many handshakes of all clients",
        GuardLabel::UserRequests => "too many requests of this user",
        GuardLabel::UserHandshakes => "too many handshakes of this user",
        GuardLabel::Users => "too_many_connections",
        GuardLabel::JwtKeys => "the keys of tokens are not known yet",
        GuardLabel::JwtMissing => TokenFault::Missing.code(),
        GuardLabel::JwtMalformed => TokenFault::Malformed.code(),
        GuardLabel::JwtExpired => TokenFault::Expired.code(),
        GuardLabel::JwtNotYet => TokenFault::NotYet.code(),
        GuardLabel::JwtWrongIssuer => TokenFault::WrongIssuer.code(),
        GuardLabel::JwtWrongAudience => TokenFault::WrongAudience.code(),
        GuardLabel::JwtWrongSignature => TokenFault::WrongSignature.code(),
        GuardLabel::JwtForbidden => TokenFault::Forbidden.code(),
        GuardLabel::Basic => "no user with the right password",
        GuardLabel::Auth => "refused by the service of `auth`",
        GuardLabel::AuthFailed => "no verdict of a guard in time",
    }
}

/// The response of a guard, in the form of the requesting transport (docs/reference/protocols.md §1.4): Engine.IO's
/// JSON for polling (a JSONP script fails by the status), a short text for an upgrade, plain text otherwise. A page may
/// read it, unless the page is not allowed to send the request.
pub(crate) fn turned_away(
    turned: GuardRefusal,
    upgrade: bool,
    query: Option<&str>,
    asked: &HeaderMap,
) -> Response<Reply> {
    let (status, message, code) = match turned {
        GuardRefusal::Forbidden(..) => (StatusCode::FORBIDDEN, "Forbidden", None),
        GuardRefusal::TooOften(..) => (StatusCode::TOO_MANY_REQUESTS, "Too many requests", None),
        GuardRefusal::NoPassword => (StatusCode::UNAUTHORIZED, "Unauthorized", None),
        GuardRefusal::Denied(StatusCode::FORBIDDEN) => (StatusCode::FORBIDDEN, "Forbidden", None),
        GuardRefusal::Denied(_) => (StatusCode::UNAUTHORIZED, "Unauthorized", None),
        GuardRefusal::NoKeys(_) | GuardRefusal::NoVerdict(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, "Service unavailable", None)
        }
        GuardRefusal::TooMany(_) => {
            (StatusCode::TOO_MANY_REQUESTS, ToldReason::TooMany.message(), Some(ToldReason::TooMany.code()))
        }
        GuardRefusal::Token(fault @ TokenFault::Forbidden, _) => {
            (StatusCode::FORBIDDEN, fault.message(), Some(fault.code()))
        }
        GuardRefusal::Token(fault, _) => (StatusCode::UNAUTHORIZED, fault.message(), Some(fault.code())),
    };
    let (kind, body) = if upgrade {
        ("text/html", code.unwrap_or(message).to_owned())
    } else if engine_io::may_be_engine_io(query) {
        let data = code.map(|code| format!(r#","data":{{"code":"{code}"}}"#)).unwrap_or_default();
        ("application/json", format!(r#"{{"code":4,"message":"{message}"{data}}}"#))
    } else {
        let code = code.map(|code| format!(": {code}")).unwrap_or_default();
        ("text/plain; charset=utf-8", format!("{status}{code}\n"))
    };
    let mut response = own(status, reason_of(turned.label()), body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let GuardRefusal::TooOften(_, wait) | GuardRefusal::NoKeys(wait) | GuardRefusal::NoVerdict(wait) = turned {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    if let GuardRefusal::Token(fault, _) = turned
        && let Ok(value) = HeaderValue::try_from(format!("Bearer error=\"{}\"", fault.code()))
    {
        headers.insert(header::WWW_AUTHENTICATE, value);
    }
    if !matches!(turned, GuardRefusal::Forbidden(..))
        && let Some(origin) = asked.get(header::ORIGIN)
    {
        let_read(origin, headers);
    }
    if upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
