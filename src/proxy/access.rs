//! Waits for the guards that take time: a password that is checked on a thread that may block, and the answer of
//! another service. A client that leaves meanwhile ends the wait, and everything that waits is bounded.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Request, Response, StatusCode, header};

use super::respond;
use super::response_body::Reply;
use super::{Job, headers, told};
use crate::clock;
use crate::outbound::OutboundFault;
use crate::route::basic::BasicGuard;
use crate::route::forward_auth::{AskedRequest, ForwardGuard, ServiceVerdict};
use crate::route::guard::GuardRefusal;
use crate::telemetry::say_full;

/// Time after which a client may try again that got no verdict.
const AGAIN: Duration = Duration::from_secs(1);

/// Why a request does not pass, and the challenge of a 401.
pub(super) struct AccessRefusal {
    reason: GuardRefusal,
    challenge: Option<HeaderValue>,
}

impl From<GuardRefusal> for AccessRefusal {
    fn from(reason: GuardRefusal) -> Self {
        Self { reason, challenge: None }
    }
}

impl AccessRefusal {
    /// Returns the answer to the request, and counts it.
    pub(super) fn answer<B>(self, job: &Job, request: &Request<B>) -> Response<Reply> {
        job.upstream.series().turned(self.reason.label());
        let upgrade = job.ask.upgrade.is_some();
        let mut response = respond::turned_away(self.reason, upgrade, request.uri().query(), request.headers());
        if let Some(challenge) = self.challenge {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// Asks the guards of the request's routes, one after the other; each must let it pass.
pub(super) async fn ask<B>(job: &mut Job, request: &Request<B>) -> Result<(), AccessRefusal> {
    // It was valid when the request was routed.
    let host = headers::host(request).unwrap_or_default();
    for guard in std::mem::take(&mut job.gates) {
        if let Some(basic) = &guard.basic {
            check_password(job, basic, request.headers()).await?;
        }
        if let Some(forward) = guard.forward.as_ref().filter(|_| job.is_opening) {
            let own = told::authority(&job.conn, request.headers(), host);
            let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
            let (method, headers, client) = (request.method(), request.headers(), job.client);
            let fields = ask_service(job, forward, AskedRequest { method, target, headers, client, own }).await?;
            job.passed.get_or_insert_default().fields.extend(fields);
        }
    }
    Ok(())
}

async fn check_password(job: &Job, guard: &Arc<BasicGuard>, headers: &HeaderMap) -> Result<(), AccessRefusal> {
    let wrong = || AccessRefusal { reason: GuardRefusal::NoPassword, challenge: Some(guard.challenge()) };
    let given = guard.credentials(headers).ok_or_else(wrong)?;
    if guard.knows(&given, clock::now_ms()) {
        return Ok(());
    }
    let full = || {
        say_full!(upstream = %job.upstream.config.name, client = %job.client.address,
            "password not checked: too many wait to be checked");
        AccessRefusal::from(GuardRefusal::NoVerdict(AGAIN))
    };
    let _place = guard.waiting.try_enter(job.client.key()).ok_or_else(full)?;
    let turn = guard.turns.clone().acquire_owned().await.map_err(|_| full())?;
    // Another request of the same client may have been first.
    if guard.knows(&given, clock::now_ms()) {
        return Ok(());
    }
    let checker = guard.clone();
    // The turn ends with the check, even if the client leaves before.
    let checked = tokio::task::spawn_blocking(move || {
        let is_right = checker.is_right(&given);
        if is_right {
            checker.remember(&given, clock::now_ms());
        }
        drop(turn);
        is_right
    });
    if checked.await.unwrap_or(false) { Ok(()) } else { Err(wrong()) }
}

/// Returns the fields that the service gives to the worker.
async fn ask_service(
    job: &Job,
    guard: &Arc<ForwardGuard>,
    asked: AskedRequest<'_>,
) -> Result<Vec<(header::HeaderName, HeaderValue)>, AccessRefusal> {
    let key = guard.key(&asked);
    let verdict = match guard.known(&key, clock::now_ms()) {
        Some(known) => known,
        None => {
            let question = guard.question(&asked).ok_or(GuardRefusal::Denied(StatusCode::FORBIDDEN))?;
            let client = job.conn.thread.service_client(guard).map_err(|fault| failed(job, &fault.to_string()))?;
            let answer = tokio::time::timeout(guard.config().timeout, async {
                // The semaphore is never closed.
                let _turn = guard.turns.acquire().await.ok();
                client.send(question).await
            });
            let answer = answer.await.unwrap_or(Err(OutboundFault::Timeout(guard.config().timeout)));
            let answer = answer.map_err(|fault| failed(job, &fault.to_string()))?;
            let status = answer.status.as_u16();
            let verdict = guard.verdict(&answer);
            let verdict = verdict.ok_or_else(|| failed(job, &format!("it answered with status {status}")))?;
            guard.remember(key, verdict.clone(), clock::now_ms());
            verdict
        }
    };
    match verdict {
        ServiceVerdict::Passes(fields) => Ok(fields),
        ServiceVerdict::Denied(status, challenge) => {
            Err(AccessRefusal { reason: GuardRefusal::Denied(status), challenge })
        }
    }
}

fn failed(job: &Job, error: &str) -> AccessRefusal {
    say_full!(upstream = %job.upstream.config.name, %error,
        "the service of `auth` gave no verdict: handshakes are answered with 503");
    GuardRefusal::NoVerdict(AGAIN).into()
}
