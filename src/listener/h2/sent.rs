//! Follows the frames that stickyd sends to a client, as the h2 crate writes them.
//!
//! h2 does not report which streams it resets by itself. The filter has to know, and a client that makes it reset many
//! streams is cut ([`super::meter`]). A frame of our own may only be written between two frames of h2, and never within
//! a field block (RFC 9113 §6.10).

use super::frames::{END_HEADERS, FrameHead, HEAD, HEADERS, RST_STREAM};

/// Length of a RST_STREAM in bytes: its header and its code (RFC 9113 §6.4).
const RESET: usize = HEAD + 4;

/// A frame that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SentFrame {
    /// The first frame of a response's head, or of trailers.
    Head,
    /// A reset of a stream; `end` is where its code ends in the bytes that were read.
    Reset { stream: u32, code: u32, end: usize },
}

/// The place in the bytes that are written to one client.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Header of the current frame; and the code, if it is a RST_STREAM.
    head: [u8; RESET],
    have: usize,
    /// Number of bytes of the current frame's payload that are still to come.
    skip: usize,
    /// Whether a field block continues in the next frame.
    in_block: bool,
}

impl Sent {
    /// Returns whether a frame may be inserted here.
    pub(super) fn is_between_frames(&self) -> bool {
        self.have == 0 && self.skip == 0 && !self.in_block
    }

    /// Reads the next bytes.
    pub(super) fn read(&mut self, bytes: &[u8], mut each: impl FnMut(SentFrame)) {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if self.skip > 0 {
                let skipped = self.skip.min(rest.len());
                (self.skip, at) = (self.skip - skipped, at + skipped);
                continue;
            }
            if let (Some(place), Some(byte)) = (self.head.get_mut(self.have), rest.first()) {
                *place = *byte;
            }
            (self.have, at) = (self.have + 1, at + 1);
            if self.have < HEAD {
                continue;
            }
            let Some(head) = FrameHead::of(&self.head) else { return };
            if head.kind == RST_STREAM && head.length == 4 {
                if self.have == RESET {
                    let [.., a, b, c, d] = self.head;
                    self.have = 0;
                    each(SentFrame::Reset { stream: head.stream, code: u32::from_be_bytes([a, b, c, d]), end: at });
                }
                continue;
            }
            (self.have, self.skip) = (0, head.length);
            if head.kind == HEADERS {
                each(SentFrame::Head);
            }
            self.in_block = (head.kind == HEADERS || self.in_block) && !head.has(END_HEADERS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_and_places_between_frames_are_found_in_pieces_of_any_size() {
        let data = [0, 0, 13, 0, 0, 0, 0, 0, 1, 0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8];
        let reset = [0, 0, 4, 3, 0, 0, 0, 0, 7, 0, 0, 0, 2];
        let (head, rest) = ([0, 0, 1, 1, 0, 0, 0, 0, 9, 0x88], [0, 0, 1, 9, 4, 0, 0, 0, 9, 0x88]);
        let all = [&data[..], &reset, &head, &rest, &reset].concat();
        for cut in [1, 2, 5, 9, 10, 13, all.len()] {
            let (mut sent, mut resets, mut heads, mut before) = (Sent::default(), Vec::new(), 0, 0);
            for piece in all.chunks(cut) {
                sent.read(piece, |frame| match frame {
                    SentFrame::Head => heads += 1,
                    SentFrame::Reset { stream, code, end } => resets.push((stream, code, before + end)),
                });
                before += piece.len();
            }
            assert_eq!((resets, heads), (vec![(7, 2, 35), (7, 2, all.len())], 1), "{cut}");
            assert!(sent.is_between_frames());
        }
        let mut sent = Sent::default();
        sent.read(&head, |_| {});
        assert!(!sent.is_between_frames(), "within a block");
        sent.read(&rest, |_| {});
        assert!(sent.is_between_frames());
        sent.read(&rest[..3], |_| {});
        assert!(!sent.is_between_frames(), "within a frame header");
    }
}
