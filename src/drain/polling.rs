//! The control thread's part in a drain: it assigns slots to a worker's polling sessions, ends idle ones (with no
//! request open) when they are due, and logs how drains begin and end.
//!
//! An ended session keeps its pin, without a worker, for as long as the session could have lived: later requests are
//! refused in Engine.IO's own format. Without that pin, discovery would find the session still alive at its worker.
//! Open polls are ended where they wait (`proxy::open_poll`), tunnels by their threads (`super::closing`).

use std::sync::Arc;
use std::time::Duration;

use crate::affinity::pins::SHARDS;
use crate::clock::{self, Millis};
use crate::config::AdminState;
use crate::events::tell;
use crate::state::{Shared, Snapshot};
use crate::upstream::Upstream;
use crate::upstream::session_ends::{EndSlot, Ending};
use crate::upstream::worker::Worker;

/// Interval between two looks. Slots may be shorter: requests are refused at the due time; only idle sessions are ended
/// later.
const STEP_INTERVAL: Duration = Duration::from_secs(1);

/// A worker whose sessions are being ended by a drain.
struct DrainingSessions {
    upstream: Arc<Upstream>,
    worker: Arc<Worker>,
    ending: Arc<Ending>,
}

/// Steps all drains once per [`STEP_INTERVAL`], for as long as the control thread lives.
pub(crate) async fn keep(shared: Arc<Shared>) {
    loop {
        look(&shared, clock::now_ms());
        tokio::time::sleep(STEP_INTERVAL).await;
    }
}

/// Advances every drain by one step. Also runs right after every change of an admin state, so that a drain starts with
/// its slots assigned and *maint* takes effect even if it is reverted at once.
pub(crate) fn look(shared: &Shared, now_ms: Millis) {
    let under = under(&shared.snapshot.load());
    if under.is_empty() {
        return;
    }
    for one in &under {
        if one.ending.take_unnumbered() {
            number(shared, &one.worker);
        }
    }
    end_due(shared, &under, now_ms);
    for one in under {
        say(&one, now_ms);
    }
}

fn under(snapshot: &Snapshot) -> Vec<DrainingSessions> {
    let mut under = Vec::new();
    for upstream in &snapshot.upstreams {
        for member in &upstream.members {
            if let Some(ending) = member.worker.admin.ending() {
                under.push(DrainingSessions { upstream: upstream.clone(), worker: member.worker.clone(), ending });
            }
        }
    }
    under
}

/// Assigns slots to all polling sessions of a worker, evenly. Locks one shard at a time, each as long as a sweep would.
fn number(shared: &Shared, worker: &Arc<Worker>) {
    let mut count = 0;
    for shard in 0..SHARDS {
        shared.sessions.pins.each(shard, |_, pin| {
            if pin.is_polling_at(worker) {
                pin.set_slot(EndSlot::of(count));
                count = count.wrapping_add(1);
            }
        });
    }
}

/// Ends the polling sessions that are due.
fn end_due(shared: &Shared, under: &[DrainingSessions], now_ms: Millis) {
    let live = |one: &&DrainingSessions| one.worker.admin.ends() && one.worker.sessions() > 0;
    let under: Vec<_> = under.iter().filter(live).map(|one| (one, 0)).collect();
    if under.is_empty() {
        return;
    }
    let mut under = under;
    for shard in 0..SHARDS {
        // Outside of the lock: when the last session of a worker ends, the worker may be dropped.
        let mut ended = Vec::new();
        shared.sessions.pins.each(shard, |key, pin| {
            let Some((one, count)) = under.iter_mut().find(|(one, _)| pin.is_polling_at(&one.worker)) else { return };
            if one.ending.due_ms(pin.slot(), key.jitter()).is_some_and(|due| due <= now_ms) {
                let is_gentle = one.upstream.config.spawn.is_some();
                ended.extend(if is_gentle { pin.end_gently() } else { pin.end() });
                *count += 1;
            }
        });
    }
    for (one, count) in under {
        one.upstream.series().drained_polling.inc_by(count);
    }
}

/// Logs one line when a drain begins (at the first look), and one when no session is left.
fn say(DrainingSessions { worker, ending, .. }: &DrainingSessions, now_ms: Millis) {
    let (sessions, tunnels) = (worker.sessions(), worker.tunnels());
    if ending.take_unannounced() {
        let (sessions, upstream, name) = (ending.sessions_at_start, &worker.upstream, &worker.name);
        match ending.until_ms {
            _ if worker.admin() == AdminState::Maint => {
                tell!(worker.series.events, Maint, warn,
                    upstream = %upstream, worker = %name, sessions, "worker is in maint: its sessions end at once");
            }
            None => tell!(worker.series.events, DrainBegun, info,
                upstream = %upstream, worker = %name, sessions, "draining: sessions end on their own"),
            Some(until) => {
                let grace_s = until.since(ending.since_ms) / 1_000;
                tell!(worker.series.events, DrainBegun, info,
                    upstream = %upstream, worker = %name, sessions, grace_s, "draining: sessions end over the grace");
            }
        }
    }
    if sessions == 0 && tunnels == 0 && ending.take_unsaid() {
        let after_s = now_ms.since(ending.since_ms) / 1_000;
        tell!(worker.series.events, DrainDone, info,
            upstream = %worker.upstream, worker = %worker.name, after_s, admin = worker.admin.word(),
            "drained: no session is left on this worker");
    }
}
