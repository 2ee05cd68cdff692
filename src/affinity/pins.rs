//! The pin table: which worker a session is bound to, for as long as the session can live
//! (docs/reference/routing.md §5).
//!
//! The table has 64 shards, chosen by key. Each is a `std` mutex over a slab with a list of its idle pins, oldest
//! first. No operation waits: closures run under a shard's lock and must be short, and removed owners are dropped after
//! the lock is released. A pin lives for its time to live after the last activity, without limit while a poll or tunnel
//! holds it open, and never moves: inserting over a live pin hands the new owner back. When there is no room, in this
//! order: a client address over its quota replaces its own oldest idle pin, then the shard's oldest idle pin is
//! evicted, then the new pin is refused.
//!
//! Memory: 48 bytes per slot with an 8-byte owner, and at most an eighth of the slots are spare; 5 bytes per index
//! bucket, of which at least 7/16 are in use; 9 bytes per bucket of the address counts, used to the same degree. In the
//! worst case, right after each of these has grown and with every pin from another address, a pin takes 54 + 11.5 +
//! 20.6 = 86 bytes, as requested from the allocator.
//!
//! Not in this module: the text of a sid (only its keyed hash is stored here; the text is in `sockets`), metrics (the
//! counts are return values), and timers (the caller runs [`Pins::sweep`] for each shard in turn).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::keys::AddressHash;
pub(crate) use crate::keys::Key;
use crate::locks::lock;
use shard::{PinShard, SlotLookup};

mod shard;
#[cfg(test)]
mod tests;

/// Number of shards of a table; [`Pins::sweep`] takes `0..SHARDS`.
pub(crate) const SHARDS: usize = 64;

/// How many of a shard's oldest idle pins are searched for one of the new pin's own address.
const QUOTA_WALK: usize = 64;

/// Result of inserting a pin.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Inserted<E> {
    /// The pin is in the table.
    New {
        /// Number of idle pins that were evicted to make room: 0 or 1.
        evicted: usize,
    },
    /// The session already has a live pin, which stays and is refreshed; the new owner is handed back.
    Kept(E),
    /// There is no room for the pin; its owner is handed back.
    Refused(E, PinsFull),
}

/// Reason for refusing a pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinsFull {
    /// The table is over half full, the address has used up its quota, and none of the shard's oldest idle pins belongs
    /// to it.
    Address,
    /// All pins of the shard are held open.
    Table,
}

/// One hold on a pin, from [`Pins::open`] to [`Pins::close`]. It names one life of the pin, so that a hold on a removed
/// pin does not release a pin that was made anew for the same session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct PinHold(u16);

/// State of a pin in the table, for operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Number of polls and tunnels that hold the pin open.
    pub holds: u16,
    /// How long the pin lives after its last activity.
    pub ttl: Duration,
    /// How long the pin still lives without activity; `None` while it is held open.
    pub left: Option<Duration>,
}

impl View {
    /// Whether the pin is held, or was active within this time.
    pub(crate) fn was_active(&self, recently: Duration) -> bool {
        self.left.is_none_or(|left| !left.is_zero() && self.ttl - left.min(self.ttl) < recently)
    }
}

/// The pin table. `E` is what a pin binds a session to, such as a guard that counts in its worker; it is dropped when
/// the pin goes.
pub struct Pins<E> {
    shards: Vec<Mutex<PinShard<E>>>,
    addresses: Addresses,
    /// Number of pins in all shards, including expired pins that are not swept yet.
    len: AtomicUsize,
    per_shard: usize,
    per_address: AtomicUsize,
    /// Time zero of the shards' clocks.
    base: Instant,
}

