//! Bytes of a client that wait until hyper may see them.

/// Bytes that were read and that hyper has not seen yet.
#[derive(Default)]
pub(super) struct BytesAhead {
    pub(super) bytes: Vec<u8>,
    /// Number of bytes at the front that hyper has seen.
    pub(super) seen: usize,
}

impl BytesAhead {
    /// The bytes that hyper has not seen.
    pub(super) fn waiting(&self) -> &[u8] {
        self.bytes.get(self.seen..).unwrap_or_default()
    }

    /// Whether hyper has seen all of them.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting().is_empty()
    }

    /// Notes that hyper has seen this many more.
    pub(super) fn advance(&mut self, by: usize) {
        self.seen += by;
        if self.is_empty() {
            *self = Self::default();
        }
    }
}
