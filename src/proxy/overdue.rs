//! The time a request may take in all (`request_timeout`), from its head to the last byte of its answer, where its upstream
//! has one: most have none, and pay nothing.
//!
//! What is open by design has none either: WebSockets, long polls of a session, event streams.

use std::rc::Rc;
use std::time::Duration;

use hyper::Response;
use hyper::header;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Job;
use super::body::Reply;
use super::respond::{self, Problem};
use crate::listener::conn::Conn;
use crate::metrics::Limit;

/// When an answer under way is over time. It is held by the answer's record, and ends with it.
pub struct Overdue {
    /// Then.
    pub at: Instant,
    /// Cuts the connection; over HTTP/2 the stream does that itself.
    _watch: Option<DropGuard>,
}

/// How long it may take; `None`: for as long as it likes.
pub(super) fn limit(job: &Job) -> Option<Duration> {
    job.upstream.config.request_timeout.filter(|_| !job.ask.is_poll() && job.ask.upgrade.is_none())
}

/// The answer, and what ends it should it go on for too long; or the word that it did not begin in time.
pub(super) async fn within(
    conn: Rc<Conn>,
    limit: Duration,
    answer: impl Future<Output = Response<Reply>>,
) -> (Response<Reply>, Option<Box<Overdue>>) {
    let at = Instant::now() + limit;
    let Ok(answer) = tokio::time::timeout_at(at, answer).await else {
        reached(&conn);
        return (respond::problem(Problem::TimedOut), None);
    };
    let is_open = answer.headers().get(header::CONTENT_TYPE).is_some_and(|kind| is_event_stream(kind.as_bytes()));
    if is_open {
        return (answer, None);
    }
    // A task, because a client that takes nothing has nobody look at its answer's body.
    let watch = (!conn.http2).then(|| {
        let over = CancellationToken::new();
        let (guard, conn) = (over.clone().drop_guard(), conn.clone());
        conn.thread.clone().tasks.spawn_local(async move {
            if over.run_until_cancelled(tokio::time::sleep_until(at)).await.is_some() {
                reached(&conn);
                conn.cut();
            }
        });
        guard
    });
    (answer, Some(Box::new(Overdue { at, _watch: watch })))
}

/// The limit has ended a request.
pub fn reached(conn: &Conn) {
    conn.thread.shared.metrics.limits.reached(Limit::RequestTimeout);
}

fn is_event_stream(kind: &[u8]) -> bool {
    const EVENT_STREAM: &[u8] = b"text/event-stream";
    kind.get(..EVENT_STREAM.len()).is_some_and(|start| start.eq_ignore_ascii_case(EVENT_STREAM))
}
