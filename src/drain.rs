//! The life of a data thread: it accepts; on a stop it stops accepting, lets requests finish, closes tunnels with 1001,
//! cuts what is left at the deadline, and reports how that ended (ARCHITECTURE.md §5). Its submodules end the sessions
//! of a drained *worker* and the sockets an operator closes.

pub mod close_requests;
pub mod polling;
pub mod spread;
pub mod tunnels;

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

/// Time that requests under way have to finish after a stop.
const REQUESTS: Duration = Duration::from_secs(2);

/// Time that a connection accepted just before a stop has to send its first request.
const FIRST_REQUEST: Duration = Duration::from_millis(250);

/// Time, from the stop on, that tunnels have to close: our Close, the client's echo, the worker's end
/// (ARCHITECTURE.md, invariant 5).
const TUNNELS: Duration = Duration::from_secs(5);

/// Time that tasks have to notice that their connections were cut.
const CUT: Duration = Duration::from_secs(1);

/// Result of a stop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ended {
    /// Number of connections and tunnels that were cut at the deadline.
    pub cut: usize,
    /// Whether a thread panicked or failed to start.
    pub panicked: bool,
}

impl Ended {
    /// Adds the result of another thread.
    pub fn add(&mut self, other: Self) {
        self.cut += other.cut;
        self.panicked |= other.panicked;
    }
}

/// Runs one data thread until it has stopped. `added` brings the listeners that a reload adds.
pub async fn run_thread(
    shared: Arc<Shared>,
    parts: Vec<Part>,
    mut added: mpsc::Receiver<Vec<Part>>,
    stop: Stop,
    pulse: Pulse,
) -> Ended {
    let thread = Thread::new(shared);
    // Without its listener, clients the kernel queues for this thread would never be accepted: fail the start instead.
    if !parts.into_iter().all(|part| accepts(&thread, part, &stop)) {
        return Ended { cut: 0, panicked: true };
    }
    let mut ticking = pin!(thread.clone().tick(&pulse));
    loop {
        tokio::select! {
            () = stop.gently.cancelled() => break,
            () = &mut ticking => break,
            // A failure is logged by `accepts`; the socket is closed then, and other threads take its clients.
            Some(parts) = added.recv() => parts.into_iter().for_each(|part| _ = accepts(&thread, part, &stop)),
        }
    }
    // Listeners still in the channel are dropped unserved; a reload that would add more fails from now on.
    drop(added);
    thread.tasks.close();
    // Accept loops first accept what the kernel has queued, so that the stop also reaches those connections.
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

/// Accepts from a listener from now on; on failure logs the reason and returns `false`.
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

/// Waits until everything on the thread has ended; `false` on time-out or when an immediate stop is requested.
async fn finished(thread: &Thread, within: Duration, stop: &Stop) -> bool {
    tokio::select! {
        () = thread.tasks.wait() => true,
        () = tokio::time::sleep(within) => false,
        () = stop.now.cancelled() => false,
    }
}
