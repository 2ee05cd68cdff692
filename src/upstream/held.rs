//! What is held of answers for one client's connection that carries many of them (HTTP/2).
//!
//! Each answer is read at its client's pace, a piece at a time; but a client may ask for a hundred and take none. Once a few
//! full pieces wait, all of them are read in small ones, so that a connection holds about `FULL` + streams × `SMALL`
//! instead of a full piece a stream. None is held up by the others. Left out: what is counted (`listener::h2::send`).

use std::cell::Cell;

/// Bytes held from which on pieces are small: two large ones (threats §2: 128 KB a connection, with what is on its way).
const FULL: usize = 64 * 1024;

/// A small piece: a head fits as a rule, and a client that takes what it asked for is served at a third of the speed or better.
const SMALL: usize = 4 * 1024;

/// Bytes read of workers that a connection's client has not taken.
#[derive(Debug, Default)]
pub struct Held(Cell<usize>);

impl Held {
    /// So many more wait.
    pub fn more(&self, bytes: usize) {
        self.0.set(self.0.get().saturating_add(bytes));
    }

    /// So many wait no longer.
    pub fn less(&self, bytes: usize) {
        self.0.set(self.0.get().saturating_sub(bytes));
    }

    /// Bytes to read at once, where `most` would be read for a client that takes what it asks for.
    pub(super) fn piece(&self, most: usize) -> usize {
        if self.0.get() < FULL { most } else { most.min(SMALL) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_small_while_much_waits() {
        let held = Held::default();
        held.more(FULL - 1);
        assert_eq!(held.piece(100_000), 100_000);
        held.more(1);
        assert_eq!((held.piece(100_000), held.piece(10)), (SMALL, 10));
        held.less(1);
        assert_eq!(held.piece(100_000), 100_000);
    }
}
