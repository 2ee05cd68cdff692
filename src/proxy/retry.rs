//! Which requests may be sent a second time, and the copy that is needed for it.
//!
//! There are two kinds of retry. A request that reached no worker (the connect failed) is *passed on* to the next
//! worker, whatever its method, because nothing of it was sent. A request whose connection broke before the first byte
//! of a response is *resent* once if it is safe: a GET, HEAD or OPTIONS without a body, without a sid, and not an
//! upgrade. If it used a kept connection, it most likely crossed the worker's close, and is resent to the same worker
//! over a new connection. If a new connection broke, or is refused, the worker itself has failed, and another worker
//! gets the request. PUT and DELETE are idempotent only on paper: an application may count, mail or bill on each one.
//! A request with a sid is never sent twice (ARCHITECTURE.md, invariant 4).
//!
//! A handshake that stays unanswered on a new connection is also resent, to another worker (`second_worker`).
//!
//! All kinds are paid from the upstream's retry budget, so that they cannot double the load on a failing pool. A
//! refused connect or a full queue costs no worker anything and is not charged.

use hyper::body::Body;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};

use super::Job;
use crate::affinity::Choice;
use crate::affinity::ask::RequestKind;
use crate::body::Outgoing;
use crate::clock::Millis;
use crate::metrics::SourceLabel;
use crate::telemetry::say_full;
use crate::upstream::connections::dial::ConnectError;
use crate::upstream::connections::limit::NoConnection;

/// Whether a request may be sent twice, so that a copy of its written head is kept. The copy is text, because cloning a
/// `HeaderMap` of six fields takes 340 ns of the 18 µs that a small request costs.
pub(crate) fn is_resendable(job: &Job, request: &Request<Outgoing>) -> bool {
    let free = match job.ask.kind {
        RequestKind::Ordinary | RequestKind::Handshake | RequestKind::Birth | RequestKind::Preflight(None) => {
            job.ask.upgrade.is_none()
        }
        RequestKind::Session { .. } | RequestKind::UnknownSid | RequestKind::Preflight(Some(_)) => false,
    };
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let may = !job.resent.get() && job.upstream.config.retry_budget > 0;
    free && safe && may && request.body().is_end_stream()
}

/// Rebuilds a request without a body from its head as it was written. Heads written from a request always parse; `None`
/// is returned for anything that does not.
pub(crate) fn request(head: &[u8]) -> Option<Request<Outgoing>> {
    let lines = head.iter().filter(|byte| **byte == b'\n').count();
    let mut room = vec![httparse::EMPTY_HEADER; lines];
    let mut parsed = httparse::Request::new(&mut room);
    parsed.parse(head).ok()?;
    let mut request = Request::new(Outgoing::EMPTY);
    *request.method_mut() = Method::from_bytes(parsed.method?.as_bytes()).ok()?;
    *request.uri_mut() = Uri::try_from(parsed.path?).ok()?;
    for field in parsed.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        request.headers_mut().append(name, HeaderValue::from_bytes(field.value).ok()?);
    }
    Some(request)
}

/// Whether a request that reached no worker may be passed on: only if it has no session, and if it has not already
/// waited in a queue, because the next queue would be as long.
pub(crate) fn try_take_pass_on(job: &Job, choice: &Choice, error: &ConnectError, now_ms: Millis) -> bool {
    let is_session = matches!(job.ask.kind, RequestKind::Session { .. });
    match passes_on(is_session, choice.why, error) {
        PassOn::Never => false,
        PassOn::Free => true,
        PassOn::Paid => in_budget(job, now_ms),
    }
}

/// Whether a request that reached no worker is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PassOn {
    Never,
    /// It has cost the worker nothing.
    Free,
    /// It is paid from the retry budget.
    Paid,
}

fn passes_on(is_session: bool, why: SourceLabel, error: &ConnectError) -> PassOn {
    match error {
        _ if is_session && why == SourceLabel::Sid => PassOn::Never,
        // The worker has just claimed the session. It has lost the session only if it refuses connects; the session may
        // then begin anew at any worker.
        _ if is_session && why == SourceLabel::Discovered && !matches!(error, ConnectError::Refused) => PassOn::Never,
        // It has already waited, or descriptors are short: a connection to another worker would need one as well.
        ConnectError::Busy(NoConnection::TimedOut) | ConnectError::Reserved => PassOn::Never,
        ConnectError::Refused | ConnectError::Busy(NoConnection::Queue) => PassOn::Free,
        // A session that is not pinned yet may begin at any worker.
        ConnectError::Full | ConnectError::TimedOut | ConnectError::Io(_) => PassOn::Paid,
    }
}

/// Takes a retry from the budget for a request whose connection broke, and marks it as resent. Returns whether it may
/// be resent.
pub(crate) fn try_take_resend(job: &Job, now_ms: Millis) -> bool {
    let may = in_budget(job, now_ms);
    if may {
        job.resent.set(true);
        job.upstream.series().resent.inc();
    }
    may
}

fn in_budget(job: &Job, now_ms: Millis) -> bool {
    let may = job.upstream.try_take_retry(now_ms);
    if !may && job.upstream.config.retry_budget > 0 {
        job.upstream.series().retries_over_budget.inc();
        say_full!(upstream = %job.upstream.config.name,
            "request not retried: the retry budget is used up (retry_budget)");
    }
    may
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::exchange::request_writer;

    /// See ARCHITECTURE.md, invariant 4.
    #[test]
    fn a_session_that_a_worker_claimed_is_not_passed_on() {
        let errors = [ConnectError::TimedOut, ConnectError::Full, ConnectError::Busy(NoConnection::Queue)];
        for error in &errors {
            for why in [SourceLabel::Sid, SourceLabel::Discovered] {
                assert_eq!(passes_on(true, why, error), PassOn::Never, "{why:?} {error}");
            }
            assert_ne!(passes_on(true, SourceLabel::New, error), PassOn::Never, "{error}");
            assert_ne!(passes_on(false, SourceLabel::Cookie, error), PassOn::Never, "{error}");
        }
        assert_eq!(passes_on(true, SourceLabel::Discovered, &ConnectError::Refused), PassOn::Free);
        assert_eq!(passes_on(true, SourceLabel::Sid, &ConnectError::Refused), PassOn::Never);
    }

    #[test]
    fn a_copy_equals_the_original_request() {
        let mut request = Request::new(Outgoing::EMPTY);
        *request.method_mut() = Method::OPTIONS;
        *request.uri_mut() = "/a/b?c=%20:d".parse().unwrap();
        for (name, value) in [("host", "a:80"), ("x-two", "1"), ("x-two", ""), ("x-odd", "a: b\tc")] {
            request.headers_mut().append(name, value.parse().unwrap());
        }
        request.headers_mut().insert("x-latin", HeaderValue::from_bytes(b"caf\xe9").unwrap());
        let written = |request: &mut Request<Outgoing>| {
            let mut text = Vec::new();
            request_writer::head(request, &mut text);
            text
        };
        let copy = super::request(&written(&mut request)).unwrap();
        assert_eq!((copy.method(), copy.uri(), copy.headers()), (request.method(), request.uri(), request.headers()));
        *request.uri_mut() = Uri::from_static("*");
        assert_eq!(super::request(&written(&mut request)).unwrap().uri(), "*");
    }
}