impl<E> Pins<E> {
    /// Makes an empty table. `cap` is the maximum number of pins, rounded up to a multiple of [`SHARDS`]; a shard takes
    /// a 64th of it and no more. `per_address` is the quota of one client address, which applies while the table is
    /// over half full. No later call passes a time before `now`.
    pub fn new(cap: usize, per_address: usize, now: Instant) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(PinShard::new())).collect(),
            addresses: Addresses::new(),
            len: AtomicUsize::new(0),
            per_shard: cap.div_ceil(SHARDS),
            per_address: AtomicUsize::new(per_address),
            base: now,
        }
    }

    /// Sets the quota of pins for one client address.
    pub fn set_per_address(&self, per_address: usize) {
        self.per_address.store(per_address, Ordering::Relaxed);
    }

    /// Number of pins in the table, including expired pins that are not swept yet.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Number of pins of one client address, given as the same hash as in [`Pins::insert`].
    pub fn of_address(&self, address: AddressHash) -> usize {
        self.addresses.count(fold(address))
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Maximum number of pins in the table.
    pub fn capacity(&self) -> usize {
        self.per_shard * SHARDS
    }

    /// Binds a session to `owner`. `address` is a hash of the client's address, keyed by the caller; `ttl` is
    /// pingInterval + pingTimeout + 5 s (docs/reference/protocols.md §1.7), at most 13 years.
    pub fn insert(&self, key: Key, owner: E, address: AddressHash, ttl: Duration, now: Instant) -> Inserted<E> {
        let (now, address) = (self.tick(now), fold(address));
        let mut gone = Vec::new(); // declared before the lock, so dropped after it
        let Some(mut shard) = self.lock(key) else { return Inserted::Refused(owner, PinsFull::Table) };
        match shard.find(key, now) {
            SlotLookup::Live(index) => {
                shard.refresh(index, now);
                return Inserted::Kept(owner);
            }
            SlotLookup::Expired(index) => gone.extend(self.take(&mut shard, index)),
            SlotLookup::Absent => {}
        }
        let before = gone.len();
        if self.len() * 2 > self.capacity() && self.addresses.count(address) >= self.per_address.load(Ordering::Relaxed)
        {
            let Some(own) = shard.oldest_of(address, QUOTA_WALK) else {
                return Inserted::Refused(owner, PinsFull::Address);
            };
            gone.extend(self.take(&mut shard, own));
        }
        if shard.len() >= self.per_shard {
            let Some(oldest) = shard.oldest() else { return Inserted::Refused(owner, PinsFull::Table) };
            gone.extend(self.take(&mut shard, oldest));
        }
        match shard.insert(key, owner, address, ticks(ttl), now) {
            Ok(()) => {
                self.len.fetch_add(1, Ordering::Relaxed);
                self.addresses.add(address);
                Inserted::New { evicted: gone.len() - before }
            }
            Err(owner) => Inserted::Refused(owner, PinsFull::Table),
        }
    }

    /// Looks a session up, which counts as activity. An expired pin counts as absent and is removed.
    pub fn touch<R>(&self, key: Key, now: Instant, f: impl FnOnce(&E) -> R) -> Option<R> {
        self.live(key, now, |shard, index, now| {
            shard.refresh(index, now);
            shard.owner(index).map(f)
        })
    }

    /// As [`Pins::touch`], but without counting as activity: for CORS preflights (docs/reference/routing.md §4) and the
    /// admin API.
    pub fn peek<R>(&self, key: Key, now: Instant, f: impl FnOnce(&E) -> R) -> Option<R> {
        self.live(key, now, |shard, index, _| shard.owner(index).map(f))
    }

    /// As [`Pins::peek`], together with the state of the pin in the table.
    pub fn inspect<R>(&self, key: Key, now: Instant, f: impl FnOnce(&E) -> R) -> Option<(View, R)> {
        self.live(key, now, |shard, index, now| Some((shard.view(index, now)?, shard.owner(index).map(f)?)))
    }

    /// As [`Pins::touch`], and holds the pin open for a poll or tunnel: the pin neither expires nor is evicted until
    /// [`Pins::close`] has been called once per hold.
    pub fn open<R>(&self, key: Key, now: Instant, f: impl FnOnce(&E) -> R) -> Option<(PinHold, R)> {
        self.live(key, now, |shard, index, _| {
            let hold = shard.open(index)?;
            Some((hold, shard.owner(index).map(f)?))
        })
    }

    /// As [`Pins::peek`], with mutable access to the owner.
    pub fn update<R>(&self, key: Key, now: Instant, f: impl FnOnce(&mut E) -> R) -> Option<R> {
        self.live(key, now, |shard, index, _| shard.owner_mut(index).map(f))
    }

    /// Calls `f` on all pins of one shard (`0..SHARDS`), including expired pins that are not swept yet. The shard's
    /// lock is held meanwhile.
    pub fn each(&self, shard: usize, f: impl FnMut(Key, &mut E)) {
        if let Some(shard) = self.shards.get(shard) {
            lock(shard).each(f);
        }
    }

    /// As [`Pins::each`], for the pins that are held or were active within `recently`, each with its time to live.
    pub(crate) fn each_active(
        &self,
        shard: usize,
        now: Instant,
        recently: Duration,
        mut f: impl FnMut(Key, &E, Duration),
    ) {
        let now = self.tick(now);
        let Some(shard) = self.shards.get(shard) else { return };
        lock(shard).each_with_view(now, |key, owner, view| {
            if view.was_active(recently) {
                f(key, owner, view.ttl);
            }
        });
    }

    /// Releases one hold of [`Pins::open`]. After the last one, the pin is idle and expires after its own time to live,
    /// or after `shorten` if that is less: a session ends with its tunnel, but its pin may still explain a late
    /// request. Activity after that gives the pin its full time again. There is no effect if the pin is gone.
    pub fn close(&self, key: Key, hold: PinHold, now: Instant, shorten: Option<Duration>) {
        self.close_with(key, hold, now, shorten, |_| ());
    }

    /// As [`Pins::close`], but first calls `f` with the owner.
    pub fn close_with(&self, key: Key, hold: PinHold, now: Instant, shorten: Option<Duration>, f: impl FnOnce(&E)) {
        let now = self.tick(now);
        let Some(mut shard) = self.lock(key) else { return };
        if let Some(owner) = shard.index(key).and_then(|index| shard.owner(index)) {
            f(owner);
        }
        shard.close(key, hold, now, shorten.map(ticks));
    }

    /// Removes a pin, held open or not, and returns its owner.
    pub fn remove(&self, key: Key) -> Option<E> {
        let mut shard = self.lock(key)?;
        let index = shard.index(key)?;
        self.take(&mut shard, index)
    }

    /// Removes the expired pins of one shard (`0..SHARDS`) and returns their number; also frees memory that a flood
    /// left unused. Holds the shard's lock for about 20 µs per 15,000 pins in it and 50 ns per removed pin.
    pub fn sweep(&self, shard: usize, now: Instant) -> usize {
        let now = self.tick(now);
        let mut gone = Vec::new(); // declared before the lock, so dropped after it
        let Some(shard) = self.shards.get(shard) else { return 0 };
        let mut shard = lock(shard);
        for index in shard.expired(now) {
            gone.extend(self.take(&mut shard, index));
        }
        shard.shrink();
        gone.len()
    }

    /// Runs `f` on a live pin under its shard's lock.
    fn live<R>(&self, key: Key, now: Instant, f: impl FnOnce(&mut PinShard<E>, u32, u32) -> Option<R>) -> Option<R> {
        let now = self.tick(now);
        let _gone; // declared before the lock, so dropped after it
        let mut shard = self.lock(key)?;
        match shard.find(key, now) {
            SlotLookup::Live(index) => f(&mut shard, index, now),
            SlotLookup::Expired(index) => {
                _gone = self.take(&mut shard, index);
                None
            }
            SlotLookup::Absent => None,
        }
    }

    /// Removes a pin from its shard and from the counts.
    fn take(&self, shard: &mut PinShard<E>, index: u32) -> Option<E> {
        let (owner, address) = shard.remove(index)?;
        self.len.fetch_sub(1, Ordering::Relaxed);
        self.addresses.forget(address);
        Some(owner)
    }

    /// Locks the shard of a key. The shard always exists; the `Option` only avoids an index that could panic.
    fn lock(&self, key: Key) -> Option<MutexGuard<'_, PinShard<E>>> {
        let [low, ..] = key.0.to_le_bytes();
        self.shards.get(usize::from(low) % SHARDS).map(lock)
    }

    fn tick(&self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.base);
        u32::try_from(since.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX)
    }
}

