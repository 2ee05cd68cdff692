//! The search of one request for its session: which workers to ask, and in which order. Left out: one worker's answer
//! (`attempt`).

mod attempt;

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Response;

use super::probe;
use super::{SEARCH_PATIENCE, SEARCH_POLL};
use crate::affinity::discoveries::search::{FRESH, ProbeVerdict, Search, Verdicts};
use crate::affinity::first_guess;
use crate::clock;
use crate::config::rules::Protocol;
use crate::keys::Key;
use crate::locks::lock;
use crate::metrics::Discovery;
use crate::proxy::Job;
use crate::proxy::access_log::Record;
use crate::proxy::forward::HeldAnswer;
use crate::proxy::replay::Copies;
use crate::proxy::respond::{self, Problem};
use crate::proxy::response_body::Reply;
use crate::sockets::EndReason;
use crate::telemetry::say_full;
use crate::upstream::worker::Worker;
use attempt::AttemptStep;

/// Maximum pause between two probes of the same silent workers.
const RARE_LOOK: Duration = Duration::from_millis(500);

/// One request that searches for its session.
pub(crate) struct OwnerSearch<'a> {
    job: &'a Job,
    key: Key,
    search: &'a Search,
    copies: Copies,
    /// The most recent refusal, which is forwarded if no worker accepts the request.
    last: Option<HeldAnswer>,
    /// Whether a worker refused without an answer that can be forwarded: with a 101 and then the end of the connection.
    hung_up: bool,
    /// Whether the worker asked next claimed the session when it was probed.
    claimed: bool,
    eliminated: bool,
    /// Whether there is a sign that the request belongs to a session at all: a worker's claim or refusal, or only one
    /// worker to ask.
    known: bool,
    /// Whether a worker accepted the request while it was `known`. Only then the budget token is returned; otherwise a
    /// made-up sid on any page that answers would be sent to all workers at no cost.
    pub(crate) proven: bool,
}

/// Result of a search whose request body could not be held. Except for lack of room, the cause is mostly the client.
fn unheld(problem: Problem) -> (Discovery, Response<Reply>) {
    let result = if matches!(problem, Problem::Full(_)) { Discovery::NoRoom } else { Discovery::Failed };
    (result, respond::problem(problem))
}

impl<'a> OwnerSearch<'a> {
    pub(crate) fn new(job: &'a Job, key: Key, search: &'a Search, copies: Copies) -> Self {
        Self {
            job,
            key,
            search,
            copies,
            last: None,
            hung_up: false,
            claimed: false,
            eliminated: false,
            known: false,
            proven: false,
        }
    }

    pub(crate) async fn run(&mut self, record: &mut Record) -> (Discovery, Response<Reply>) {
        let deadline = Instant::now() + SEARCH_PATIENCE;
        let candidates = self.candidates();
        self.known = candidates.len() == 1;
        if let Some(guess) = self.open_guess() {
            self.known = true;
            if let Err(problem) = self.copies.hold(self.job).await {
                return unheld(problem);
            }
            if let AttemptStep::Done(result, response) = self.attempt(&guess, record).await {
                return (result, response);
            }
        }
        let verdicts = self.verdicts(&candidates).await;
        self.heed(&verdicts);
        let left = verdicts.into_iter().filter(|(worker, verdict)| self.is_worth_asking(worker, *verdict));
        let (asked, silent): (Vec<_>, Vec<_>) = left.partition(|(_, verdict)| *verdict != ProbeVerdict::Silent);
        // A body is held only if a second worker may have to get it, so that made-up sids do not fill the room that all
        // requests share.
        if asked.len() + silent.len() > 1
            && let Err(problem) = self.copies.hold(self.job).await
        {
            return unheld(problem);
        }
        let mut silent = silent.into_iter().map(|(worker, _)| worker).collect();
        if let Some(done) = self.walk(asked, &mut silent, record).await {
            return done;
        }
        if let Some(done) = self.wait_for(silent, deadline, record).await {
            return done;
        }
        self.nobody(record).await
    }

    /// Workers that serve their own sessions, the most likely owner first.
    fn candidates(&self) -> Vec<Arc<Worker>> {
        let job = self.job;
        let guess = first_guess(&job.upstream, &job.ask, job.client);
        let members = job.upstream.members.iter().map(|member| &member.worker);
        let mut workers: Vec<_> = guess.iter().chain(members).filter(|worker| worker.serves()).cloned().collect();
        let mut seen = Vec::with_capacity(workers.len());
        workers.retain(|worker| {
            let new = !seen.contains(&worker.serial);
            seen.push(worker.serial);
            new
        });
        workers
    }

    /// Worker that gets the real request before any worker is probed: the one at which this sid's GET is waiting.
    fn open_guess(&self) -> Option<Arc<Worker>> {
        if self.job.ask.is_poll() {
            return None;
        }
        lock(&self.search.silent).clone().filter(|worker| worker.serves())
    }

    /// Returns the workers' answers to the probe, which is sent once for all requests of the sid that arrive together.
    async fn verdicts(&self, candidates: &[Arc<Worker>]) -> Verdicts {
        if let [only] = candidates {
            return vec![(only.clone(), ProbeVerdict::Alive)];
        }
        // Later requests wait for the answers to the first one's probe, at most a second; if that request is cancelled,
        // the next one probes.
        let mut known = self.search.verdicts.lock().await;
        if let Some((when, verdicts)) = &*known
            && when.elapsed() < FRESH
        {
            return verdicts.clone();
        }
        let verdicts = probe::ask_all(self.job, &self.copies.head, candidates).await;
        // Verdicts without a probe are not stored, because another request of the session may have a probe: Phoenix'
        // poll next to its POST.
        if probe::asks(self.job, &self.copies.head) {
            *known = Some((Instant::now(), verdicts.clone()));
        }
        verdicts
    }

