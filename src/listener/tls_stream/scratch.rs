//! Memory for TLS records: the one piece a thread works in, and what a connection keeps when that work is not done.
//!
//! The scratch holds what the last connection left in it, plaintext of others included: only what was written into it in
//! the same poll may be read out of it again. Leaves out what a record is.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

use tokio::io::ReadBuf;

/// Bytes read from a socket at once: enough that a system call more does not show (data-plane study §2: bytes per call
/// decide).
pub(super) const READ: usize = 64 * 1024;

/// Bytes beside that: what came before, and goes in front of it.
pub(super) const BESIDE: usize = 32 * 1024;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The thread's scratch, [`READ`] + [`BESIDE`] bytes, for one poll: never held across one. Whoever finds it lent (nobody
/// does: no poll of a socket comes back to us) gets a piece of its own, so that nothing here can fail.
pub(super) struct Scratch(Vec<u8>);

impl Scratch {
    pub(super) fn lend() -> Self {
        let mut bytes = SCRATCH.try_with(Cell::take).unwrap_or_default();
        bytes.resize(READ + BESIDE, 0);
        Self(bytes)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        // A thread that ends has no scratch any more.
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

/// Bytes that wait for somebody; owns memory only while there are some.
#[derive(Default)]
pub(super) struct Rest {
    bytes: Vec<u8>,
    /// Of these, how many are gone already.
    gone: usize,
}

impl Rest {
    pub(super) fn waiting(&self) -> &[u8] {
        self.bytes.get(self.gone..).unwrap_or_default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Behind what waits. The first is kept exactly: mostly there is no second.
    pub(super) fn append(&mut self, more: &[u8]) {
        if self.bytes.is_empty() {
            self.bytes = more.to_vec();
        } else {
            self.bytes.extend_from_slice(more);
        }
    }

    /// Room for so many bytes more, behind what waits.
    pub(super) fn grow(&mut self, by: usize) -> &mut [u8] {
        let before = self.bytes.len();
        self.bytes.resize(before + by, 0);
        self.bytes.get_mut(before..).unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// So many are done with.
    pub(super) fn advance(&mut self, by: usize) {
        self.gone += by;
        if self.gone >= self.bytes.len() {
            *self = Self::default();
        }
    }
}

/// Plaintext to whoever reads, and what he has no room for to `plain`.
pub(super) fn hand_over(payload: &[u8], buf: Option<&mut ReadBuf<'_>>, plain: &mut Rest) {
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
