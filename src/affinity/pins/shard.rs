//! One shard of the pin table: slots in a vector, an index over them, and a list of the idle ones.
//!
//! The list is threaded through the slots, oldest activity first, so that eviction and refresh need no search; pins
//! held open are not on it. Slot numbers are stable until [`PinShard::shrink`], which only the sweep calls. Times are
//! ticks of the table's clock. Not in this module: locks, counts over several shards, and what to do when the table is
//! full.

use hashbrown::HashTable;

use super::{PinHold, TICK, View};
use crate::keys::Key;

/// Slot number that marks the end of a list. A vector is never that long.
const NIL: u32 = u32::MAX;

pub(crate) struct PinShard<E> {
    slots: Vec<TableSlot<E>>,
    /// Slot numbers of all pins, by key.
    index: HashTable<u32>,
    /// Slot of the pin that has been idle longest; `NIL` if none is idle.
    oldest: u32,
    /// Slot of the idle pin that was active last; `NIL` if none is idle.
    newest: u32,
    /// First of the free slots, which are linked by `next`.
    free: u32,
    /// Number of the next pin's life, see [`PinHold`]. It wraps: two lives of one session are never 65,536 inserts into
    /// a shard apart while a hold on the first one still exists.
    life: u16,
}

struct TableSlot<E> {
    /// Owner of the pin; `None` if the slot is free.
    owner: Option<E>,
    pin: PinSlot,
}

/// What the table itself keeps of a pin: 40 bytes.
#[derive(Clone, Copy)]
struct PinSlot {
    key: Key,
    address: u32,
    /// Tick from which on the pin is expired, unless it is held open.
    deadline: u32,
    /// Time to live, in ticks.
    ttl: u32,
    /// Slot of the next older idle pin.
    prev: u32,
    /// Slot of the next newer idle pin, or of the next free slot.
    next: u32,
    /// Number of polls and tunnels that hold the pin. Stays at 65,535: from there on the pin may go idle too early,
    /// which costs a discovery.
    open: u16,
    life: u16,
}

impl PinSlot {
    fn is_dead(&self, now: u32) -> bool {
        self.open == 0 && self.deadline <= now
    }
}

pub(crate) enum SlotLookup {
    Live(u32),
    Expired(u32),
    Absent,
}

