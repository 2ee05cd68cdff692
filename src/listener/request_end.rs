//! Where the heads and bodies of requests end in what a client sends.
//!
//! hyper reads requests, and decides what they are. This module only finds their ends, so that hyper gets one request
//! at a time: what follows is kept before it (`http1_io`), where the end of the connection can still be seen. It checks
//! one thing that hyper does not: control characters in chunk extensions (RFC 9112 §7.1.1), which peers read in
//! different ways.
//! Where both disagree about an end, a request only arrives at hyper in other pieces.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use memchr::{memchr, memchr_iter};

/// A blank line after a line, with CR LF and with a bare LF.
static BLANK_LINE: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"\n\r\n"));
static BARE_BLANK_LINE: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"\n\n"));

/// A line that is being received, as far as its beginning decides what it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum LineSoFar {
    /// Nothing of it has come.
    #[default]
    Empty,
    /// Only a CR has come.
    Cr,
    /// It is not a blank line.
    Text,
}

impl LineSoFar {
    fn with(self, more: &[u8]) -> Self {
        match (self, more) {
            (before, []) => before,
            (Self::Empty, [b'\r']) => Self::Cr,
            _ => Self::Text,
        }
    }
}

/// Finds the end of a head; every byte is looked at once.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct HeadScan {
    line: LineSoFar,
    /// Whether a line that is not blank has come; blank lines before it are skipped (RFC 9112 §2.2).
    begun: bool,
}

impl HeadScan {
    /// Finds the end of a head that begins with `bytes` and ends in them, as nearly all heads do: two looks for a blank
    /// line take a third of the instructions that a look at each of eleven lines takes.
    fn end_of_whole(&self, bytes: &[u8]) -> Option<usize> {
        let is_fresh = !self.begun && self.line == LineSoFar::Empty;
        if !is_fresh || matches!(bytes.first(), None | Some(b'\r' | b'\n')) {
            return None;
        }
        if is_one_head(bytes) {
            return Some(bytes.len());
        }
        let end = BLANK_LINE.find(bytes).map(|at| at + 3);
        let head = bytes.get(..end.unwrap_or(bytes.len()))?;
        // Nearly no client ends lines with a bare LF, so it is searched for only where there is one.
        if !has_line_after_line(head, |next| next == b'\n') {
            return end;
        }
        BARE_BLANK_LINE.find(head).map(|at| at + 2).or(end)
    }

    /// Returns how many of the next bytes belong to the head, if it ends in them.
    pub(crate) fn end_in(&mut self, bytes: &[u8]) -> Option<usize> {
        if let Some(end) = self.end_of_whole(bytes) {
            return Some(end);
        }
        let mut start = 0;
        for end in memchr_iter(b'\n', bytes) {
            let line = self.line.with(bytes.get(start..end).unwrap_or_default());
            (self.line, start) = (LineSoFar::Empty, end + 1);
            match line {
                LineSoFar::Text => self.begun = true,
                LineSoFar::Empty | LineSoFar::Cr if self.begun => return Some(start),
                LineSoFar::Empty | LineSoFar::Cr => {}
            }
        }
        self.line = self.line.with(bytes.get(start..).unwrap_or_default());
        None
    }
}

/// Whether the first blank line is at the very end, as it is after a request without a body that came alone. A line
/// that begins with CR and is not blank is taken for a blank one, which only costs a search.
fn is_one_head(bytes: &[u8]) -> bool {
    let Some(lines) = bytes.strip_suffix(b"\r\n").filter(|lines| lines.ends_with(b"\n")) else { return false };
    !has_line_after_line(lines, |next| matches!(next, b'\n' | b'\r'))
}

/// Whether an LF is followed by a byte that `fits`. A loop without an early end is compiled to vector
/// instructions, and takes less than half of a search.
fn has_line_after_line(bytes: &[u8], fits: impl Fn(u8) -> bool) -> bool {
    let next = bytes.get(1..).unwrap_or_default();
    bytes.iter().zip(next).fold(false, |seen, (lf, next)| seen | ((*lf == b'\n') & fits(*next)))
}

/// What a field with the length of a body contains before its value, as nearly all clients write it.
static LENGTH: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"ength: "));

/// Whether the body of a request with this head certainly has `least` bytes or more, so that these bytes may be given
/// to hyper together with the head. False where the head is written in an unusual way: then they are kept, which costs
/// only time.
pub(crate) fn is_body_as_long(head: &[u8], least: usize) -> bool {
    let Some(at) = LENGTH.find(head) else { return false };
    let name = head.get(at.saturating_sub(b"\nContent-L".len())..at).unwrap_or_default();
    let value = head.get(at + b"ength: ".len()..).unwrap_or_default();
    let digits = value.iter().take(MOST_DIGITS).take_while(|byte| byte.is_ascii_digit()).count();
    let length = value.iter().take(digits).fold(0, |length, digit| length * 10 + u64::from(digit - b'0'));
    name.eq_ignore_ascii_case(b"\nContent-L")
        && matches!(value.get(digits..), Some([b'\n', ..] | [b'\r', b'\n', ..]))
        && length >= least as u64
        // With `Transfer-Encoding`, the length would not count (RFC 9112 §6.3).
        && !has_line_after_line(head, |next| matches!(next, b'T' | b't'))
}

