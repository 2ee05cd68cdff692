//! A handshake that stays unanswered on a fresh connection asks another worker.
//!
//! PM2's daemon accepts connections for its workers, and can lose one while a worker is replaced: it is never read, and
//! never ends. A client would wait for the whole `response_timeout`. After `retry_after`, and while another worker
//! is idle, the connection is given up and the handshake is sent to another worker; whatever the first one still
//! answers is discarded with its connection. This happens once per request, only for an Engine.IO handshake by GET that
//! is not an upgrade, and is paid from the retry budget. The only effect of such a handshake is a session without a
//! client, which ends by its ping time-out.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;

use super::hints::HintedExchange;
use super::{Job, retry};
use crate::affinity::ask::RequestKind;
use crate::body::Outgoing;
use crate::clock;
use crate::upstream::connections::connect::Failure;
use crate::upstream::exchange::ResponseAndLease;
use crate::upstream::worker::Worker;

/// How a handshake at its first worker came out.
pub(crate) enum HandshakeStep {
    /// The exchange is over.
    Over(Result<ResponseAndLease, Failure>),
    /// The worker did not answer; the request is made anew for another worker.
    GivenUp,
}

/// Whether another worker may be asked in place of one that does not answer this request. `is_resendable` tells whether
/// it may be sent twice at all, `is_used` whether its connection has carried a request before.
pub(crate) fn may_ask(job: &Job, is_resendable: bool, is_used: bool) -> bool {
    let is_handshake = matches!(job.ask.kind, RequestKind::Handshake);
    is_handshake && is_resendable && !is_used && !job.upstream.config.retry_after.is_zero()
}

/// Waits for the answer of the first worker; gives it up once another worker may be asked. `request` was sent, and is
/// then made anew.
pub(crate) async fn exchange(
    job: &Job,
    worker: &Arc<Worker>,
    request: &mut Request<Outgoing>,
    exchange: HintedExchange<'_>,
) -> HandshakeStep {
    let mut exchange = pin!(exchange);
    let retry_after = job.upstream.config.retry_after;
    loop {
        match tokio::time::timeout(retry_after, exchange.as_mut()).await {
            Ok(over) => return HandshakeStep::Over(over),
            Err(_) if !has_idle(job, worker) => {}
            Err(_) if !retry::try_take_resend(job, clock::now_ms()) => return HandshakeStep::Over(exchange.await),
            Err(_) => {}
        }
        if job.resent.get() {
            break;
        }
    }
    match exchange.take_head().and_then(|head| retry::request(&head)) {
        Some(again) => {
            said(job, worker, retry_after);
            *request = again;
            HandshakeStep::GivenUp
        }
        None => HandshakeStep::Over(exchange.await),
    }
}

/// Whether another worker takes new sessions and has no slow request.
fn has_idle(job: &Job, worker: &Worker) -> bool {
    let others = job.upstream.members.iter().filter(|member| member.weight > 0).map(|member| &member.worker);
    others.into_iter().any(|other| other.serial != worker.serial && other.takes_new() && !other.has_slow())
}

fn said(job: &Job, worker: &Worker, retry_after: Duration) {
    tracing::debug!(upstream = %job.upstream.config.name, worker = %worker.name, seconds = retry_after.as_secs_f64(),
        "handshake not answered: another worker is asked");
}
