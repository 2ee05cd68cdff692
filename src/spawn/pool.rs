//! The workers of one upstream: started, watched, replaced one after the other, stopped.
//!
//! Everything is decided in [`Pool::look`], which runs several times per second and after every event: it compares what
//! is with what should be and takes the next step. A replacement (a *roll*) starts the successor beside the worker,
//! waits until the successor's health checks pass, hands the worker's name to it, waits until the old process has no
//! session left, ends it, and goes on to the next worker. If a successor does not become healthy, the roll ends and the
//! workers that are left stay.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::environment;
use super::link::Link;
use super::ports;
use super::protocol::{Exit, Living, ProcessId, Request, StartRequest, Tag};
use super::slot::{Life, OVER_LOOKS, Reason, Renewal, Slot, Stage};
use super::{PoolState, RollOutcome, RollState, Wish};
use crate::config::spawn::{MOST_INSTANCES, Spawn};
use crate::config::{self, Address, RemovedPolicy};
use crate::state::Shared;
use crate::upstream::admin_state::AdminChange;
use crate::upstream::worker::Checks;

/// Time in which a successor must become healthy, and after which a worker is said not to be.
const HEALTHY_WITHIN: Duration = Duration::from_secs(60);

/// Time after which the log says that a new worker is not healthy yet.
const SLOW_START: Duration = Duration::from_secs(10);

/// Successors that may end before they are healthy: the first may have lost its port to another process.
const FAILURES: u8 = 2;

/// Time for the last answers and Close frames after the end of a grace.
const AFTER_GRACE: Duration = Duration::from_secs(7);

/// Time in which requests that chose a worker before it left are counted as its own.
const LAST_REQUESTS: Duration = Duration::from_millis(500);

/// Time for the same after an order to stop.
const AFTER_STOP: Duration = Duration::from_secs(2);

/// What a look needs of the world.
pub(super) struct World<'a> {
    pub(super) link: &'a Link,
    pub(super) shared: &'a Shared,
    pub(super) folder: &'a Path,
    pub(super) json: bool,
    pub(super) now: Instant,
}

