//! Connections that wait for a request, and may make room for new ones where there are too many.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::rc::{Rc, Weak};

use super::live::Live;
use super::{Order, Thread};
use crate::clock;

/// Those that waited for a request when it was last looked, the longest silent last.
#[derive(Default)]
pub(super) struct Spare(RefCell<Found>);

#[derive(Default)]
struct Found {
    /// Weak: each may have ended by itself.
    connections: Vec<Weak<Live>>,
    /// When it was looked, seconds.
    at_s: u32,
}

impl Thread {
    /// Ends the connection that has waited for a request for longest, a second or two at least; whether there was one. All are
    /// looked at once a second at most, so that a flood of new ones costs no more than its own.
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
                live.tell(Order::Cut);
                return true;
            }
        }
        false
    }
}
