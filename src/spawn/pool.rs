//! The workers of one upstream: started, watched, replaced one after the other, stopped.
//!
//! Everything is decided in [`Pool::look`], which runs several times per second and after every event: it compares what
//! is with what should be and takes the next step. A replacement (a *roll*) starts the successor beside the worker,
//! waits until the successor's health checks pass, hands the worker's name to it, waits until the old process has no
//! session left, ends it, and goes on to the next worker. If a successor does not become healthy, the roll ends and the
//! workers that are left stay.

mod ends;
mod roll;
mod starts;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::link::SpawnerLink;
use super::protocol::{Living, ProcessId};
use super::slot::{LifeStage, Reason, Renewal, Slot, WorkerLife};
use super::{PoolState, RollState, Wish};
use crate::config::spawn::{MOST_INSTANCES, Spawn};
use crate::config::{self, Address, RemovedPolicy};
use crate::events::{Events, tell};
use crate::state::Shared;

/// Age in milliseconds at which a process that is taken over counts as ready.
const SETTLED_MS: u64 = 5_000;

/// Time for the last answers and Close frames after the end of a grace.
const AFTER_GRACE: Duration = Duration::from_secs(7);

/// What a look needs of the world.
pub(super) struct World<'a> {
    pub(super) link: &'a SpawnerLink,
    pub(super) shared: &'a Shared,
    pub(super) folder: &'a Path,
    pub(super) json: bool,
    pub(super) now: Instant,
}

/// The workers of one upstream.
pub(super) struct Pool {
    pub(super) name: String,
    pub(super) spawn: Arc<Spawn>,
    events: Arc<Events>,
    upstream: config::Upstream,
    made_from: String,
    /// Number of workers, as configured or as an operator has set it.
    wanted: u32,
    slots: BTreeMap<u32, Slot>,
    roll: Option<RollState>,
    rolls: u64,
    /// Whether the upstream is no longer configured.
    is_leaving: bool,
}

impl Pool {
    pub(super) fn new(upstream: &config::Upstream, spawn: &Arc<Spawn>, events: Arc<Events>) -> Self {
        let made_from = made_from(spawn);
        Self {
            name: upstream.name.clone(),
            spawn: spawn.clone(),
            events,
            upstream: upstream.clone(),
            made_from,
            wanted: spawn.instances,
            slots: BTreeMap::new(),
            roll: None,
            rolls: 0,
            is_leaving: false,
        }
    }

    /// Takes a changed configuration. Changes of the command or environment replace the workers.
    pub(super) fn configure(&mut self, upstream: &config::Upstream, spawn: &Arc<Spawn>) {
        self.is_leaving = false;
        let before = std::mem::replace(&mut self.spawn, spawn.clone());
        self.upstream = upstream.clone();
        if before.instances != spawn.instances {
            self.wanted = spawn.instances;
        }
        if before.differs(spawn) {
            self.made_from = made_from(spawn);
            tell!(self.events, Spawn, info,
                upstream = %self.name, "the command or environment has changed: workers are replaced");
            let all: Vec<u32> = self.slots.keys().copied().collect();
            self.renew(&all, Reason::Roll);
        }
    }

    /// Lets all workers leave; the upstream is no longer configured.
    pub(super) fn leave(&mut self) {
        (self.is_leaving, self.wanted) = (true, 0);
    }

    /// Whether an upstream that is no longer configured has no process left.
    pub(super) fn is_over(&self) -> bool {
        self.is_leaving && self.slots.is_empty()
    }

    pub(super) fn lives(&self) -> impl Iterator<Item = &WorkerLife> {
        self.slots.values().flat_map(Slot::lives)
    }

    /// Takes over a process that the spawner has kept; `false` if there is no place for it.
    pub(super) fn adopt(&mut self, living: &Living) -> bool {
        let Some(address) = address(&living.tag.address).filter(|_| living.tag.slot <= MOST_INSTANCES) else {
            return false;
        };
        let slot = self.slots.entry(living.tag.slot).or_insert_with(|| Slot::new(living.tag.slot));
        let mut life = WorkerLife::new(living.tag.id, address);
        life.pid = Some(living.pid);
        if living.stopping {
            life.stage = LifeStage::Stopping;
            slot.leaving.push(life);
            return true;
        }
        let now = Instant::now();
        life.started = now.checked_sub(Duration::from_millis(living.age_ms)).unwrap_or(now);
        if living.age_ms >= SETTLED_MS {
            // It served before this stickyd was started, so new sessions need not wait for its checks.
            life.stage = LifeStage::Ready;
        }
        tell!(self.events, Spawn, info,
            upstream = %self.name, worker = living.tag.slot, pid = living.pid, "running worker is taken over");
        if slot.current.as_ref().is_some_and(|current| current.started > life.started) {
            return false;
        }
        if living.tag.made_from != self.made_from {
            slot.renewal = Some(Renewal { since: now, reason: Reason::Roll, failures: 0 });
        }
        slot.named = Some(life.address.clone());
        let before = slot.current.replace(life);
        slot.leaving.extend(before.map(|life| life.leaving(Some(now))));
        true
    }

