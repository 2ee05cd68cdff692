//! How a data thread lives and stops: it accepts; then it stops accepting, lets requests finish, closes tunnels with
//! 1001, cuts what is left at the deadline, and reports how it ended. Left out: what one connection does (`listener`).

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::stop::{Stop, StopOutcome};
use crate::clock;
use crate::drain;
use crate::listener::{self, AcceptQueue, Part};
use crate::state::Shared;
use crate::thread::{Pulse, Thread};
use crate::upstream::connections::pool::TICK;

/// Time that requests under way have to finish after a stop.
const REQUESTS: Duration = Duration::from_secs(2);

/// Time that a connection accepted just before a stop has to send its first request.
const FIRST_REQUEST: Duration = Duration::from_millis(250);

/// Time, from the stop on, that tunnels have to close: our Close, the client's echo, the worker's end
/// (ARCHITECTURE.md, invariant 5).
const TUNNELS: Duration = Duration::from_secs(5);

/// Time that tasks have to notice that their connections were cut.
const CUT: Duration = Duration::from_secs(1);

/// Runs one data thread until it has stopped. `added` brings the listeners that a reload adds.
pub(crate) async fn run(
    shared: Arc<Shared>,
    parts: Vec<Part>,
    mut added: mpsc::Receiver<Vec<Part>>,
    stop: Stop,
    pulse: Pulse,
) -> StopOutcome {
    let thread = Thread::new(shared);
    // Without its listener, clients the kernel queues for this thread would never be accepted: fail the start instead.
    if !parts.into_iter().all(|part| accepts(&thread, part, &stop)) {
        return StopOutcome { cut: 0, panicked: true };
    }
    let mut ticking = pin!(tick(thread.clone(), &pulse));
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
    let mut ended = StopOutcome::default();
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
    match TcpListener::from_std(socket).and_then(AcceptQueue::of) {
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

/// The thread's clock: every [`TICK`] it beats the pulse, sweeps idle connections, enforces the time limits of clients
/// once per second, and starts the thread's part of a drain where there is one.
async fn tick(thread: Rc<Thread>, pulse: &Pulse) {
    let mut timer = tokio::time::interval(TICK);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        timer.tick().await;
        pulse.beat();
        thread.tick(clock::now_ms());
        drain::tunnels::start(&thread);
    }
}