impl<E> PinShard<E> {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), index: HashTable::new(), oldest: NIL, newest: NIL, free: NIL, life: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// Slot of a key, whether its pin is expired or not.
    pub(crate) fn index(&self, key: Key) -> Option<u32> {
        let is_it = |&index: &u32| self.pin(index).is_some_and(|pin| pin.key == key);
        self.index.find(key.1, is_it).copied()
    }

    pub(crate) fn find(&self, key: Key, now: u32) -> SlotLookup {
        match self.index(key).and_then(|index| Some((index, self.pin(index)?))) {
            Some((index, pin)) if pin.is_dead(now) => SlotLookup::Expired(index),
            Some((index, _)) => SlotLookup::Live(index),
            None => SlotLookup::Absent,
        }
    }

    pub(crate) fn owner(&self, index: u32) -> Option<&E> {
        self.slots.get(index as usize)?.owner.as_ref()
    }

    pub(crate) fn owner_mut(&mut self, index: u32) -> Option<&mut E> {
        self.slots.get_mut(index as usize)?.owner.as_mut()
    }

    pub(crate) fn view(&self, index: u32, now: u32) -> Option<View> {
        let pin = self.pin(index)?;
        let left = (pin.open == 0).then(|| TICK * pin.deadline.saturating_sub(now));
        Some(View { holds: pin.open, ttl: TICK * pin.ttl, left })
    }

    pub(crate) fn each(&mut self, mut f: impl FnMut(Key, &mut E)) {
        for TableSlot { owner, pin } in &mut self.slots {
            if let Some(owner) = owner {
                f(pin.key, owner);
            }
        }
    }

    pub(crate) fn each_with_view(&self, now: u32, mut f: impl FnMut(Key, &E, View)) {
        for (index, TableSlot { owner, pin }) in (0..).zip(&self.slots) {
            if let (Some(owner), Some(view)) = (owner, self.view(index, now)) {
                f(pin.key, owner, view);
            }
        }
    }

    /// Records activity: the pin gets its full time to live again and is the newest of the idle pins.
    pub(crate) fn refresh(&mut self, index: u32, now: u32) {
        let Some(pin) = self.pin_mut(index) else { return };
        pin.deadline = now.saturating_add(pin.ttl);
        if pin.open == 0 {
            self.unlink(index);
            self.link_newest(index);
        }
    }

    pub(crate) fn open(&mut self, index: u32) -> Option<PinHold> {
        let pin = self.pin_mut(index)?;
        let (was_idle, hold) = (pin.open == 0, PinHold(pin.life));
        pin.open = pin.open.saturating_add(1);
        if was_idle {
            self.unlink(index);
        }
        Some(hold)
    }

    pub(crate) fn close(&mut self, key: Key, hold: PinHold, now: u32, shorten: Option<u32>) {
        let Some(index) = self.index(key) else { return };
        let Some(pin) = self.pin_mut(index).filter(|pin| pin.life == hold.0 && pin.open > 0) else { return };
        pin.open -= 1;
        if pin.open == 0 {
            pin.deadline = now.saturating_add(shorten.map_or(pin.ttl, |ticks| ticks.min(pin.ttl)));
            self.link_newest(index);
        }
    }

    /// Adds an idle pin whose key is not in the shard yet; hands the owner back if slot numbers are exhausted.
    pub(crate) fn insert(&mut self, key: Key, owner: E, address: u32, ttl: u32, now: u32) -> Result<(), E> {
        self.life = self.life.wrapping_add(1);
        let (deadline, life) = (now.saturating_add(ttl), self.life);
        let pin = PinSlot { key, address, deadline, ttl, prev: NIL, next: NIL, open: 0, life };
        let index = match self.slots.get_mut(self.free as usize) {
            Some(slot) => {
                let index = std::mem::replace(&mut self.free, slot.pin.next);
                *slot = TableSlot { owner: Some(owner), pin };
                index
            }
            None => {
                let Some(index) = u32::try_from(self.slots.len()).ok().filter(|&index| index < NIL) else {
                    return Err(owner);
                };
                self.push(TableSlot { owner: Some(owner), pin });
                index
            }
        };
        self.add_to_index(key, index);
        self.link_newest(index);
        Ok(())
    }

    /// Removes a pin and returns its owner and its address.
    pub(crate) fn remove(&mut self, index: u32) -> Option<(E, u32)> {
        let slot = self.slots.get_mut(index as usize)?;
        let (owner, pin) = (slot.owner.take()?, slot.pin);
        if pin.open == 0 {
            self.unlink(index);
        }
        if let Ok(entry) = self.index.find_entry(pin.key.1, |&other| other == index) {
            entry.remove();
        }
        let free = std::mem::replace(&mut self.free, index);
        if let Some(pin) = self.pin_mut(index) {
            pin.next = free;
        }
        Some((owner, pin.address))
    }

    /// Slot of the idle pin whose last activity is longest ago.
    pub(crate) fn oldest(&self) -> Option<u32> {
        self.idle().next()
    }

    /// Slot of the oldest idle pin of one address, among the `walk` oldest idle pins.
    pub(crate) fn oldest_of(&self, address: u32, walk: usize) -> Option<u32> {
        self.idle().take(walk).find(|&index| self.pin(index).is_some_and(|pin| pin.address == address))
    }

    /// Slots of all expired pins. Times to live differ, so the list is not in the order of expiry; the slots are
    /// scanned as they lie.
    pub(crate) fn expired(&self, now: u32) -> Vec<u32> {
        let dead = |slot: &TableSlot<E>| slot.owner.is_some() && slot.pin.is_dead(now);
        (0..).zip(&self.slots).filter(|(_, slot)| dead(slot)).map(|(index, _)| index).collect()
    }

    /// Moves the pins to a smaller vector if three quarters of it are free.
    pub(crate) fn shrink(&mut self) {
        if self.slots.capacity() <= 64 || self.len() * 4 > self.slots.capacity() {
            return;
        }
        // Idle pins come first and in their order, so that linking them one by one gives the same list.
        let mut order: Vec<u32> = self.idle().collect();
        let held = |slot: &TableSlot<E>| slot.owner.is_some() && slot.pin.open > 0;
        order.extend((0..).zip(&self.slots).filter(|(_, slot)| held(slot)).map(|(index, _)| index));
        let mut old = std::mem::take(self);
        self.life = old.life;
        self.slots.reserve_exact(order.len() + order.len() / 8);
        for (new, index) in (0..).zip(order) {
            let Some(slot) = old.slots.get_mut(index as usize) else { continue };
            let pin = slot.pin;
            self.push(TableSlot { owner: slot.owner.take(), pin });
            self.add_to_index(pin.key, new);
            if pin.open == 0 {
                self.link_newest(new);
            }
        }
    }

    /// Slots of the idle pins, oldest first.
    fn idle(&self) -> impl Iterator<Item = u32> {
        std::iter::successors(Some(self.oldest), |&index| Some(self.pin(index)?.next)).take_while(|&index| index != NIL)
    }

    /// Adds a slot. The vector grows by an eighth instead of doubling, because slots are most of what a pin costs.
    fn push(&mut self, slot: TableSlot<E>) {
        if self.slots.len() == self.slots.capacity() {
            self.slots.reserve_exact((self.slots.len() / 8).max(16));
        }
        self.slots.push(slot);
    }

    fn add_to_index(&mut self, key: Key, index: u32) {
        let slots = &self.slots;
        // The half of the key that does not choose the shard.
        let hash = |&index: &u32| slots.get(index as usize).map_or(0, |slot| slot.pin.key.1);
        self.index.insert_unique(key.1, index, hash);
    }

    fn link_newest(&mut self, index: u32) {
        let newest = std::mem::replace(&mut self.newest, index);
        if let Some(pin) = self.pin_mut(index) {
            (pin.prev, pin.next) = (newest, NIL);
        }
        match self.pin_mut(newest) {
            Some(before) => before.next = index,
            None => self.oldest = index,
        }
    }

    fn unlink(&mut self, index: u32) {
        let Some(&PinSlot { prev, next, .. }) = self.pin(index) else { return };
        match self.pin_mut(prev) {
            Some(before) => before.next = next,
            None => self.oldest = next,
        }
        match self.pin_mut(next) {
            Some(after) => after.prev = prev,
            None => self.newest = prev,
        }
    }

    fn pin(&self, index: u32) -> Option<&PinSlot> {
        self.slots.get(index as usize).map(|slot| &slot.pin)
    }

    fn pin_mut(&mut self, index: u32) -> Option<&mut PinSlot> {
        self.slots.get_mut(index as usize).map(|slot| &mut slot.pin)
    }

    /// Number of bytes on the heap.
    #[cfg(test)]
    pub(crate) fn allocated(&self) -> usize {
        self.slots.capacity() * size_of::<TableSlot<E>>() + self.index.allocation_size()
    }
}

impl<E> Default for PinShard<E> {
    fn default() -> Self {
        Self::new()
    }
}
