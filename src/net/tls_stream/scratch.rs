//! Memory for TLS records: the one buffer that a thread works in, and what a connection keeps when that work is not
//! finished.
//!
//! The scratch buffer contains what the last connection left in it, including plaintext of other clients: only what was
//! written into it in the same poll may be read from it. What a record is does not matter here.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

use tokio::io::ReadBuf;

/// Bytes read from a socket at once: enough that one more system call does not matter
/// (docs/reference/performance.md §2: bytes per call decide).
pub(crate) const READ: usize = 64 * 1024;

/// Bytes of additional room for input that came earlier, in front of the bytes that are read.
pub(crate) const BESIDE: usize = 32 * 1024;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The thread's scratch buffer, [`READ`] + [`BESIDE`] bytes, lent for one poll and never held for longer. If it is
/// already lent, a new one is allocated, so that nothing here can fail; that never happens, because no poll of a socket
/// calls back into this code.
pub(crate) struct Scratch(Vec<u8>);

impl Scratch {
    pub(crate) fn lend() -> Self {
        let mut bytes = SCRATCH.try_with(Cell::take).unwrap_or_default();
        bytes.resize(READ + BESIDE, 0);
        Self(bytes)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        // A thread that is ending has no scratch buffer any more.
        let _ = SCRATCH.try_with(|scratch| scratch.set(bytes));
    }
}

impl Deref for Scratch {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// Bytes that wait for a reader or a socket; owns memory only while there are some.
#[derive(Default)]
pub(crate) struct WaitingBytes {
    bytes: Vec<u8>,
    /// Number of bytes at the front that are already consumed.
    gone: usize,
}

impl WaitingBytes {
    pub(crate) fn waiting(&self) -> &[u8] {
        self.bytes.get(self.gone..).unwrap_or_default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends bytes to those that wait. The first ones are stored without spare capacity, because mostly none follow.
    pub(crate) fn append(&mut self, more: &[u8]) {
        if self.bytes.is_empty() {
            self.bytes = more.to_vec();
        } else {
            self.bytes.extend_from_slice(more);
        }
    }

    /// Appends room for `by` bytes to those that wait, and returns it.
    pub(crate) fn grow(&mut self, by: usize) -> &mut [u8] {
        let before = self.bytes.len();
        self.bytes.resize(before + by, 0);
        self.bytes.get_mut(before..).unwrap_or_default()
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Marks `by` more bytes as consumed.
    pub(crate) fn advance(&mut self, by: usize) {
        self.gone += by;
        if self.gone >= self.bytes.len() {
            *self = Self::default();
        }
    }
}

/// Gives plaintext to the reader, and appends what `buf` has no room for to `plain`.
pub(crate) fn hand_over(payload: &[u8], buf: Option<&mut ReadBuf<'_>>, plain: &mut WaitingBytes) {
    let mut rest = payload;
    if let Some(buf) = buf
        && plain.is_empty()
    {
        let (fits, more) = payload.split_at(payload.len().min(buf.remaining()));
        buf.put_slice(fits);
        rest = more;
    }
    if !rest.is_empty() {
        plain.append(rest);
    }
}