    /// Records what the probes showed.
    fn heed(&mut self, verdicts: &[(Arc<Worker>, ProbeVerdict)]) {
        for (worker, verdict) in verdicts {
            if *verdict == ProbeVerdict::Refuses {
                self.remember_refusal(worker);
            }
            self.known |= matches!(verdict, ProbeVerdict::Owns | ProbeVerdict::Refuses);
        }
    }

    /// Whether to send the request to a worker: not if it explicitly refused this sid, unless it now claims the
    /// session.
    fn is_worth_asking(&self, worker: &Worker, verdict: ProbeVerdict) -> bool {
        verdict == ProbeVerdict::Owns || !self.has_refused(worker)
    }

    /// Sends the real request to one worker after the other: the one that claims the session first, then those whose
    /// probes do not tell. Workers that cannot be reached at the moment have not decided anything, and are added to
    /// `silent`.
    async fn walk(
        &mut self,
        mut asked: Vec<(Arc<Worker>, ProbeVerdict)>,
        silent: &mut Vec<Arc<Worker>>,
        record: &mut Record,
    ) -> Option<(Discovery, Response<Reply>)> {
        asked.sort_by_key(|(_, verdict)| *verdict != ProbeVerdict::Owns);
        for (worker, verdict) in asked {
            if !self.is_worth_asking(&worker, verdict) {
                continue;
            }
            self.claimed = verdict == ProbeVerdict::Owns;
            match self.attempt(&worker, record).await {
                AttemptStep::Done(result, response) => return Some((result, response)),
                AttemptStep::Unreached => silent.push(worker),
                AttemptStep::Refused | AttemptStep::Closed => {}
            }
        }
        None
    }

    /// Handles silent workers: a single one is the owner by elimination; several are probed again until all but one
    /// have answered.
    async fn wait_for(
        &mut self,
        mut silent: Vec<Arc<Worker>>,
        deadline: Instant,
        record: &mut Record,
    ) -> Option<(Discovery, Response<Reply>)> {
        let mut pause = SEARCH_POLL;
        loop {
            silent.retain(|worker| worker.serves() && !self.has_refused(worker));
            if silent.len() < 2 {
                break;
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return Some((Discovery::Undecided, respond::problem(Problem::Undecided)));
            };
            let asked = probe::ask_all(self.job, &self.copies.head, &silent);
            let Ok(verdicts) = tokio::time::timeout(left, asked).await else { continue };
            let spoke: Verdicts =
                verdicts.into_iter().filter(|(_, verdict)| *verdict != ProbeVerdict::Silent).collect();
            if spoke.is_empty() {
                // Workers that cannot be reached are silent at once, and each probe costs them a connect.
                tokio::time::sleep(pause.min(left)).await;
                pause = (pause * 2).min(RARE_LOOK);
            }
            self.heed(&spoke);
            silent.retain(|worker| !spoke.iter().any(|(known, _)| Arc::ptr_eq(known, worker)));
            if let Some(done) = self.walk(spoke, &mut silent, record).await {
                return Some(done);
            }
        }
        match silent.pop() {
            Some(owner) => self.eliminate(&owner, record).await,
            None => None,
        }
    }

    /// Takes the only worker that has not refused for the owner.
    async fn eliminate(&mut self, owner: &Arc<Worker>, record: &mut Record) -> Option<(Discovery, Response<Reply>)> {
        // Pinned before it answers: the worker may stay silent for long, and the session's other requests belong there,
        // too.
        self.eliminated = true;
        let pinned_here = self.pin(owner);
        match self.attempt(owner, record).await {
            AttemptStep::Done(result, response) => Some((result, response)),
            // The pin stays, because no other worker can be the owner.
            AttemptStep::Unreached => Some((Discovery::Undecided, respond::problem(Problem::Undecided))),
            AttemptStep::Refused | AttemptStep::Closed => {
                if pinned_here {
                    self.job.conn.thread.shared.sessions.forget(self.key, EndReason::Refused);
                }
                None
            }
        }
    }

    /// Ends a search in which every worker refused: the last refusal is forwarded to the client, and the miss is
    /// remembered for a second.
    async fn nobody(&mut self, record: &mut Record) -> (Discovery, Response<Reply>) {
        if self.last.is_none() && !self.hung_up {
            // The workers refused only the probe. The client gets the answer of the most likely worker to its own
            // request; if that is acceptance all the same, it proves nothing.
            self.known = false;
            if let Some(worker) = self.candidates().into_iter().find(|worker| self.has_refused(worker))
                && let AttemptStep::Done(result, response) = self.attempt(&worker, record).await
            {
                return (result, response);
            }
        }
        if self.job.upstream.config.lacks_addresses() {
            // The owner may be a worker whose name does not resolve yet, so the request must not be refused.
            return (Discovery::Undecided, respond::problem(Problem::Undecided));
        }
        let shared = &self.job.conn.thread.shared;
        // No miss is remembered if the browser's next session will have the same cookie.
        let lasts = self.job.ask.rule(&self.job.upstream).is_some_and(|live| live.rule.protocol == Protocol::CometD);
        if !lasts && !lock(&shared.discoveries.misses).remember(self.key, clock::now_ms()) {
            say_full!(upstream = %self.job.upstream.config.name,
                "too many unknown sessions to remember: their next requests start new searches");
        }
        let series = self.job.upstream.series();
        let Some(answer) = self.last.take() else {
            series.refusals_own.inc();
            return (Discovery::Unknown, respond::refused(self.job));
        };
        series.refusals_forwarded.inc();
        record.passes_on();
        (Discovery::Unknown, answer.release(None))
    }
}
