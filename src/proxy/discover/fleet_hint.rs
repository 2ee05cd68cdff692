//! What the fleet's Redis knows of an unpinned session: a first guess, which the worker confirms or refuses. One lookup
//! serves all requests of the session that arrive together.

use std::sync::Arc;
use std::time::Instant;

use crate::affinity::discoveries::search::{FRESH, Joined, Search};
use crate::cookie::WorkerId;
use crate::fleet::{Fleet, SharedPin};
use crate::keys::Key;
use crate::proxy::Job;
use crate::upstream::worker::Worker;

/// What Redis says of a session.
pub(super) enum FleetHint {
    /// Nothing: the session is searched for as without a fleet.
    None,
    /// An operator ended the session.
    Ended,
    /// The session's worker is gone.
    Gone,
    /// The session is at this worker, most likely.
    Worker(Arc<Worker>),
}

/// Asks Redis for the session that this request names.
pub(super) async fn ask(job: &Job, key: Key, search: &Search) -> FleetHint {
    let Some(fleet) = job.conn.thread.shared.sessions.fleet() else { return FleetHint::None };
    let Some(pin) = looked_up(fleet, key, search).await else { return FleetHint::None };
    if pin.is_ended {
        fleet.counts_lookup("ended");
        return FleetHint::Ended;
    }
    let Some(worker) = job.upstream.worker(WorkerId(pin.worker)).cloned() else {
        fleet.counts_lookup("unknown_worker");
        return FleetHint::None;
    };
    fleet.counts_lookup("hit");
    match worker.gone() {
        true => FleetHint::Gone,
        false if worker.serves() => FleetHint::Worker(worker),
        false => FleetHint::None,
    }
}

/// As [`ask`], for a session that cannot be searched for: the worker that has it, if that is known.
pub(super) async fn owner(job: &Job, key: Key) -> Option<Arc<Worker>> {
    job.conn.thread.shared.sessions.fleet()?;
    let joined = Joined::new(&job.conn.thread.shared.discoveries, key);
    match ask(job, key, &joined.search).await {
        FleetHint::Worker(worker) => Some(worker),
        FleetHint::None | FleetHint::Ended | FleetHint::Gone => None,
    }
}

/// The worker refused what Redis said: the pin is forgotten.
pub(super) fn was_wrong(job: &Job, key: Key) {
    if let Some(fleet) = job.conn.thread.shared.sessions.fleet() {
        fleet.counts_lookup("wrong");
        fleet.forget(key);
    }
}

async fn looked_up(fleet: &Fleet, key: Key, search: &Search) -> Option<SharedPin> {
    let mut known = search.fleet.lock().await;
    if let Some((when, pin)) = &*known
        && when.elapsed() < FRESH
    {
        return *pin;
    }
    let pin = fleet.look_up(key).await;
    *known = Some((Instant::now(), pin));
    pin
}
