//! The total time that a request may take (`request_timeout`), from its head to the last byte of the response. Most
//! upstreams set none, and their requests pay nothing.
//!
//! Requests that stay open by design are exempt: WebSockets, long polls of a session, and event streams.

use std::rc::Rc;
use std::time::Duration;

use hyper::header;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Job;
use super::respond::{self, Problem};
use super::response_body::BoxedReply;
use crate::listener::conn::Conn;
use crate::metrics::LimitLabel;

/// The time limit of a response that is under way. It is held by the record of the request, and ends with it.
pub struct Overdue {
    /// Deadline for the last byte of the response.
    pub at: Instant,
    /// Cancels, when dropped, the task that cuts the connection at the deadline. An HTTP/2 stream ends itself instead.
    _watch: Option<DropGuard>,
}

/// The total time that this request may take; `None` if it is not limited.
pub(crate) fn limit(job: &Job) -> Option<Duration> {
    job.upstream.config.request_timeout.filter(|_| !job.ask.is_poll() && job.ask.upgrade.is_none())
}

/// Runs `answer` under the time limit. Returns its response and what ends it at the deadline, or a 504 if the response
/// did not begin in time.
pub(crate) async fn within(
    conn: Rc<Conn>,
    limit: Duration,
    answer: impl Future<Output = BoxedReply>,
) -> (BoxedReply, Option<Box<Overdue>>) {
    let at = Instant::now() + limit;
    let Ok(answer) = tokio::time::timeout_at(at, answer).await else {
        reached(&conn);
        return (respond::problem(Problem::TimedOut).into(), None);
    };
    let is_open = answer.headers().get(header::CONTENT_TYPE).is_some_and(|kind| is_event_stream(kind.as_bytes()));
    if is_open {
        return (answer, None);
    }
    // This needs a task of its own: while a client takes no bytes, nothing polls the body of its response.
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

/// Counts a request that was ended by `request_timeout`.
pub(crate) fn reached(conn: &Conn) {
    conn.thread.shared.metrics.limits.reached(LimitLabel::RequestTimeout);
}

fn is_event_stream(kind: &[u8]) -> bool {
    const EVENT_STREAM: &[u8] = b"text/event-stream";
    kind.get(..EVENT_STREAM.len()).is_some_and(|start| start.eq_ignore_ascii_case(EVENT_STREAM))
}
