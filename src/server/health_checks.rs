//! Keeps one health check running for every worker of the live snapshot, on the control thread. Left out: what a check
//! does (`upstream::health`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Health;
use crate::state::{Shared, Snapshot};
use crate::upstream::Member;
use crate::upstream::health::watch;
use crate::upstream::serial::WorkerSerial;
use crate::upstream::worker::Worker;

/// Time after which every worker has been checked once, unless it hangs.
const FIRST_CHECKS: Duration = Duration::from_secs(3);

/// Logs one line, after the first checks, about all addresses at which no process listens, instead of one line for each
/// empty port of a range.
async fn say_deserted(workers: Vec<Arc<Worker>>) {
    tokio::time::sleep(FIRST_CHECKS).await;
    let deserted: Vec<&str> =
        workers.iter().filter(|worker| worker.gone()).map(|worker| worker.name.as_str()).collect();
    if let ([first, .., last] | [first @ last], [worker, ..]) = (deserted.as_slice(), workers.as_slice()) {
        tracing::warn!(upstream = %worker.upstream, deserted = deserted.len(), of = workers.len(), first, last,
            "no process listens on the addresses of some workers");
    }
}

/// Keeps every worker of the snapshot checked until `stop`. A new snapshot affects only the checks of workers that are
/// added or removed, or whose check settings changed.
pub(crate) async fn keep(shared: Arc<Shared>, tasks: TaskTracker, stop: CancellationToken) {
    let mut watches = HashMap::new();
    let mut changed = shared.changed.subscribe();
    loop {
        follow(&shared.snapshot.load(), &mut watches, &tasks, &stop);
        if !matches!(stop.run_until_cancelled(changed.changed()).await, Some(Ok(()))) {
            return;
        }
    }
}

/// How a worker is checked, and the token that stops its checks.
struct RunningCheck {
    health: Health,
    stop: CancellationToken,
}

fn follow(
    snapshot: &Snapshot,
    watches: &mut HashMap<WorkerSerial, RunningCheck>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let mut before = std::mem::take(watches);
    for upstream in &snapshot.upstreams {
        let mut new = Vec::new();
        for Member { worker, .. } in &upstream.members {
            let health = &upstream.config.health;
            let same = match before.remove(&worker.serial) {
                Some(watched) if watched.health == *health => Some(watched),
                Some(watched) => {
                    watched.stop.cancel();
                    None
                }
                None => {
                    new.push(worker.clone());
                    None
                }
            };
            let watched = same.unwrap_or_else(|| {
                let stop = stop.child_token();
                tasks.spawn_local(watch(worker.clone(), health.clone(), stop.clone()));
                RunningCheck { health: health.clone(), stop }
            });
            watches.insert(worker.serial, watched);
        }
        // A worker that stickyd itself starts needs its time until it listens.
        if !new.is_empty() && upstream.config.spawn.is_none() {
            tasks.spawn_local(stop.clone().run_until_cancelled_owned(say_deserted(new)));
        }
    }
    for watched in before.into_values() {
        watched.stop.cancel();
    }
}
