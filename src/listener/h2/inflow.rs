//! Tracks whose request bodies fill the receive window of an HTTP/2 connection.
//!
//! All streams share one window, large enough for sixteen streams that are not read. While fewer streams hold bytes
//! that their workers have not taken, a client that owes bytes is able to send them. Otherwise its silence may be
//! caused by the other streams, and the client is not blamed for it (`crate::pace`). Streams are counted, not bytes: h2
//! does not report how many bytes it holds, and a stream holds no more than its own window.

use std::cell::Cell;
use std::rc::Rc;

use super::uploads::Uploads;
use super::written_targets::WrittenTargets;
use super::{CONNECTION_WINDOW, STREAM_WINDOW};
use crate::min_rate::{HeldUpBy, Lane};

/// Number of streams whose windows together are as large as the connection's.
const FILL: u32 = CONNECTION_WINDOW / STREAM_WINDOW;

/// What a client sends on the streams of one connection, and which of them may hold bytes.
#[derive(Default)]
pub struct Inflow {
    /// Number of streams that may hold bytes.
    holding: Cell<u32>,
    pub(super) uploads: Uploads,
    pub(super) targets: WrittenTargets,
}

impl Lane for Inflow {
    fn state(&self) -> (HeldUpBy, u64) {
        (if self.holding.get() < FILL { HeldUpBy::Alone } else { HeldUpBy::Excused }, 0)
    }
}

/// One stream's entry in the count, until it is dropped.
pub(crate) struct Holding {
    inflow: Rc<Inflow>,
    stream: u32,
    some: Cell<bool>,
}

impl Holding {
    /// Creates the entry of a stream that holds nothing yet.
    pub(crate) fn new(inflow: Rc<Inflow>, stream: u32) -> Self {
        Self { inflow, stream, some: Cell::new(false) }
    }

    /// Notes that a DATA frame of this size was taken from the stream.
    pub(crate) fn took(&self, bytes: usize) {
        self.inflow.uploads.took(self.stream, bytes);
    }

    /// Sets whether the stream may hold bytes that have come and were not read.
    pub(crate) fn holds(&self, some: bool) {
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
    fn a_window_that_others_may_have_filled_excuses_the_client() {
        let inflow = Rc::<Inflow>::default();
        let streams: Vec<_> = (0..FILL).map(|stream| Holding::new(inflow.clone(), stream)).collect();
        streams.iter().for_each(|stream| stream.holds(true));
        assert_eq!(inflow.state().0, HeldUpBy::Excused);
        streams[0].holds(true);
        streams[0].holds(false);
        assert_eq!(inflow.state().0, HeldUpBy::Alone);
        streams[0].holds(true);
        drop(streams);
        assert_eq!((inflow.state().0, inflow.holding.get()), (HeldUpBy::Alone, 0));
    }
}
