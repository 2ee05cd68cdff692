//! Runs futures that wait for nothing outside of themselves until they end or no longer move. Without a runtime and a
//! clock the same bytes always take the same way.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

/// The result of the future, or `None` once nothing will wake it any more.
pub fn run<F: Future + ?Sized>(mut future: Pin<&mut F>) -> Option<F::Output> {
    let flag = Arc::new(Flag(AtomicBool::new(true)));
    let waker = Waker::from(flag.clone());
    let mut turns = 0_u32;
    while flag.0.swap(false, Relaxed) {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
        turns += 1;
        assert!(turns < 1_000_000, "the future wakes itself without end");
    }
    None
}
