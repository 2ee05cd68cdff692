//! Keeps one health check running for every worker of the live snapshot, on the control thread. Left out: what a check
//! does (`upstream::health`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Address, Health, HealthKind};
use crate::state::{Shared, Snapshot};
use crate::upstream::health::{engine, watch};
use crate::upstream::serial::WorkerSerial;
use crate::upstream::worker::{Worker, WorkerHealth};
use crate::upstream::{Member, status_text};

/// Time after which every worker has been checked once, unless it hangs.
const FIRST_CHECKS: Duration = Duration::from_secs(3);

/// Interval at which it is looked whether all workers have been checked.
const LOOK: Duration = Duration::from_millis(100);

/// Maximum number of workers that are not up that one line names; ranges may have a thousand.
const NAMED: usize = 5;

/// Logs one line about the workers of an upstream after their first checks: how many are up, and why others are not.
/// With `introduces`, a worker that is up is asked whether it speaks Socket.IO.
async fn introduce(workers: Vec<Arc<Worker>>, health: HealthKind, introduces: bool) {
    let all_checked = async {
        while workers.iter().any(|worker| worker.notes.check().is_none()) {
            tokio::time::sleep(LOOK).await;
        }
    };
    // A worker that hangs is described as far as it is known.
    let _ = tokio::time::timeout(FIRST_CHECKS, all_checked).await;
    let Some(first) = workers.first() else { return };
    let is_up = |worker: &&Arc<Worker>| worker.health() == WorkerHealth::Up && worker.notes.check().is_some();
    let up = workers.iter().filter(is_up).count();
    let socket_io = match (workers.iter().find(is_up), &health) {
        (Some(_), HealthKind::SocketIo(target)) => Some(format!("Socket.IO at {}", target.path)),
        (Some(worker), _) if introduces => {
            Some(engine::socket_io(worker).await.unwrap_or_else(|| format!("no Socket.IO at {}", engine::PATH)))
        }
        (Some(_) | None, _) => None,
    };
    let down: Vec<_> = workers.iter().filter(|worker| !is_up(worker)).collect();
    let mut why: Vec<_> =
        down.iter().take(NAMED).map(|worker| format!("{}: {}", worker.name, reason(worker))).collect();
    if let more @ 1.. = down.len().saturating_sub(NAMED) {
        why.push(format!("and {more} more"));
    }
    let down = (!why.is_empty()).then(|| why.join("; "));
    let (of, speaks) = (workers.len(), socket_io.as_deref());
    if up == 0 {
        let help = workers.iter().any(|worker| is_this_container(worker, std::process::id())).then_some(CONTAINER);
        tracing::warn!(upstream = %first.upstream, up, of, down, help, "first health checks done: no worker is up");
    } else {
        tracing::info!(upstream = %first.upstream, up, of, speaks, down, "first health checks done");
    }
}

/// What helps if the workers of a stickyd in a container are at an address of the loopback interface.
const CONTAINER: &str = "in a container, 127.0.0.1 reaches only programs of this container, or of those that share its \
    network: elsewhere, write the name of the application's service";

/// Whether a worker that nothing has answered for is looked for in the container of stickyd, whose process is the first
/// one of a container.
fn is_this_container(worker: &Worker, pid: u32) -> bool {
    let is_local = matches!(worker.address, Address::Tcp(address) if address.ip().to_canonical().is_loopback());
    pid == 1 && is_local && !worker.life.was_seen()
}

/// Returns why a worker is not up.
fn reason(worker: &Worker) -> String {
    match worker.health() {
        WorkerHealth::Gone if !worker.life.was_seen() => "no process listens".to_owned(),
        _ => status_text::health(worker),
    }
}

/// Keeps every worker of the snapshot checked until `stop`. A new snapshot affects only the checks of workers that are
/// added or removed, or whose check settings changed.
pub(crate) async fn keep(shared: Arc<Shared>, introduces: bool, tasks: TaskTracker, stop: CancellationToken) {
    let mut watches = HashMap::new();
    let mut changed = shared.changed.subscribe();
    loop {
        follow(&shared.snapshot.load(), introduces, &mut watches, &tasks, &stop);
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
    introduces: bool,
    watches: &mut HashMap<WorkerSerial, RunningCheck>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let mut before = std::mem::take(watches);
    for upstream in &snapshot.upstreams {
        let mut has_new = false;
        for Member { worker, .. } in &upstream.members {
            let health = &upstream.config.health;
            let same = match before.remove(&worker.serial) {
                Some(watched) if watched.health == *health => Some(watched),
                Some(watched) => {
                    watched.stop.cancel();
                    None
                }
                None => {
                    has_new = true;
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
        if has_new && upstream.config.spawn.is_none() {
            let all = upstream.members.iter().map(|member| member.worker.clone()).collect();
            let told = introduce(all, upstream.config.health.kind.clone(), introduces);
            tasks.spawn_local(stop.clone().run_until_cancelled_owned(told));
        }
    }
    for watched in before.into_values() {
        watched.stop.cancel();
    }
}
