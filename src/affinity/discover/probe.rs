//! Asking all workers at once who owns a sid, without touching the session (protocols §1.5): a `PUT` of the session's URL
//! is refused by strangers with code 1 and by the owner with anything but.
//!
//! The answer is a guess, and proof of life. A worker is asked about a real sid only after it once answered code 1 to a
//! random one; until then every search asks it the random one first (python-engineio answers 405 to everything). What is
//! sent carries path, `EIO`, `transport=polling`, `sid` and Host, nothing of the client's. Probes count in no error.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use tokio::sync::mpsc;

use crate::affinity::session;
use crate::proxy::Job;
use crate::proxy::body::{Answer, Outgoing};
use crate::thread::Thread;
use crate::upstream::connect::{self, Failure, Lease, Terms};
use crate::upstream::unread::Unread;
use crate::upstream::worker::{Oracle, Worker};

/// A worker that takes longer is asked last. Node answers a probe in a millisecond; this is for a busy one.
const PATIENCE: Duration = Duration::from_millis(1_000);

/// Its silence is nobody's fault yet, and it may be sent twice by whoever asks.
const TERMS: Terms = Terms { patience: PATIENCE, is_poll: true, keep: false };

/// Idle connections older than this are too likely to end under a probe.
const FRESH: Duration = Duration::from_secs(2);

/// After a claim the others have this much longer: two claims count as none, and who has refused is not asked again.
const SECOND_CLAIM: Duration = Duration::from_millis(20);

/// What a worker said of a sid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It knows the session.
    Owns,
    /// It refused with code 1.
    Refuses,
    /// It lives, and its probes say nothing.
    Alive,
    /// It did not answer, or could not be reached.
    Silent,
}

/// What is sent to every worker.
struct Probe {
    path: String,
    /// Raw, as the client spelled them.
    eio: String,
    sid: String,
    host: Option<HeaderValue>,
}

/// Asks `workers` in parallel; ends when all have spoken, soon after one claims the session, or after a second.
pub(super) async fn ask_all(
    job: &Job,
    request: &Request<Outgoing>,
    workers: &[Arc<Worker>],
) -> Vec<(Arc<Worker>, Verdict)> {
    let (sender, mut verdicts) = mpsc::channel(workers.len().max(1));
    let Some(probe) = Probe::of(request).map(Rc::new) else {
        return workers.iter().map(|worker| (worker.clone(), Verdict::Alive)).collect();
    };
    for worker in workers {
        let (thread, probe, worker, sender) = (job.conn.thread.clone(), probe.clone(), worker.clone(), sender.clone());
        job.upstream.series().probes.inc();
        job.conn.thread.tasks.spawn_local(async move {
            let verdict = tokio::time::timeout(PATIENCE, ask(&thread, &worker, &probe)).await;
            // The one who asked may have left; nobody else wants to know.
            let _ = sender.send((worker, verdict.unwrap_or(Verdict::Silent))).await;
        });
    }
    drop(sender);
    let mut heard = Vec::with_capacity(workers.len());
    let mut until = None;
    loop {
        let next = match until {
            None => verdicts.recv().await,
            Some(until) => tokio::time::timeout_at(until, verdicts.recv()).await.ok().flatten(),
        };
        let Some((worker, verdict)) = next else { break };
        heard.push((worker, verdict));
        if verdict == Verdict::Owns {
            until.get_or_insert_with(|| tokio::time::Instant::now() + SECOND_CLAIM);
        }
    }
    let owners = heard.iter().filter(|(_, verdict)| *verdict == Verdict::Owns).count();
    for (_, verdict) in &mut heard {
        // Two positives count as none.
        if owners > 1 && *verdict == Verdict::Owns {
            *verdict = Verdict::Alive;
        }
    }
    for worker in workers {
        if !heard.iter().any(|(known, _)| Arc::ptr_eq(known, worker)) {
            heard.push((worker.clone(), Verdict::Silent));
        }
    }
    heard
}

async fn ask(thread: &Rc<Thread>, worker: &Arc<Worker>, probe: &Probe) -> Verdict {
    if worker.oracle() == Oracle::Untried {
        match send(thread, worker, probe, &random_like(&probe.sid)).await {
            Some(Verdict::Refuses) => worker.set_oracle(Oracle::Usable),
            // Proof of life and no more. Nothing is remembered: anybody may ask on a path that is not Engine.IO's.
            Some(_) => return Verdict::Alive,
            None => return Verdict::Silent,
        }
    }
    send(thread, worker, probe, &probe.sid).await.unwrap_or(Verdict::Silent)
}

