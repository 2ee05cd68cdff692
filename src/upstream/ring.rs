//! Places sessions that belong to no worker yet: a consistent hash over the workers, with bounded load
//! (docs/reference/routing.md §2).
//!
//! The ring is keyed by the fleet's secret and identifies workers by [`WorkerId`]. Every proxy of a fleet therefore has
//! the same ring, whatever the order of its config, and clients cannot aim at a worker. The ring is built once per
//! snapshot. `hashring` cannot walk on from a point, so the next candidate is another lookup, of
//! `(key, attempt)`.
//!
//! Not in this module: which workers are up, what counts as load, and what the key is. The caller passes these as
//! [`Seat`]s and bytes.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use hashring::HashRing;
use siphasher::sip::SipHasher13;

use crate::clock::Seconds;
use crate::cookie::WorkerId;
use crate::keys::derive::{derive, first};

mod table;
#[cfg(test)]
mod tests;

pub(crate) use table::SeatTable;

/// Points on the ring per unit of weight. The spread of shares is proportional to 1/√points: 512 keep the fullest of 16
/// equal workers within about 10 % of the mean.
const POINTS_PER_WEIGHT: u64 = 512;

/// Approximate maximum number of points on a ring: 3 MB. Above a total weight of 256 all workers get proportionally
/// fewer, at least one each.
const MAX_POINTS: u64 = 131_072;

/// Maximum number of lookups for one placement. With half of the workers full, one placement in 2³² finds no free
/// worker.
const PROBES: u32 = 32;

/// Consistent hash ring over the workers of one upstream.
pub struct Ring {
    points: HashRing<Point, Keyed>,
    keyed: Keyed,
    ids: Vec<WorkerId>,
}

impl Ring {
    /// Builds a ring over `workers`, each with its weight ([`Ring::get`] never returns a worker of weight 0). `secret`
    /// is shared by the fleet.
    ///
    /// Sorts the points, which takes 0.1 ms for 3 workers and 13 ms for 512; a lookup then takes 40 to 150 ns.
    pub fn build(secret: &[u8], workers: &[(WorkerId, u32)]) -> Self {
        let keyed = Keyed(first(&derive(secret, "ring", &[])));
        let total: u64 = workers.iter().map(|&(_, weight)| u64::from(weight)).sum();
        let mut points = Vec::new();
        for (index, &(worker, weight)) in (0_u32..).zip(workers) {
            let wanted = u64::from(weight) * POINTS_PER_WEIGHT;
            let most = (u64::from(weight) * MAX_POINTS).checked_div(total).unwrap_or(0).max(1);
            points.extend((0..wanted.min(most)).map(|replica| Point { worker, replica, index }));
        }
        let mut ring = HashRing::with_hasher(keyed.clone());
        ring.batch_add(points);
        Self { points: ring, keyed, ids: workers.iter().map(|&(worker, _)| worker).collect() }
    }

    /// Returns the worker of `key`, as its index in the slice the ring was built from. Each `attempt` gives another,
    /// independent candidate, possibly the same worker. `None` if no worker has weight.
    pub fn get(&self, key: &[u8], attempt: u32) -> Option<usize> {
        self.points.get(&RingLookup { key, attempt }).map(|point| point.index as usize)
    }

    /// Returns a number below `parts` that never changes for this worker and key.
    pub fn draw(&self, worker: WorkerId, key: &[u8], parts: u32) -> u32 {
        let top = self.rendezvous(worker, key) >> 32;
        u32::try_from((top * u64::from(parts)) >> 32).unwrap_or(0)
    }

    fn rendezvous(&self, worker: WorkerId, key: &[u8]) -> u64 {
        let mut hasher = self.keyed.build_hasher();
        hasher.write(b"both");
        hasher.write(&worker.0.to_be_bytes());
        hasher.write(key);
        hasher.finish()
    }
}

/// A virtual node of the ring. Its position depends on worker and replica alone.
struct Point {
    worker: WorkerId,
    replica: u64,
    index: u32,
}

impl Hash for Point {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(b"point");
        state.write(&self.worker.0.to_be_bytes());
        state.write(&self.replica.to_be_bytes());
    }
}

struct RingLookup<'a> {
    key: &'a [u8],
    attempt: u32,
}

impl Hash for RingLookup<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(b"key");
        state.write(&self.attempt.to_be_bytes());
        state.write(self.key);
    }
}

/// SipHash-1-3 under a key derived from the secret: the hasher of `hashring` has no key, and clients choose what is
/// hashed.
#[derive(Clone)]
struct Keyed([u8; 16]);

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_key(&self.0)
    }
}

/// State of one worker that a placement needs. Seats are in the order of the slice that the ring was built from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// Whether the worker may get new sessions (docs/reference/routing.md §8).
    pub takes_new: bool,
    /// Weight of the worker; 0 gets no sessions.
    pub weight: u32,
    /// Number of sessions the worker holds now.
    pub load: u32,
    /// Number of sessions placed on the worker in the last 10 s: [`Recent::count`].
    pub recent: u32,
}

