//! Discovery: finds the owner of a session that is not pinned (docs/reference/routing.md §1), by asking workers that
//! refuse foreign sids without side effects. It is needed after a restart of stickyd, for clients of another stickyd,
//! and after the pin table was full.
//!
//! The most likely worker gets the request first, if it is alive; mostly it is the owner. Only if it refuses, the
//! others are asked: by probes where there are any, else by the request itself, one worker after the other.
//!
//! Breaking any of these rules would end sessions: a request is passed on only after an explicit refusal; silence
//! decides nothing (an owner with nothing to send is silent); a GET or POST is never sent to two workers at once; a
//! POST or upgrade never waits for a GET. Workers that showed no sign of life are asked last: if one is left after all
//! others refused, it is the owner by elimination; if two are left, the request waits for them. Only discoveries that
//! find no owner consume budget.

mod fleet_hint;
pub(crate) mod follow;
mod owner_search;
mod probe;
mod tokens;

use std::time::Duration;

use hyper::{Request, Response, header};

use super::Job;
use super::access_log::Record;
use super::replay::Copies;
use super::respond::{self, Problem};
use super::response_body::Reply;
use crate::affinity::Choice;
use crate::affinity::ask::RequestKind;
use crate::affinity::discoveries::search::{Joined, ProbeVerdict};
use crate::body::Outgoing;
use crate::clock;
use crate::keys::Key;
use crate::locks::lock;
use crate::metrics::{Discovery, SourceLabel};
use fleet_hint::FleetHint;
use owner_search::OwnerSearch;
pub(crate) use probe::path::{is_session_path, session_path};
use tokens::DiscoveryTokens;

/// How long a request waits for budget, or for silent workers to answer, before it gets a 503.
const SEARCH_PATIENCE: Duration = Duration::from_secs(5);

/// Interval between two checks while a request waits.
const SEARCH_POLL: Duration = Duration::from_millis(50);

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
    let joined = Joined::new(&shared.discoveries, key);
    let hint = match fleet_hint::ask(job, key, &joined.search).await {
        FleetHint::Ended if !preflight => return respond::ended(job),
        FleetHint::Gone if !preflight => {
            series.refusals_own.inc();
            return respond::refused(job);
        }
        FleetHint::Worker(worker) => Some(worker),
        FleetHint::None | FleetHint::Ended | FleetHint::Gone => None,
    };
    let mut tokens = DiscoveryTokens::none(job);
    // What the fleet knows costs no search.
    if hint.is_none() && !tokens.take(job, 1).await {
        series.discovered(Discovery::OverBudget);
        return over_budget();
    }
    if job.ask.rule(&job.upstream).is_some_and(|live| live.refuses_in_body()) {
        // A refusal in a compressed body cannot be read. Engine.IO's refusals are too short to be compressed.
        request.headers_mut().remove(header::ACCEPT_ENCODING);
    }
    let copies = Copies::of(job, request);
    let search = OwnerSearch::new(job, key, &joined.search, copies, tokens);
    let (result, response) = search.run(hint, record).await;
    series.discovered(result);
    response
}

/// The response to a request whose address has no budget left.
fn over_budget() -> Response<Reply> {
    respond::problem(Problem::Full("too many unknown sessions"))
}

/// Looks for a worker that already has the session this request would create: since workers come and go, it may differ
/// from the worker that the session id leads to, which is asked first. This works only for protocols with a probe that
/// has no side effects, and within the budget. Otherwise, and if no worker claims the session within a second (the
/// limit for all probes), `choice` is returned unchanged.
pub(crate) async fn claimed(job: &Job, request: &Request<Outgoing>, choice: Choice) -> Choice {
    if let RequestKind::Session { key, .. } = job.ask.kind
        && let Some(worker) = fleet_hint::owner(job, key).await
    {
        let seat = Some(worker.session());
        return Choice { worker, why: SourceLabel::Discovered, seat, ..choice };
    }
    let members = job.upstream.members.iter().map(|member| &member.worker);
    let others: Vec<_> =
        members.filter(|worker| worker.serves() && worker.serial != choice.worker.serial).cloned().collect();
    if others.is_empty() || job.ask.upgrade.is_some() || !probe::exists(job, request) {
        return choice;
    }
    let mut tokens = DiscoveryTokens::none(job);
    if !tokens.try_take(job, 1) {
        return choice;
    }
    let guess = probe::ask_one(job, request, &choice.worker).await;
    if guess == ProbeVerdict::Owns {
        tokens.give_back();
        job.upstream.series().discovered(Discovery::Found);
        let seat = choice.seat.or_else(|| Some(choice.worker.session()));
        return Choice { why: SourceLabel::Discovered, seat, ..choice };
    }
    if !probe::may_ask(job, request) || !tokens.try_take(job, others.len()) {
        return choice;
    }
    let asked = probe::ask_all(job, request, &others).await;
    let Some((owner, _)) = asked.into_iter().find(|(_, verdict)| *verdict == ProbeVerdict::Owns) else {
        return choice;
    };
    tokens.give_back();
    let seat = Some(owner.session());
    job.upstream.series().discovered(Discovery::Found);
    Choice { worker: owner, why: SourceLabel::Discovered, seat, ..choice }
}
