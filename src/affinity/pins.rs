//! The pin table: which worker a session is bound to, for as long as the session can live (design §3, last paragraphs).
//!
//! 64 shards by key, each a `std` mutex over a slab with a list of its idle pins, oldest first. Nothing here waits: the
//! closures run under a shard's lock and must be short, and owners that go are dropped after it is released.
//! A pin lives for its time to live after the last activity, without limit while a poll or tunnel holds it open, and never
//! moves: inserting over a live pin gives the newcomer back. Full means, in this order: a client address over its quota
//! replaces its own oldest idle pin, then the shard's oldest idle pin goes, then the newcomer is refused.
//!
//! Memory: 48 bytes a slot with an 8-byte owner, at most an eighth of the slots spare; 5 bytes an index bucket, of which
//! at least 7/16 are in use; 9 bytes a bucket of the address counts, the same. At worst, right after each of them has
//! grown and with every pin of another address: 54 + 11.5 + 20.6 = 86 bytes a pin, as asked of the allocator.
//!
//! Left out: the text of a sid (only its keyed hash is here; the text lives in the tunnel registry), metrics (the counts
//! are return values), and timers (somebody calls [`Pins::sweep`] for each shard in turn).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

pub use keys::{Key, Keys, plain_hash};
use shard::{Found, Shard};

mod keys;
mod shard;
#[cfg(test)]
mod tests;

/// Shards of a table; [`Pins::sweep`] takes `0..SHARDS`.
pub const SHARDS: usize = 64;

/// Idle pins looked at for one of the newcomer's own address, oldest first.
const QUOTA_WALK: usize = 64;

/// What became of a new pin.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Inserted<E> {
    /// It is in the table.
    New {
        /// Idle pins that had to go for it: 0 or 1.
        evicted: usize,
    },
    /// The session has a live pin already, which stays and is refreshed; the newcomer comes back.
    Kept(E),
    /// There is no room; the newcomer comes back.
    Refused(E, Full),
}

/// Why a pin was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The table is over half full, the address has its quota, and none of the shard's oldest idle pins is its own.
    Address,
    /// All pins of the shard are held open.
    Table,
}

/// One hold on a pin, from [`Pins::open`] to [`Pins::close`]: it says which life of the pin it belongs to, so that a hold
/// on a pin that was removed and made anew does not end somebody else's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Hold(u16);

/// A pin as the table sees it, for an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Polls and tunnels that hold it open.
    pub holds: u16,
    /// How long it lives after the last activity.
    pub ttl: Duration,
    /// How long it still lives if nothing happens; `None` while it is held.
    pub left: Option<Duration>,
}

/// The table. `E` is what a pin binds to, e.g. a guard that counts in its worker; it is dropped when the pin goes.
pub struct Pins<E> {
    shards: Vec<Mutex<Shard<E>>>,
    addresses: Addresses,
    /// Live and not yet swept pins in all shards.
    len: AtomicUsize,
    per_shard: usize,
    per_address: AtomicUsize,
    /// Time zero of the shards' clocks.
    base: Instant,
}

