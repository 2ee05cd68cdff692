//! One worker's answer to a request that searches for its session: accepted, refused, or neither. Left out: which
//! worker is asked (the parent module).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Body as _;
use hyper::{Method, Response, StatusCode};

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
use crate::upstream::connections::dial::ConnectError;
use crate::upstream::worker::{Count, Worker};

/// Time within which a worker that granted the upgrade of an unknown session closes the connection.
const HANG_UP: Duration = Duration::from_millis(150);

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

impl OwnerSearch<'_> {
    /// Sends the real request to one worker; if the worker accepts it, the session is pinned there.
    pub(super) async fn attempt(&mut self, worker: &Arc<Worker>, record: &mut Record) -> AttemptStep {
        let job = self.job;
        let claimed = std::mem::take(&mut self.claimed);
        let Some(request) = self.copies.next() else {
            return AttemptStep::Done(
                Discovery::Failed,
                respond::problem(Problem::Full("the request body is too large to be sent again")),
            );
        };
        job.upstream.series().attempts.inc();
        record.tries();
        let waiting = job.ask.is_poll().then(|| Waiting::at(self.search, worker));
        let attempted = attempt::attempt(job, worker, request).await;
        drop(waiting);
        let (response, lease, in_flight) = match attempted {
            Ok(answered) => answered,
            Err(Missed::Connect(error, back)) => {
                self.copies.take_back(back);
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
        match self.refuses(&mut answer).await {
            Err(problem) => return AttemptStep::Done(Discovery::Failed, respond::problem(problem)),
            Ok(false) => {}
            Ok(true) => {
                self.remember_refusal(worker);
                self.last = Some(answer);
                return AttemptStep::Refused;
            }
        }
        AttemptStep::Done(self.result(), self.release(worker, answer, in_flight, record))
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
        let choice = self.accepted(worker, record);
        AttemptStep::Done(self.result(), upgrade::open(self.job, choice, granted, record))
    }

    fn release(
        &mut self,
        worker: &Arc<Worker>,
        answer: HeldAnswer,
        in_flight: Count,
        record: &mut Record,
    ) -> Response<Reply> {
        // Only success proves ownership: a middleware of another worker may answer 403 or 429 before it looks at the
        // sid.
        let mut choice = if answer.parts.status.is_success() {
            self.accepted(worker, record)
        } else {
            record.decided(worker, SourceLabel::Discovered);
            Choice { worker: worker.clone(), why: SourceLabel::Discovered, seat: None, hold: None, cookie: None }
        };
        let stream = forward::settle(self.job, &mut choice, &answer.parts, &answer.body);
        record.answered(worker, answer.parts.status, in_flight, choice.hold);
        answer.release(stream)
    }

    fn accepted(&mut self, worker: &Arc<Worker>, record: &mut Record) -> Choice {
        self.proven = self.may_pin() && (self.known || self.last.is_some());
        record.decided(worker, SourceLabel::Discovered);
        if !lock(&self.search.refused).is_empty() {
            self.job.upstream.series().refusals_healed.inc();
        }
        self.pin(worker);
        let hold = self.may_pin().then(|| self.job.conn.thread.shared.sessions.hold(self.key)).flatten();
        Choice { worker: worker.clone(), why: SourceLabel::Discovered, seat: None, hold, cookie: None }
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
        job.conn.thread.shared.sessions.pin(self.key, job.client, new, ttl)
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
