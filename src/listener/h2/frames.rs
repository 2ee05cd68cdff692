//! Frames of HTTP/2 as bytes (RFC 9113 §4.1, §6).

use super::FRAME;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;
const HAS_PRIORITY: u8 = 0x20;

/// Length of a frame header in bytes.
pub(super) const HEAD: usize = 9;

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHead {
    /// Length of the payload in bytes.
    pub(super) length: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl FrameHead {
    /// Reads the header at the beginning of `bytes`, if it is complete.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, s, t, u, v] = *bytes.first_chunk()?;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        Some(Self { length, kind, flags, stream: u32::from_be_bytes([s & 0x7f, t, u, v]) })
    }

    /// Returns the payload, if `bytes`, which begins with this header, has all of it.
    pub(super) fn payload(self, bytes: &[u8]) -> Option<&[u8]> {
        bytes.get(HEAD..HEAD + self.length)
    }

    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Splits a payload of DATA or HEADERS from its padding; `None` if the padding is too long.
pub(super) fn without_padding(flags: u8, payload: &[u8]) -> Option<&[u8]> {
    if flags & PADDED == 0 {
        return Some(payload);
    }
    let (padding, rest) = payload.split_first()?;
    rest.get(..rest.len().checked_sub(usize::from(*padding))?)
}

/// The field block fragment of a HEADERS frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fragment<'a> {
    pub(super) bytes: &'a [u8],
    /// Whether its priority makes the stream depend on itself.
    pub(super) depends_on_itself: bool,
}

/// Returns the fragment in the payload of a HEADERS frame (RFC 9113 §6.2); `None` if its parts do not fit.
pub(super) fn fragment(head: FrameHead, payload: &[u8]) -> Option<Fragment<'_>> {
    let rest = without_padding(head.flags, payload)?;
    if !head.has(HAS_PRIORITY) {
        return Some(Fragment { bytes: rest, depends_on_itself: false });
    }
    let (priority, bytes) = rest.split_at_checked(5)?;
    Some(Fragment { bytes, depends_on_itself: dependency(priority) == Some(head.stream) })
}

/// Returns the stream that a priority depends on (RFC 9113 §6.3).
pub(super) fn dependency(priority: &[u8]) -> Option<u32> {
    number(priority).map(|stream| stream & 0x7fff_ffff)
}

/// Returns the number in the first four bytes.
pub(super) fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|four| u32::from_be_bytes(*four))
}

/// Appends a frame with this payload.
pub(super) fn write(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Appends a field block as HEADERS, and CONTINUATION as far as one frame does not hold it.
pub(super) fn write_block(out: &mut Vec<u8>, stream: u32, ends_stream: bool, block: &[u8]) {
    let most = usize::try_from(FRAME).unwrap_or(usize::MAX);
    let (mut kind, mut flags) = (HEADERS, if ends_stream { END_STREAM } else { 0 });
    let mut rest = block;
    loop {
        let (piece, after) = rest.split_at_checked(most).unwrap_or((rest, &[]));
        let last = if after.is_empty() { END_HEADERS } else { 0 };
        write(out, kind, flags | last, stream, piece);
        (kind, flags, rest) = (CONTINUATION, 0, after);
        if last != 0 {
            return;
        }
    }
}

/// Appends a frame for which the h2 crate resets the stream, whatever its state, with PROTOCOL_ERROR: a priority that
/// makes the stream depend on itself (RFC 7540 §5.3.1).
pub(super) fn write_mistake(out: &mut Vec<u8>, stream: u32) {
    let [a, b, c, d] = stream.to_be_bytes();
    write(out, PRIORITY, 0, stream, &[a, b, c, d, 0]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_are_found_in_all_forms_of_headers() {
        let found = |flags, payload: &'static [u8]| {
            fragment(FrameHead { length: payload.len(), kind: HEADERS, flags, stream: 7 }, payload)
        };
        let plain = |bytes| Some(Fragment { bytes, depends_on_itself: false });
        assert_eq!(found(0, b"abc"), plain(b"abc"));
        assert_eq!(found(PADDED, b"\x02abc\0\0"), plain(b"abc"));
        assert_eq!(found(HAS_PRIORITY, b"\x80\0\0\x01\x10abc"), plain(b"abc"));
        assert_eq!(found(PADDED | HAS_PRIORITY, b"\x01\0\0\0\x01\x10abc\0"), plain(b"abc"));
        assert_eq!(
            found(HAS_PRIORITY, b"\x80\0\0\x07\x10abc"),
            Some(Fragment { bytes: b"abc", depends_on_itself: true })
        );
        for (flags, wrong) in [(PADDED, &b"\x04abc"[..]), (PADDED, b""), (HAS_PRIORITY, b"\0\0\0\x01")] {
            assert_eq!(found(flags, wrong), None);
        }
        assert_eq!(found(PADDED, b"\x03abc"), plain(b""), "padding alone");
    }

    #[test]
    fn long_blocks_are_continued() {
        let block = vec![7; 40_000];
        let mut out = Vec::new();
        write_block(&mut out, 5, true, &block);
        let (mut rest, mut heads, mut all) = (&out[..], Vec::new(), Vec::new());
        while let Some(head) = FrameHead::of(rest) {
            heads.push((head.kind, head.flags, head.stream, head.length));
            all.extend_from_slice(head.payload(rest).unwrap());
            rest = &rest[HEAD + head.length..];
        }
        assert_eq!(heads, [(1, 1, 5, 16_384), (9, 0, 5, 16_384), (9, 4, 5, 7_232)]);
        assert_eq!(all, block);
        let mut empty = Vec::new();
        write_block(&mut empty, 1, false, b"");
        assert_eq!(empty, [0, 0, 0, 1, 4, 0, 0, 0, 1]);
    }
}
