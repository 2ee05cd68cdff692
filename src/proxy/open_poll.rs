//! A poll that waits at its worker, while an operator may end its session by draining the worker or by closing the
//! session.
//!
//! The client's connection records at which worker it waits ([`crate::listener::conn::Conn::waits_at`]), so that its
//! thread can wake it when a drain begins; from then on the poll checks by its own timer whether its session is due.
//! Without a drain this costs a poll two stores and a flag. Dropping the exchange closes the connection to the worker;
//! Engine.IO takes that for the end of the session, so the application sees the disconnect at once.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::Job;
use crate::affinity::ask::RequestKind;
use crate::clock::{self, Millis};
use crate::keys::Key;
use crate::thread::Registered;
use crate::upstream::serial::WorkerSerial;
use crate::upstream::worker::Worker;

/// The longest time between two checks, in milliseconds: a drain may be cancelled, or its grace may change.
const END_CHECK_MS: u64 = 1_000;

/// An exchange that may be ended early. It resolves to `None` if its session was ended by an operator.
pub(crate) struct OpenPoll<'a, F> {
    exchange: Pin<&'a mut F>,
    waits: Option<PollWait<'a>>,
}

/// A poll of a session that waits at a worker.
struct PollWait<'a> {
    job: &'a Job,
    worker: &'a Arc<Worker>,
    key: Key,
    /// The poll's own entry on its thread's list. Only over HTTP/2: its connections carry many polls, each woken alone.
    entry: Option<Registered>,
    /// The number of sessions ended by operators, as of the last check.
    ended: u32,
    /// Timer for the next check; set only during a drain.
    look: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl<'a, F: Future> OpenPoll<'a, F> {
    /// Wraps `exchange`, made for `job` at `worker`. Anything but a poll is passed through unchanged.
    pub(crate) fn new(job: &'a Job, worker: &'a Arc<Worker>, exchange: Pin<&'a mut F>) -> Self {
        let waits = match job.ask.kind {
            RequestKind::Session { key, poll: true, .. } => {
                let entry = job.conn.http2.then(|| job.conn.thread.register_poll(worker.serial));
                job.conn.set_worker(Some(worker.serial));
                Some(PollWait { job, worker, key, entry, ended: job.ended, look: None })
            }
            _ => None,
        };
        Self { exchange, waits }
    }
}

impl<F: Future> Future for OpenPoll<'_, F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(answered) = self.exchange.as_mut().poll(cx) {
            return Poll::Ready(Some(answered));
        }
        if let Some(PollWait { entry: Some(entry), .. }) = &self.waits {
            entry.watch(cx.waker());
        }
        match &mut self.waits {
            Some(waits) if waits.worker.admin.ends() => waits.poll_end(cx).map(|()| None),
            Some(waits) if waits.look.is_some() => {
                // The drain was cancelled.
                waits.look = None;
                waits.waits_at(Some(waits.worker.serial));
                Poll::Pending
            }
            Some(waits) => match waits.check_end() {
                true => Poll::Ready(None),
                false => Poll::Pending,
            },
            None => Poll::Pending,
        }
    }
}

impl PollWait<'_> {
    fn waits_at(&self, serial: Option<WorkerSerial>) {
        match &self.entry {
            Some(entry) => entry.set_worker(serial),
            None => self.job.conn.set_worker(serial),
        }
    }

    /// Whether the session was closed since the last check. Costs one load, unless some session was closed meanwhile.
    fn check_end(&mut self) -> bool {
        let shared = &self.job.conn.thread.shared;
        let ended = shared.sessions.sockets.ended();
        std::mem::replace(&mut self.ended, ended) != ended
            && shared.sessions.ends_at(self.key, self.worker) == Some(Millis::START)
    }

    /// Ready once the session was due and has been ended.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let shared = &self.job.conn.thread.shared;
        loop {
            if self.look.as_mut().is_some_and(|look| look.as_mut().poll(cx).is_pending()) {
                return Poll::Pending;
            }
            let left = match shared.sessions.ends_at(self.key, self.worker) {
                Some(due) => due.since(clock::now_ms()),
                None => END_CHECK_MS,
            };
            if left == 0 {
                shared.sessions.end(&self.job.upstream, self.key);
                return Poll::Ready(());
            }
            // From now on the poll is woken by its own timer.
            self.waits_at(None);
            self.look = Some(Box::pin(tokio::time::sleep(Duration::from_millis(left.min(END_CHECK_MS)))));
        }
    }
}

impl Drop for PollWait<'_> {
    fn drop(&mut self) {
        self.job.conn.set_worker(None);
    }
}
