//! Finds, in the fleet's Redis, the Socket.IO session that an ordinary request names (`follow`) where this stickyd does
//! not know the id: another one carries the session.
//!
//! Workers are never asked: an ordinary request suits any of them. So without Redis, and where it does not answer in
//! time, the request is placed as without a fleet, by the cookie or the address.

use std::time::Instant;

use tokio::time::Instant as Deadline;

use crate::affinity::discoveries::search::{FRESH, Joined};
use crate::clock;
use crate::cookie::WorkerId;
use crate::fleet::lookups::{FollowFinding, FollowNames};
use crate::fleet::{Fleet, SharedPin};
use crate::keys::Key;
use crate::locks::lock;
use crate::proxy::Job;
use crate::rules::FollowedSession;

/// Looks for the session that this request names, and notes in the job where it is.
pub(crate) async fn find(job: &mut Job) {
    let Some(fleet) = job.conn.thread.shared.sessions.fleet().cloned() else { return };
    let deadline = fleet.deadline();
    for names in job.ask.take_unknown_follows() {
        if Deadline::now() >= deadline {
            return;
        }
        if let Some(found) = known(job, &fleet, names, deadline).await {
            job.ask.set_follows(found);
            return;
        }
    }
}

/// What is known of one id: from a moment ago, or else from Redis, which is asked once for all requests that arrive
/// together.
async fn known(job: &Job, fleet: &Fleet, names: FollowNames, deadline: Deadline) -> Option<FollowedSession> {
    let discoveries = &job.conn.thread.shared.discoveries;
    let recall = || lock(&discoveries.followed).recall(names.sid, clock::now_ms());
    if let Some(worker) = recall() {
        return worker.map(FollowedSession::At);
    }
    let joined = Joined::new(discoveries, names.sid);
    let mut asked = joined.search.followed.lock().await;
    if let Some((when, found)) = *asked
        && when.elapsed() < FRESH
    {
        return found;
    }
    let found = asks(job, fleet, names, deadline).await;
    *asked = Some((Instant::now(), found));
    found
}

async fn asks(job: &Job, fleet: &Fleet, names: FollowNames, deadline: Deadline) -> Option<FollowedSession> {
    let shared = &job.conn.thread.shared;
    let is_here = |session: Key| shared.sessions.leads(session);
    let found = match fleet.look_up_followed(names, deadline, is_here).await {
        FollowFinding::Here(session) => {
            fleet.counts_lookup("hit");
            // From now on, nothing has to be looked up.
            shared.sessions.remember_name(&job.upstream.config.name, names.name, session, job.client);
            return Some(FollowedSession::Pinned(session));
        }
        FollowFinding::Pin(pin) => worker(job, fleet, pin),
        FollowFinding::Nothing => None,
    };
    lock(&shared.discoveries.followed).remember(names.sid, found, clock::now_ms());
    found.map(FollowedSession::At)
}

/// The worker that a pin names, if this stickyd knows it.
fn worker(job: &Job, fleet: &Fleet, pin: SharedPin) -> Option<WorkerId> {
    let id = WorkerId(pin.worker);
    let (result, found) = match job.upstream.worker(id) {
        _ if pin.is_ended => ("ended", None),
        None => ("unknown_worker", None),
        Some(_) => ("hit", Some(id)),
    };
    fleet.counts_lookup(result);
    found
}
