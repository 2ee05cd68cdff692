//! File descriptors: how many this process may have, and how many it has.
//!
//! The kernel assigns the lowest free number, so the number of a new descriptor is at most the count of those open:
//! each accept shows at no cost how full the table is.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use rlimit::Resource;

use crate::clock::{self, AtomicMillis};

/// Milliseconds after which descriptors are counted again on kernels that do not show their number.
const COUNT_AGAIN_MS: u64 = 15_000;

/// Raises the soft limit on descriptors to the hard one.
pub fn raise_limit() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => tracing::debug!(limit, "descriptor limit"),
        Err(error) => tracing::warn!(%error, "descriptor limit could not be raised"),
    }
}

/// Returns the current soft limit on descriptors.
pub(crate) fn limit() -> u64 {
    // If the limit cannot be read, assume the lowest that systems have.
    Resource::NOFILE.get().map_or(1_024, |(soft, _)| soft)
}

/// Returns the number of descriptors that are open, without looking at each: since Linux 6.2 it is the size of the
/// directory. Older kernels show 0 there, and the entries are counted, once in [`COUNT_AGAIN_MS`] at most: with a
/// million descriptors that takes most of a second.
pub(crate) fn open() -> usize {
    static COUNTED: AtomicUsize = AtomicUsize::new(0);
    static AT: AtomicMillis = AtomicMillis::none();
    const DIRECTORY: &str = "/proc/self/fd";
    match std::fs::metadata(DIRECTORY).map(|directory| usize::try_from(directory.len())) {
        Ok(Ok(count @ 1..)) => count,
        Ok(_) => {
            let (now, last) = (clock::now_ms(), AT.get());
            if last.is_none_or(|last| now.since(last) >= COUNT_AGAIN_MS) && AT.change(last, Some(now)) {
                // One of the entries is the directory that is being read.
                let count = std::fs::read_dir(DIRECTORY).map_or(0, |entries| entries.count().saturating_sub(1));
                COUNTED.store(count, Relaxed);
            }
            COUNTED.load(Relaxed)
        }
        Err(_) => 0,
    }
}

/// The part of the limit that clients may use.
#[derive(Debug)]
pub struct DescriptorRoom {
    /// First descriptor number that clients may not use.
    end: u64,
    /// First descriptor number that connections to workers may not use either.
    last: u64,
    /// First descriptor number at which a warning is logged: four fifths of the limit, or where the reserve begins.
    warn: u64,
    warned: AtomicBool,
    limit: u64,
}

impl DescriptorRoom {
    /// Divides the limit. `reserved` is the number of descriptors that clients may not use; 0 means a twentieth of the
    /// limit, but at least 64. At most half of the limit is reserved.
    pub fn new(limit: u64, reserved: u64) -> Self {
        let reserved = if reserved == 0 { (limit / 20).max(64) } else { reserved };
        let reserved = reserved.min(limit / 2);
        let (end, last) = (limit.saturating_sub(reserved), limit.saturating_sub(reserved / 2));
        Self { end, last, warn: (limit / 5 * 4).min(end), warned: AtomicBool::new(false), limit }
    }

    /// Number of descriptors for clients and the connections to workers that they need.
    pub fn size(&self) -> u64 {
        self.end
    }

    /// Returns whether a client may use the descriptor of this number. Logs a warning when descriptors run short.
    pub fn admits_client(&self, descriptor: i32) -> bool {
        let number = u64::try_from(descriptor).unwrap_or(0);
        if number >= self.warn {
            if !self.warned.swap(true, Relaxed) {
                tracing::warn!(in_use = number, limit = self.limit, "descriptors run short: raise LimitNOFILE=");
            }
        } else if number < self.warn / 2 {
            // The peak is over: the next one is logged again.
            self.warned.store(false, Relaxed);
        }
        number < self.end
    }

    /// Returns whether a connection to a worker may use the descriptor of this number: half of the reserve is for
    /// checks and admin alone. A client of HTTP/2 may need more connections to workers than it has itself.
    pub fn has_for_worker(&self, descriptor: i32) -> bool {
        u64::try_from(descriptor).unwrap_or(0) < self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_descriptors_are_all_that_the_kernel_lists() {
        let opened: Vec<_> = (0..50).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        assert!(open() >= opened.len());
    }

    #[test]
    fn a_twentieth_is_reserved_but_at_least_64() {
        for (limit, reserved, room) in
            [(20_000, 0, 19_000), (1_024, 0, 960), (100, 0, 50), (1_000, 200, 800), (1_000, 999, 500)]
        {
            assert_eq!(DescriptorRoom::new(limit, reserved).size(), room, "{limit} {reserved}");
        }
        let room = DescriptorRoom::new(1_000, 200);
        assert!(room.admits_client(799) && !room.admits_client(800));
        assert!(room.has_for_worker(899) && !room.has_for_worker(900));
    }
}
