//! The last events, bounded by number and by size. The code is pure: ids and times are arguments.
//!
//! One kind fills at most half of the ring, so that a flood of one kind does not push out everything else.

use std::collections::VecDeque;
use std::sync::Arc;

use super::EventEntry;
use super::kind::EventKind;

/// Maximum number of events that are kept.
pub(crate) const ENTRIES: usize = 1_024;

/// Maximum size of all kept events together, in bytes.
const BYTES: usize = 256 * 1_024;

/// Maximum number of kept events of one kind.
const OF_ONE_KIND: usize = ENTRIES / 2;

/// The last events, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct EventRing {
    entries: VecDeque<Arc<EventEntry>>,
    bytes: usize,
}

impl EventRing {
    /// Adds an event, and drops those for which there is no room.
    pub(crate) fn push(&mut self, entry: Arc<EventEntry>) {
        if self.count(entry.kind) >= OF_ONE_KIND {
            self.drop_oldest(entry.kind);
        }
        self.bytes += entry.size();
        self.entries.push_back(entry);
        while self.entries.len() > ENTRIES || self.bytes > BYTES {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.size();
        }
    }

    /// Returns the kept events, the oldest first.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<EventEntry>> {
        self.entries.iter()
    }

    /// Returns the size of all kept events, in bytes.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn count(&self, kind: EventKind) -> usize {
        self.entries.iter().filter(|entry| entry.kind == kind).count()
    }

    fn drop_oldest(&mut self, kind: EventKind) {
        let oldest = self.entries.iter().position(|entry| entry.kind == kind);
        if let Some(gone) = oldest.and_then(|oldest| self.entries.remove(oldest)) {
            self.bytes -= gone.size();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::events::Event;
    use crate::events::kind::Severity;

    fn entry(id: u64, kind: EventKind, length: usize) -> Arc<EventEntry> {
        let event = Event::new(kind, Severity::Info, "x".repeat(length));
        Arc::new(EventEntry::new(id, SystemTime::UNIX_EPOCH, event))
    }

    #[test]
    fn a_flood_of_one_kind_leaves_room_for_others() {
        let mut ring = EventRing::default();
        ring.push(entry(1, EventKind::Started, 10));
        (2..10_000).for_each(|id| ring.push(entry(id, EventKind::WorkerDown, 10)));
        assert_eq!(ring.iter().count(), OF_ONE_KIND + 1);
        assert_eq!(ring.iter().next().map(|entry| entry.kind), Some(EventKind::Started));
        assert_eq!(ring.iter().next_back().map(|entry| entry.id), Some(9_999));
    }

    proptest! {
        #[test]
        fn the_ring_stays_within_its_bounds(events in prop::collection::vec((0usize..35, 0usize..5_000), 0..3_000)) {
            let mut ring = EventRing::default();
            for (id, (kind, length)) in (1..).zip(events) {
                let kind = EventKind::ALL[kind % EventKind::ALL.len()];
                ring.push(entry(id, kind, length));
                prop_assert!(ring.bytes() <= BYTES && ring.iter().count() <= ENTRIES);
                prop_assert_eq!(ring.iter().next_back().map(|entry| entry.id), Some(id));
            }
            let ids: Vec<_> = ring.iter().map(|entry| entry.id).collect();
            prop_assert!(ids.is_sorted());
            prop_assert_eq!(ring.iter().map(|entry| entry.size()).sum::<usize>(), ring.bytes());
        }
    }
}
