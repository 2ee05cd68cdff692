//! Reads the client's frames before the h2 crate does, so that a mistake in one stream ends only that stream.
//!
//! h2 answers several mistakes that concern one request with GOAWAY, which also ends the requests of all other clients
//! of the same front proxy: an invalid field, DATA on a stream that the client has ended, a window update of 0, many
//! empty or small DATA frames. RFC 9113 demands a stream error for each of them (§5.1, §6.9, §8.1.1). The filter finds
//! them and gives h2 a frame instead for which it resets that stream only.
//!
//! Field blocks are decoded here as well ([`crate::hpack`]), because a mistake in one is found only in this way. A
//! clean block goes on to h2 untouched, so that its table stays in step with the client's. Once a block was not handed
//! on, it does not any more: from then on every block is written anew, as literals that use no table.
//!
//! Errors of the whole connection stay what they are: most frames that cause one are handed on to h2.

mod blocks;

use std::rc::Rc;

use h2::Reason;
use tokio::io::ReadBuf;

use self::blocks::OpenBlock;
use super::fields::{FieldClass, classify};
use super::frames::{self, CONTINUATION, DATA, END_STREAM, FrameHead, HEAD, HEADERS, PRIORITY};
use super::frames::{RST_STREAM, WINDOW_UPDATE};
use super::uploads::{SMALL, SmallFrame, UploadState};
use super::{FRAME, Inflow};
use crate::hpack::Decoder;

/// Length of the client's connection preface in bytes (RFC 9113 §3.4).
const PREFACE: usize = 24;

/// Number of bytes for h2 above which no further frames are looked at before h2 has read them.
const READY: usize = 16 * 1024;

/// Number of streams that are followed in addition to twice as many as the client was told.
const MORE_STREAMS: usize = 1_000;

/// Capacity in bytes up to which a buffer for field lists is kept.
const KEPT: usize = 1_024;

/// Maximum number of frames for which h2 is not stopped: it writes its resets only once there is nothing to read, and
/// only then are they counted.
pub(super) const BURST: u32 = 256;

/// Payload size in bytes up to which a DATA frame may be small in spite of its padding.
const SMALL_PADDED: usize = SMALL + 256;

/// Error codes (RFC 9113 §7).
const PROTOCOL_ERROR: u32 = 1;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const ENHANCE_YOUR_CALM: u32 = 11;

/// An error of the whole connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum H2Fault {
    /// A frame other than a CONTINUATION within a field block (RFC 9113 §6.10).
    Interrupted,
    /// A block that violates RFC 7541 (RFC 9113 §4.3).
    Compression,
    /// A frame above the size limit.
    FrameSize,
    /// A block in too many CONTINUATION frames, or more streams than a client may have.
    TooMuch,
}

impl H2Fault {
    /// Returns the code for the client.
    pub(crate) fn reason(self) -> Reason {
        match self {
            Self::Interrupted => Reason::PROTOCOL_ERROR,
            Self::Compression => Reason::COMPRESSION_ERROR,
            Self::FrameSize => Reason::FRAME_SIZE_ERROR,
            Self::TooMuch => Reason::ENHANCE_YOUR_CALM,
        }
    }
}

/// What becomes of the next bytes.
enum FilterStep {
    /// That many bytes go on to h2.
    Passes(usize),
    /// That many bytes are dealt with.
    Taken(usize),
    /// More bytes are needed.
    More,
}

/// Limits of one connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FilterLimits {
    /// Maximum size of a header list (RFC 9113 §6.5.2).
    pub(crate) head_bytes: usize,
    /// Maximum number of streams that the client was told.
    pub(crate) streams: u32,
}

/// The filter of one connection.
pub(crate) struct FrameFilter {
    decoder: Decoder<FieldClass>,
    limits: FilterLimits,
    inflow: Rc<Inflow>,
    /// Bytes of the client that were not looked at, or not completely.
    pending: Vec<u8>,
    /// Bytes that h2 reads next.
    ready: Vec<u8>,
    /// Number of bytes to hand on, or to drop, before the next frame header.
    passing: usize,
    dropping: usize,
    block: Option<Box<OpenBlock>>,
    /// Whether h2's table is no longer in step with the client's, so that all blocks are written anew.
    rewrites: bool,
    /// The highest stream that the client has begun.
    highest: u32,
    /// The client has begun every stream of its own from this one up to `highest`.
    unbroken_from: u32,
    /// Number of frames since h2 last had nothing to read.
    burst: u32,
    /// Heads that were malformed, with the reason of the last one, since this was last asked.
    malformed: Option<(u32, &'static str)>,
    /// An empty buffer for field lists, kept so that not every request allocates one.
    scratch: Vec<u8>,
}

impl FrameFilter {
    /// Creates the filter of a new connection.
    pub(crate) fn new(limits: FilterLimits, inflow: Rc<Inflow>) -> Self {
        Self {
            decoder: Decoder::new(classify),
            limits,
            inflow,
            pending: Vec::new(),
            ready: Vec::new(),
            passing: PREFACE,
            dropping: 0,
            block: None,
            rewrites: false,
            highest: 0,
            unbroken_from: 0,
            burst: 0,
            malformed: None,
            scratch: Vec::new(),
        }
    }

