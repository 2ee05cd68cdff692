//! Field blocks (RFC 9113 §4.3): which of them go on to the h2 crate as they are, and what it gets instead of the
//! others.

use super::super::FRAME;
use super::super::fields::{BlockKind, FieldClass, FieldList, Judgement};
use super::super::frames::{self, DATA, END_HEADERS, END_STREAM, FrameHead, HEAD};
use super::super::uploads::UploadState;
use super::{FilterStep, FrameFilter, H2Fault, KEPT, MORE_STREAMS, PROTOCOL_ERROR, STREAM_CLOSED};
use crate::hpack::{Decoder, write_literal};
use crate::net::written_target::WrittenTarget;

impl FrameFilter {
    pub(super) fn headers(&mut self, head: FrameHead, bytes: &[u8]) -> Result<FilterStep, H2Fault> {
        let Some(payload) = head.payload(bytes) else { return Ok(FilterStep::More) };
        // Parts that do not fit into the frame are an error of the connection (RFC 9113 §6.2).
        let Some(fragment) = frames::fragment(head, payload) else { return Ok(self.pass(head)) };
        let Some(place) = self.place(head.stream) else { return Ok(self.pass(head)) };
        let ends_block = head.has(END_HEADERS);
        let kind = if place == BlockRole::Head { BlockKind::Head } else { BlockKind::Trailers };
        let scratch = std::mem::take(&mut self.scratch);
        let mut list = FieldList::new(kind, self.limits.head_bytes, self.rewrites || !ends_block, scratch);
        if fragment.depends_on_itself {
            list.reject("the stream depends on itself");
        }
        let used = self.decoder.decode(fragment.bytes, ends_block, |field| list.add(field));
        let used = used.map_err(|_| H2Fault::Compression)?;
        let is_untouched = ends_block && !self.rewrites && list.is_untouched();
        if is_untouched && matches!(place, BlockRole::Head | BlockRole::Trailers) {
            self.keep(list.into_written());
            let held = self.begin_or_end(place, head.stream, head.has(END_STREAM))?;
            return Ok(self.pass_after(&held, head, bytes));
        }
        self.rewrites = true;
        let left = fragment.bytes.get(used..).unwrap_or_default().to_vec();
        let block = OpenBlock::new(head.stream, place, head.has(END_STREAM), list, left);
        if ends_block {
            self.finish(block.end())?;
        } else {
            self.block = Some(Box::new(block));
        }
        Ok(FilterStep::Taken(HEAD + head.length))
    }

    /// Keeps a buffer for the next field list, unless it is large.
    fn keep(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= KEPT {
            buffer.clear();
            self.scratch = buffer;
        }
    }

    /// Returns what a block on this stream is, and notes a new stream; `None` leaves it to h2.
    fn place(&mut self, stream: u32) -> Option<BlockRole> {
        if stream > self.highest {
            if stream > self.highest.saturating_add(2) || self.highest == 0 {
                self.unbroken_from = stream;
            }
            self.highest = stream;
            return Some(BlockRole::Head);
        }
        match self.inflow.uploads.half(stream) {
            UploadState::Open => Some(BlockRole::Trailers),
            UploadState::Reset | UploadState::Left => Some(BlockRole::Ignored),
            UploadState::Unknown if stream >= self.unbroken_from => Some(BlockRole::AfterEnd),
            UploadState::Unknown => None,
        }
    }

    pub(super) fn continuation(&mut self, head: FrameHead, bytes: &[u8]) -> Result<FilterStep, H2Fault> {
        let Some(payload) = head.payload(bytes) else { return Ok(FilterStep::More) };
        let Some(mut block) = self.block.take() else { return Ok(self.pass(head)) };
        let ends_block = head.has(END_HEADERS);
        block.proceed(&mut self.decoder, payload, ends_block, self.limits.head_bytes)?;
        if ends_block {
            self.finish(block.end())?;
        } else {
            self.block = Some(block);
        }
        Ok(FilterStep::Taken(HEAD + head.length))
    }

