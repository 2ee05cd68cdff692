//! Field blocks that are written anew for the h2 crate, as a whole or in pieces (RFC 9113 §4.3).

use super::FRAME;
use super::fields::{FieldClass, FieldList, Judgement};
use super::filter::Fault;
use crate::hpack::{Decoder, write_literal};

/// What a block is to its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The head of a request, which begins a stream.
    Head,
    Trailers,
    /// On a stream that the client has ended.
    AfterEnd,
    /// On a stream that stickyd has reset.
    Ignored,
}

/// A block that is not complete, or is not handed on as it is.
pub(super) struct OpenBlock {
    pub(super) stream: u32,
    place: Place,
    ends_stream: bool,
    list: FieldList,
    /// The beginning of a representation whose rest is in the next frame.
    left: Vec<u8>,
    /// Number of CONTINUATION frames so far.
    continuations: usize,
}

/// A complete block.
pub(super) struct BlockEnd {
    pub(super) stream: u32,
    pub(super) place: Place,
    pub(super) ends_stream: bool,
    pub(super) judgement: Judgement,
    /// The fields as literals: all of them, or as many as the limit allows.
    pub(super) written: Vec<u8>,
}

impl OpenBlock {
    pub(super) fn new(stream: u32, place: Place, ends_stream: bool, list: FieldList, left: Vec<u8>) -> Self {
        Self { stream, place, ends_stream, list, left, continuations: 0 }
    }

    /// Adds the payload of a CONTINUATION frame; `last` marks the end of the block.
    pub(super) fn proceed(
        &mut self,
        decoder: &mut Decoder<FieldClass>,
        payload: &[u8],
        last: bool,
        most: usize,
    ) -> Result<(), Fault> {
        self.continuations += 1;
        if !last && self.continuations > most_continuations(most) {
            return Err(Fault::TooMuch);
        }
        self.left.extend_from_slice(payload);
        let list = &mut self.list;
        let used = decoder.decode(&self.left, last, |field| list.add(field)).map_err(|_| Fault::Compression)?;
        self.left.drain(..used);
        Ok(())
    }

    /// Returns the complete block.
    pub(super) fn end(self) -> BlockEnd {
        let (judgement, has_target) = (self.list.judgement(), self.list.has_written_target());
        let mut written = self.list.into_written();
        if judgement == Judgement::TooLarge && !has_target {
            // h2 accepts the stream only with these; the request is refused anyway.
            written.clear();
            for (name, value) in [(":method", "GET"), (":scheme", "https"), (":path", "/")] {
                write_literal(&mut written, name.as_bytes(), value.as_bytes());
            }
        }
        BlockEnd { stream: self.stream, place: self.place, ends_stream: self.ends_stream, judgement, written }
    }
}

/// Returns how many CONTINUATION frames a block may have before its last one: enough for the largest list if a quarter
/// of each frame is unused, and at least five. h2 has the same limit.
fn most_continuations(most: usize) -> usize {
    let least = (most / FRAME as usize).max(1);
    (least + least / 4).max(5)
}
