//! One worker's answer to a request that searches for its session: accepted, refused, or neither. Left out: which
//! worker is asked (the parent module).

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Body as _;
use hyper::{Method, Response, StatusCode};

use super::super::{is_session_path, session_path};
use super::OwnerSearch;
use crate::affinity::ask::RequestKind;
use crate::affinity::discoveries::search::Waiting;
use crate::affinity::{Choice, Ttl};
use crate::config::rules::Protocol;
use crate::locks::lock;
use crate::metrics::{Discovery, SourceLabel};
use crate::proxy::access_log::Record;
use crate::proxy::attempt::{self, Missed};
use crate::proxy::forward::{self, HeldAnswer};
use crate::proxy::learn::{self, Ahead};
use crate::proxy::respond::{self, Problem};
use crate::proxy::response_body::{Reply, WorkerBody};
use crate::proxy::upgrade::{self, Granted};
use crate::rules::proof::{self, ProofMatch};
use crate::upstream::connections::dial::ConnectError;
use crate::upstream::worker::{Count, Worker};

/// Time within which a worker that granted the upgrade of an unknown session closes the connection.
const HANG_UP: Duration = Duration::from_millis(150);

/// Time without an answer after which a poll is taken to wait at its owner: a worker that does not know the session
/// refuses it in milliseconds (docs/reference/protocols.md §1.5).
const SILENCE: Duration = Duration::from_secs(1);

/// Result of one attempt.
#[allow(clippy::large_enum_variant, reason = "moved once per attempt, and never stored")]
pub(super) enum AttemptStep {
    /// The request is answered.
    Done(Discovery, Response<Reply>),
    /// The worker refused the session explicitly.
    Refused,
    /// The worker could not be reached; nothing was sent.
    Unreached,
    /// The worker refuses connections: whatever it knew, it cannot be asked any more.
    Closed,
}

/// What acceptance of a request says of its session.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SessionProof {
    /// Acceptance proves nothing: any page accepts a made-up id.
    None,
    /// The session is there.
    Given,
    /// Of a custom rule no answer is known that pages do not have. The session is pinned, and the search is charged, so
    /// that made-up ids become no more sessions than the budget allows.
    Unknowable,
}