/// One `PUT`; `None`: no answer.
async fn send(thread: &Rc<Thread>, worker: &Arc<Worker>, probe: &Probe, sid: &str) -> Option<Verdict> {
    let (response, lease) = match exchange(thread, worker, probe.request(sid)?, FRESH).await {
        Ok(answered) => answered,
        Err(Failure::TimedOut { .. }) => return None,
        // It met the end of an idle connection, which says nothing of the worker; and a probe may be sent twice.
        Err(Failure::Unsent(_) | Failure::Broken { .. }) => {
            exchange(thread, worker, probe.request(sid)?, Duration::ZERO).await.ok()?
        }
    };
    let (parts, unread) = response.into_parts();
    let answer = Answer::new(unread, lease, thread.clone());
    let body = Limited::new(answer, session::MAX_REFUSAL).collect().await.map(|body| body.to_bytes()).ok();
    let body = body.unwrap_or_default();
    Some(if session::is_refusal(parts.status.as_u16(), &body) {
        Verdict::Refuses
    } else if parts.status == StatusCode::INTERNAL_SERVER_ERROR || is_code_3(parts.status, &body) {
        Verdict::Owns
    } else {
        Verdict::Alive
    })
}

async fn exchange(
    thread: &Rc<Thread>,
    worker: &Arc<Worker>,
    request: Request<Outgoing>,
    max_idle: Duration,
) -> Result<(Response<Unread>, Box<Lease>), Failure> {
    match connect::lease(thread, worker, max_idle, PATIENCE).await {
        Ok(lease) => lease.exchange(request, TERMS).await,
        Err(_) => Err(Failure::TimedOut { uploading: false }),
    }
}

/// Owned, but upgraded already (protocols §1.5).
fn is_code_3(status: StatusCode, body: &[u8]) -> bool {
    status == StatusCode::BAD_REQUEST && body.starts_with(br#"{"code":3,"#)
}

/// A sid nobody has, of the same shape: socketioxide refuses one it cannot parse with code 1, too, and says nothing of one
/// it can.
fn random_like(sid: &str) -> String {
    let mut escaped = 0_u8;
    let random = |class: &[u8]| {
        let index = crate::random::u64() % class.len().max(1) as u64;
        usize::try_from(index).ok().and_then(|index| class.get(index)).map_or('0', |&byte| char::from(byte))
    };
    let other = |letter: char| {
        if letter == '%' {
            escaped = 2;
            return letter;
        }
        if escaped > 0 {
            escaped -= 1;
            return letter;
        }
        match letter {
            '0'..='9' | 'a'..='f' => random(b"0123456789abcdef"),
            'g'..='z' => random(b"ghijklmnopqrstuvwxyz"),
            'A'..='Z' => random(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
            _ => letter,
        }
    };
    sid.chars().map(other).collect()
}

impl Probe {
    fn of(request: &Request<Outgoing>) -> Option<Self> {
        let (eio, sid) = session::raw_eio_and_sid(request.uri().query()?)?;
        Some(Self {
            path: request.uri().path().to_owned(),
            eio: eio.to_owned(),
            sid: sid.to_owned(),
            host: request.headers().get(header::HOST).cloned(),
        })
    }

    fn request(&self, sid: &str) -> Option<Request<Outgoing>> {
        let uri = format!("{}?EIO={}&transport=polling&sid={sid}", self.path, self.eio).parse::<Uri>().ok()?;
        let mut request = Request::new(Outgoing::EMPTY);
        *request.method_mut() = Method::PUT;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        headers.insert(header::HOST, self.host.clone().unwrap_or_else(|| HeaderValue::from_static("localhost")));
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_sid_keeps_the_shape() {
        for sid in ["rLiAov3TzDQLlepbAAAA", "3f2c9a40-7d1e-4b53-9c0f-2a6d8e51b7c4", "room%2F%CE%B1+b%2Bc%26d%3D17af"] {
            let other = random_like(sid);
            assert_ne!(other, sid);
            assert_eq!(other.len(), sid.len());
            let kept = sid.bytes().zip(other.bytes()).filter(|(a, _)| !a.is_ascii_alphanumeric());
            assert!(kept.clone().all(|(a, b)| a == b), "{other}");
        }
        assert!(random_like("room%2F%CE%B1").contains("%2F%CE%B1"), "what is escaped stays what it is");
    }
}
