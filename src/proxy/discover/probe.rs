//! Probes, which ask workers who owns a session, without touching the session. Engine.IO
//! (docs/reference/protocols.md §1.5): a `PUT` of the session's URL is refused with code 1 by workers that do not know
//! the session, and is answered differently by the owner. SockJS: an `xhr_send` without messages gets a 204 from the
//! owner and a 404 from other workers. tus: a `HEAD` of the upload returns its offset, or 404. Phoenix: a heartbeat is
//! accepted by the owner (no client waits for its answer) and refused by other workers; a POST of the client itself is
//! refused by them as well, so it needs no probe. For other protocols no probe is known.
//!
//! The answer to a probe is a guess, and a sign of life. A worker is probed with a real sid of Engine.IO only after it
//! answered code 1 to a random one at this path (python-engineio answers 405 to everything), and only where sessions
//! live ([`path`]). A probe carries the session's name, Host and the forwarding fields, and nothing else of the client.
//! It takes a place among the worker's connections like any request, but does not wait for one. Probes count in no
//! error metric.

pub(crate) mod path;
mod question;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::{Method, Request, StatusCode};
use tokio::sync::mpsc;

use crate::affinity::discoveries::search::{ProbeVerdict, Verdicts};
use crate::body::Outgoing;
use crate::engine_io;
use crate::keys::Key;
use crate::proxy::Job;
use crate::proxy::response_body::WorkerBody;
use crate::thread::Thread;
use crate::upstream::Upstream;
use crate::upstream::connections::connect::{self, ExchangeTerms, Failure};
use crate::upstream::connections::limit;
use crate::upstream::exchange::ResponseAndLease;
use crate::upstream::session_paths::Oracle;
use crate::upstream::worker::Worker;
use question::{Probe, ProbeQuestion, random_like};

/// Time limit for the probes of a worker; one that takes longer is asked last. Node answers in a millisecond, so this
/// allows for a busy worker.
const PROBE_PATIENCE: Duration = Duration::from_millis(1_000);

/// Time limit for the probe of the most likely worker, which all others wait for.
const GUESS_PATIENCE: Duration = Duration::from_millis(250);

/// Number of workers that are probed at once.
const AT_ONCE: usize = 8;

/// Terms of a probe: silence is not held against the worker, and the caller may send the probe twice. All probes are of
/// one client, because any client can cause as many as it likes.
const TERMS: ExchangeTerms =
    ExchangeTerms { client: [0; 16], patience: PROBE_PATIENCE, is_poll: true, keep: false, takes_interim: false };

/// Maximum idle time of a connection for a probe; an older one is too likely to be closed while the probe is sent.
const FRESH: Duration = Duration::from_secs(2);

/// Time that other workers have to answer after one has claimed the session: two claims count as none, and a worker
/// that refuses in this time is not asked again.
const SECOND_CLAIM: Duration = Duration::from_millis(20);

/// What the probes of one search share.
struct Asker {
    thread: Rc<Thread>,
    upstream: Arc<Upstream>,
    probe: Probe,
}

/// Whether there is a probe for this request's session, at whatever path.
pub(crate) fn exists(job: &Job, request: &Request<Outgoing>) -> bool {
    Probe::of(job, request).is_some()
}

/// Whether workers may be probed for this request's session.
pub(crate) fn may_ask(job: &Job, request: &Request<Outgoing>) -> bool {
    Asker::of(job, request).is_some()
}

/// Probes one worker, for a short time.
pub(crate) async fn ask_one(job: &Job, request: &Request<Outgoing>, worker: &Arc<Worker>) -> ProbeVerdict {
    let Some(asker) = Asker::of(job, request) else { return ProbeVerdict::Alive };
    tokio::time::timeout(GUESS_PATIENCE, asker.ask(worker)).await.unwrap_or(ProbeVerdict::Silent)
}

/// Probes `workers`, some at a time. Ends when all have answered, shortly after one claims the session, or after a
/// second of silence. The verdicts have the order of `workers`.
pub(crate) async fn ask_all(job: &Job, request: &Request<Outgoing>, workers: &[Arc<Worker>]) -> Verdicts {
    let Some(asker) = Asker::of(job, request).map(Rc::new) else {
        return workers.iter().map(|worker| (worker.clone(), ProbeVerdict::Alive)).collect();
    };
    let (sender, mut answers) = mpsc::channel(AT_ONCE);
    let mut verdicts: Verdicts = workers.iter().map(|worker| (worker.clone(), ProbeVerdict::Silent)).collect();
    let mut waiting = workers.iter().cloned().enumerate();
    let begin = |waiting: &mut dyn Iterator<Item = (usize, Arc<Worker>)>| {
        let Some((place, worker)) = waiting.next() else { return false };
        let (asker, sender) = (asker.clone(), sender.clone());
        job.conn.thread.tasks.spawn_local(async move {
            let verdict = tokio::time::timeout(PROBE_PATIENCE, asker.ask(&worker)).await;
            // If the request was cancelled, there is no receiver, and the verdict is not needed.
            let _ = sender.send((place, verdict.unwrap_or(ProbeVerdict::Silent))).await;
        });
        true
    };
    let mut open = 0;
    while open < AT_ONCE && begin(&mut waiting) {
        open += 1;
    }
    let mut until = None;
    while open > 0 {
        let next = match until {
            None => answers.recv().await,
            Some(until) => tokio::time::timeout_at(until, answers.recv()).await.ok().flatten(),
        };
        let Some((place, verdict)) = next else { break };
        open -= 1;
        if let Some((_, known)) = verdicts.get_mut(place) {
            *known = verdict;
        }
        if verdict == ProbeVerdict::Owns {
            until.get_or_insert_with(|| tokio::time::Instant::now() + SECOND_CLAIM);
        }
        // After a claim, the workers that were not probed yet stay silent: they are asked if the claim is wrong.
        if until.is_none() && begin(&mut waiting) {
            open += 1;
        }
    }
    if verdicts.iter().filter(|(_, verdict)| *verdict == ProbeVerdict::Owns).count() > 1 {
        // Two claims count as none.
        let claims = verdicts.iter_mut().filter(|(_, verdict)| *verdict == ProbeVerdict::Owns);
        claims.for_each(|(_, verdict)| *verdict = ProbeVerdict::Alive);
    }
    verdicts
}