    /// Carries out an operator's wish for one worker, or for all.
    ///
    /// # Errors
    /// Why that is impossible.
    pub(super) fn wish(&mut self, slot: Option<u32>, wish: Wish) -> Result<(), String> {
        if let Some(slot) = slot
            && !self.slots.contains_key(&slot)
        {
            return Err(format!("upstream `{}` has no worker `{slot}`: it has {} workers", self.name, self.wanted));
        }
        let chosen: Vec<u32> = self.slots.keys().copied().filter(|one| slot.is_none_or(|slot| slot == *one)).collect();
        match wish {
            Wish::Restart => {
                let on = |number: &u32| self.slots.get(number).is_some_and(|slot| !slot.is_off);
                let chosen: Vec<u32> = chosen.into_iter().filter(on).collect();
                if chosen.is_empty() {
                    return Err(format!("the workers of upstream `{}` are stopped: use start", self.name));
                }
                self.renew(&chosen, Reason::Roll);
            }
            Wish::Scale(wanted) => self.scale(wanted)?,
            Wish::Stop => self.each(&chosen, |slot| slot.is_off = true),
            Wish::Start => self.each(&chosen, |slot| {
                slot.is_off = false;
                slot.next_start = None;
            }),
        }
        Ok(())
    }

    fn each(&mut self, chosen: &[u32], change: impl Fn(&mut Slot)) {
        self.slots.values_mut().filter(|slot| chosen.contains(&slot.number)).for_each(change);
    }

    fn scale(&mut self, wanted: u32) -> Result<(), String> {
        if !(1..=MOST_INSTANCES).contains(&wanted) {
            return Err(format!("the number of workers must be from 1 to {MOST_INSTANCES}; to end all, use stop"));
        }
        if let Some(range) = &self.spawn.ports {
            let ports = u32::from(range.ports.end() - range.ports.start()) + 1;
            if ports <= wanted {
                return Err(format!("{ports} ports are not enough for {wanted} workers: one more is needed"));
            }
        }
        self.wanted = wanted;
        Ok(())
    }

    /// Takes the next steps; returns the workers that the snapshot is to name.
    pub(super) fn look(&mut self, world: &World<'_>) -> Vec<config::Worker> {
        for number in 1..=self.wanted {
            let metrics = &world.shared.metrics.spawn;
            self.slots.entry(number).or_insert_with(|| {
                metrics.begin(&self.name, &number.to_string());
                Slot::new(number)
            });
        }
        self.watch_starts(world);
        self.retire(world);
        self.end_leavers(world);
        self.begin_starts(world);
        self.step_roll(world);
        let (name, wanted) = (&self.name, self.wanted);
        self.slots.retain(|number, slot| {
            let stays = *number <= wanted || slot.lives().next().is_some();
            if !stays {
                world.shared.metrics.spawn.forget(name, &number.to_string());
            }
            stays
        });
        let outdated = self.slots.values().any(Slot::is_outdated);
        for slot in self.slots.values() {
            if let Some(worker) = slot.current.as_ref().and_then(|life| life.worker.as_ref()) {
                worker.set_outdated(outdated && slot.is_outdated());
            }
        }
        self.slots.values().flat_map(Slot::workers).collect()
    }

    /// Counts lines that were not logged; `false` if the process belongs to another upstream.
    pub(super) fn note_dropped(&self, id: ProcessId, lines: u64, shared: &Shared) {
        if let Some(slot) = self.slots.values().find(|slot| slot.lives().any(|life| life.id == id)) {
            shared.metrics.spawn.dropped(&self.name, &slot.number.to_string(), lines);
            crate::telemetry::say_full!(upstream = %self.name, worker = slot.number, lines,
                "worker writes more lines than can be logged; some are dropped");
        }
    }

    pub(super) fn state(&self, now: Instant) -> PoolState {
        PoolState {
            upstream: self.name.clone(),
            instances: self.wanted,
            workers: self.slots.values().map(|slot| slot.state(now)).collect(),
            roll: self.roll.clone(),
        }
    }

    /// Numbers of all workers.
    pub(super) fn numbers(&self) -> Vec<u32> {
        self.slots.keys().copied().collect()
    }
}

/// When a process that leaves is ended, whatever is left of its sessions.
fn leave_until(upstream: &config::Upstream, now: Instant) -> Option<Instant> {
    match upstream.removed {
        RemovedPolicy::Keep => None,
        RemovedPolicy::Close => Some(now + AFTER_GRACE),
        RemovedPolicy::Drain => upstream.drain.grace.map(|grace| now + grace + AFTER_GRACE),
    }
}

/// Reads an address as [`Address`] writes it.
fn address(text: &str) -> Option<Address> {
    match text.strip_prefix("unix:") {
        Some(path) => Some(Address::Unix(path.into())),
        None => text.parse().ok().map(Address::Tcp),
    }
}

/// A hash of everything whose change needs a new process. Its key is fixed, so that the next version of stickyd finds
/// the same.
fn made_from(spawn: &Spawn) -> String {
    use std::hash::{Hash, Hasher};
    let mut hasher = siphasher::sip::SipHasher24::new();
    (&spawn.command, &spawn.directory, &spawn.environment, spawn.port).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
