//! How many descriptors this process may have, and how many it has.
//!
//! The kernel gives the lowest free number, so a new descriptor's number is at most the count of those open: an accept
//! tells how full the table is, for nothing.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rlimit::Resource;

/// Raises the soft limit to the hard one.
pub fn raise_limit() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => tracing::debug!(limit, "descriptor limit"),
        Err(error) => tracing::warn!(%error, "the descriptor limit could not be raised"),
    }
}

/// The limit of now.
pub fn limit() -> u64 {
    // Where it cannot be asked for, the least a system gives.
    Resource::NOFILE.get().map_or(1_024, |(soft, _)| soft)
}

/// Open now. Reads a directory of as many entries: for who asks once in a while.
pub fn open() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1))
}

/// What of the limit is for clients.
#[derive(Debug)]
pub struct Room {
    /// The first number that is reserved.
    end: u64,
    /// The first that no connection to a worker may have either.
    last: u64,
    /// From this number on (four fifths, or where the reserve begins) it is said that they run short.
    warn: u64,
    warned: AtomicBool,
    limit: u64,
}

impl Room {
    /// `reserved`: how many clients leave; 0: a twentieth, at least 64. At most half is.
    pub fn new(limit: u64, reserved: u64) -> Self {
        let reserved = if reserved == 0 { (limit / 20).max(64) } else { reserved };
        let reserved = reserved.min(limit / 2);
        let (end, last) = (limit.saturating_sub(reserved), limit.saturating_sub(reserved / 2));
        Self { end, last, warn: (limit / 5 * 4).min(end), warned: AtomicBool::new(false), limit }
    }

    /// For clients and the connections to workers that they need.
    pub fn size(&self) -> u64 {
        self.end
    }

    /// Whether a client may have the descriptor of this number. Says when they run short.
    pub fn has(&self, descriptor: i32) -> bool {
        let number = u64::try_from(descriptor).unwrap_or(0);
        if number >= self.warn {
            if !self.warned.swap(true, Relaxed) {
                tracing::warn!(in_use = number, limit = self.limit, "descriptors run short: raise LimitNOFILE=");
            }
        } else if number < self.warn / 2 {
            // It was a peak: the next one is worth a word again.
            self.warned.store(false, Relaxed);
        }
        number < self.end
    }

    /// Whether a connection to a worker may have it: half of the reserve is for checks and admin alone. A client of HTTP/2 may
    /// want more of these connections than it has itself.
    pub fn has_for_worker(&self, descriptor: i32) -> bool {
        u64::try_from(descriptor).unwrap_or(0) < self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twentieth_is_left_at_least_64() {
        for (limit, reserved, room) in
            [(20_000, 0, 19_000), (1_024, 0, 960), (100, 0, 50), (1_000, 200, 800), (1_000, 999, 500)]
        {
            assert_eq!(Room::new(limit, reserved).size(), room, "{limit} {reserved}");
        }
        let room = Room::new(1_000, 200);
        assert!(room.has(799) && !room.has(800));
        assert!(room.has_for_worker(899) && !room.has_for_worker(900));
    }
}