/// Chooses the worker of a new session that will be remembered, with bounded load (docs/reference/routing.md §2).
///
/// Candidates come from the ring, at most 32. The first one that may take one more session gets it, else the least
/// loaded by weight. `None` if no worker takes new sessions.
#[cfg(any(test, feature = "testing"))]
pub fn place(ring: &Ring, key: &[u8], seats: &[Seat]) -> Option<usize> {
    SeatTable::new(seats.to_vec()).place(ring, key)
}

impl Seat {
    /// Whether the worker may get a session at all.
    pub(crate) fn is_open(&self) -> bool {
        self.takes_new && self.weight > 0
    }

    /// Load after one more session, scaled for comparison with `other`.
    fn after_one_more(&self, other: &Self) -> u64 {
        (u64::from(self.load) + 1) * u64::from(other.weight)
    }
}

/// Sums over all workers that take new sessions; the others count neither as load nor as share.
#[derive(Debug, Default)]
struct Sums {
    weight: u128,
    load: u128,
    recent: u128,
}

impl Sums {
    fn of(seats: &[Seat]) -> Self {
        let mut sums = Self::default();
        seats.iter().for_each(|seat| sums.enter(seat));
        sums
    }

    /// Adds a seat, if it is open.
    fn enter(&mut self, seat: &Seat) {
        if seat.is_open() {
            self.weight += u128::from(seat.weight);
            self.load += u128::from(seat.load);
            self.recent += u128::from(seat.recent);
        }
    }

    /// Subtracts a seat that was added.
    fn leave(&mut self, seat: &Seat) {
        if seat.is_open() {
            self.weight = self.weight.saturating_sub(u128::from(seat.weight));
            self.load = self.load.saturating_sub(u128::from(seat.load));
            self.recent = self.recent.saturating_sub(u128::from(seat.recent));
        }
    }

    /// Whether a worker may take one more session:
    /// `load + 1 ≤ max(⌊1.05 · (total + 1) · share⌋, ⌈(total + 1) · share⌉)`. That is 5 % above its share; the share
    /// rounded up applies when sessions are few, or no worker could take the first one.
    fn fits(&self, seat: &Seat) -> bool {
        let share = (self.load + 1) * u128::from(seat.weight); // times self.weight
        let most = (105 * share).checked_div(100 * self.weight).unwrap_or(0).max(share.div_ceil(self.weight.max(1)));
        seat.is_open() && u128::from(seat.load) < most && !self.is_flooded(seat)
    }

    /// Whether a worker is far below the mean (under half of it, because it just came back) and was already given twice
    /// its share in the last 10 s. Without this limit a restarted worker would get every new session until it has
    /// caught up. While all workers start from zero the limit never applies: recent placements are then the load
    /// itself.
    fn is_flooded(&self, seat: &Seat) -> bool {
        let weight = u128::from(seat.weight);
        let just_back = 2 * u128::from(seat.load) * self.weight < self.load * weight;
        let most = (2 * (self.recent + 1) * weight).div_ceil(self.weight.max(1));
        just_back && u128::from(seat.recent) >= most
    }
}

/// The plain hash of address affinity, which must not depend on load. Returns the first of at most 32 candidates that
/// `fits`; if there is none, the fitting worker with the highest rendezvous hash, so that all proxies of a fleet agree
/// in this case, too.
pub fn hash(ring: &Ring, key: &[u8], fits: impl Fn(usize) -> bool) -> Option<usize> {
    let probed = (0..PROBES).filter_map(|attempt| ring.get(key, attempt)).find(|&index| fits(index));
    probed.or_else(|| {
        let others = ring.ids.iter().enumerate().filter(|&(index, _)| fits(index));
        others.max_by_key(|(_, worker)| ring.rendezvous(**worker, key)).map(|(index, _)| index)
    })
}

/// Number of seconds that [`Recent`] covers.
const RECENT_SECONDS: u32 = 10;

/// Placements on one worker in the last 10 s. Shared by threads without a lock; the current second is an argument.
#[derive(Debug, Default)]
pub struct Recent {
    /// One cell per second: the second in the upper half, and the number of sessions placed in it in the lower half.
    cells: [AtomicU64; RECENT_SECONDS as usize],
}

impl Recent {
    /// Counts one placement. `second` comes from a clock that only moves forward, the same one for all calls.
    pub fn note(&self, second: Seconds) {
        let second = second.get();
        let Some(cell) = self.cells.get((second % RECENT_SECONDS) as usize) else { return };
        let fresh = u64::from(second) << 32;
        // Relaxed is enough, because the count only influences the next placement.
        let _ = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some(old.max(fresh) + 1));
    }

    /// Number of placements in `second` and the nine seconds before. Placements by a thread whose clock is slightly
    /// ahead count, too.
    pub fn count(&self, second: Seconds) -> u32 {
        let second = second.get();
        let recent = |cell: &AtomicU64| {
            let [a, b, c, d, count @ ..] = cell.load(Ordering::Relaxed).to_be_bytes();
            let at = u32::from_be_bytes([a, b, c, d]);
            if at.abs_diff(second) < RECENT_SECONDS { u32::from_be_bytes(count) } else { 0 }
        };
        self.cells.iter().map(recent).fold(0, u32::saturating_add)
    }
}
