//! What one discovery pays: a token for each worker before that worker is asked. All of them come back if the session
//! is found.

use std::time::Instant;

use super::{SEARCH_PATIENCE, SEARCH_POLL};
use crate::affinity::discoveries::budget::BudgetTake;
use crate::clock;
use crate::keys::AddressHash;
use crate::locks::lock;
use crate::proxy::Job;
use crate::rate_limit::Price;
use crate::state::Shared;
use crate::telemetry::say_full;

/// The tokens taken by one discovery.
pub(crate) struct DiscoveryTokens<'a> {
    shared: &'a Shared,
    address: AddressHash,
    count: u32,
    /// End of all waiting for tokens.
    deadline: Instant,
}

impl<'a> DiscoveryTokens<'a> {
    /// None yet, for the client of `job`.
    pub(crate) fn none(job: &'a Job) -> Self {
        let shared = &job.conn.thread.shared;
        let address = shared.sessions.keys.address(job.client.key());
        Self { shared, address, count: 0, deadline: Instant::now() + SEARCH_PATIENCE }
    }

    /// Takes a token for each of `workers` workers, if there is one now. A discovery that was begun may take its other
    /// tokens on credit: of many that begin at once, some then end.
    pub(crate) fn try_take(&mut self, job: &Job, workers: usize) -> bool {
        let count = u32::try_from(workers).unwrap_or(u32::MAX);
        let price = Price { count, on_credit: self.count > 0 };
        let BudgetTake { taken, crowded } =
            lock(&self.shared.discoveries.budget).take(self.address, price, clock::now_ms());
        if crowded {
            say_full!(upstream = %job.upstream.config.name,
                "too many addresses request unknown sessions: some that spent their budget were forgotten");
        }
        if taken {
            self.count = self.count.saturating_add(count);
        }
        taken
    }

    /// Takes a token for each of `workers` workers, and waits for that if there is none. Returns `false` if there was
    /// none in time.
    pub(crate) async fn take(&mut self, job: &Job, workers: usize) -> bool {
        while !self.try_take(job, workers) {
            if Instant::now() >= self.deadline {
                say_full!(upstream = %job.upstream.config.name,
                    "discovery budget is spent: too many requests for unknown sessions ([limits] discoveries)");
                return false;
            }
            tokio::time::sleep(SEARCH_POLL).await;
        }
        true
    }

    /// Returns all tokens: the session was found, or its owner may be waiting for something to send. Made-up ids are
    /// refused at once.
    pub(crate) fn give_back(&mut self) {
        let count = std::mem::take(&mut self.count);
        if count > 0 {
            lock(&self.shared.discoveries.budget).give_back(self.address, count);
        }
    }
}
