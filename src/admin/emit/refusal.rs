//! Error answers to a message of the backend: some say when another try may succeed.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::super::{Api, ApiRefusal, refuse};
use crate::clock;
use crate::emit::PER_SECOND;
use crate::metrics::{EmitResult, EmitVia};
use crate::telemetry::say_full;

/// An error answer, with the time after which another try may succeed, if that is known.
pub(crate) struct EmitRefusal {
    refusal: ApiRefusal,
    retry_after: Option<Duration>,
}

impl From<ApiRefusal> for EmitRefusal {
    fn from(refusal: ApiRefusal) -> Self {
        Self { refusal, retry_after: None }
    }
}

impl IntoResponse for EmitRefusal {
    fn into_response(self) -> Response {
        let mut answer = self.refusal.into_response();
        if let Some(time) = self.retry_after {
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(time)));
        }
        answer
    }
}

impl EmitRefusal {
    /// Counts a message of a sender.
    ///
    /// # Errors
    /// The answer for a sender that has sent too many.
    pub(super) fn unless_admitted(api: &Api, sender: &str, via: EmitVia) -> Result<(), Self> {
        let Err(wait) = api.shared.emit_rates.admit(sender, clock::now_ms()) else { return Ok(()) };
        say_full!(limit = PER_SECOND, sender, "a message of the backend was refused: too many per second");
        api.shared.metrics.care.emitted(via, EmitResult::Limited);
        let why = format!(
            "{sender} has sent more than {PER_SECOND} messages per second: nothing was sent; try again in {} s",
            whole_seconds(wait)
        );
        Err(Self { refusal: refuse(StatusCode::TOO_MANY_REQUESTS, why), retry_after: Some(wait) })
    }

    /// The answer for a message that finds too many others under way.
    pub(super) fn full(api: &Api, via: EmitVia) -> Self {
        say_full!("a message of the backend was refused: too many are under way");
        api.shared.metrics.care.emitted(via, EmitResult::Limited);
        let why = "too many messages are under way: nothing was sent; try again in 1 s";
        Self { refusal: refuse(StatusCode::SERVICE_UNAVAILABLE, why), retry_after: Some(Duration::from_secs(1)) }
    }
}

/// Seconds as `Retry-After` has them (RFC 9110 §10.2.3): after them another try succeeds.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}
