//! Mutexes that stay usable after a panic.
//!
//! A thread that panics while it holds a `std` mutex poisons it. What stickyd keeps under its locks stays meaningful
//! then, and one failed request must not stop all others. So every lock is taken here, poisoned or not.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex, even if a thread panicked while it held the lock.
#[inline]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
