//! Probes, which ask all workers at once who owns a session, without touching the session. Engine.IO
//! (docs/reference/protocols.md §1.5): a `PUT` of the session's URL is refused with code 1 by workers that do not know
//! the session, and is answered differently by the owner. SockJS: an `xhr_send` without messages gets a 204 from the
//! owner and a 404 from other workers. tus: a `HEAD` of the upload returns its offset, or 404. Phoenix: a heartbeat is
//! accepted by the owner (no client waits for its answer) and refused by other workers; a POST of the client itself is
//! refused by them as well, so it needs no probe. For other protocols no probe is known.
//!
//! The answer to a probe is a guess, and a sign of life. A worker is probed with a real sid of Engine.IO only after it
//! once answered code 1 to a random one; until then every search sends the random one first (python-engineio answers
//! 405 to everything). A probe carries the session's name and Host, and nothing else of the client. Probes count in no
//! error metric.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::response::Parts;
use hyper::{Method, Request, Response, StatusCode, Uri};
use tokio::sync::mpsc;

use crate::affinity::discoveries::search::ProbeVerdict;
use crate::body::Outgoing;
use crate::config::rules::Protocol;
use crate::engine_io;
use crate::proxy::Job;
use crate::proxy::response_body::WorkerBody;
use crate::thread::Thread;
use crate::upstream::connections::connect::{self, ExchangeTerms, Failure, Lease};
use crate::upstream::exchange::response_body::Unread;
use crate::upstream::worker::{Oracle, Worker};

/// Time limit for a probe; a worker that takes longer is asked last. Node answers in a millisecond, so this allows for
/// a busy worker.
const PROBE_PATIENCE: Duration = Duration::from_millis(1_000);

/// Terms of a probe: silence is not held against the worker, and the caller may send the probe twice.
const TERMS: ExchangeTerms = ExchangeTerms { patience: PROBE_PATIENCE, is_poll: true, keep: false };

/// Maximum idle time of a connection for a probe; an older one is too likely to be closed while the probe is sent.
const FRESH: Duration = Duration::from_secs(2);

/// Time that other workers have to answer after one has claimed the session: two claims count as none, and a worker
/// that refuses in this time is not asked again.
const SECOND_CLAIM: Duration = Duration::from_millis(20);

/// A probe, the same for every worker.
struct Probe {
    question: ProbeQuestion,
    host: Option<HeaderValue>,
}