impl Asker {
    /// What is needed to probe for this request's session; `None` if there is no probe, or its path is not one at which
    /// sessions live.
    fn of(job: &Job, request: &Request<Outgoing>) -> Option<Self> {
        let probe = Probe::of(job, request)?;
        let is_place = match probe.question {
            ProbeQuestion::EngineIo { .. } => path::is_session_path(job, request.uri()),
            ProbeQuestion::SockJs(_) | ProbeQuestion::Tus(_) | ProbeQuestion::Phoenix(..) => true,
        };
        is_place.then(|| Self { thread: job.conn.thread.clone(), upstream: job.upstream.clone(), probe })
    }

    async fn ask(&self, worker: &Arc<Worker>) -> ProbeVerdict {
        let ProbeQuestion::EngineIo { place, sid, .. } = &self.probe.question else {
            return self.send(worker, None, "").await.0;
        };
        match self.try_out(worker, *place, sid).await {
            Some(verdict) => verdict,
            None => self.send(worker, None, sid).await.0,
        }
    }

    /// Finds out with random sids whether a worker can be asked about a real one at this path. Returns what the answers
    /// showed if it cannot.
    async fn try_out(&self, worker: &Arc<Worker>, place: Key, sid: &str) -> Option<ProbeVerdict> {
        let oracle = worker.oracles.at(place);
        if oracle == Oracle::Usable {
            return None;
        }
        // "The purpose of a method is safe": a HEAD asks for nothing to be done (RFC 9110 §9.2.1).
        let (verdict, status) = self.send(worker, Some(Method::HEAD), &random_like(sid)).await;
        if oracle == Oracle::Useless || status != Some(StatusCode::BAD_REQUEST) {
            return Some(verdict);
        }
        match self.send(worker, None, &random_like(sid)).await.0 {
            ProbeVerdict::Refuses => {
                worker.oracles.set(place, Oracle::Usable);
                self.upstream.carried.paths.learn_refusal(place);
                None
            }
            verdict @ (ProbeVerdict::Silent | ProbeVerdict::Full) => Some(verdict),
            ProbeVerdict::Owns | ProbeVerdict::Alive => {
                worker.oracles.set(place, Oracle::Useless);
                Some(ProbeVerdict::Alive)
            }
        }
    }

    /// Sends one question. The answer to a `HEAD` of Engine.IO shows no more than its status.
    async fn send(
        &self,
        worker: &Arc<Worker>,
        method: Option<Method>,
        sid: &str,
    ) -> (ProbeVerdict, Option<StatusCode>) {
        let is_head = method.is_some();
        let mut max_idle = FRESH;
        let (response, lease) = loop {
            let Some(request) = self.probe.request(method.clone(), sid) else { return (ProbeVerdict::Alive, None) };
            match self.exchange(worker, request, max_idle).await {
                Ok(answered) => break answered,
                Err(Unasked::Full) => return (ProbeVerdict::Full, None),
                // The idle connection was just being closed, which means nothing for the worker, and a probe may be
                // sent twice.
                Err(Unasked::Failed(Failure::Unsent | Failure::Broken { .. })) if !max_idle.is_zero() => {
                    max_idle = Duration::ZERO;
                }
                Err(Unasked::Failed(_) | Unasked::NoConnection) => return (ProbeVerdict::Silent, None),
            }
        };
        let (parts, unread) = response.into_parts();
        let answer = WorkerBody::new(unread, lease, self.thread.clone());
        let body = Limited::new(answer, engine_io::MAX_REFUSAL).collect().await.map(|body| body.to_bytes()).ok();
        let verdict = match is_head {
            true => ProbeVerdict::Alive,
            false => self.probe.judge(&parts, &body.unwrap_or_default()),
        };
        (verdict, Some(parts.status))
    }

    async fn exchange(
        &self,
        worker: &Arc<Worker>,
        request: Request<Outgoing>,
        max_idle: Duration,
    ) -> Result<ResponseAndLease, Unasked> {
        let slot = limit::try_enter(worker).ok_or(Unasked::Full)?;
        self.upstream.series().probes.inc();
        let leased = connect::lease(&self.thread.connections, worker, max_idle, PROBE_PATIENCE).await;
        let mut lease = leased.map_err(|_| Unasked::NoConnection)?;
        lease.occupy(slot, None);
        lease.exchange(request, TERMS).await.map_err(Unasked::Failed)
    }
}

/// Why a question got no answer.
enum Unasked {
    /// All connections of the worker are in use.
    Full,
    NoConnection,
    Failed(Failure),
}