impl OwnerSearch<'_> {
    /// Sends the real request to one worker; if the worker accepts it, the session is pinned there.
    pub(super) async fn attempt(&mut self, worker: &Arc<Worker>, record: &mut Record) -> AttemptStep {
        let job = self.job;
        let claimed = std::mem::take(&mut self.claimed);
        if claimed {
            // A claim is what a made-up sid never gets.
            self.tokens.give_back();
        }
        let Some(mut request) = self.copies.next() else {
            let (result, why) = match self.copies.has_no_room() {
                true => (Discovery::NoRoom, "too many request bodies are held"),
                false => (Discovery::Failed, "the request body is too large to be sent again"),
            };
            return AttemptStep::Done(result, respond::problem(Problem::Full(why)));
        };
        job.upstream.series().attempts.inc();
        record.tries();
        let waiting = job.ask.is_poll().then(|| Waiting::at(self.search, worker));
        let attempted = {
            let mut attempted = pin!(attempt::attempt(job, worker, &mut request));
            match tokio::time::timeout(SILENCE, &mut attempted).await {
                Ok(attempted) => attempted,
                Err(_) => {
                    if waiting.is_some() {
                        self.tokens.give_back();
                    }
                    attempted.await
                }
            }
        };
        drop(waiting);
        let (response, lease, in_flight) = match attempted {
            Ok(answered) => answered,
            Err(Missed::Connect(error)) => {
                self.copies.take_back(request);
                return if matches!(error, ConnectError::Refused) {
                    AttemptStep::Closed
                } else {
                    AttemptStep::Unreached
                };
            }
            Err(missed) => return AttemptStep::Done(Discovery::Failed, forward::problem_of(&missed)),
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some(granted) = upgrade::check(job, response, lease).await else {
                worker.series.broken.inc();
                return AttemptStep::Done(Discovery::Failed, respond::problem(Problem::BadGateway));
            };
            return self.switch(worker, claimed, granted, record).await;
        }
        let (parts, unread) = response.into_parts();
        let body = WorkerBody::new(unread, lease, job.conn.thread.clone());
        let mut answer = HeldAnswer { parts, held: VecDeque::new(), body };
        let is_session = matches!(job.ask.kind, RequestKind::Session { .. });
        match self.refuses(&mut answer).await {
            Err(problem) => return AttemptStep::Done(Discovery::Failed, respond::problem(problem)),
            Ok(false) => {}
            Ok(true) => {
                self.remember_refusal(worker);
                if is_session {
                    // A worker that refuses an unknown id here looks for sessions here.
                    job.upstream.carried.paths.learn_refusal(session_path(job, self.copies.head.uri()));
                }
                self.last = Some(answer);
                return AttemptStep::Refused;
            }
        }
        let proof = match self.proof(&mut answer, claimed).await {
            Ok(proof) => proof,
            Err(problem) => return AttemptStep::Done(Discovery::Failed, respond::problem(problem)),
        };
        if proof == SessionProof::Given && learn::names_sockets(job, &answer.parts) {
            let HeldAnswer { parts, held, body } = &mut answer;
            if let Err(problem) = learn::names(job, self.key, parts, &mut Ahead::again(body, held)).await {
                return AttemptStep::Done(Discovery::Failed, respond::problem(problem));
            }
        }
        AttemptStep::Done(self.result(), self.release(worker, answer, proof, in_flight, record))
    }

    /// Whether a response proves that its worker has the session (docs/reference/routing.md §1). Without a proof the
    /// response is forwarded all the same, but nothing is remembered: any page answers a made-up id.
    async fn proof(&self, answer: &mut HeldAnswer, claimed: bool) -> Result<SessionProof, Problem> {
        // Only success proves ownership: a middleware of another worker may answer 403 or 429 before it looks at the
        // sid.
        if !answer.parts.status.is_success() || self.doubted || !self.may_pin() {
            return Ok(SessionProof::None);
        }
        let (job, head) = (self.job, &self.copies.head);
        if claimed || self.is_known() || job.upstream.carried.paths.refuses(session_path(job, head.uri())) {
            return Ok(SessionProof::Given);
        }
        let protocol = self.protocol();
        // That a POST was taken is said by one word, which a page may say as well, but not where sessions live.
        if protocol == Protocol::SocketIo && head.method() == Method::POST && !is_session_path(job, head.uri()) {
            return Ok(SessionProof::None);
        }
        let HeldAnswer { parts, held, body } = answer;
        let empty = held.is_empty() && body.is_end_stream();
        let proves = match proof::head_proves(protocol, head.method(), parts.status, &parts.headers, empty) {
            ProofMatch::No => false,
            ProofMatch::Yes => true,
            ProofMatch::Read(bytes) => {
                let seen = learn::beginning(body, held, bytes).await?;
                proof::body_proves(protocol, head.method(), &seen)
            }
        };
        Ok(match (proves, protocol) {
            (true, _) => SessionProof::Given,
            (false, Protocol::Custom) => SessionProof::Unknowable,
            (false, _) => SessionProof::None,
        })
    }

    fn protocol(&self) -> Protocol {
        self.job.ask.rule(&self.job.upstream).map_or(Protocol::SocketIo, |live| live.rule.protocol)
    }

    /// Whether some worker has claimed or refused the session, so that it belongs to the protocol.
    pub(super) fn is_known(&self) -> bool {
        self.known || self.last.is_some()
    }

    /// Whether the response is a refusal by the session's rule; for a preflight, by Engine.IO's rule.
    async fn refuses(&self, answer: &mut HeldAnswer) -> Result<bool, Problem> {
        let upstream = &self.job.upstream;
        let Some(live) = self.job.ask.rule(upstream).or_else(|| upstream.socket_io()) else { return Ok(false) };
        let HeldAnswer { parts, held, body } = answer;
        let whole = body.is_end_stream();
        learn::refuses(live, parts, &mut Ahead::new(body, held, whole)).await
    }

    /// Handles a checked 101. It is acceptance, with one exception: socketioxide grants every upgrade, and closes the
    /// connection if it does not know the sid. If no probe claimed the session, a 101 counts only once the worker has
    /// sent data or kept the connection for a moment.
    async fn switch(
        &mut self,
        worker: &Arc<Worker>,
        claimed: bool,
        mut granted: Granted,
        record: &mut Record,
    ) -> AttemptStep {
        if !claimed && self.job.ask.is_engine_io(&self.job.upstream) && granted.ends_within(HANG_UP).await {
            self.remember_refusal(worker);
            self.hung_up = true;
            return AttemptStep::Refused;
        }
        // A granted upgrade of another protocol is a proof: pages do not grant any.
        let is_there = || self.protocol() != Protocol::SocketIo || is_session_path(self.job, self.copies.head.uri());
        let proof = match self.may_pin() && (claimed || self.is_known() || is_there()) {
            true => SessionProof::Given,
            false => SessionProof::None,
        };
        let choice = self.accepted(worker, proof, record);
        AttemptStep::Done(self.result(), upgrade::open(self.job, choice, granted, record))
    }

    fn release(
        &mut self,
        worker: &Arc<Worker>,
        answer: HeldAnswer,
        proof: SessionProof,
        in_flight: Count,
        record: &mut Record,
    ) -> Response<Reply> {
        let mut choice = self.accepted(worker, proof, record);
        let stream = forward::settle(self.job, &mut choice, &answer.parts, &answer.body);
        record.answered(worker, answer.parts.status, in_flight, choice.hold);
        answer.release(stream)
    }

    /// The choice of the worker that has answered. If the answer proves that the session is there, the session is
    /// pinned, and finding it has cost nothing.
    fn accepted(&mut self, worker: &Arc<Worker>, proof: SessionProof, record: &mut Record) -> Choice {
        record.decided(worker, SourceLabel::Discovered);
        let mut choice =
            Choice { worker: worker.clone(), why: SourceLabel::Discovered, seat: None, hold: None, cookie: None };
        if proof != SessionProof::None {
            if !lock(&self.search.refused).is_empty() {
                self.job.upstream.series().refusals_healed.inc();
            }
            if proof == SessionProof::Given {
                self.tokens.give_back();
            }
            self.pin(worker);
            choice.hold = self.job.conn.thread.shared.sessions.hold(self.key);
        }
        if self.alone {
            // The request went to the only worker, as any request does.
            self.tokens.give_back();
        }
        choice
    }

    fn result(&self) -> Discovery {
        if self.eliminated { Discovery::Eliminated } else { Discovery::Found }
    }

    /// Whether acceptance of this request pins the session. A preflight never does, and neither does a HEAD or OPTIONS,
    /// whose response shows no refusal unless the status alone is one.
    fn may_pin(&self) -> bool {
        let method = self.copies.head.method();
        let shows = || match self.job.ask.rule(&self.job.upstream) {
            Some(live) if live.rule.protocol != Protocol::SocketIo => {
                *method != Method::OPTIONS && (*method != Method::HEAD || live.refuses_by_status())
            }
            _ => method == Method::GET || method == Method::POST,
        };
        matches!(self.job.ask.kind, RequestKind::Session { .. }) && shows()
    }

    /// Pins the session to `worker`; returns `true` if it was not pinned before.
    pub(super) fn pin(&self, worker: &Arc<Worker>) -> bool {
        if !self.may_pin() {
            return false;
        }
        let job = self.job;
        let ttl = match job.ask.rule(&job.upstream) {
            Some(live) if live.rule.protocol != Protocol::SocketIo => Ttl::Configured(live.rule.ttl),
            _ => Ttl::Announced(job.upstream.session_ttl()),
        };
        // The list of sockets does not show ids of other protocols.
        let sid = job.ask.engine_sid(self.copies.head.uri().query());
        let new = job.session(worker, worker.session(), &sid);
        let is_new = job.conn.thread.shared.sessions.pin(self.key, job.client, new, ttl);
        job.settle(self.key);
        is_new
    }

    pub(super) fn remember_refusal(&self, worker: &Worker) {
        let mut refused = lock(&self.search.refused);
        if !refused.contains(&worker.serial) {
            refused.push(worker.serial);
        }
    }

    pub(super) fn has_refused(&self, worker: &Worker) -> bool {
        lock(&self.search.refused).contains(&worker.serial)
    }
}
