//! How a data thread lives and stops: accept; then stop accepting, let requests finish, close tunnels with 1001, cut what
//! is left at the deadline, and say how it ended (design.md §8). Below it: how the sessions of a drained *worker* are ended.

pub mod closing;
pub mod ordered;
pub mod sessions;
pub mod spread;

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::listener::{self, Part, Queue};
use crate::server::Stop;
use crate::state::Shared;
use crate::thread::{Pulse, Thread};

/// Requests under way have this long to finish.
const REQUESTS: Duration = Duration::from_secs(2);

/// A connection just accepted has this long to bring its first request.
const FIRST_REQUEST: Duration = Duration::from_millis(250);

/// Tunnels have this long to close, from the stop on: our Close, the client's echo, the worker's end (invariant 5).
const TUNNELS: Duration = Duration::from_secs(5);

/// After the cut, tasks only have to notice.
const CUT: Duration = Duration::from_secs(1);

/// How a stop ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ended {
    /// Connections and tunnels that had to be cut at the deadline.
    pub cut: usize,
    /// A thread did not end by itself.
    pub panicked: bool,
}

impl Ended {
    /// Adds another thread's end.
    pub fn add(&mut self, other: Self) {
        self.cut += other.cut;
        self.panicked |= other.panicked;
    }
}

/// One data thread's life. `added`: listeners that come by a reload.
pub async fn run_thread(
    shared: Arc<Shared>,
    parts: Vec<Part>,
    mut added: mpsc::Receiver<Vec<Part>>,
    stop: Stop,
    pulse: Pulse,
) -> Ended {
    let thread = Thread::new(shared);
    // Nobody would accept what the kernel queues for it: better not to be ready at all.
    if !parts.into_iter().all(|part| accepts(&thread, part, &stop)) {
        return Ended { cut: 0, panicked: true };
    }
    let mut ticking = pin!(thread.clone().tick(&pulse));
    loop {
        tokio::select! {
            () = stop.gently.cancelled() => break,
            () = &mut ticking => break,
            // One that cannot be had has said so; its socket is closed, and the other threads' take its clients.
            Some(parts) = added.recv() => parts.into_iter().for_each(|part| _ = accepts(&thread, part, &stop)),
        }
    }
    // What came after the last look is closed unserved; a reload that would add more fails.
    drop(added);
    thread.tasks.close();
    // Accept loops take what the kernel holds for us before the order to stop reaches what they accepted.
    tokio::task::yield_now().await;
    thread.stop(false);
    let mut ended = Ended::default();
    if finished(&thread, FIRST_REQUEST, &stop).await {
        return ended;
    }
    thread.stop(true);
    if !finished(&thread, REQUESTS.saturating_sub(FIRST_REQUEST), &stop).await {
        ended.cut += thread.cut(false);
        if !finished(&thread, TUNNELS.saturating_sub(REQUESTS), &stop).await {
            ended.cut += thread.cut(true);
            let _ = tokio::time::timeout(CUT, thread.tasks.wait()).await;
        }
    }
    ended
}

/// Accepts from a listener, from now on; or says why not.
fn accepts(thread: &Rc<Thread>, (socket, part): Part, stop: &Stop) -> bool {
    match TcpListener::from_std(socket).and_then(Queue::of) {
        Ok(queue) => {
            let accepting = listener::accept(thread.clone(), part, queue, stop.gently.clone());
            thread.tasks.spawn_local(accepting);
            true
        }
        Err(error) => {
            tracing::error!(%error, "a data thread cannot listen");
            false
        }
    }
}

/// Whether everything on the thread ended in time; a second word to stop ends the waiting.
async fn finished(thread: &Thread, within: Duration, stop: &Stop) -> bool {
    tokio::select! {
        () = thread.tasks.wait() => true,
        () = tokio::time::sleep(within) => false,
        () = stop.now.cancelled() => false,
    }
}
