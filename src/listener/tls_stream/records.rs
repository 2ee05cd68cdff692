//! Parts of one write, cut into records: a head and its body leave in one, and large bodies in full ones.
//!
//! Leaves out what seals a record.

use std::io::IoSlice;

/// Plaintext in a full record (RFC 8446 §5.1).
pub(super) const RECORD: usize = 16 * 1024;

/// Bytes of plaintext sealed, and then held for a socket that does not take them, at once: two records. rustls's own 64 KiB
/// would be half of what a connection may hold in all (threats §2: a slow reader).
pub(super) const STEP: usize = 2 * RECORD;

/// Bytes that [`STEP`] of plaintext has as records, and rustls's own words before them: a key update.
pub(super) const SEALED: usize = STEP + 1024;

/// Cuts not more than [`STEP`] of plaintext, and has it encrypted piece by piece to the front of `sealed`. Only what comes
/// in small parts is copied, into `piece`, which has room for a record. How many bytes of plaintext, and of records.
///
/// # Errors
/// The first of `encrypt`.
pub(super) fn seal<E>(
    parts: &mut Parts<'_>,
    sealed: &mut [u8],
    piece: &mut [u8],
    mut encrypt: impl FnMut(&[u8], &mut [u8]) -> Result<usize, E>,
) -> Result<(usize, usize), E> {
    let (mut taken, mut length) = (0, 0);
    while taken < STEP {
        let (part, is_last) = parts.first();
        let plaintext = if is_last || part.len() >= RECORD {
            // A whole number of records, but for the end.
            let most = part.len().min(STEP - taken);
            parts.take(if is_last { most } else { most - most % RECORD })
        } else {
            let filled = parts.gather(piece);
            piece.get(..filled).unwrap_or_default()
        };
        if plaintext.is_empty() {
            break;
        }
        length += encrypt(plaintext, sealed.get_mut(length..).unwrap_or_default())?;
        taken += plaintext.len();
    }
    Ok((taken, length))
}

/// What is left of a write.
pub(super) struct Parts<'a> {
    parts: &'a [IoSlice<'a>],
    /// Bytes of the first that are taken already.
    at: usize,
}

impl<'a> Parts<'a> {
    pub(super) fn of(parts: &'a [IoSlice<'a>]) -> Self {
        Self { parts, at: 0 }
    }

    /// What is left of the first part that has something left, and whether it is the last.
    fn first(&mut self) -> (&'a [u8], bool) {
        while let Some((part, others)) = self.parts.split_first() {
            match part.get(self.at..) {
                Some(rest) if !rest.is_empty() => return (rest, others.is_empty()),
                _ => *self = Self { parts: others, at: 0 },
            }
        }
        (&[], true)
    }

    /// At most so many bytes of it.
    fn take(&mut self, most: usize) -> &'a [u8] {
        let (part, _) = self.first();
        let taken = part.get(..most).unwrap_or(part);
        self.at += taken.len();
        taken
    }

    /// Copies from one part after another until `piece` is full; how many bytes.
    fn gather(&mut self, piece: &mut [u8]) -> usize {
        let (mut filled, mut room) = (0, piece);
        loop {
            let part = self.take(room.len());
            if part.is_empty() {
                return filled;
            }
            let (here, behind) = room.split_at_mut(part.len());
            here.copy_from_slice(part);
            filled += part.len();
            room = behind;
        }
    }
}