/// Length of a tick of the table's clock. 32 bits of ticks last 13 years; the clock stops there instead of wrapping.
const TICK: Duration = Duration::from_millis(100);

/// Number of ticks that last at least as long as the span, whatever part of the current tick has passed: a pin lives
/// for its time to live and at most 0.2 s more.
fn ticks(span: Duration) -> u32 {
    u32::try_from(span.as_millis().div_ceil(TICK.as_millis()) + 1).unwrap_or(u32::MAX)
}

/// Number of pins per client address. An entry is removed with its last pin, so the map is never larger than the table.
///
/// The counts are used only while the table is over half full, but are always kept, so that they are right when needed.
/// They are locked inside a shard's lock, never the other way round. Two concurrent inserts may both see the last free
/// place of a quota.
struct Addresses(Vec<Mutex<HashTable<(u32, u32)>>>);

impl Addresses {
    fn new() -> Self {
        Self((0..SHARDS).map(|_| Mutex::new(HashTable::new())).collect())
    }

    fn count(&self, address: u32) -> usize {
        let of =
            |table: MutexGuard<'_, HashTable<(u32, u32)>>| table.find(spread(address), |e| e.0 == address).map(|e| e.1);
        self.lock(address).and_then(of).map_or(0, |count| count as usize)
    }

    fn add(&self, address: u32) {
        let Some(mut table) = self.lock(address) else { return };
        match table.entry(spread(address), |e| e.0 == address, |e| spread(e.0)) {
            Entry::Occupied(mut entry) => entry.get_mut().1 += 1,
            Entry::Vacant(entry) => drop(entry.insert((address, 1))),
        }
    }

    fn forget(&self, address: u32) {
        let Some(mut table) = self.lock(address) else { return };
        let Ok(mut entry) = table.find_entry(spread(address), |e| e.0 == address) else { return };
        entry.get_mut().1 -= 1;
        if entry.get().1 > 0 {
            return;
        }
        entry.remove();
        // Shrinks after a flood; the factor 8 keeps the cost of moving the remaining entries below that of the removals
        // before it.
        if table.capacity() > 64 && table.len() * 8 < table.capacity() {
            let room = table.len() * 2;
            table.shrink_to(room, |e| spread(e.0));
        }
    }

    fn lock(&self, address: u32) -> Option<MutexGuard<'_, HashTable<(u32, u32)>>> {
        self.0.get(address as usize % SHARDS).map(lock)
    }
}

/// Folds an address's hash to 32 bits. That is enough: two of 100,000 addresses may collide, and then only share a
/// quota.
fn fold(address: AddressHash) -> u32 {
    let [a, b, c, d, e, f, g, h] = address.get().to_le_bytes();
    u32::from_le_bytes([a, b, c, d]) ^ u32::from_le_bytes([e, f, g, h])
}

/// Spreads a folded address for hashbrown, which needs the 7 highest bits of a hash to be as good as the lowest.
fn spread(address: u32) -> u64 {
    u64::from(address).wrapping_mul(0x9e37_79b9_7f4a_7c15) // 2⁶⁴ / golden ratio
}