impl<E> Pins<E> {
    /// `cap`: pins at most, rounded up to a multiple of [`SHARDS`]; a shard takes its 64th part and no more.
    /// `per_address`: pins of one client address while the table is over half full. `now`: nothing happens before it.
    pub fn new(cap: usize, per_address: usize, now: Instant) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(Shard::new())).collect(),
            addresses: Addresses::new(),
            len: AtomicUsize::new(0),
            per_shard: cap.div_ceil(SHARDS),
            per_address: AtomicUsize::new(per_address),
            base: now,
        }
    }

    /// Pins of one client address from now on.
    pub fn set_per_address(&self, per_address: usize) {
        self.per_address.store(per_address, Ordering::Relaxed);
    }

    /// Pins in the table, expired but not yet swept ones included.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Pins of one client address, by the same hash as in [`Pins::insert`].
    pub fn of_address(&self, address: u64) -> usize {
        self.addresses.count(fold(address))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Pins at most.
    pub fn capacity(&self) -> usize {
        self.per_shard * SHARDS
    }

    /// Binds a session to `owner`. `address` is a hash of the client's address, keyed by the caller; `ttl` is
    /// pingInterval + pingTimeout + 5 s (protocols §1.7), at most 13 years.
    pub fn insert(&self, key: Key, owner: E, address: u64, ttl: Duration, now: Instant) -> Inserted<E> {
        let (now, address) = (self.tick(now), fold(address));
        let mut gone = Vec::new(); // declared before the lock, so dropped after it
        let Some(mut shard) = self.lock(key) else { return Inserted::Refused(owner, Full::Table) };
        match shard.find(key, now) {
            Found::Live(index) => {
                shard.refresh(index, now);
                return Inserted::Kept(owner);
            }
            Found::Expired(index) => gone.extend(self.take(&mut shard, index)),
            Found::Absent => {}
        }
        let before = gone.len();
        if self.len() * 2 > self.capacity() && self.addresses.count(address) >= self.per_address.load(Ordering::Relaxed)
        {
            let Some(own) = shard.oldest_of(address, QUOTA_WALK) else {
                return Inserted::Refused(owner, Full::Address);
            };
            gone.extend(self.take(&mut shard, own));
        }
        if shard.len() >= self.per_shard {
            let Some(oldest) = shard.oldest() else { return Inserted::Refused(owner, Full::Table) };
            gone.extend(self.take(&mut shard, oldest));
        }
        match shard.insert(key, owner, address, ticks(ttl), now) {
            Ok(()) => {
                self.len.fetch_add(1, Ordering::Relaxed);
                self.addresses.add(address);
                Inserted::New { evicted: gone.len() - before }
            }
            Err(owner) => Inserted::Refused(owner, Full::Table),
        }
    }

    /// Looks a session up and counts that as activity. An expired pin is none, and goes.
    pub fn touch<R>(&self, key: Key, now: Instant, f: impl FnOnce(&E) -> R) -> Option<R> {
        self.live(key, now, |shard, index, now| {
            shard.refresh(index, now);
            shard.owner(index).map(f)
        })
    }

    /// As [`Pins::touch`], but not as activity: for CORS preflights (design §3.4) and the admin.
    pub fn peek<R>(&self, key: Key, now: Instant, f: impl FnOnce(&E) -> R) -> Option<R> {
        self.live(key, now, |shard, index, _| shard.owner(index).map(f))
    }

    /// As [`Pins::peek`], with what the table itself knows of the pin.
    pub fn inspect<R>(&self, key: Key, now: Instant, f: impl FnOnce(&E) -> R) -> Option<(View, R)> {
        self.live(key, now, |shard, index, now| Some((shard.view(index, now)?, shard.owner(index).map(f)?)))
    }

    /// As [`Pins::touch`], and holds the pin open for a poll or tunnel: it neither expires nor is evicted until as many
    /// [`Pins::close`].
    pub fn open<R>(&self, key: Key, now: Instant, f: impl FnOnce(&E) -> R) -> Option<(Hold, R)> {
        self.live(key, now, |shard, index, _| {
            let hold = shard.open(index)?;
            Some((hold, shard.owner(index).map(f)?))
        })
    }

    /// As [`Pins::peek`], to change what is bound.
    pub fn update<R>(&self, key: Key, now: Instant, f: impl FnOnce(&mut E) -> R) -> Option<R> {
        self.live(key, now, |shard, index, _| shard.owner_mut(index).map(f))
    }

    /// All pins of one shard, of `0..SHARDS`; expired but not yet swept ones included. Its lock is held meanwhile.
    pub fn each(&self, shard: usize, f: impl FnMut(Key, &mut E)) {
        if let Some(shard) = self.shards.get(shard) {
            lock(shard).each(f);
        }
    }

    /// Undoes one [`Pins::open`]. After the last one the idle clock starts, at the pin's own time to live or at `shorten`
    /// if that is less: a tunnel's end is the session's, but its pin may still explain a late request. Activity after
    /// that gives the pin its full time again. Nothing happens if the pin is gone.
    pub fn close(&self, key: Key, hold: Hold, now: Instant, shorten: Option<Duration>) {
        self.close_with(key, hold, now, shorten, |_| ());
    }

    /// As [`Pins::close`]; `f` gets what is bound, before.
    pub fn close_with(&self, key: Key, hold: Hold, now: Instant, shorten: Option<Duration>, f: impl FnOnce(&E)) {
        let now = self.tick(now);
        let Some(mut shard) = self.lock(key) else { return };
        if let Some(owner) = shard.index(key).and_then(|index| shard.owner(index)) {
            f(owner);
        }
        shard.close(key, hold, now, shorten.map(ticks));
    }

    /// Ends a pin, held open or not, and gives its owner back.
    pub fn remove(&self, key: Key) -> Option<E> {
        let mut shard = self.lock(key)?;
        let index = shard.index(key)?;
        self.take(&mut shard, index)
    }

    /// Removes the expired pins of one shard, of `0..SHARDS`, and says how many; gives memory back that a flood left
    /// behind. Holds the shard's lock for about 20 µs per 15,000 pins in it and 50 ns for each that goes.
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
    fn live<R>(&self, key: Key, now: Instant, f: impl FnOnce(&mut Shard<E>, u32, u32) -> Option<R>) -> Option<R> {
        let now = self.tick(now);
        let _gone; // declared before the lock, so dropped after it
        let mut shard = self.lock(key)?;
        match shard.find(key, now) {
            Found::Live(index) => f(&mut shard, index, now),
            Found::Expired(index) => {
                _gone = self.take(&mut shard, index);
                None
            }
            Found::Absent => None,
        }
    }

    /// Takes a pin out of its shard and of the counts.
    fn take(&self, shard: &mut Shard<E>, index: u32) -> Option<E> {
        let (owner, address) = shard.remove(index)?;
        self.len.fetch_sub(1, Ordering::Relaxed);
        self.addresses.forget(address);
        Some(owner)
    }

    /// Always there; the `Option` only saves an index that could panic.
    fn lock(&self, key: Key) -> Option<MutexGuard<'_, Shard<E>>> {
        let [low, ..] = key.0.to_le_bytes();
        self.shards.get(usize::from(low) % SHARDS).map(lock)
    }

    fn tick(&self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.base);
        u32::try_from(since.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX)
    }
}

