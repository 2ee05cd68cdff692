//! The worker that a search asks first: the most likely owner, if nothing speaks against it.

use std::sync::Arc;

use super::OwnerSearch;
use crate::affinity::discoveries::search::ProbeVerdict;
use crate::affinity::first_guess;
use crate::clock;
use crate::locks::lock;
use crate::proxy::discover::probe;
use crate::upstream::worker::Worker;

/// Time in milliseconds within which a worker must have answered some request to be asked at once. One that hangs since
/// then keeps the request, as it keeps those of its pinned sessions.
const LIVELY_MS: u64 = 250;

impl OwnerSearch<'_> {
    /// Workers that serve their own sessions, the most likely owner first.
    pub(super) fn candidates(&self) -> Vec<Arc<Worker>> {
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

    /// Worker at which this sid's GET is waiting; a POST or upgrade goes there first.
    pub(super) fn open_guess(&self) -> Option<Arc<Worker>> {
        if self.job.ask.is_poll() {
            return None;
        }
        lock(&self.search.silent).last().cloned().filter(|worker| worker.serves())
    }

    /// Worker that gets the real request before all workers are probed: the most likely owner, if it has just shown a
    /// sign of life. A hung worker must not get it, because a request that was sent is not sent again, and its owner
    /// may be another worker. Where nothing can be asked, the first worker with a sign of life is as good as any other.
    pub(super) async fn guess(&mut self, candidates: &[Arc<Worker>]) -> Option<Arc<Worker>> {
        let guess = candidates.first()?.clone();
        if candidates.len() == 1 {
            return Some(guess);
        }
        if self.has_refused(&guess) {
            return None;
        }
        // At a full worker the request would wait, and its owner may be another one.
        if is_lively(&guess) && guess.gate.is_open() {
            return Some(guess);
        }
        if !probe::may_ask(self.job, &self.copies.head) {
            let lively = candidates.iter().find(|worker| is_lively(worker) && !self.has_refused(worker));
            return Some(lively.cloned().unwrap_or(guess));
        }
        let verdict = probe::ask_one(self.job, &self.copies.head, &guess).await;
        self.heed(&[(guess.clone(), verdict)]);
        self.claimed = verdict == ProbeVerdict::Owns;
        matches!(verdict, ProbeVerdict::Owns | ProbeVerdict::Alive).then_some(guess)
    }
}

/// Whether a worker has just shown a sign of life.
pub(super) fn is_lively(worker: &Worker) -> bool {
    worker.has_answered_within(LIVELY_MS, clock::now_ms())
}
