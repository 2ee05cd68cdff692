//! Which request may go a second time, and its copy for that.
//!
//! Two kinds of retry. A request that reached nobody (no connect) is *passed on* to the next worker, whatever its method:
//! nothing of it was sent. A request whose connection broke before a byte of the answer came is *resent* once, if it is
//! safe: a GET, HEAD or OPTIONS without a body and without a sid, no upgrade. On a kept connection it most likely met the
//! worker's close, and goes to the same worker again, on a new one; where a new connection broke, or that one is refused, it
//! is the worker that is ill, and another one gets it. PUT and DELETE are idempotent on paper only: what an application
//! counts, mails or bills with one is not. A request with a sid never goes twice (invariant 4).
//!
//! Both draw on the upstream's budget, so that they cannot double the load of a pool that fails. A refused connect costs no
//! worker anything and draws nothing.

use hyper::body::Body;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};

use super::Job;
use super::ask::Kind;
use super::body::Outgoing;
use crate::affinity::Choice;
use crate::metrics::Source;
use crate::telemetry::say_full;
use crate::upstream::dial::ConnectError;
use crate::upstream::gate::Full;

/// Whether a request may go twice, so that its head is to be kept as it was written: text, because a `HeaderMap` of six
/// fields takes 340 ns to clone, of the 18 µs a small request costs.
pub fn is_resendable(job: &Job, request: &Request<Outgoing>) -> bool {
    let free = match job.ask.kind {
        Kind::Ordinary | Kind::Handshake | Kind::Birth | Kind::Preflight(None) => job.ask.upgrade.is_none(),
        Kind::Session { .. } | Kind::UnknownSid | Kind::Preflight(Some(_)) => false,
    };
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let may = !job.resent.get() && job.upstream.config.retry_budget > 0;
    free && safe && may && request.body().is_end_stream()
}

/// A request without body again, from its head as it was written. What was written from a request reads as one; `None` is
/// for what cannot be.
pub fn request(head: &[u8]) -> Option<Request<Outgoing>> {
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

/// Whether a request that reached nobody may be passed on. Only where it has no session, and only once it has not waited
/// already: the next queue would be as long.
pub fn may_pass_on(job: &Job, choice: &Choice, error: &ConnectError, now_ms: u64) -> bool {
    match error {
        // A session that nobody knows yet may begin anywhere.
        _ if matches!(job.ask.kind, Kind::Session { .. }) && choice.why == Source::Sid => false,
        // Another worker's connection would be one too many, too.
        ConnectError::Busy(Full::TimedOut) | ConnectError::Reserved => false,
        ConnectError::Refused | ConnectError::Busy(Full::Queue) => true,
        ConnectError::Full | ConnectError::TimedOut | ConnectError::Io(_) => in_budget(job, now_ms),
    }
}

/// Whether a request whose connection broke may be resent: once.
pub fn may_resend(job: &Job, now_ms: u64) -> bool {
    let may = in_budget(job, now_ms);
    if may {
        job.resent.set(true);
        job.upstream.series().resent.inc();
    }
    may
}

fn in_budget(job: &Job, now_ms: u64) -> bool {
    let may = job.upstream.may_retry(now_ms);
    if !may && job.upstream.config.retry_budget > 0 {
        job.upstream.series().retries_over_budget.inc();
        say_full!(upstream = %job.upstream.config.name,
            "a request was not tried again: the retry budget is used up (retry_budget)");
    }
    may
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::sending;

    #[test]
    fn a_copy_is_the_request_it_was_made_of() {
        let mut request = Request::new(Outgoing::EMPTY);
        *request.method_mut() = Method::OPTIONS;
        *request.uri_mut() = "/a/b?c=%20:d".parse().unwrap();
        for (name, value) in [("host", "a:80"), ("x-two", "1"), ("x-two", ""), ("x-odd", "a: b\tc")] {
            request.headers_mut().append(name, value.parse().unwrap());
        }
        request.headers_mut().insert("x-latin", HeaderValue::from_bytes(b"caf\xe9").unwrap());
        let written = |request: &mut Request<Outgoing>| {
            let mut text = Vec::new();
            sending::head(request, &mut text);
            text
        };
        let copy = super::request(&written(&mut request)).unwrap();
        assert_eq!((copy.method(), copy.uri(), copy.headers()), (request.method(), request.uri(), request.headers()));
        *request.uri_mut() = Uri::from_static("*");
        assert_eq!(super::request(&written(&mut request)).unwrap().uri(), "*");
    }
}
