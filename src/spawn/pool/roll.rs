//! A roll: the workers of an upstream are replaced one after the other, until all are, or a successor is not healthy.

use std::time::Instant;

use super::super::slot::{LifeStage, Reason, Renewal};
use super::super::{RollOutcome, RollState};
use super::{Pool, World};
use crate::events::tell;

impl Pool {
    /// Replaces these workers, one after the other. Workers that wait for their next start are started at once.
    pub(in crate::spawn) fn renew(&mut self, chosen: &[u32], reason: Reason) {
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
                tell!(self.events, Spawn, info,
                    upstream = %self.name, workers = count, reason = reason.word(), "workers are replaced");
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

    /// Goes on with a roll: ends it, or starts the next successor.
    pub(super) fn step_roll(&mut self, world: &World<'_>) {
        for slot in self.slots.values_mut() {
            let is_fresh =
                slot.current.as_ref().is_some_and(|life| life.stage == LifeStage::Ready) && !slot.is_outdated();
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
                tell!(self.events, Spawn, info,
                    upstream = %self.name, workers = roll.replaced, "all workers were replaced");
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

    pub(super) fn drop_successor(&mut self, number: u32, world: &World<'_>) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        let dropped = slot.successor.take();
        slot.leaving.extend(dropped.map(|life| life.leaving(Some(world.now))));
    }

    /// Ends a roll; the workers that were not replaced stay.
    pub(super) fn fail_roll(&mut self, why: String, last_lines: Vec<String>, world: &World<'_>) {
        let numbers: Vec<u32> = self.slots.keys().copied().collect();
        for number in numbers {
            self.drop_successor(number, world);
        }
        self.slots.values_mut().for_each(|slot| slot.renewal = None);
        tell!(self.events, Spawn, error, upstream = %self.name, why, last_lines = last_lines.join("\n"),
            "the replacement of workers has stopped; the others stay");
        if let Some(roll) = self.roll.as_mut().filter(|roll| roll.outcome == RollOutcome::Running) {
            (roll.outcome, roll.why, roll.last_lines) = (RollOutcome::Failed, Some(why), last_lines);
        }
    }
}