    /// Returns whether so many frames have been looked at that h2 is to write before it reads on.
    pub(crate) fn has_burst(&self) -> bool {
        self.burst >= BURST
    }

    /// Begins to count frames anew.
    pub(crate) fn end_burst(&mut self) {
        self.burst = 0;
    }

    /// Looks at new bytes of the client. Returns how many at their beginning h2 may read as they are; the rest is kept.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<usize, H2Fault> {
        if !self.pending.is_empty() || !self.ready.is_empty() {
            self.pending.extend_from_slice(bytes);
            return Ok(0);
        }
        let mut passed = 0;
        loop {
            let rest = bytes.get(passed..).unwrap_or_default();
            let taken = match self.step(rest)? {
                FilterStep::Passes(count) => {
                    passed += count;
                    continue;
                }
                FilterStep::Taken(count) => count,
                FilterStep::More => 0,
            };
            self.pending.extend_from_slice(rest.get(taken..).unwrap_or_default());
            return Ok(passed);
        }
    }

    /// Hands out bytes for h2; returns whether there were any.
    pub(crate) fn try_fill(&mut self, room: &mut ReadBuf<'_>) -> Result<bool, H2Fault> {
        self.look()?;
        let count = self.ready.len().min(room.remaining());
        let (first, rest) = self.ready.split_at_checked(count).unwrap_or_default();
        room.put_slice(first);
        // An empty vector owns no memory.
        self.ready = rest.to_vec();
        Ok(count > 0)
    }

    /// Takes how many heads were malformed since the last call, and why the last one was.
    pub(crate) fn take_malformed(&mut self) -> Option<(u32, &'static str)> {
        self.malformed.take()
    }

    /// Looks at the bytes that were kept, until enough is ready for h2.
    fn look(&mut self) -> Result<(), H2Fault> {
        if self.passing == 0 {
            self.inflow.uploads.release(&mut self.ready);
        }
        let pending = std::mem::take(&mut self.pending);
        let mut rest = &pending[..];
        while self.ready.len() < READY && !self.has_burst() {
            let count = match self.step(rest)? {
                FilterStep::Passes(count) => {
                    self.ready.extend_from_slice(rest.get(..count).unwrap_or_default());
                    count
                }
                FilterStep::Taken(count) => count,
                FilterStep::More => break,
            };
            rest = rest.get(count..).unwrap_or_default();
        }
        self.pending = rest.to_vec();
        Ok(())
    }

    /// Looks at the frame at the beginning of `bytes`.
    fn step(&mut self, bytes: &[u8]) -> Result<FilterStep, H2Fault> {
        if bytes.is_empty() {
            return Ok(FilterStep::More);
        }
        if self.passing > 0 {
            let count = self.passing.min(bytes.len());
            self.passing -= count;
            return Ok(FilterStep::Passes(count));
        }
        if self.dropping > 0 {
            let count = self.dropping.min(bytes.len());
            self.dropping -= count;
            return Ok(FilterStep::Taken(count));
        }
        let Some(head) = FrameHead::of(bytes) else { return Ok(FilterStep::More) };
        if self.has_burst() {
            return Ok(FilterStep::More);
        }
        self.burst += 1;
        let is_large = head.length > FRAME as usize;
        if let Some(block) = &self.block {
            if head.kind != CONTINUATION || head.stream != block.stream {
                return Err(H2Fault::Interrupted);
            }
            return if is_large { Err(H2Fault::FrameSize) } else { self.continuation(head, bytes) };
        }
        // The connection's own frames, and what no client may send: h2 judges them.
        if head.stream.is_multiple_of(2) || is_large {
            return Ok(self.pass(head));
        }
        match head.kind {
            HEADERS => self.headers(head, bytes),
            DATA => Ok(self.data(head, bytes)),
            PRIORITY => Ok(self.priority(head, bytes)),
            RST_STREAM => Ok(self.reset(head)),
            WINDOW_UPDATE if head.length == 4 => Ok(self.window_update(head, bytes)),
            _ => Ok(self.pass(head)),
        }
    }

    /// Hands on a frame.
    fn pass(&mut self, head: FrameHead) -> FilterStep {
        self.passing = head.length;
        FilterStep::Passes(HEAD)
    }

    /// Hands on a frame after the bytes that are held for its stream.
    fn pass_after(&mut self, held: &[u8], head: FrameHead, bytes: &[u8]) -> FilterStep {
        if held.is_empty() {
            return self.pass(head);
        }
        frames::write(&mut self.ready, DATA, 0, head.stream, held);
        self.ready.extend_from_slice(bytes.get(..HEAD).unwrap_or_default());
        self.passing = head.length;
        FilterStep::Taken(HEAD)
    }

