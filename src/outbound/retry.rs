//! Which requests of stickyd's own are sent again, and when.
//!
//! A request that reached no server is sent again. One with a safe method is also sent again after a broken connection,
//! a time-out, and the answers 502, 503 and 504. Waits begin at half a second and double up to 10 s, with jitter.

use std::time::Duration;

use tower::BoxError;
use tower::retry::Policy;
use tower::retry::backoff::{Backoff, ExponentialBackoff, ExponentialBackoffMaker, MakeBackoff};
use tower::util::rng::HasherRng;

use super::{OutboundAnswer, OutboundFault, OutboundRequest};

/// Counts the attempts of one request.
#[derive(Clone)]
pub(super) struct RetryPolicy {
    left: u32,
    backoff: ExponentialBackoff,
}

impl RetryPolicy {
    /// Allows `attempts` attempts in total.
    ///
    /// # Errors
    /// Fails if the backoff cannot be set up, which its fixed numbers exclude.
    pub(super) fn new(attempts: u32) -> Result<Self, OutboundFault> {
        let (min, max) = (Duration::from_millis(500), Duration::from_secs(10));
        let maker = ExponentialBackoffMaker::new(min, max, 0.5, HasherRng::default());
        let mut maker = maker.map_err(|_| OutboundFault::Setup("bad backoff".to_owned()))?;
        Ok(Self { left: attempts.saturating_sub(1), backoff: maker.make_backoff() })
    }
}

impl Policy<OutboundRequest, OutboundAnswer, BoxError> for RetryPolicy {
    type Future = tokio::time::Sleep;

    fn retry(
        &mut self,
        request: &mut OutboundRequest,
        result: &mut Result<OutboundAnswer, BoxError>,
    ) -> Option<Self::Future> {
        let again = match result {
            Ok(answer) => request.method().is_safe() && matches!(answer.status.as_u16(), 502..=504),
            Err(error) => match OutboundFault::of(&**error, Duration::ZERO) {
                // The answer would be too large again.
                OutboundFault::TooLarge => false,
                fault => request.method().is_safe() || fault.is_unsent(),
            },
        };
        if !again || self.left == 0 {
            return None;
        }
        self.left -= 1;
        Some(self.backoff.next_backoff())
    }

    fn clone_request(&mut self, request: &OutboundRequest) -> Option<OutboundRequest> {
        Some(request.clone())
    }
}
