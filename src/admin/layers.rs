//! What every admin request passes before its handler, as tower layers; the guard (`auth`) is one of them.
//!
//! Outermost first: response headers; an answer instead of a wait when too many requests are under way; the audit
//! line; the guard; bounds on the body and on the time until the head of the answer. Lists and other long answers are
//! not cut: the time-out ends with the head. Left out: the time for the request's head, which hyper bounds per
//! connection, and the number of connections (`admin::serve`).

use std::error::Error;
use std::iter;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::error_handling::HandleErrorLayer;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{BoxError, Router, middleware};
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::sensitive_headers::SetSensitiveRequestHeadersLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::{RequestBodyDeadlineLayer, TimeoutError, TimeoutLayer};
use tower_http::trace::TraceLayer;
use tracing::Span;

use super::api::paths;
use super::auth::{self, AdminAuth, Reach};
use crate::events::{Event, EventKind, Events, Severity};
use crate::telemetry::say_full;

/// Maximum number of requests under way on all connections together; an operator, a scraper and a script need three.
const REQUESTS: usize = 32;

/// Time for a request's body to arrive.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// Maximum size of a request body, in bytes: enough for a broadcast of 64 KiB in any JSON escaping.
const BODY: usize = 512 * 1024;

/// Time until the head of the answer; a reload may have to wait for DNS lookups.
pub(crate) const HEAD_OF_ANSWER: Duration = Duration::from_secs(60);

/// Seconds after which a client should try again if too many requests are under way.
const RETRY_AFTER_S: &str = "1";

/// Policy for browsers: an answer is data, so nothing in it may run, load or be framed.
const CONTENT_POLICY: &str = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// Puts the layers around all paths of the router, and around its answer to unknown paths.
pub(crate) fn around(router: Router, guard: AdminAuth, events: Arc<Events>) -> Router {
    around_within(router, guard, events, HEAD_OF_ANSWER)
}

fn around_within(router: Router, guard: AdminAuth, events: Arc<Events>, head_of_answer: Duration) -> Router {
    let reach = guard.reach();
    let trace = TraceLayer::new_for_http()
        .make_span_with(|_: &Request| Span::none())
        .on_request(())
        .on_response(move |response: &Response, _: Duration, _: &Span| audit(response, reach, &events))
        .on_body_chunk(())
        .on_eos(())
        .on_failure(());
    let fixed = |name: HeaderName, value| SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value));
    // The page has its own.
    let usual = |name: HeaderName, value| SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value));
    router.layer(
        ServiceBuilder::new()
            .layer(fixed(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
            .layer(usual(header::CACHE_CONTROL, "no-store"))
            .layer(usual(header::CONTENT_SECURITY_POLICY, CONTENT_POLICY))
            .layer(fixed(header::REFERRER_POLICY, "no-referrer"))
            .layer(fixed(HeaderName::from_static("cross-origin-opener-policy"), "same-origin"))
            .layer(fixed(HeaderName::from_static("cross-origin-resource-policy"), "same-origin"))
            .layer(HandleErrorLayer::new(overloaded))
            .layer(LoadShedLayer::new())
            // One limit for all connections: each has its own clone of the router.
            .layer(GlobalConcurrencyLimitLayer::new(REQUESTS))
            .layer(SetSensitiveRequestHeadersLayer::new([header::AUTHORIZATION]))
            .layer(trace)
            .layer(middleware::map_response(explain_timeout))
            .layer(middleware::from_fn_with_state(Arc::new(guard), auth::check))
            .layer(RequestBodyLimitLayer::new(BODY))
            .layer(RequestBodyDeadlineLayer::new(BODY_PATIENCE))
            .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, head_of_answer)),
    )
}

/// Answers a request that the limit of requests under way rejects; no other layer makes an error.
async fn overloaded(_: BoxError) -> impl IntoResponse {
    say_full!(limit = REQUESTS, "the admin listener has reached its limit of requests under way");
    let why = "too many admin requests are under way: try again in a second\n";
    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, RETRY_AFTER_S)], why)
}

/// Gives the time-out's answer a text; no handler answers with its status.
async fn explain_timeout(mut response: Response) -> Response {
    if response.status() == StatusCode::GATEWAY_TIMEOUT {
        *response.body_mut() = "the answer was not ready in 60 s\n".into();
    }
    response
}

/// Method and path of a request, kept with its answer for the audit line.
#[derive(Clone)]
pub(crate) struct AuditedRequest {
    pub(crate) method: Method,
    pub(crate) path: String,
    /// The sender of the request, as far as it is known.
    pub(crate) operator: String,
}

/// Logs a request with its outcome: writes always, reads when debugging. The query is left out, since it can name a
/// session. What the application does all the time is logged as reads are: an operator finds no drain among a million
/// messages.
fn audit(response: &Response, reach: Reach, events: &Events) {
    let Some(AuditedRequest { method, path, operator }) = response.extensions().get::<AuditedRequest>() else { return };
    let (status, peer, path) = (response.status().as_u16(), reach.word(), paths::without_session(path));
    let is_usual = paths::is_of_backend(path) && matches!(status, 200 | 429);
    if matches!(*method, Method::GET | Method::HEAD) {
        tracing::debug!(target: "admin", %method, path, status, peer, "admin read");
    } else if is_usual {
        tracing::debug!(target: "admin", %method, path, status, peer, who = %operator, "request of the application");
    } else {
        tracing::info!(target: "admin", %method, path, status, peer, who = %operator, "admin write");
        // The guard's refusals are not the deeds of an operator, and could be many.
        if !matches!(status, 401 | 403 | 415) {
            let text = format!("{operator} asked for {method} {path} (status {status})");
            events.tell(Event::new(EventKind::Operator, Severity::Info, text));
        }
    }
}

/// The complete body of a request, within the bounds of size and time.
pub(crate) struct WholeBody(pub(crate) Bytes);

impl<S: Send + Sync> FromRequest<S> for WholeBody {
    type Rejection = (StatusCode, &'static str);

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        Bytes::from_request(request, state).await.map(Self).map_err(|rejection| refusal_of(&rejection))
    }
}

fn refusal_of(rejection: &BytesRejection) -> (StatusCode, &'static str) {
    let causes = || iter::successors(Some(rejection as &(dyn Error + 'static)), |error| (*error).source());
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large\n")
    } else if causes().any(|error| error.is::<TimeoutError>()) {
        (StatusCode::REQUEST_TIMEOUT, "the body was not received in time\n")
    } else {
        (StatusCode::BAD_REQUEST, "the body is incomplete\n")
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn an_answer_that_is_not_ready_in_time_is_a_504_with_words() {
        let never = get(|| async { std::future::pending::<()>().await });
        let guard = AdminAuth::new(Reach::Unix, auth::AdminTokens::default(), Vec::new());
        let router =
            around_within(Router::new().route("/never", never), guard, Events::new(), Duration::from_millis(10));
        let request = Request::get("/never").header(header::HOST, "localhost").body(Body::empty()).unwrap();
        let answer = router.oneshot(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(HEAD_OF_ANSWER.as_secs(), 60, "as the words say");
        let body = axum::body::to_bytes(answer.into_body(), 1_000).await.unwrap();
        assert_eq!(body, "the answer was not ready in 60 s\n");
    }
}
