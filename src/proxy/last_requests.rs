//! The last requests of a polling session whose worker is replaced.
//!
//! Its open poll is answered with the protocol's own close packet (`super::respond`). What the client sends until it
//! has read that, the worker is still to take (`affinity`), so the worker must not see its poll break: it would end the
//! session, and refuse the client's last message. The exchange therefore stays open without its client for a while;
//! whatever the worker answers to it is discarded. Then the worker is told that the client has gone, in the client's
//! own way: not every server notices that a poll has broken. Left out: sessions without an open poll, which end with
//! the process.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Uri};
use tokio::time::{Instant, sleep_until};

use super::Job;
use crate::affinity::ask::RequestKind;
use crate::body::Outgoing;
use crate::thread::Thread;
use crate::upstream::connections::connect::{self, ExchangeTerms};
use crate::upstream::connections::limit;
use crate::upstream::exchange::Exchange;
use crate::upstream::session_ends::LATE_REQUESTS;
use crate::upstream::worker::Worker;

/// Interval between two looks whether the thread is to stop.
const STOP_CHECK: Duration = Duration::from_millis(250);

/// Time for the worker to take the goodbye.
const PATIENCE: Duration = Duration::from_secs(1);

/// What ends a session at its worker in its client's place.
pub(crate) struct PollGoodbye {
    uri: Uri,
    host: Option<HeaderValue>,
    packet: &'static str,
}

impl PollGoodbye {
    /// Prepares it for a poll whose worker stickyd may replace; `None` for all other requests.
    pub(crate) fn of(job: &Job, request: &Request<Outgoing>) -> Option<Box<Self>> {
        let is_poll = job.ask.is_poll() && job.upstream.config.spawn.is_some() && job.ask.is_engine_io(&job.upstream);
        let packet = job.ask.engine.filter(|_| is_poll)?.format.close()?;
        let host = request.headers().get(header::HOST).cloned();
        Some(Box::new(Self { uri: request.uri().clone(), host, packet }))
    }

    fn request(&self) -> Request<Outgoing> {
        let mut request = Request::new(Outgoing::held(self.packet.into()));
        *request.method_mut() = Method::POST;
        request.uri_mut().clone_from(&self.uri);
        let fields = request.headers_mut();
        fields.insert(header::HOST, self.host.clone().unwrap_or(HeaderValue::from_static("localhost")));
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain;charset=UTF-8"));
        fields.insert(header::CONTENT_LENGTH, HeaderValue::from(self.packet.len()));
        request
    }
}

/// Keeps the session of an ended poll alive at its worker, as long as requests of its client may be on the way. Closes
/// the exchange at once if the session ended in another way.
pub(crate) fn keep_session(job: &Job, worker: &Arc<Worker>, exchange: Exchange, goodbye: Option<Box<PollGoodbye>>) {
    let RequestKind::Session { key, .. } = job.ask.kind else { return };
    let Some(goodbye) = goodbye.filter(|_| job.conn.thread.shared.sessions.is_late(key)) else { return };
    let (thread, worker) = (job.conn.thread.clone(), worker.clone());
    let tasks = thread.tasks.clone();
    tasks.spawn_local(async move {
        let until = Instant::now() + LATE_REQUESTS;
        while Instant::now() < until && !thread.is_stopping() {
            sleep_until(until.min(Instant::now() + STOP_CHECK)).await;
        }
        if !thread.is_stopping() {
            say_goodbye(&thread, &worker, &goodbye).await;
        }
        drop(exchange);
    });
}

async fn say_goodbye(thread: &Thread, worker: &Arc<Worker>, goodbye: &PollGoodbye) {
    let Some(slot) = limit::try_enter(worker) else { return };
    let _in_flight = worker.request();
    // A new connection: an idle one may be closed by the worker while the request is sent.
    let Ok(mut lease) = connect::lease(&thread.connections, worker, Duration::ZERO, PATIENCE).await else { return };
    lease.occupy(slot, None);
    // No client: nothing of it counts against the worker.
    let terms = ExchangeTerms { client: [0; 16], patience: PATIENCE, is_poll: true, keep: false, takes_interim: false };
    // Whatever it answers, nothing depends on it.
    let _ = lease.exchange(goodbye.request(), terms).await;
}
