//! Cuts the parts of one write into TLS records: a head and its body leave in one record, large bodies in full records,
//! and a small remainder together with the last of them.
//!
//! How a record is sealed is decided by the caller.

use std::io::IoSlice;

/// Bytes of plaintext in a full record (RFC 8446 §5.1).
pub(crate) const RECORD: usize = 16 * 1024;

/// Bytes of plaintext that are sealed at once, and then held if the socket does not take their records: two full
/// records. rustls's own 64 KiB would be half of what a connection may hold in total (docs/reference/threats.md §2.6: a
/// slow reader).
pub(crate) const STEP: usize = 2 * RECORD;

/// Bytes by which a step may be longer if they are the last of a write: frame headers, or the HTTP head in front of a
/// body that fills its records, then need no system call of their own.
const TAIL: usize = 1024;

/// Maximum bytes of the records of one step, and of a record that rustls itself sends before them (a key update).
pub(crate) const SEALED: usize = STEP + TAIL + 1024;

/// Cuts at most [`STEP`] bytes of plaintext, plus a [`TAIL`], and has them encrypted piece by piece to the front of
/// `sealed`. Only small parts are copied, into `piece`, which has room for a record. Returns the bytes of plaintext and
/// of records.
///
/// # Errors
/// The first error of `encrypt`.
pub(crate) fn seal<E>(
    parts: &mut WriteParts<'_>,
    sealed: &mut [u8],
    piece: &mut [u8],
    mut encrypt: impl FnMut(&[u8], &mut [u8]) -> Result<usize, E>,
) -> Result<(usize, usize), E> {
    let (mut taken, mut length) = (0, 0);
    while taken < STEP || parts.left() <= TAIL {
        let room = if taken < STEP { STEP - taken } else { TAIL };
        let (part, is_last) = parts.first();
        let plaintext = if is_last || part.len() >= RECORD {
            // A whole number of records, except at the end.
            let most = part.len().min(room);
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

/// The parts of a write that are left.
pub(crate) struct WriteParts<'a> {
    parts: &'a [IoSlice<'a>],
    /// Number of bytes of the first part that are already taken.
    at: usize,
}

impl<'a> WriteParts<'a> {
    pub(crate) fn of(parts: &'a [IoSlice<'a>]) -> Self {
        Self { parts, at: 0 }
    }

    /// Returns what is left of the first part that is not used up, and whether it is the last part.
    fn first(&mut self) -> (&'a [u8], bool) {
        while let Some((part, others)) = self.parts.split_first() {
            match part.get(self.at..) {
                Some(rest) if !rest.is_empty() => return (rest, others.is_empty()),
                _ => *self = Self { parts: others, at: 0 },
            }
        }
        (&[], true)
    }

    fn left(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum::<usize>() - self.at
    }

    /// Takes at most `most` bytes of the first part.
    fn take(&mut self, most: usize) -> &'a [u8] {
        let (part, _) = self.first();
        let taken = part.get(..most).unwrap_or(part);
        self.at += taken.len();
        taken
    }

    /// Copies from one part after another until `piece` is full; returns the number of bytes.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Cuts a write whose parts have these lengths; returns the length of each record, step by step.
    fn steps(parts: &[usize]) -> Vec<Vec<usize>> {
        let parts: Vec<_> = parts.iter().map(|&length| vec![7; length]).collect();
        let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let (mut left, mut all) = (WriteParts::of(&slices), Vec::new());
        loop {
            let (mut sealed, mut piece, mut step) = (vec![0; SEALED], vec![0; RECORD], Vec::new());
            let encrypt = |plaintext: &[u8], room: &mut [u8]| {
                room[..plaintext.len()].copy_from_slice(plaintext);
                step.push(plaintext.len());
                Ok::<_, ()>(plaintext.len())
            };
            let (taken, length) = seal(&mut left, &mut sealed, &mut piece, encrypt).unwrap();
            assert_eq!((taken, step.iter().sum()), (length, taken));
            if taken == 0 {
                return all;
            }
            all.push(step);
        }
    }

    #[test]
    fn a_small_remainder_goes_with_the_last_step() {
        assert_eq!(steps(&[STEP + TAIL]), [[STEP, TAIL]]);
        assert_eq!(steps(&[STEP + TAIL + 1]), [[STEP], [TAIL + 1]]);
        assert_eq!(steps(&[2 * STEP + 36]), [vec![STEP], vec![STEP, 36]], "four frames of HTTP/2 with their heads");
        assert_eq!(steps(&[200, STEP]), [[RECORD, RECORD, 200]], "a head and its body");
        assert_eq!(steps(&[STEP, 300, 300]), [[STEP, 600]]);
        assert_eq!(steps(&[STEP, 600, 600]), [[STEP], [1200]]);
        assert_eq!(steps(&[]), [[0; 0]; 0]);
    }
}
