//! The memory for request bodies that are held until it is known which worker gets them: a bound for all bodies
//! together, and a share of it for each client address, so that one address cannot take all of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use super::Shared;
use crate::keys::AddressHash;
use crate::locks::lock;

/// One address may hold this part of the room.
const SHARES: usize = 8;

/// Counts the bytes of request bodies held for replay, over all threads.
pub(crate) struct Replay {
    held: AtomicUsize,
    limit: AtomicUsize,
    /// Bytes held for each address. An address without any has no entry, so that the number of requests bounds it.
    addresses: Mutex<HashMap<AddressHash, usize>>,
}

/// Memory reserved for one request body; it is released on drop.
pub(crate) struct ReplayRoom {
    shared: Arc<Shared>,
    address: AddressHash,
    bytes: usize,
}

impl Replay {
    /// Creates the room for `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { held: AtomicUsize::new(0), limit: AtomicUsize::new(limit), addresses: Mutex::default() }
    }

    /// Changes the bound; what is held already stays.
    pub(crate) fn set_limit(&self, bytes: usize) {
        self.limit.store(bytes, Relaxed);
    }

    /// Number of bytes held now.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// Takes `more` bytes for an address, of which the share is at least `least` bytes.
    fn try_take(&self, address: AddressHash, more: usize, least: usize) -> bool {
        let limit = self.limit.load(Relaxed);
        let mut addresses = lock(&self.addresses);
        let own = addresses.get(&address).copied().unwrap_or_default().saturating_add(more);
        if own > (limit / SHARES).max(least) || self.held.load(Relaxed).saturating_add(more) > limit {
            return false;
        }
        addresses.insert(address, own);
        self.held.fetch_add(more, Relaxed);
        true
    }

    fn give_back(&self, address: AddressHash, bytes: usize) {
        let mut addresses = lock(&self.addresses);
        self.held.fetch_sub(bytes, Relaxed);
        if let Some(own) = addresses.get_mut(&address) {
            *own = own.saturating_sub(bytes);
            if *own == 0 {
                addresses.remove(&address);
            }
        }
    }
}

impl ReplayRoom {
    /// Creates an empty reservation for a body from this address.
    pub(crate) fn none(shared: &Arc<Shared>, address: AddressHash) -> Self {
        Self { shared: shared.clone(), address, bytes: 0 }
    }

    /// Reserves `more` bytes; `false` if that would exceed the limit of all bodies together, or the share of the
    /// address. The share is large enough for one body of `largest` bytes.
    pub(crate) fn grow(&mut self, more: usize, largest: usize) -> bool {
        let may = self.shared.replay.try_take(self.address, more, largest);
        if may {
            self.bytes += more;
        }
        may
    }
}

impl Drop for ReplayRoom {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.shared.replay.give_back(self.address, self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_takes_no_more_than_its_share() {
        let replay = Replay::new(800);
        let address = AddressHash::new;
        assert!(replay.try_take(address(1), 60, 10) && replay.try_take(address(1), 40, 10));
        assert!(!replay.try_take(address(1), 1, 10), "an eighth of the room");
        assert!(replay.try_take(address(2), 100, 10), "another address has its own share");
        assert!(replay.try_take(address(3), 500, 500), "one body always fits");
        assert!(!replay.try_take(address(4), 101, 500), "but not into a full room");
        replay.give_back(address(1), 60);
        assert!(replay.try_take(address(1), 60, 10));
        for (of, bytes) in [(1, 100), (2, 100), (3, 500)] {
            replay.give_back(address(of), bytes);
        }
        assert_eq!((replay.held(), lock(&replay.addresses).len()), (0, 0));
    }
}
