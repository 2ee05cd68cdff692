//! The thread of the fleet, the walk that keeps the pins of live sessions in Redis, and the sums of sessions over all
//! stickyds. Left out: Redis itself (`crate::fleet`).

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, LocalOptions};
use tokio_util::sync::CancellationToken;

use super::user_rates;
use crate::admin;
use crate::affinity::pins::SHARDS;
use crate::fleet::Fleet;
use crate::queue;
use crate::state::Shared;

/// Time in which each pin is looked at once. Redis keeps a pin for at least 240 s, so that one late walk loses none.
const WALK: Duration = Duration::from_secs(96);

/// Starts the thread, if there is a fleet.
///
/// # Errors
/// The operating system refused the thread.
pub(crate) fn start(shared: &Arc<Shared>, stop: CancellationToken) -> io::Result<Option<JoinHandle<()>>> {
    let Some(fleet) = shared.sessions.fleet().cloned() else { return Ok(None) };
    let shared = shared.clone();
    let thread = std::thread::Builder::new().name("fleet".to_owned()).spawn(move || {
        let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "cannot create the runtime of the fleet"),
        };
        runtime.block_on(async {
            let walking = stop.clone().run_until_cancelled_owned(walk(shared.clone()));
            let (all, queues) = (shared.clone(), shared.queues.clone());
            let delivering = queue::run(queues, stop.clone(), move || with_queues(&all));
            let adding = stop.clone().run_until_cancelled_owned(add_up(shared.clone()));
            let rates = user_rates::keep(shared.clone(), stop.clone());
            tokio::join!(walking, adding, rates, delivering, fleet.run(stop, move || admin::fleet::summary(&shared)));
        });
    });
    thread.map(Some)
}

/// Names of the upstreams that keep messages for users whose clients are away.
fn with_queues(shared: &Shared) -> Vec<String> {
    let snapshot = shared.snapshot.load();
    let with = snapshot.named().filter(|upstream| upstream.offline_queue.is_some());
    with.map(|upstream| upstream.name.clone()).collect()
}

/// Keeps the pins in Redis of sessions that were active since the last round. A session with a tunnel is left out,
/// because no request names it any more, except where requests `follow` it. Its other names are kept as long.
async fn walk(shared: Arc<Shared>) {
    let pause = WALK / u32::try_from(SHARDS).unwrap_or(64);
    loop {
        for shard in 0..SHARDS {
            tokio::time::sleep(pause).await;
            if let Some(fleet) = shared.sessions.fleet() {
                renew(&shared, fleet, shard);
            }
        }
    }
}

/// Keeps the sums of sessions over all stickyds, by which new ones are placed.
async fn add_up(shared: Arc<Shared>) {
    let Some(fleet) = shared.sessions.fleet() else { return };
    loop {
        fleet.members_seen().await;
        let mut elsewhere = fleet.sessions_elsewhere();
        for worker in shared.snapshot.load().workers() {
            let found = elsewhere.remove(&(worker.upstream.to_string(), worker.name.clone()));
            let (sessions, stickyds) = found.unwrap_or_default();
            worker.set_elsewhere(sessions, stickyds);
        }
    }
}

fn renew(shared: &Shared, fleet: &Fleet, shard: usize) {
    let snapshot = shared.snapshot.load();
    let follows = |name: &str| snapshot.upstream(name).is_some_and(|upstream| !upstream.config.follow.is_empty());
    let (now, recently) = (Instant::now(), WALK + Duration::from_secs(4));
    let mut active = Vec::new();
    shared.sessions.pins.each_active(shard, now, recently, |key, pin, ttl| {
        if let Some(worker) = pin.worker()
            && (!pin.has_tunnel() || follows(&worker.upstream))
        {
            active.push((key, worker.id.0, ttl));
        }
    });
    active.into_iter().for_each(|(key, worker, ttl)| fleet.renew(key, worker, ttl));
    let mut names = Vec::new();
    shared.sessions.aliases.each(shard, |name, session| names.push((name, *session)));
    for (name, session) in names {
        if let Some((view, true)) = shared.sessions.pins.inspect(session, now, |pin| pin.worker().is_some())
            && view.was_active(recently)
        {
            fleet.renew_name(name, session, view.ttl);
        }
    }
}