enum ProbeQuestion {
    EngineIo {
        path: String,
        /// Value of `EIO` as the client spelled it, not decoded.
        eio: String,
        sid: String,
    },
    /// Path of the session's `xhr_send`.
    SockJs(String),
    /// Path of the tus upload.
    Tus(String),
    /// Target of the long poll, and a heartbeat in the format of its serializer.
    Phoenix(String, &'static str),
}

/// Whether there is a probe for this request's session.
pub(crate) fn asks(job: &Job, request: &Request<Outgoing>) -> bool {
    Probe::of(job, request).is_some()
}

/// Probes `workers` in parallel. Ends when all have answered, shortly after one claims the session, or after a second.
pub(crate) async fn ask_all(
    job: &Job,
    request: &Request<Outgoing>,
    workers: &[Arc<Worker>],
) -> Vec<(Arc<Worker>, ProbeVerdict)> {
    let (sender, mut verdicts) = mpsc::channel(workers.len().max(1));
    let Some(probe) = Probe::of(job, request).map(Rc::new) else {
        return workers.iter().map(|worker| (worker.clone(), ProbeVerdict::Alive)).collect();
    };
    for worker in workers {
        let (thread, probe, worker, sender) = (job.conn.thread.clone(), probe.clone(), worker.clone(), sender.clone());
        job.upstream.series().probes.inc();
        job.conn.thread.tasks.spawn_local(async move {
            let verdict = tokio::time::timeout(PROBE_PATIENCE, ask(&thread, &worker, &probe)).await;
            // If the request was cancelled, there is no receiver, and the verdict is not needed.
            let _ = sender.send((worker, verdict.unwrap_or(ProbeVerdict::Silent))).await;
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
        if verdict == ProbeVerdict::Owns {
            until.get_or_insert_with(|| tokio::time::Instant::now() + SECOND_CLAIM);
        }
    }
    let owners = heard.iter().filter(|(_, verdict)| *verdict == ProbeVerdict::Owns).count();
    for (_, verdict) in &mut heard {
        // Two claims count as none.
        if owners > 1 && *verdict == ProbeVerdict::Owns {
            *verdict = ProbeVerdict::Alive;
        }
    }
    for worker in workers {
        if !heard.iter().any(|(known, _)| Arc::ptr_eq(known, worker)) {
            heard.push((worker.clone(), ProbeVerdict::Silent));
        }
    }
    heard
}

async fn ask(thread: &Rc<Thread>, worker: &Arc<Worker>, probe: &Probe) -> ProbeVerdict {
    let ProbeQuestion::EngineIo { sid, .. } = &probe.question else {
        return send(thread, worker, probe, "").await.unwrap_or(ProbeVerdict::Silent);
    };
    if worker.oracle() == Oracle::Untried {
        match send(thread, worker, probe, &random_like(sid)).await {
            Some(ProbeVerdict::Refuses) => worker.set_oracle(Oracle::Usable),
            // Only a sign of life. Nothing is remembered, because any client may request a path that is not
            // Engine.IO's.
            Some(_) => return ProbeVerdict::Alive,
            None => return ProbeVerdict::Silent,
        }
    }
    send(thread, worker, probe, sid).await.unwrap_or(ProbeVerdict::Silent)
}

/// Sends one probe; `None` if there is no answer. `sid` is used by Engine.IO's probe only.
async fn send(thread: &Rc<Thread>, worker: &Arc<Worker>, probe: &Probe, sid: &str) -> Option<ProbeVerdict> {
    let (response, lease) = match exchange(thread, worker, probe.request(sid)?, FRESH).await {
        Ok(answered) => answered,
        Err(Failure::TimedOut { .. }) => return None,
        // The idle connection was just being closed, which means nothing for the worker, and a probe may be sent twice.
        Err(Failure::Unsent(_) | Failure::Broken { .. }) => {
            exchange(thread, worker, probe.request(sid)?, Duration::ZERO).await.ok()?
        }
    };
    let (parts, unread) = response.into_parts();
    let answer = WorkerBody::new(unread, lease, thread.clone());
    let body = Limited::new(answer, engine_io::MAX_REFUSAL).collect().await.map(|body| body.to_bytes()).ok();
    let body = body.unwrap_or_default();
    Some(probe.judge(&parts, &body))
}

async fn exchange(
    thread: &Rc<Thread>,
    worker: &Arc<Worker>,
    request: Request<Outgoing>,
    max_idle: Duration,
) -> Result<(Response<Unread>, Box<Lease>), Failure> {
    match connect::lease(&thread.connections, worker, max_idle, PROBE_PATIENCE).await {
        Ok(lease) => lease.exchange(request, TERMS).await,
        Err(_) => Err(Failure::TimedOut { uploading: false }),
    }
}

/// Whether the answer is code 3: the worker owns the session, but the session is upgraded already
/// (docs/reference/protocols.md §1.5).
fn is_code_3(status: StatusCode, body: &[u8]) -> bool {
    status == StatusCode::BAD_REQUEST && body.starts_with(br#"{"code":3,"#)
}

/// Heartbeat for one of Phoenix' own two serializers, by the version `vsn`; `None` for any other serializer.
fn heartbeat(query: &str) -> Option<&'static str> {
    match engine_io::parameter(query, "vsn")?.first()? {
        b'2' => Some(r#"[null,"stickyd","phoenix","heartbeat",{}]"#),
        b'1' => Some(r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"stickyd"}"#),
        _ => None,
    }
}

/// Makes a sid of the same shape that no worker knows. The shape matters because socketioxide answers code 1 to any sid
/// it cannot parse, which means nothing for sids that it can parse.
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
    fn of(job: &Job, request: &Request<Outgoing>) -> Option<Self> {
        let path = request.uri().path();
        let protocol = job.ask.rule(&job.upstream).map_or(Protocol::SocketIo, |live| live.rule.protocol);
        let question = match protocol {
            Protocol::SocketIo => {
                let (eio, sid) = engine_io::raw_eio_and_sid(request.uri().query()?)?;
                ProbeQuestion::EngineIo { path: path.to_owned(), eio: eio.to_owned(), sid: sid.to_owned() }
            }
            Protocol::SockJs => ProbeQuestion::SockJs(format!("{}/xhr_send", path.rsplit_once('/')?.0)),
            Protocol::Tus => ProbeQuestion::Tus(path.to_owned()),
            Protocol::Phoenix => {
                let query = request.uri().query().filter(|_| request.method() == Method::GET)?;
                ProbeQuestion::Phoenix(format!("{path}?{query}"), heartbeat(query)?)
            }
            Protocol::SignalR | Protocol::Mcp | Protocol::CometD | Protocol::Custom => return None,
        };
        Some(Self { question, host: request.headers().get(header::HOST).cloned() })
    }

    fn request(&self, sid: &str) -> Option<Request<Outgoing>> {
        let (method, uri, body, named) = match &self.question {
            ProbeQuestion::EngineIo { path, eio, .. } => {
                (Method::PUT, format!("{path}?EIO={eio}&transport=polling&sid={sid}"), "", None)
            }
            ProbeQuestion::SockJs(path) => {
                let plain = (header::CONTENT_TYPE, HeaderValue::from_static("text/plain;charset=UTF-8"));
                (Method::POST, path.clone(), "[]", Some(plain))
            }
            ProbeQuestion::Phoenix(target, heartbeat) => {
                let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                (Method::POST, target.clone(), *heartbeat, Some(json))
            }
            ProbeQuestion::Tus(path) => {
                let version = (HeaderName::from_static("tus-resumable"), HeaderValue::from_static("1.0.0"));
                (Method::HEAD, path.clone(), "", Some(version))
            }
        };
        let mut request = Request::new(Outgoing::held(Bytes::from_static(body.as_bytes())));
        let head = method == Method::HEAD;
        *request.method_mut() = method;
        *request.uri_mut() = uri.parse::<Uri>().ok()?;
        let headers = request.headers_mut();
        if !head {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        headers.insert(header::HOST, self.host.clone().unwrap_or_else(|| HeaderValue::from_static("localhost")));
        headers.extend(named);
        Some(request)
    }

    /// Interprets an answer; an unexpected one only shows that the worker is alive.
    fn judge(&self, parts: &Parts, body: &[u8]) -> ProbeVerdict {
        let status = parts.status;
        let (owns, refuses) = match &self.question {
            ProbeQuestion::EngineIo { .. } => (
                status == StatusCode::INTERNAL_SERVER_ERROR || is_code_3(status, body),
                engine_io::is_refusal(status.as_u16(), body),
            ),
            ProbeQuestion::SockJs(_) => (status == StatusCode::NO_CONTENT, status == StatusCode::NOT_FOUND),
            ProbeQuestion::Phoenix(..) => {
                let says = |text: &[u8]| status == StatusCode::OK && body.windows(text.len()).any(|part| part == text);
                (says(br#""status":200"#), says(br#""status":410"#))
            }
            ProbeQuestion::Tus(_) => (
                status.is_success() && parts.headers.contains_key("upload-offset"),
                matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE),
            ),
        };
        match (refuses, owns) {
            (true, _) => ProbeVerdict::Refuses,
            (false, true) => ProbeVerdict::Owns,
            (false, false) => ProbeVerdict::Alive,
        }
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
        assert!(random_like("room%2F%CE%B1").contains("%2F%CE%B1"), "escaped characters are kept");
    }
}