/// Maximum number of digits of a length that is understood without a look at its value; it fits in 64 bits.
const MOST_DIGITS: usize = 18;

/// A control character in a chunk extension.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a control character in a chunk extension")]
pub(crate) struct ControlInExtension;

/// Finds the end of a body.
#[derive(Debug, Clone, Copy)]
pub(crate) enum BodyScan {
    /// This many bytes are still to come; 0 for a request without a body.
    Length(u64),
    /// Chunks are still to come.
    Chunked(ChunkScan),
}

impl BodyScan {
    /// Whether the whole body has come.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(ChunkScan { part: ChunkPart::Over, .. }))
    }

    /// Skips bytes that were taken for a part of the body before its framing was known; returns whether they are one.
    pub(crate) fn try_skip(&mut self, bytes: usize) -> bool {
        match self {
            Self::Length(left) if *left >= bytes as u64 => {
                *left -= bytes as u64;
                true
            }
            Self::Length(_) | Self::Chunked(_) => false,
        }
    }

    /// Returns how many of the next bytes belong to the body.
    ///
    /// # Errors
    /// A chunk extension has a control character.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<usize, ControlInExtension> {
        match self {
            Self::Length(left) => {
                let taken = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left = left.saturating_sub(taken as u64);
                Ok(taken)
            }
            Self::Chunked(chunks) => chunks.take(bytes),
        }
    }
}

/// The part of a chunked body to which the next byte belongs.
#[derive(Debug, Clone, Copy, Default)]
enum ChunkPart {
    #[default]
    Size,
    Extension,
    /// The LF after a chunk's size and extension.
    SizeEnd,
    /// Data, of which this many bytes are still to come, then CR and LF.
    Data(u64),
    /// The first byte of a trailer, or of the empty line at the end.
    TrailerStart,
    Trailer,
    /// The LF of a trailer.
    TrailerEnd,
    /// The LF of the empty line.
    LastEnd,
    Over,
    /// The body is not chunked as it should be; hyper reports why.
    Invalid,
}

/// Follows the chunks of a body.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ChunkScan {
    part: ChunkPart,
    /// Size of the chunk whose first line is being read.
    size: u64,
}

impl ChunkScan {
    fn take(&mut self, bytes: &[u8]) -> Result<usize, ControlInExtension> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            at += match &mut self.part {
                ChunkPart::Over => return Ok(at),
                ChunkPart::Invalid => return Ok(bytes.len()),
                ChunkPart::Data(left) => {
                    let taken = usize::try_from(*left).map_or(rest.len(), |left| left.min(rest.len()));
                    *left -= taken as u64;
                    if *left == 0 {
                        *self = Self::default();
                    }
                    taken
                }
                ChunkPart::Trailer => memchr(b'\r', rest).map_or(rest.len(), |end| {
                    self.part = ChunkPart::TrailerEnd;
                    end + 1
                }),
                ChunkPart::Extension => self.extension(rest)?,
                ChunkPart::Size
                | ChunkPart::SizeEnd
                | ChunkPart::TrailerStart
                | ChunkPart::TrailerEnd
                | ChunkPart::LastEnd => {
                    self.part = self.after(rest.first().copied().unwrap_or_default());
                    1
                }
            };
        }
        Ok(at)
    }

    /// Takes the part of `bytes` that belongs to an extension, with the CR after it.
    fn extension(&mut self, bytes: &[u8]) -> Result<usize, ControlInExtension> {
        let end = memchr(b'\r', bytes);
        let is_control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
        if bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default().iter().any(is_control) {
            return Err(ControlInExtension);
        }
        Ok(end.map_or(bytes.len(), |end| {
            self.part = ChunkPart::SizeEnd;
            end + 1
        }))
    }

    /// Returns the part that follows this byte, which is not one of data, extension or trailer.
    fn after(&mut self, byte: u8) -> ChunkPart {
        match (self.part, byte) {
            (ChunkPart::Size, b'\r') => ChunkPart::SizeEnd,
            (ChunkPart::Size, b';' | b' ' | b'\t') => ChunkPart::Extension,
            (ChunkPart::Size, digit) => match char::from(digit).to_digit(16).zip(self.size.checked_mul(16)) {
                Some((digit, size)) => {
                    self.size = size + u64::from(digit);
                    ChunkPart::Size
                }
                None => ChunkPart::Invalid,
            },
            (ChunkPart::SizeEnd, b'\n') if self.size == 0 => ChunkPart::TrailerStart,
            // Two bytes more for the CR and LF after the data.
            (ChunkPart::SizeEnd, b'\n') => self.size.checked_add(2).map_or(ChunkPart::Invalid, ChunkPart::Data),
            (ChunkPart::TrailerStart, b'\r') => ChunkPart::LastEnd,
            (ChunkPart::TrailerStart, _) => ChunkPart::Trailer,
            (ChunkPart::TrailerEnd, b'\n') => ChunkPart::TrailerStart,
            (ChunkPart::LastEnd, b'\n') => ChunkPart::Over,
            _ => ChunkPart::Invalid,
        }
    }
}

#[cfg(test)]
mod tests;
