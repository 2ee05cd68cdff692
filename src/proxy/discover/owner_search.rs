//! The search of one request for its session: which workers to ask, and in which order. Left out: one worker's answer
//! (`attempt`), the first guess (`guess`), and workers that do not answer (`silence`).

mod attempt;
mod guess;
mod silence;

use std::sync::Arc;
use std::time::Instant;

use hyper::Response;

use super::tokens::DiscoveryTokens;
use super::{SEARCH_PATIENCE, fleet_hint, over_budget, probe};
use crate::affinity::discoveries::search::{FRESH, ProbeVerdict, Search, Verdicts};
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
use crate::telemetry::say_full;
use crate::upstream::worker::Worker;
use attempt::AttemptStep;
use guess::is_lively;

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
    /// Whether there is a sign that the request belongs to a session at all: a worker's claim or refusal.
    known: bool,
    /// Whether acceptance proves nothing, because the worker has refused the session when it was probed.
    doubted: bool,
    /// Whether there is only one worker, so that nothing has to be found.
    alone: bool,
    /// What the search pays. It is returned only if acceptance proved the session; otherwise made-up sids on any page
    /// that answers would cost nothing.
    tokens: DiscoveryTokens<'a>,
}

/// Result of a search whose request body could not be read, mostly because of the client.
fn unheld(problem: Problem) -> (Discovery, Response<Reply>) {
    (Discovery::Failed, respond::problem(problem))
}