/// A panic under the lock can only come from a caller's closure, which has no part in the table's own state.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Length of a tick of the table's clock. 32 bits of them last 13 years, so the clock never wraps, it only stops there.
const TICK: Duration = Duration::from_millis(100);

/// Ticks that last at least as long as the span, whatever part of a tick has passed when they begin: a pin lives its time
/// to live and at most 0.2 s more.
fn ticks(span: Duration) -> u32 {
    u32::try_from(span.as_millis().div_ceil(TICK.as_millis()) + 1).unwrap_or(u32::MAX)
}

/// Pins per client address. Entries go with their last pin, so the map is never larger than the table.
///
/// Only consulted while the table is over half full, but always kept, or it would be wrong when it is needed. Locked inside
/// a shard's lock and never the other way round. Two inserts at once may both see the last free place of a quota.
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
        // After a flood; the factor 8 keeps the cost of moving the rest below that of the removals before it.
        if table.capacity() > 64 && table.len() * 8 < table.capacity() {
            let room = table.len() * 2;
            table.shrink_to(room, |e| spread(e.0));
        }
    }

    fn lock(&self, address: u32) -> Option<MutexGuard<'_, HashTable<(u32, u32)>>> {
        self.0.get(address as usize % SHARDS).map(lock)
    }
}

/// 32 bits of an address's hash are enough: two of 100,000 addresses that share one share a quota, no more.
fn fold(address: u64) -> u32 {
    let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
    u32::from_le_bytes([a, b, c, d]) ^ u32::from_le_bytes([e, f, g, h])
}

/// Hash of a folded address for hashbrown, which wants its 7 highest bits as good as its lowest.
fn spread(address: u32) -> u64 {
    u64::from(address).wrapping_mul(0x9e37_79b9_7f4a_7c15) // 2⁶⁴ / golden ratio
}