    /// Gives h2 what a complete block stands for.
    fn finish(&mut self, end: BlockEnd) -> Result<(), H2Fault> {
        let (stream, ends_stream) = (end.stream, end.ends_stream);
        match (end.place, end.judgement) {
            (BlockRole::Ignored, _) => {}
            (BlockRole::AfterEnd, _) => self.fail(stream, STREAM_CLOSED),
            (BlockRole::Head, Judgement::Malformed(why)) => {
                let count = self.malformed.map_or(0, |(count, _)| count);
                self.malformed = Some((count.saturating_add(1), why));
                self.fail(stream, PROTOCOL_ERROR);
            }
            (BlockRole::Trailers, Judgement::Malformed(_) | Judgement::TooLarge) => self.fail(stream, PROTOCOL_ERROR),
            (place, judgement) => {
                if judgement == Judgement::TooLarge {
                    self.inflow.uploads.mark_too_large(stream);
                }
                if let Some(target) = end.target {
                    self.inflow.targets.keep(stream, target);
                }
                let held = self.begin_or_end(place, stream, ends_stream)?;
                if !held.is_empty() {
                    frames::write(&mut self.ready, DATA, 0, stream, &held);
                }
                frames::write_block(&mut self.ready, stream, ends_stream, &end.written);
            }
        }
        self.keep(end.written);
        Ok(())
    }

    /// Notes that a stream has begun, or that the client ends it; returns what is held for it.
    fn begin_or_end(&self, place: BlockRole, stream: u32, ends_stream: bool) -> Result<Vec<u8>, H2Fault> {
        let uploads = &self.inflow.uploads;
        if place == BlockRole::Head {
            let most = MORE_STREAMS + 2 * self.limits.streams as usize;
            return if ends_stream || uploads.try_open(stream, most) { Ok(Vec::new()) } else { Err(H2Fault::TooMuch) };
        }
        // Trailers that do not end their stream are malformed (RFC 9113 §8.1): h2 resets the stream.
        Ok(if ends_stream { uploads.end(stream) } else { uploads.take_held(stream) })
    }
}

/// What a block is to its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockRole {
    /// The head of a request, which begins a stream.
    Head,
    Trailers,
    /// On a stream that the client has ended.
    AfterEnd,
    /// On a stream that stickyd or the client has reset.
    Ignored,
}

/// A block that is not complete, or is not handed on as it is.
pub(super) struct OpenBlock {
    pub(super) stream: u32,
    place: BlockRole,
    ends_stream: bool,
    list: FieldList,
    /// The beginning of a representation whose rest is in the next frame.
    left: Vec<u8>,
    /// Number of CONTINUATION frames so far.
    continuations: usize,
}

/// A block that is complete.
pub(super) struct BlockEnd {
    pub(super) stream: u32,
    pub(super) place: BlockRole,
    pub(super) ends_stream: bool,
    pub(super) judgement: Judgement,
    /// The `:path` as the client wrote it, if it is another one in `written`.
    pub(super) target: Option<WrittenTarget>,
    /// The fields as literals: all of them, or as many as the limit allows.
    pub(super) written: Vec<u8>,
}

impl OpenBlock {
    pub(super) fn new(stream: u32, place: BlockRole, ends_stream: bool, list: FieldList, left: Vec<u8>) -> Self {
        Self { stream, place, ends_stream, list, left, continuations: 0 }
    }

    /// Adds the payload of a CONTINUATION frame; `last` marks the end of the block.
    pub(super) fn proceed(
        &mut self,
        decoder: &mut Decoder<FieldClass>,
        payload: &[u8],
        last: bool,
        most: usize,
    ) -> Result<(), H2Fault> {
        self.continuations += 1;
        if !last && self.continuations > most_continuations(most) {
            return Err(H2Fault::TooMuch);
        }
        self.left.extend_from_slice(payload);
        let list = &mut self.list;
        let used = decoder.decode(&self.left, last, |field| list.add(field)).map_err(|_| H2Fault::Compression)?;
        self.left.drain(..used);
        Ok(())
    }

    /// Returns the complete block.
    pub(super) fn end(mut self) -> BlockEnd {
        let (judgement, has_target) = (self.list.judgement(), self.list.has_written_target());
        let target = self.list.take_target();
        let mut written = self.list.into_written();
        if judgement == Judgement::TooLarge && !has_target {
            // h2 accepts the stream only with these; the request is refused anyway.
            written.clear();
            for (name, value) in [(":method", "GET"), (":scheme", "https"), (":path", "/")] {
                write_literal(&mut written, name.as_bytes(), value.as_bytes());
            }
        }
        BlockEnd { stream: self.stream, place: self.place, ends_stream: self.ends_stream, judgement, target, written }
    }
}

/// Returns how many CONTINUATION frames a block may have before its last one: enough for the largest list if a quarter
/// of each frame is unused, and at least five. h2 has the same limit.
fn most_continuations(most: usize) -> usize {
    let least = (most / FRAME as usize).max(1);
    (least + least / 4).max(5)
}
