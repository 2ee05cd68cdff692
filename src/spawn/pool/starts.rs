//! How a worker comes up: its process is started, found in the snapshot, and watched until its checks pass.

use std::time::Duration;

use super::super::environment;
use super::super::ports;
use super::super::protocol::{ProcessId, Request, StartRequest, Tag};
use super::super::slot::{LifeStage, Reason, Slot, WorkerLife};
use super::{Pool, World, leave_until};
use crate::config::Address;
use crate::events::tell;
use crate::state::Shared;
use crate::upstream::worker::Checks;

/// Time in which a successor must become healthy, and after which a worker is said not to be.
const HEALTHY_WITHIN: Duration = Duration::from_secs(60);

/// Time after which the log says that a new worker is not healthy yet.
const SLOW_START: Duration = Duration::from_secs(10);

impl Pool {
    /// Connects each process to what routes requests to it.
    pub(in crate::spawn) fn find_workers(&mut self, shared: &Shared) {
        let snapshot = shared.snapshot.load();
        let Some(upstream) = snapshot.upstream(&self.name) else { return };
        for slot in self.slots.values_mut() {
            let name = slot.number.to_string();
            for life in slot.lives_mut().filter(|life| life.worker.is_none()) {
                let mut workers = upstream.members.iter().map(|member| &member.worker);
                life.worker = workers.find(|one| one.name == name && one.address == life.address).cloned();
                if let Some(worker) = life.worker.as_ref().filter(|worker| worker.notes.check().is_none()) {
                    // It takes nothing before its first checks have passed.
                    worker.set_checks(if life.stage == LifeStage::Ready { Checks::Passing } else { Checks::Failing });
                }
            }
        }
    }

    /// Sees which processes have become healthy, and which take too long.
    pub(super) fn watch_starts(&mut self, world: &World<'_>) {
        let (name, metrics) = (&self.name, &world.shared.metrics.spawn);
        let mut failed = None;
        for slot in self.slots.values_mut() {
            let number = slot.number;
            for life in slot.current.iter_mut().chain(&mut slot.successor) {
                let took = world.now.duration_since(life.started);
                if life.stage != LifeStage::Starting {
                    continue;
                }
                if life.passes() {
                    life.stage = LifeStage::Ready;
                    let (address, pid) = (life.address.to_string(), life.pid.unwrap_or_default());
                    metrics.started(name, took.as_secs_f64());
                    let ready_after_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                    tell!(self.events, Spawn, info,
                        upstream = %name, worker = number, %address, pid, ready_after_ms, "worker is ready");
                } else if took >= SLOW_START && !life.is_told_slow {
                    life.is_told_slow = true;
                    tell!(self.events, Spawn, warn, upstream = %name, worker = number, address = %life.address,
                        why = life.why_unhealthy(), "worker was started but is not healthy yet");
                }
            }
            let ready = |life: &Option<WorkerLife>| life.as_ref().is_some_and(|life| life.stage == LifeStage::Ready);
            if ready(&slot.successor) {
                let reason = slot.renewal.map_or(Reason::Roll, |renewal| renewal.reason);
                metrics.restarted(name, &number.to_string(), reason.word());
                slot.restarts += 1;
                let until = leave_until(&self.upstream, world.now);
                let old = std::mem::replace(&mut slot.current, slot.successor.take());
                slot.leaving.extend(old.map(|life| life.leaving(until)));
            }
            if ready(&slot.current) {
                slot.named = slot.current.as_ref().map(|life| life.address.clone());
                slot.why = None;
            }
            let starting = slot.current.iter().chain(&slot.successor).find(|life| life.stage == LifeStage::Starting);
            let is_late = |life: &&WorkerLife| world.now.duration_since(life.started) >= HEALTHY_WITHIN;
            if let Some(life) = starting.filter(|_| slot.renewal.is_some()).filter(is_late) {
                let why = format!("the new worker {number} is not healthy after 60 s: {}", life.why_unhealthy());
                failed = Some((why, number, life.id));
            }
        }
        if let Some((why, number, id)) = failed {
            let answer = self.slots.get(&number).map(|slot| slot.last_lines.clone()).unwrap_or_default();
            if self.slots.get(&number).is_some_and(|slot| slot.successor.as_ref().is_some_and(|life| life.id == id)) {
                self.drop_successor(number, world);
            }
            self.fail_roll(why, answer, world);
        }
    }

    /// Starts the workers that are missing.
    pub(super) fn begin_starts(&mut self, world: &World<'_>) {
        let due: Vec<u32> = self
            .slots
            .values()
            .filter(|slot| slot.current.is_none() && !slot.is_off && slot.number <= self.wanted)
            .filter(|slot| slot.next_start.is_none_or(|at| at <= world.now))
            .map(|slot| slot.number)
            .collect();
        for number in due {
            match self.start(number, world) {
                Ok(life) => {
                    let Some(slot) = self.slots.get_mut(&number) else { continue };
                    (slot.current, slot.next_start) = (Some(life), None);
                }
                Err(why) => self.not_started(number, why, world),
            }
        }
    }

    /// Starts a process for a worker.
    pub(super) fn start(&self, number: u32, world: &World<'_>) -> Result<WorkerLife, String> {
        let id = ProcessId(crate::random::u64());
        let slot = self.slots.get(&number);
        let before = slot.filter(|slot| slot.current.is_none()).and_then(|slot| slot.named.as_ref());
        let given = |address: &Address| {
            let others = |slot: &Slot| slot.number != number && slot.named.as_ref() == Some(address);
            self.lives().any(|life| life.address == *address) || self.slots.values().any(others)
        };
        let address = ports::choose(&self.spawn, before, world.folder, (&self.name, number, id), given)?;
        let bus = world.shared.bus.socket().filter(|_| self.upstream.bus).map(|socket| (socket, self.name.as_str()));
        let environment::Given { environment, preloads } = environment::of(&self.spawn, number, &address, bus);
        let start = StartRequest {
            tag: Tag {
                id,
                upstream: self.name.clone(),
                slot: number,
                address: address.to_string(),
                made_from: self.made_from.clone(),
            },
            command: self.spawn.command.clone(),
            directory: self.spawn.directory.clone(),
            environment,
            preloads,
            stop_ms: u64::try_from(self.spawn.stop.as_millis()).unwrap_or(u64::MAX),
            json: world.json,
        };
        if !world.link.send(&Request::Start(Box::new(start))) {
            return Err("the spawner takes no requests".to_owned());
        }
        Ok(WorkerLife::new(id, address))
    }

    /// Notes that a process could not be started, and waits before the next try.
    pub(super) fn not_started(&mut self, number: u32, why: String, world: &World<'_>) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        let wait = slot.backoff.ended(Duration::ZERO).max(Duration::from_millis(200));
        slot.next_start = Some(world.now + wait);
        if slot.why.as_ref() != Some(&why) {
            tell!(self.events, Spawn, error, upstream = %self.name, worker = number, why, "worker cannot be started");
        }
        slot.why = Some(why.clone());
        if slot.renewal.is_some() {
            self.fail_roll(format!("worker {number} cannot be started: {why}"), Vec::new(), world);
        }
    }

    /// Notes that a process runs.
    pub(in crate::spawn) fn started(&mut self, id: ProcessId, pid: u32) {
        for life in self.slots.values_mut().flat_map(Slot::lives_mut).filter(|life| life.id == id) {
            life.pid = Some(pid);
        }
    }
}