impl<'a> OwnerSearch<'a> {
    pub(crate) fn new(job: &'a Job, key: Key, search: &'a Search, copies: Copies, tokens: DiscoveryTokens<'a>) -> Self {
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
            doubted: false,
            alone: false,
            tokens,
        }
    }

    /// Searches; `hint` is the worker that the fleet names, which is asked first.
    pub(crate) async fn run(mut self, hint: Option<Arc<Worker>>, record: &mut Record) -> (Discovery, Response<Reply>) {
        let deadline = Instant::now() + SEARCH_PATIENCE;
        let mut candidates = self.candidates();
        self.alone = candidates.len() == 1;
        let mut silent = Vec::new();
        if let Some(hint) = hint {
            if let Some(done) = self.try_hint(&hint, &mut silent, record).await {
                return done;
            }
            candidates.retain(|worker| !Arc::ptr_eq(worker, &hint));
        }
        let open = self.open_guess();
        let is_open = open.is_some();
        let guess = if is_open { open } else { self.guess(&candidates).await };
        // A body is held only if a second worker may have to get it, so that made-up sids do not fill the room that all
        // requests share.
        if guess.is_some()
            && !self.alone
            && let Err(problem) = self.copies.hold(self.job).await
        {
            return unheld(problem);
        }
        let mut left = candidates;
        // A body that can be sent only once is for the owner. If workers can be probed, they are asked for it first.
        let is_sure = self.alone || is_open || self.claimed || !self.copies.is_for_one();
        if let Some(guess) = guess.filter(|_| is_sure || !probe::may_ask(self.job, &self.copies.head)) {
            let is_owner = self.claimed;
            match self.attempt(&guess, record).await {
                AttemptStep::Done(result, response) => return (result, response),
                AttemptStep::Unreached => {
                    silent.push(guess.clone());
                    if is_owner {
                        // It only cannot be reached at the moment, so that no other worker gets the request.
                        left.clear();
                    }
                }
                AttemptStep::Refused | AttemptStep::Closed => {}
            }
            left.retain(|worker| !Arc::ptr_eq(worker, &guess));
        }
        left.retain(|worker| !self.has_refused(worker));
        if let Err(done) = self.ask_others(left, &mut silent, record).await {
            return done;
        }
        if let Some(done) = self.wait_for(silent, deadline, record).await {
            return done;
        }
        self.refused_by_all(record).await
    }

    /// Sends the request to the worker that the fleet names. Where that worker refuses it, the search goes on, and is
    /// paid for from here on.
    async fn try_hint(
        &mut self,
        hint: &Arc<Worker>,
        silent: &mut Vec<Arc<Worker>>,
        record: &mut Record,
    ) -> Option<(Discovery, Response<Reply>)> {
        if !self.alone
            && let Err(problem) = self.copies.hold(self.job).await
        {
            return Some(unheld(problem));
        }
        self.claimed = true;
        match self.attempt(hint, record).await {
            AttemptStep::Done(result, response) => return Some((result, response)),
            AttemptStep::Unreached => silent.push(hint.clone()),
            AttemptStep::Refused | AttemptStep::Closed => fleet_hint::was_wrong(self.job, self.key),
        }
        let paid = self.tokens.take(self.job, 1).await;
        (!paid).then(|| (Discovery::OverBudget, over_budget()))
    }

    /// Asks the workers other than the first guess: by probes, and then with the request itself.
    async fn ask_others(
        &mut self,
        workers: Vec<Arc<Worker>>,
        silent: &mut Vec<Arc<Worker>>,
        record: &mut Record,
    ) -> Result<(), (Discovery, Response<Reply>)> {
        if workers.is_empty() {
            return Ok(());
        }
        let Some(verdicts) = self.verdicts(&workers).await else { return Err((Discovery::OverBudget, over_budget())) };
        self.heed(&verdicts);
        let left = verdicts.into_iter().filter(|(worker, verdict)| self.is_worth_asking(worker, *verdict));
        let (asked, mute): (Vec<_>, Vec<_>) = left.partition(|(_, verdict)| *verdict != ProbeVerdict::Silent);
        if asked.len() + mute.len() + silent.len() > 1
            && let Err(problem) = self.copies.hold(self.job).await
        {
            return Err(unheld(problem));
        }
        silent.extend(mute.into_iter().map(|(worker, _)| worker));
        match self.walk(asked, silent, record).await {
            Some(done) => Err(done),
            None => Ok(()),
        }
    }

    /// Returns the workers' answers to the probe, which is sent once for all requests of the sid that arrive together;
    /// `None` if there is no budget for it.
    async fn verdicts(&mut self, workers: &[Arc<Worker>]) -> Option<Verdicts> {
        // Later requests wait for the answers to the first one's probe, at most a second per eight workers; if that
        // request is cancelled, the next one probes.
        let search = self.search;
        let mut known = search.verdicts.lock().await;
        if let Some((when, verdicts)) = &*known
            && when.elapsed() < FRESH
            && workers.iter().all(|worker| verdicts.iter().any(|(known, _)| Arc::ptr_eq(known, worker)))
        {
            let is_asked = |worker: &Arc<Worker>| workers.iter().any(|one| Arc::ptr_eq(one, worker));
            return Some(verdicts.iter().filter(|(worker, _)| is_asked(worker)).cloned().collect());
        }
        if !self.tokens.take(self.job, workers.len()).await {
            return None;
        }
        if let [only] = workers
            && self.is_known()
            && is_lively(only)
        {
            // All others have refused: its own answer to the request is the last one that matters.
            return Some(vec![(only.clone(), ProbeVerdict::Alive)]);
        }
        let verdicts = probe::ask_all(self.job, &self.copies.head, workers).await;
        // Verdicts without a probe are not stored, because another request of the session may have a probe: Phoenix'
        // poll next to its POST.
        if probe::may_ask(self.job, &self.copies.head) {
            *known = Some((Instant::now(), verdicts.clone()));
        }
        Some(verdicts)
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
        // Workers of which all connections are in use come last: the request may have to wait for one.
        asked.sort_by_key(|(_, verdict)| match verdict {
            ProbeVerdict::Owns => 0,
            ProbeVerdict::Full => 2,
            ProbeVerdict::Alive | ProbeVerdict::Refuses | ProbeVerdict::Silent => 1,
        });
        for (worker, verdict) in asked {
            if !self.is_worth_asking(&worker, verdict) {
                continue;
            }
            self.claimed = verdict == ProbeVerdict::Owns;
            match self.attempt(&worker, record).await {
                AttemptStep::Done(result, response) => return Some((result, response)),
                AttemptStep::Unreached if verdict == ProbeVerdict::Owns => {
                    // The owner is known, and only cannot be reached at the moment: no other worker gets the request.
                    *silent = vec![worker];
                    return None;
                }
                AttemptStep::Unreached => silent.push(worker),
                AttemptStep::Refused | AttemptStep::Closed => {}
            }
        }
        None
    }

    /// Ends a search in which every worker refused: the last refusal is forwarded to the client, and the miss is
    /// remembered for a second.
    async fn refused_by_all(&mut self, record: &mut Record) -> (Discovery, Response<Reply>) {
        if self.last.is_none() && !self.hung_up {
            // The workers refused only the probe. The client gets the answer of the most likely worker to its own
            // request; if that is acceptance all the same, it proves nothing.
            self.doubted = true;
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
