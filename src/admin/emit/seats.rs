//! Bound on the messages of the backend that are under way at the same time.
//!
//! A few more may wait for one of these to end, in the order in which they came, so that a backend may send some at
//! once. Both numbers together stay below the requests that the admin listener serves at once: an operator gets
//! through while clients are slow. Left out: how many messages are sent per second.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Messages that may be under way, and that may wait for one of these to end.
const UNDER_WAY: usize = 16;
const WAITING: usize = 8;

/// Time that a message waits for its place.
const PATIENCE: Duration = Duration::from_secs(2);

/// The places of messages that are under way.
pub(crate) struct EmitSeats {
    seats: Arc<Semaphore>,
    line: Semaphore,
}

impl Default for EmitSeats {
    fn default() -> Self {
        Self { seats: Arc::new(Semaphore::new(UNDER_WAY)), line: Semaphore::new(WAITING) }
    }
}

impl EmitSeats {
    /// Takes a place; `None`: there are too many messages.
    pub(super) async fn take(&self) -> Option<OwnedSemaphorePermit> {
        self.take_within(PATIENCE).await
    }

    async fn take_within(&self, patience: Duration) -> Option<OwnedSemaphorePermit> {
        if let Ok(seat) = self.seats.clone().try_acquire_owned() {
            return Some(seat);
        }
        let _place = self.line.try_acquire().ok()?;
        timeout(patience, self.seats.clone().acquire_owned()).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn a_few_messages_wait_for_a_place_in_their_order() {
        let seats = EmitSeats::default();
        let mut taken = Vec::new();
        for _ in 0..UNDER_WAY {
            taken.push(seats.take().await.unwrap());
        }
        let mut waiting: Vec<_> = (0..WAITING).map(|_| Box::pin(seats.take_within(PATIENCE * 100))).collect();
        assert!(waiting.iter_mut().all(|one| one.now_or_never().is_none()));
        assert!(seats.take().now_or_never().unwrap().is_none(), "the line is full");
        taken.pop();
        assert!(waiting[1].as_mut().now_or_never().is_none(), "it is the turn of the first");
        taken.push(waiting[0].as_mut().now_or_never().unwrap().unwrap());
        assert!(seats.take_within(Duration::from_millis(1)).await.is_none(), "its time is over");
    }
}
