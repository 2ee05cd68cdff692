//! The seats of all workers of a pool, arranged so that a placement need not look at each of them.
//!
//! Sums are kept up to date, and a tournament tree knows the seat that is least loaded by weight. A change of one seat
//! costs O(log n). A placement costs up to 32 lookups on the ring, and where none of these candidates fits, O(log n);
//! each worker that has just come back and has its part already adds as much.

use super::{PROBES, Ring, Seat, Sums};

/// Stands for "no open seat" in the tree.
const NOBODY: u32 = u32::MAX;

/// The seats of a pool, in the order of the slice that the ring was built from.
#[derive(Debug, Default)]
pub(crate) struct SeatTable {
    seats: Vec<Seat>,
    sums: Sums,
    /// The tree, from its root at 1: each node holds the index of the least loaded open seat below it.
    winners: Vec<u32>,
    leaves: usize,
}

impl SeatTable {
    /// Creates the table of these seats.
    pub(crate) fn new(seats: Vec<Seat>) -> Self {
        let leaves = seats.len().next_power_of_two();
        let mut table = Self { sums: Sums::of(&seats), winners: vec![NOBODY; 2 * leaves], leaves, seats };
        for (leaf, index) in table.winners.iter_mut().skip(leaves).zip(0_u32..) {
            let is_open = usize::try_from(index).ok().and_then(|i| table.seats.get(i)).is_some_and(Seat::is_open);
            *leaf = if is_open { index } else { NOBODY };
        }
        for node in (1..leaves).rev() {
            table.decide(node);
        }
        table
    }

    /// Returns the seat with this index.
    pub(crate) fn get(&self, index: usize) -> Option<&Seat> {
        self.seats.get(index)
    }

    /// Returns the sum of the loads of all open seats.
    pub(crate) fn load(&self) -> u64 {
        u64::try_from(self.sums.load).unwrap_or(u64::MAX)
    }

    /// Replaces one seat by another.
    pub(crate) fn set(&mut self, index: usize, new: Seat) {
        let Some(seat) = self.seats.get_mut(index) else { return };
        let old = std::mem::replace(seat, new);
        if old == new {
            return;
        }
        self.sums.leave(&old);
        self.sums.enter(&new);
        let mut node = self.leaves + index;
        if let (Some(leaf), Ok(index)) = (self.winners.get_mut(node), u32::try_from(index)) {
            *leaf = if new.is_open() { index } else { NOBODY };
        }
        while node > 1 {
            node /= 2;
            self.decide(node);
        }
    }

    /// Closes a seat, and returns it as it was; `None` if it is closed already.
    pub(crate) fn take_out(&mut self, index: usize) -> Option<Seat> {
        let seat = *self.seats.get(index).filter(|seat| seat.is_open())?;
        self.set(index, Seat { takes_new: false, ..seat });
        Some(seat)
    }

    /// Chooses the worker of a new session ([`super::place`]).
    pub(crate) fn place(&self, ring: &Ring, key: &[u8]) -> Option<usize> {
        let fits = |index: &usize| self.seats.get(*index).is_some_and(|seat| self.sums.fits(seat));
        if let Some(index) = (0..PROBES).filter_map(|attempt| ring.get(key, attempt)).find(fits) {
            return Some(index);
        }
        // The least loaded worker may have just come back and be at its limit; then the next one is better than a
        // flood.
        self.least(1, None).or_else(|| self.winner(1).map(|(index, _)| index))
    }

    /// Returns the least loaded seat below `node` that is not flooded, or `best` if none is less loaded than it.
    fn least(&self, node: usize, best: Option<usize>) -> Option<usize> {
        let Some((index, seat)) = self.winner(node) else { return best };
        let is_better = |best: &Seat| seat.after_one_more(best) < best.after_one_more(seat);
        if best.and_then(|best| self.seats.get(best)).is_some_and(|best| !is_better(best)) {
            return best;
        }
        if !self.sums.is_flooded(seat) {
            return Some(index);
        }
        if node >= self.leaves {
            return best;
        }
        let best = self.least(2 * node, best);
        self.least(2 * node + 1, best)
    }

    fn winner(&self, node: usize) -> Option<(usize, &Seat)> {
        let index = usize::try_from(*self.winners.get(node)?).ok()?;
        Some((index, self.seats.get(index)?))
    }

    /// Decides which of a node's two halves has the less loaded seat; the first one if both are equal.
    fn decide(&mut self, node: usize) {
        let (left, right) = (self.winner(2 * node), self.winner(2 * node + 1));
        let won = match (left, right) {
            (Some((_, one)), Some((_, other))) if other.after_one_more(one) < one.after_one_more(other) => 2 * node + 1,
            (None, Some(_)) => 2 * node + 1,
            _ => 2 * node,
        };
        let winner = self.winners.get(won).copied().unwrap_or(NOBODY);
        if let Some(node) = self.winners.get_mut(node) {
            *node = winner;
        }
    }
}
