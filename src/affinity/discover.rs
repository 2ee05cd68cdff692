//! Finding the owner of a session nobody has pinned (design.md §3.1), by asking workers that refuse foreign sids without
//! side effects: after a restart of stickyd, for a client of another stickyd, after the table was full.
//!
//! The rules, each because the other way ends sessions: pass on only after an explicit refusal; never decide by silence
//! (an owner with nothing to say is silent); never send one GET or POST to two workers; a POST or upgrade never waits for
//! a GET. Workers without proof of life are asked last; one that is left over when all others refused is the owner by
//! elimination, two are waited for. Only what ends in "nobody knows it" costs the budget.

mod budget;
mod copies;
mod hunt;
mod probe;
mod search;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::{Request, Response, header};

use super::Choice;
use super::pins::Key;
use crate::clock;
use crate::config::Limits;
use crate::metrics::{Discovery, Source};
use crate::proxy::Job;
use crate::proxy::ask::Kind;
use crate::proxy::body::{Outgoing, Reply};
use crate::proxy::record::Record;
use crate::proxy::respond::{self, Problem};
use crate::state::Shared;
use crate::telemetry::say_full;
use budget::{Budget, Misses, Taken};
use copies::Copies;
use hunt::Hunt;
use search::{Joined, Searches};

/// How long a request waits for the budget, or for silent workers to speak, before it gets a 503.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks while waiting.
const LOOK: Duration = Duration::from_millis(50);

/// What discovery remembers, all threads together. Locked for a few operations per *discovery*, never for a pinned
/// request.
pub struct Discoveries {
    budget: Mutex<Budget>,
    misses: Mutex<Misses<Key>>,
    searches: Searches,
}

impl Discoveries {
    /// Nothing known, full budgets.
    pub fn new(limits: &Limits) -> Self {
        Self {
            budget: Mutex::new(Budget::new(limits.discoveries_per_address, limits.discoveries)),
            misses: Mutex::default(),
            searches: Mutex::default(),
        }
    }

    /// What a reload has changed of the budget.
    pub fn set(&self, limits: &Limits) {
        lock(&self.budget).set(limits.discoveries_per_address, limits.discoveries);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is kept here stays meaningful whatever panicked: counts and caches.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A token, given back when the session is found.
struct Token<'a> {
    shared: &'a Shared,
    address: u64,
    found: bool,
}

impl Drop for Token<'_> {
    fn drop(&mut self) {
        if self.found {
            lock(&self.shared.discoveries.budget).give_back(self.address);
        }
    }
}

/// Finds the session's owner with this very request, and answers it.
pub async fn find(job: &Job, key: Key, mut request: Request<Outgoing>, record: &mut Record) -> Response<Reply> {
    let shared = &job.conn.thread.shared;
    let series = job.upstream.series();
    // A preflight is no request of the session: its answer has the worker's CORS headers, refusal or not.
    let preflight = matches!(job.ask.kind, Kind::Preflight(_));
    if !preflight && lock(&shared.discoveries.misses).knows(&key, clock::now_ms()) {
        series.discovered(Discovery::Remembered);
        series.refusals_own.inc();
        return respond::refused(job);
    }
    let Some(mut token) = take_token(shared, job).await else {
        say_full!("the discovery budget is spent: sessions nobody knows come too fast ([limits] discoveries)");
        series.discovered(Discovery::OverBudget);
        return respond::problem(Problem::Full("too many unknown sessions"));
    };
    if job.ask.rule(&job.upstream).is_some_and(|live| live.refuses_in_body()) {
        // Compressed words are none; Engine.IO's refusals are too short to be.
        request.headers_mut().remove(header::ACCEPT_ENCODING);
    }
    let copies = Copies::of(job, request);
    let joined = Joined::new(shared, key);
    let mut hunt = Hunt::new(job, key, &joined.search, copies);
    let (result, response) = hunt.run(record).await;
    token.found = hunt.proven;
    series.discovered(result);
    response
}

/// Who has a session already that this request would make: its worker may be another than the one its id leads to, since
/// workers came or went. Only where its protocol has a question that touches nothing, and as far as the budget goes; else,
/// and where nobody claims it (within a second, as of all probes), the choice is as it was.
pub async fn claimed(job: &Job, request: &Request<Outgoing>, choice: Choice) -> Choice {
    let shared = &job.conn.thread.shared;
    let members = job.upstream.members.iter().map(|member| &member.worker);
    let workers: Vec<_> = members.filter(|worker| worker.serves()).cloned().collect();
    if workers.len() < 2 || job.ask.upgrade.is_some() || !probe::asks(job, request) {
        return choice;
    }
    let address = shared.keys.address(job.client.key());
    if !lock(&shared.discoveries.budget).take(address, clock::now_ms()).taken {
        return choice;
    }
    let mut token = Token { shared, address, found: false };
    let asked = probe::ask_all(job, request, &workers).await;
    let Some((owner, _)) = asked.into_iter().find(|(_, verdict)| *verdict == probe::Verdict::Owns) else {
        return choice;
    };
    token.found = true;
    let seat = Some(owner.session());
    job.upstream.series().discovered(Discovery::Found);
    Choice { worker: owner, why: Source::Discovered, seat, ..choice }
}

async fn take_token<'a>(shared: &'a Shared, job: &Job) -> Option<Token<'a>> {
    let address = shared.keys.address(job.client.key());
    let deadline = Instant::now() + PATIENCE;
    loop {
        let Taken { taken, crowded } = lock(&shared.discoveries.budget).take(address, clock::now_ms());
        if crowded {
            say_full!("too many addresses ask for unknown sessions: some that had spent their budget are forgotten");
        }
        if taken {
            return Some(Token { shared, address, found: false });
        }
        if Instant::now() >= deadline {
            return None;
        }
        tokio::time::sleep(LOOK).await;
    }
}
