//! Idle connections that wait for a request, and can be ended to make room for new ones when the limit is reached.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::rc::{Rc, Weak};

use super::registered::LiveHandle;
use super::{Thread, ThreadOrder};
use crate::clock::{self, Seconds};

/// Idle connections found at the last search; the one that has been silent the longest comes last.
#[derive(Default)]
pub(crate) struct Spare(RefCell<IdleFound>);

#[derive(Default)]
struct IdleFound {
    /// Weak references, since each connection may have ended meanwhile.
    connections: Vec<Weak<LiveHandle>>,
    /// Time of the last search.
    at_s: Seconds,
}

impl Thread {
    /// Ends the connection that has waited longest for a request, if one has waited for a second or two; returns
    /// whether it did. The search over all connections runs at most once a second, so that its cost does not grow with
    /// a flood of new connections.
    pub fn make_room(&self) -> bool {
        let mut found = self.spare.0.borrow_mut();
        let now = clock::now_s();
        if found.connections.is_empty() && std::mem::replace(&mut found.at_s, now) != now {
            let live = self.live.borrow();
            let mut spare: Vec<_> = live.iter().map(|(_, entry)| &entry.live).filter(|live| live.is_spare()).collect();
            spare.sort_unstable_by_key(|live| Reverse(live.since.get()));
            found.connections = spare.into_iter().map(Rc::downgrade).collect();
        }
        while let Some(next) = found.connections.pop() {
            if let Some(live) = next.upgrade().filter(|live| live.is_spare()) {
                live.tell(ThreadOrder::Cut);
                return true;
            }
        }
        false
    }
}
