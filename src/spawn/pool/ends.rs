//! How a worker goes: it is stopped, replaced, over its memory, or its process ends.

use std::time::Duration;

use super::super::protocol::{Exit, ProcessId, Request};
use super::super::slot::{LifeStage, OVER_LOOKS, Reason, WorkerLife};
use super::{Pool, World, leave_until};
use crate::config;
use crate::events::tell;
use crate::state::Shared;
use crate::upstream::admin_state::AdminChange;

/// Successors that may end before they are healthy: the first may have lost its port to another process.
const FAILURES: u8 = 2;

/// Time in which requests that chose a worker before it left are counted as its own.
const LAST_REQUESTS: Duration = Duration::from_millis(500);

/// Time for the same after an order to stop.
const AFTER_STOP: Duration = Duration::from_secs(2);

impl Pool {
    /// Lets workers leave that are stopped, or are more than wanted.
    pub(super) fn retire(&mut self, world: &World<'_>) {
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
                let until = if life.stage == LifeStage::Ready { until } else { Some(world.now) };
                slot.leaving.push(life.leaving(until));
            }
        }
    }

    /// Ends processes that have no session left, or whose time is over.
    pub(super) fn end_leavers(&mut self, world: &World<'_>) {
        let after_ms = u64::try_from(self.spawn.stop.as_millis()).unwrap_or(u64::MAX);
        for life in self.slots.values_mut().flat_map(|slot| &mut slot.leaving) {
            let LifeStage::Leaving { since, until } = life.stage else { continue };
            let is_idle = world.now.duration_since(since) >= LAST_REQUESTS && !life.is_needed();
            let is_over = until.is_some_and(|until| until <= world.now);
            if (is_over || is_idle) && world.link.send(&Request::Stop { id: life.id, after_ms }) {
                life.stage = LifeStage::Stopping;
            }
        }
    }

    /// Handles the end of a process; `false` if it belongs to another upstream.
    pub(in crate::spawn) fn ended(&mut self, exit: &Exit, world: &World<'_>) -> bool {
        let Some(slot) = self.slots.values_mut().find(|slot| slot.lives().any(|life| life.id == exit.id)) else {
            return false;
        };
        let (number, is) = (slot.number, |life: &WorkerLife| life.id == exit.id);
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
        let was_healthy = life.stage == LifeStage::Ready;
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
            tell!(self.events, Spawn, error, upstream = %self.name, worker = number, pid, how, next_start_ms = wait_ms,
                last_lines = last, "worker ends again and again (crash loop)");
        } else {
            tell!(self.events, Spawn, warn,
                upstream = %self.name, worker = number, pid, how, next_start_ms = wait_ms, last_lines = last,
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
    pub(in crate::spawn) fn note_memory(&mut self, id: ProcessId, bytes: u64, shared: &Shared) {
        let limit = self.spawn.max_memory;
        let mut over = None;
        for slot in self.slots.values_mut() {
            let (number, is_renewed) = (slot.number, slot.renewal.is_some());
            for life in slot.lives_mut().filter(|life| life.id == id) {
                life.memory = bytes;
                let is_over = limit.is_some_and(|limit| bytes > limit);
                life.over_memory = if is_over { life.over_memory.saturating_add(1) } else { 0 };
                if matches!(life.stage, LifeStage::Ready | LifeStage::Starting) {
                    shared.metrics.spawn.set_memory(&self.name, &number.to_string(), bytes);
                }
                if life.over_memory >= OVER_LOOKS && life.stage == LifeStage::Ready && !is_renewed {
                    over = Some((number, bytes));
                }
            }
        }
        if let Some((number, bytes)) = over {
            tell!(self.events, WorkerMemory, warn,
                upstream = %self.name, worker = number, bytes, limit = limit.unwrap_or_default(),
                "worker uses more memory than `max_memory`: it is replaced");
            self.renew(&[number], Reason::Memory);
        }
    }
}