/// The workers of one upstream.
pub(super) struct Pool {
    pub(super) name: String,
    pub(super) spawn: Arc<Spawn>,
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
    pub(super) fn new(upstream: &config::Upstream, spawn: &Arc<Spawn>) -> Self {
        let made_from = made_from(spawn);
        Self {
            name: upstream.name.clone(),
            spawn: spawn.clone(),
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
            tracing::info!(upstream = %self.name, "the command or environment has changed: workers are replaced");
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

    pub(super) fn lives(&self) -> impl Iterator<Item = &Life> {
        self.slots.values().flat_map(Slot::lives)
    }

    /// Takes over a process that the spawner has kept; `false` if there is no place for it.
    pub(super) fn adopt(&mut self, living: &Living) -> bool {
        let Some(address) = address(&living.tag.address).filter(|_| living.tag.slot <= MOST_INSTANCES) else {
            return false;
        };
        let slot = self.slots.entry(living.tag.slot).or_insert_with(|| Slot::new(living.tag.slot));
        let mut life = Life::new(living.tag.id, address);
        life.pid = Some(living.pid);
        if living.stopping {
            life.stage = Stage::Stopping;
            slot.leaving.push(life);
            return true;
        }
        let now = Instant::now();
        life.started = now.checked_sub(Duration::from_millis(living.age_ms)).unwrap_or(now);
        tracing::info!(upstream = %self.name, worker = living.tag.slot, pid = living.pid, "worker is taken up again");
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

    /// Replaces these workers, one after the other. Workers that wait for their next start are started at once.
    pub(super) fn renew(&mut self, chosen: &[u32], reason: Reason) {
        let since = Instant::now();
        let mut count = 0;
        for slot in self.slots.values_mut().filter(|slot| chosen.contains(&slot.number) && !slot.is_off) {
            slot.renewal = Some(Renewal { since, reason, failures: 0 });
            slot.next_start = None;
            count += 1;
        }
        match &mut self.roll {
            Some(roll) if roll.outcome == RollOutcome::Running => roll.total = roll.replaced + count,
            roll => {
                self.rolls += 1;
                tracing::info!(upstream = %self.name, workers = count, reason = reason.word(), "workers are replaced");
                *roll = Some(RollState {
                    id: self.rolls,
                    outcome: RollOutcome::Running,
                    replaced: 0,
                    total: count,
                    why: None,
                    last_lines: Vec::new(),
                });
            }
        }
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

    /// Connects each process to what routes requests to it.
    pub(super) fn find_workers(&mut self, shared: &Shared) {
        let snapshot = shared.snapshot.load();
        let Some(upstream) = snapshot.upstream(&self.name) else { return };
        for slot in self.slots.values_mut() {
            let name = slot.number.to_string();
            for life in slot.lives_mut().filter(|life| life.worker.is_none()) {
                let mut workers = upstream.members.iter().map(|member| &member.worker);
                life.worker = workers.find(|one| one.name == name && one.address == life.address).cloned();
                if let Some(worker) = life.worker.as_ref().filter(|worker| worker.notes.check().is_none()) {
                    // It takes nothing before its first checks have passed.
                    worker.set_checks(if life.stage == Stage::Ready { Checks::Passing } else { Checks::Failing });
                }
            }
        }
    }

    /// Sees which processes have become healthy, and which take too long.
    fn watch_starts(&mut self, world: &World<'_>) {
        let (name, metrics) = (&self.name, &world.shared.metrics.spawn);
        let mut failed = None;
        for slot in self.slots.values_mut() {
            let number = slot.number;
            for life in slot.current.iter_mut().chain(&mut slot.successor) {
                let took = world.now.duration_since(life.started);
                if life.stage != Stage::Starting {
                    continue;
                }
                if life.passes() {
                    life.stage = Stage::Ready;
                    let (address, pid) = (life.address.to_string(), life.pid.unwrap_or_default());
                    metrics.started(name, took.as_secs_f64());
                    let ready_after_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                    tracing::info!(upstream = %name, worker = number, %address, pid, ready_after_ms, "worker is ready");
                } else if took >= SLOW_START && !life.is_told_slow {
                    life.is_told_slow = true;
                    tracing::warn!(upstream = %name, worker = number, address = %life.address,
                        why = life.why_unhealthy(), "worker was started but is not healthy yet");
                }
            }
            let ready = |life: &Option<Life>| life.as_ref().is_some_and(|life| life.stage == Stage::Ready);
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
            let starting = slot.current.iter().chain(&slot.successor).find(|life| life.stage == Stage::Starting);
            let is_late = |life: &&Life| world.now.duration_since(life.started) >= HEALTHY_WITHIN;
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

    /// Lets workers leave that are stopped, or are more than wanted.
    fn retire(&mut self, world: &World<'_>) {
        let wanted = self.wanted;
        for slot in self.slots.values_mut().filter(|slot| slot.is_off || slot.number > wanted) {
            slot.renewal = None;
            slot.next_start = None;
            slot.named = None;
            let until = if slot.is_off { Some(world.now + AFTER_STOP) } else { leave_until(&self.upstream, world.now) };
            let (current, successor) = (slot.current.take(), slot.successor.take());
            for life in current.into_iter().chain(successor) {
                if slot.is_off
                    && let Some(worker) = &life.worker
                {
                    worker.change(AdminChange::Say(config::AdminState::Maint, None), &self.upstream);
                }
                let until = if life.stage == Stage::Ready { until } else { Some(world.now) };
                slot.leaving.push(life.leaving(until));
            }
        }
    }

    /// Ends processes that have no session left, or whose time is over.
    fn end_leavers(&mut self, world: &World<'_>) {
        let after_ms = u64::try_from(self.spawn.stop.as_millis()).unwrap_or(u64::MAX);
        for life in self.slots.values_mut().flat_map(|slot| &mut slot.leaving) {
            let Stage::Leaving { since, until } = life.stage else { continue };
            let is_idle = world.now.duration_since(since) >= LAST_REQUESTS && !life.is_needed();
            let is_over = until.is_some_and(|until| until <= world.now);
            if (is_over || is_idle) && world.link.send(&Request::Stop { id: life.id, after_ms }) {
                life.stage = Stage::Stopping;
            }
        }
    }

    /// Starts the workers that are missing.
    fn begin_starts(&mut self, world: &World<'_>) {
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
    fn start(&self, number: u32, world: &World<'_>) -> Result<Life, String> {
        let id = ProcessId(crate::random::u64());
        let slot = self.slots.get(&number);
        let before = slot.filter(|slot| slot.current.is_none()).and_then(|slot| slot.named.as_ref());
        let given = |address: &Address| {
            let others = |slot: &Slot| slot.number != number && slot.named.as_ref() == Some(address);
            self.lives().any(|life| life.address == *address) || self.slots.values().any(others)
        };
        let address = ports::choose(&self.spawn, before, world.folder, (&self.name, number, id), given)?;
        let environment::Given { environment, preloads } = environment::of(&self.spawn, number, &address);
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
        Ok(Life::new(id, address))
    }

    /// Notes that a process could not be started, and waits before the next try.
    fn not_started(&mut self, number: u32, why: String, world: &World<'_>) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        let wait = slot.backoff.ended(Duration::ZERO).max(Duration::from_millis(200));
        slot.next_start = Some(world.now + wait);
        if slot.why.as_ref() != Some(&why) {
            tracing::error!(upstream = %self.name, worker = number, why, "worker cannot be started");
        }
        slot.why = Some(why.clone());
        if slot.renewal.is_some() {
            self.fail_roll(format!("worker {number} cannot be started: {why}"), Vec::new(), world);
        }
    }

    /// Goes on with a roll: ends it, or starts the next successor.
    fn step_roll(&mut self, world: &World<'_>) {
        for slot in self.slots.values_mut() {
            let is_fresh = slot.current.as_ref().is_some_and(|life| life.stage == Stage::Ready) && !slot.is_outdated();
            if slot.renewal.is_some() && is_fresh && slot.leaving.is_empty() && slot.successor.is_none() {
                slot.renewal = None;
                if let Some(roll) = &mut self.roll {
                    roll.replaced += 1;
                }
            }
        }
        let mut waiting = self.slots.values().filter(|slot| slot.renewal.is_some()).peekable();
        if waiting.peek().is_none() {
            if let Some(roll) = self.roll.as_mut().filter(|roll| roll.outcome == RollOutcome::Running) {
                roll.outcome = RollOutcome::Done;
                tracing::info!(upstream = %self.name, workers = roll.replaced, "all workers were replaced");
            }
            return;
        }
        // A worker that is not outdated but is renewed is on its way.
        let busy = waiting.clone().any(|slot| slot.successor.is_some() || !slot.is_outdated());
        let next = waiting.next().map(|slot| slot.number);
        if let Some(number) = next.filter(|_| !busy && world.link.is_up()) {
            match self.start(number, world) {
                Ok(life) => {
                    if let Some(slot) = self.slots.get_mut(&number) {
                        slot.successor = Some(life);
                    }
                }
                Err(why) => {
                    let why = format!("the successor of worker {number} cannot be started: {why}");
                    self.fail_roll(why, Vec::new(), world);
                }
            }
        }
    }

    fn drop_successor(&mut self, number: u32, world: &World<'_>) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        let dropped = slot.successor.take();
        slot.leaving.extend(dropped.map(|life| life.leaving(Some(world.now))));
    }

    /// Ends a roll; the workers that were not replaced stay.
    fn fail_roll(&mut self, why: String, last_lines: Vec<String>, world: &World<'_>) {
        let numbers: Vec<u32> = self.slots.keys().copied().collect();
        for number in numbers {
            self.drop_successor(number, world);
        }
        self.slots.values_mut().for_each(|slot| slot.renewal = None);
        tracing::error!(upstream = %self.name, why, last_lines = last_lines.join("\n"),
            "the replacement of workers has stopped; the others stay");
        if let Some(roll) = self.roll.as_mut().filter(|roll| roll.outcome == RollOutcome::Running) {
            (roll.outcome, roll.why, roll.last_lines) = (RollOutcome::Failed, Some(why), last_lines);
        }
    }

    /// Notes that a process runs.
    pub(super) fn started(&mut self, id: ProcessId, pid: u32) {
        for life in self.slots.values_mut().flat_map(Slot::lives_mut).filter(|life| life.id == id) {
            life.pid = Some(pid);
        }
    }

    /// Handles the end of a process; `false` if it belongs to another upstream.
    pub(super) fn ended(&mut self, exit: &Exit, world: &World<'_>) -> bool {
        let Some(slot) = self.slots.values_mut().find(|slot| slot.lives().any(|life| life.id == exit.id)) else {
            return false;
        };
        let (number, is) = (slot.number, |life: &Life| life.id == exit.id);
        slot.leaving.retain(|life| !is(life));
        if slot.successor.as_ref().is_some_and(is) {
            slot.successor = None;
            slot.last_lines.clone_from(&exit.last);
            if let Some(renewal) = &mut slot.renewal {
                renewal.failures += 1;
                if renewal.failures >= FAILURES {
                    let why = format!("the new worker {number} {} before it was healthy", exit.words());
                    self.fail_roll(why, exit.last.clone(), world);
                }
            }
            return true;
        }
        let Some(life) = slot.current.take_if(|life| is(life)) else { return true };
        let lived = world.now.duration_since(life.started);
        let wait = slot.backoff.ended(lived);
        slot.next_start = Some(world.now + wait);
        slot.restarts += 1;
        slot.last_lines.clone_from(&exit.last);
        let was_healthy = life.stage == Stage::Ready;
        let when = if was_healthy { "" } else { " before it was healthy" };
        slot.why = Some(format!("its process {}{when}", exit.words()));
        if !was_healthy {
            // Another process may have taken its port.
            slot.named = slot.named.take().filter(|named| *named != life.address);
        }
        let reason = if exit.signal.is_some() { Reason::Signal } else { Reason::Exit };
        world.shared.metrics.spawn.restarted(&self.name, &number.to_string(), reason.word());
        let (is_loop, last) = (slot.backoff.is_crash_loop(), exit.last.join("\n"));
        let (pid, wait_ms) = (life.pid.unwrap_or_default(), u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        let how = exit.words();
        if is_loop {
            tracing::error!(upstream = %self.name, worker = number, pid, how, next_start_ms = wait_ms,
                last_lines = last, "worker ends again and again (crash loop)");
        } else {
            tracing::warn!(upstream = %self.name, worker = number, pid, how, next_start_ms = wait_ms, last_lines = last,
                "worker has ended; it is started again");
        }
        // The successor is there already.
        if let Some(successor) = slot.successor.take() {
            slot.current = Some(successor);
            slot.next_start = None;
        } else if !was_healthy && slot.renewal.is_some_and(|renewal| life.started >= renewal.since) {
            let why = format!("the new worker {number} {how} before it was healthy");
            self.fail_roll(why, exit.last.clone(), world);
        }
        true
    }

    /// Takes the memory of a process; a worker that is over its limit is replaced.
    pub(super) fn note_memory(&mut self, id: ProcessId, bytes: u64, shared: &Shared) {
        let limit = self.spawn.max_memory;
        let mut over = None;
        for slot in self.slots.values_mut() {
            let (number, is_renewed) = (slot.number, slot.renewal.is_some());
            for life in slot.lives_mut().filter(|life| life.id == id) {
                life.memory = bytes;
                let is_over = limit.is_some_and(|limit| bytes > limit);
                life.over_memory = if is_over { life.over_memory.saturating_add(1) } else { 0 };
                if matches!(life.stage, Stage::Ready | Stage::Starting) {
                    shared.metrics.spawn.set_memory(&self.name, &number.to_string(), bytes);
                }
                if life.over_memory >= OVER_LOOKS && life.stage == Stage::Ready && !is_renewed {
                    over = Some((number, bytes));
                }
            }
        }
        if let Some((number, bytes)) = over {
            tracing::warn!(upstream = %self.name, worker = number, bytes, limit = limit.unwrap_or_default(),
                "worker uses more memory than `max_memory`: it is replaced");
            self.renew(&[number], Reason::Memory);
        }
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
