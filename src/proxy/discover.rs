//! Discovery: finds the owner of a session that is not pinned (docs/reference/routing.md §1), by asking workers that
//! refuse foreign sids without side effects. It is needed after a restart of stickyd, for clients of another stickyd,
//! and after the pin table was full.
//!
//! Breaking any of these rules would end sessions: a request is passed on only after an explicit refusal; silence
//! decides nothing (an owner with nothing to send is silent); a GET or POST is never sent to two workers at once; a
//! POST or upgrade never waits for a GET. Workers that showed no sign of life are asked last: if one is left after all
//! others refused, it is the owner by elimination; if two are left, the request waits for them. Only discoveries that
//! find no owner consume budget.

mod owner_search;
mod probe;

use std::time::{Duration, Instant};

use hyper::{Request, Response, header};

use super::Job;
use super::access_log::Record;
use super::replay::Copies;
use super::respond::{self, Problem};
use super::response_body::Reply;
use crate::affinity::Choice;
use crate::affinity::ask::RequestKind;
use crate::affinity::discoveries::budget::BudgetTake;
use crate::affinity::discoveries::search::Joined;
use crate::affinity::discoveries::search::ProbeVerdict;
use crate::body::Outgoing;
use crate::clock;
use crate::keys::AddressHash;
use crate::keys::Key;
use crate::locks::lock;
use crate::metrics::{Discovery, SourceLabel};
use crate::state::Shared;
use crate::telemetry::say_full;
use owner_search::OwnerSearch;

/// How long a request waits for budget, or for silent workers to answer, before it gets a 503.
const SEARCH_PATIENCE: Duration = Duration::from_secs(5);

/// Interval between two checks while a request waits.
const SEARCH_POLL: Duration = Duration::from_millis(50);

/// A budget token taken by one discovery; dropping it returns the token if the session was found.
struct Token<'a> {
    shared: &'a Shared,
    address: AddressHash,
    found: bool,
}

impl Drop for Token<'_> {
    fn drop(&mut self) {
        if self.found {
            lock(&self.shared.discoveries.budget).give_back(self.address);
        }
    }
}

/// Finds the session's owner by sending this request to workers, and returns the response.
pub(crate) async fn find(job: &Job, key: Key, mut request: Request<Outgoing>, record: &mut Record) -> Response<Reply> {
    let shared = &job.conn.thread.shared;
    let series = job.upstream.series();
    // Preflights ignore remembered misses: a worker's response carries the CORS headers, whether it is a refusal or
    // not.
    let preflight = matches!(job.ask.kind, RequestKind::Preflight(_));
    if !preflight && lock(&shared.discoveries.misses).recall(&key, clock::now_ms()) {
        series.discovered(Discovery::Remembered);
        series.refusals_own.inc();
        return respond::refused(job);
    }
    let Some(mut token) = take_token(shared, job).await else {
        say_full!(upstream = %job.upstream.config.name,
            "discovery budget is spent: too many requests for unknown sessions ([limits] discoveries)");
        series.discovered(Discovery::OverBudget);
        return respond::problem(Problem::Full("too many unknown sessions"));
    };
    if job.ask.rule(&job.upstream).is_some_and(|live| live.refuses_in_body()) {
        // A refusal in a compressed body cannot be read. Engine.IO's refusals are too short to be compressed.
        request.headers_mut().remove(header::ACCEPT_ENCODING);
    }
    let copies = Copies::of(job, request);
    let joined = Joined::new(&shared.discoveries, key);
    let mut hunt = OwnerSearch::new(job, key, &joined.search, copies);
    let (result, response) = hunt.run(record).await;
    token.found = hunt.proven;
    series.discovered(result);
    response
}

/// Looks for a worker that already has the session this request would create: since workers come and go, it may differ
/// from the worker that the session id leads to. This works only for protocols with a probe that has no side effects,
/// and within the budget. Otherwise, and if no worker claims the session within a second (the limit for all probes),
/// `choice` is returned unchanged.
pub(crate) async fn claimed(job: &Job, request: &Request<Outgoing>, choice: Choice) -> Choice {
    let shared = &job.conn.thread.shared;
    let members = job.upstream.members.iter().map(|member| &member.worker);
    let workers: Vec<_> = members.filter(|worker| worker.serves()).cloned().collect();
    if workers.len() < 2 || job.ask.upgrade.is_some() || !probe::asks(job, request) {
        return choice;
    }
    let address = shared.sessions.keys.address(job.client.key());
    if !lock(&shared.discoveries.budget).take(address, clock::now_ms()).taken {
        return choice;
    }
    let mut token = Token { shared, address, found: false };
    let asked = probe::ask_all(job, request, &workers).await;
    let Some((owner, _)) = asked.into_iter().find(|(_, verdict)| *verdict == ProbeVerdict::Owns) else {
        return choice;
    };
    token.found = true;
    let seat = Some(owner.session());
    job.upstream.series().discovered(Discovery::Found);
    Choice { worker: owner, why: SourceLabel::Discovered, seat, ..choice }
}

async fn take_token<'a>(shared: &'a Shared, job: &Job) -> Option<Token<'a>> {
    let address = shared.sessions.keys.address(job.client.key());
    let deadline = Instant::now() + SEARCH_PATIENCE;
    loop {
        let BudgetTake { taken, crowded } = lock(&shared.discoveries.budget).take(address, clock::now_ms());
        if crowded {
            say_full!(upstream = %job.upstream.config.name,
                "too many addresses request unknown sessions: some that spent their budget were forgotten");
        }
        if taken {
            return Some(Token { shared, address, found: false });
        }
        if Instant::now() >= deadline {
            return None;
        }
        tokio::time::sleep(SEARCH_POLL).await;
    }
}
