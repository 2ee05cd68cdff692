//! Numbers by which workers are told apart within this process, even if one takes the address of another.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Number that identifies a worker within this stickyd process. It is never reused, and never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct WorkerSerial(NonZeroU64);

impl WorkerSerial {
    /// Draws the next number.
    pub(crate) fn next() -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        Self(NonZeroU64::new(SERIAL.fetch_add(1, Relaxed)).unwrap_or(NonZeroU64::MAX))
    }

    /// The number itself, which counts from 1.
    #[inline]
    pub fn get(self) -> u64 {
        self.0.get()
    }
}