    /// Makes h2 reset a stream, with this code.
    fn fail(&mut self, stream: u32, code: u32) {
        let uploads = &self.inflow.uploads;
        self.highest = self.highest.max(stream);
        frames::write_mistake(&mut self.ready, stream);
        if uploads.mark_reset(stream) && code != PROTOCOL_ERROR {
            uploads.set_code(stream, code);
        }
        let held = uploads.take_held(stream);
        if !held.is_empty() {
            frames::write(&mut self.ready, DATA, 0, stream, &held);
        }
    }

    /// Returns whether the client has begun this stream and ended it, or its half of it (RFC 9113 §5.1). A lower stream
    /// that was never begun is an error of the connection (§5.1.1), and left to h2.
    fn is_ended(&self, stream: u32) -> bool {
        (self.unbroken_from..=self.highest).contains(&stream)
            && self.inflow.uploads.half(stream) == UploadState::Unknown
    }

    fn data(&mut self, head: FrameHead, bytes: &[u8]) -> FilterStep {
        let uploads = &self.inflow.uploads;
        if self.is_ended(head.stream) {
            self.fail(head.stream, STREAM_CLOSED);
            // h2 ignores its bytes, and counts them in the connection's window.
            return FilterStep::Taken(0);
        }
        if uploads.half(head.stream) == UploadState::Unknown {
            return self.pass(head);
        }
        if uploads.half(head.stream) == UploadState::Left {
            // h2 would end the connection, so it does not see these bytes, which the client's window has lost.
            uploads.credit(head.stream, head.length);
            self.dropping = head.length;
            return FilterStep::Taken(HEAD);
        }
        if head.has(END_STREAM) {
            let held = uploads.end(head.stream);
            return self.pass_after(&held, head, bytes);
        }
        if head.length >= SMALL_PADDED {
            let held = uploads.take_held(head.stream);
            return self.pass_after(&held, head, bytes);
        }
        let Some(payload) = head.payload(bytes) else { return FilterStep::More };
        let Some(data) = frames::without_padding(head.flags, payload) else { return self.pass(head) };
        let padding = payload.len() - data.len();
        if data.is_empty() {
            uploads.credit(head.stream, padding);
            if !uploads.try_empty(head.stream) {
                self.fail(head.stream, ENHANCE_YOUR_CALM);
            }
            return FilterStep::Taken(HEAD + head.length);
        }
        if data.len() >= SMALL {
            let held = uploads.take_held(head.stream);
            return self.pass_after(&held, head, bytes);
        }
        if uploads.small(head.stream, data) == SmallFrame::Passes {
            return self.pass(head);
        }
        uploads.credit(head.stream, padding);
        uploads.release(&mut self.ready);
        FilterStep::Taken(HEAD + head.length)
    }

    fn reset(&mut self, head: FrameHead) -> FilterStep {
        if head.length == 4 && self.inflow.uploads.half(head.stream) == UploadState::Reset {
            // While h2's own reset is not written, the client's would replace it, and later DATA would be an error of
            // the connection.
            self.dropping = head.length;
            return FilterStep::Taken(HEAD);
        }
        let held = self.inflow.uploads.take_held(head.stream);
        if held.is_empty() {
            if head.stream <= self.highest {
                self.inflow.uploads.mark_left(head.stream);
            }
            return self.pass(head);
        }
        frames::write(&mut self.ready, DATA, 0, head.stream, &held);
        FilterStep::Taken(0)
    }

    /// A stream that depends on itself is left to h2, unless it is idle: it may not be reset then (RFC 9113 §6.4).
    fn priority(&mut self, head: FrameHead, bytes: &[u8]) -> FilterStep {
        let is_idle = head.stream > self.highest;
        if head.length != 5 {
            // RFC 9113 §6.3.
            self.dropping = head.length;
            if !is_idle {
                self.fail(head.stream, FRAME_SIZE_ERROR);
            }
            return FilterStep::Taken(HEAD);
        }
        let Some(payload) = head.payload(bytes) else { return FilterStep::More };
        if frames::dependency(payload) != Some(head.stream) {
            return self.pass(head);
        }
        if !is_idle {
            self.fail(head.stream, PROTOCOL_ERROR);
        }
        FilterStep::Taken(HEAD + head.length)
    }

    /// An increment of 0 is an error of its stream (RFC 9113 §6.9).
    fn window_update(&mut self, head: FrameHead, bytes: &[u8]) -> FilterStep {
        let Some(payload) = head.payload(bytes) else { return FilterStep::More };
        let is_zero = frames::number(payload).is_some_and(|increment| increment << 1 == 0);
        if !is_zero || head.stream > self.highest {
            return self.pass(head);
        }
        self.fail(head.stream, PROTOCOL_ERROR);
        FilterStep::Taken(HEAD + head.length)
    }
}
