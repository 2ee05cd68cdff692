//! The amount of response data held for one client connection that carries many responses (HTTP/2).
//!
//! Each response is read at its client's pace, one piece at a time; but a client may request a hundred responses and
//! read none. Once a few full pieces are held, all responses are read in small pieces, so that a connection holds about
//! `FULL` + streams × `SMALL` instead of one full piece per stream. No response is blocked by the others. What counts
//! as held is decided in `listener::h2::send`.

use std::cell::Cell;

/// Number of held bytes from which on pieces are small: two large pieces (docs/reference/threats.md §2.6: 128 KB per
/// connection, including what is in flight).
const FULL: usize = 64 * 1024;

/// Size of a small piece in bytes. Most response heads fit, and a client that reads what it requested still gets at
/// least a third of the speed.
const SMALL: usize = 4 * 1024;

/// Number of bytes that were read from workers and not yet taken by the client of one connection.
#[derive(Debug, Default)]
pub struct UnsentBytes(Cell<usize>);

impl UnsentBytes {
    /// Adds bytes that were read and wait for the client.
    pub fn more(&self, bytes: usize) {
        self.0.set(self.0.get().saturating_add(bytes));
    }

    /// Subtracts bytes that no longer wait for the client.
    pub fn less(&self, bytes: usize) {
        self.0.set(self.0.get().saturating_sub(bytes));
    }

    /// Returns how many bytes to read at once, at most `most`: fewer while much is held.
    pub(crate) fn piece(&self, most: usize) -> usize {
        if self.0.get() < FULL { most } else { most.min(SMALL) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_small_while_much_is_held() {
        let held = UnsentBytes::default();
        held.more(FULL - 1);
        assert_eq!(held.piece(100_000), 100_000);
        held.more(1);
        assert_eq!((held.piece(100_000), held.piece(10)), (SMALL, 10));
        held.less(1);
        assert_eq!(held.piece(100_000), 100_000);
    }
}
