//! Whose bodies fill a connection's window.
//!
//! All streams share one window, wide enough for sixteen that nobody reads. While fewer hold something that their workers have
//! not taken, a client that owes bytes can send them; else its silence may be the others' doing, and is nobody's fault
//! (`crate::pace`). Counted by streams, not by bytes: h2 does not say what it holds, and a stream holds no more than its own
//! window.

use std::cell::Cell;
use std::rc::Rc;

use super::{CONNECTION_WINDOW, STREAM_WINDOW};
use crate::pace::{Held, Lane};

/// Streams whose windows together are the connection's.
const FILL: u32 = CONNECTION_WINDOW / STREAM_WINDOW;

/// The streams of one connection that may hold bytes.
#[derive(Default)]
pub struct Inflow {
    holding: Cell<u32>,
}

impl Lane for Inflow {
    fn state(&self) -> (Held, u64) {
        (if self.holding.get() < FILL { Held::Alone } else { Held::Excused }, 0)
    }
}

/// One stream of them, until it is dropped.
pub(super) struct Holding {
    inflow: Rc<Inflow>,
    some: Cell<bool>,
}

impl Holding {
    /// Nothing has come.
    pub(super) fn new(inflow: Rc<Inflow>) -> Self {
        Self { inflow, some: Cell::new(false) }
    }

    /// Whether something may have come that was not read.
    pub(super) fn holds(&self, some: bool) {
        if self.some.replace(some) == some {
            return;
        }
        let others = self.inflow.holding.get();
        self.inflow.holding.set(if some { others.saturating_add(1) } else { others.saturating_sub(1) });
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.holds(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_that_others_may_fill_excuses_and_goes_on_being_counted() {
        let inflow = Rc::<Inflow>::default();
        let streams: Vec<_> = (0..FILL).map(|_| Holding::new(inflow.clone())).collect();
        streams.iter().for_each(|stream| stream.holds(true));
        assert_eq!(inflow.state().0, Held::Excused);
        streams[0].holds(true);
        streams[0].holds(false);
        assert_eq!(inflow.state().0, Held::Alone);
        streams[0].holds(true);
        drop(streams);
        assert_eq!((inflow.state().0, inflow.holding.get()), (Held::Alone, 0));
    }
}
