//! Sort orders of the list of sockets.
//!
//! Counters keep changing while a list is sorted, so the number of each socket is read once and kept with it.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::clock::Seconds;
use crate::sockets::{Id, Socket};

/// Keys that lists can be sorted by; a leading `-` reverses the order.
pub(crate) const SORTS: [&str; 10] = [
    "connected",
    "idle",
    "worker",
    "id",
    "messages",
    "messages_up",
    "messages_down",
    "bytes",
    "bytes_up",
    "bytes_down",
];

/// A sort order: one of [`SORTS`], possibly reversed.
pub(crate) struct SortOrder {
    by: &'static str,
    reverse: bool,
}

/// A socket, with the number it is sorted by.
pub(crate) struct SortEntry {
    pub(crate) socket: Arc<Socket>,
    number: u64,
    id: Id,
}

impl SortOrder {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (name, reverse) = text.strip_prefix('-').map_or((text, false), |name| (name, true));
        SORTS.into_iter().find(|by| *by == name).map(|by| Self { by, reverse })
    }

    /// Reads a socket's number as it is now.
    pub(crate) fn entry(&self, socket: Arc<Socket>, now_s: Seconds) -> SortEntry {
        SortEntry { number: self.number(&socket, now_s), id: socket.id(), socket }
    }

    /// Compares two entries, smallest first; equal ones are ordered by id, so that pages do not overlap.
    pub(crate) fn compare(&self, one: &SortEntry, other: &SortEntry) -> Ordering {
        let by_worker = || {
            let (one, other) = (one.socket.worker(), other.socket.worker());
            (&one.upstream, &one.name).cmp(&(&other.upstream, &other.name))
        };
        let first = if self.by == "worker" { by_worker() } else { one.number.cmp(&other.number) };
        let order = first.then_with(|| one.id.cmp(&other.id));
        if self.reverse { order.reverse() } else { order }
    }

    fn number(&self, socket: &Socket, now_s: Seconds) -> u64 {
        let (up, down) = (&socket.up, &socket.down);
        match self.by {
            "idle" => now_s.since(up.last_s().max(down.last_s()).unwrap_or_else(|| socket.since_s())).into(),
            "messages" => up.messages() + down.messages(),
            "messages_up" => up.messages(),
            "messages_down" => down.messages(),
            "bytes" => up.bytes() + down.bytes(),
            "bytes_up" => up.bytes(),
            "bytes_down" => down.bytes(),
            "connected" => socket.since_s().get().into(),
            // `worker` is compared by name, `id` by the id alone.
            _ => 0,
        }
    }
}
