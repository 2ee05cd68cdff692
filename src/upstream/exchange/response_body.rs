//! The body of a worker's response: the part that was received and not passed on yet, and where the body ends.
//!
//! Chunks are parsed strictly as in RFC 9112 §7.1, with CRLF only, and with limits on extensions and trailers that no
//! real body reaches. The code is pure: the result does not depend on how the bytes are split into reads. The socket
//! (`connect`) and which trailers are passed on (`proxy::trailers`) are not part of this module.

use bytes::{Buf, Bytes};
use hyper::body::{Frame, SizeHint};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use super::broken::BrokeOff;
use super::response_head::{HEAD_BYTES, HEAD_FIELDS};

/// Maximum number of bytes of chunk extensions in one body: extensions are hardly ever used, and are parsed byte by
/// byte.
const EXTENSION_BYTES: usize = 16 * 1024;

/// How the length of a response body is determined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// The body has this many bytes; 0: there is no body.
    Exactly(u64),
    /// The body is chunked, and its chunks give its length.
    Chunked,
    /// The body ends with the connection.
    UntilClose,
}

/// A response body that was not read to its end yet.
#[derive(Debug)]
pub struct Unread {
    /// Bytes that were received and not passed on yet.
    rest: Bytes,
    left: Left,
}

/// What is still to be received of a body.
#[derive(Debug)]
enum Left {
    Exactly(u64),
    /// Boxed, because trailers make it larger than the other variants, and every response moves it.
    Chunks(Box<Chunks>),
    UntilClose,
}

/// The result of [`Unread::advance`].
#[derive(Debug)]
pub enum BodyStep {
    /// A piece of the body, or its trailers.
    Frame(Frame<Bytes>),
    /// The body has ended.
    End,
    /// More bytes must be received first.
    More,
}

impl Unread {
    /// Creates a body of which `rest` was already received; `rest` may extend beyond the end of the body.
    pub fn new(length: Length, rest: Bytes) -> Self {
        let left = match length {
            Length::Exactly(bytes) => Left::Exactly(bytes),
            Length::Chunked => Left::Chunks(Box::default()),
            Length::UntilClose => Left::UntilClose,
        };
        Self { rest, left }
    }

    /// Whether nothing more is to be passed on.
    pub fn is_end_stream(&self) -> bool {
        match &self.left {
            Left::Exactly(left) => *left == 0,
            Left::Chunks(chunks) => chunks.at == ChunkState::End,
            Left::UntilClose => false,
        }
    }

    /// Whether the body has ended, without trailers and with no byte after it, so that its connection can be reused.
    /// Trailers count because they may repeat fields that matter for the connection.
    pub fn is_clean(&self) -> bool {
        let is_bare = match &self.left {
            Left::Chunks(chunks) => chunks.fields == 0,
            Left::Exactly(_) | Left::UntilClose => true,
        };
        is_bare && self.is_end_stream() && self.rest.is_empty()
    }

    /// Returns the size of the rest of the body, if it is known.
    pub fn size_hint(&self) -> SizeHint {
        match &self.left {
            Left::Exactly(left) => SizeHint::with_exact(*left),
            Left::Chunks(_) | Left::UntilClose => SizeHint::default(),
        }
    }

    /// Returns how many bytes of body data are sure to come before the next byte that must be parsed; 0 if unknown.
    pub fn expected(&self) -> u64 {
        match &self.left {
            Left::Exactly(left) => *left,
            Left::Chunks(chunks) if chunks.at == ChunkState::Data => chunks.size,
            Left::Chunks(_) | Left::UntilClose => 0,
        }
    }

    /// Adds received bytes; must be called only after [`BodyStep::More`].
    pub fn came(&mut self, bytes: Bytes) {
        self.rest = bytes;
    }

    /// Handles the end of the connection; must be called only after [`BodyStep::More`].
    ///
    /// # Errors
    /// Fails if the body is not complete.
    pub fn closed(&mut self) -> Result<(), BrokeOff> {
        match self.left {
            Left::UntilClose => {
                self.left = Left::Exactly(0);
                Ok(())
            }
            Left::Exactly(_) | Left::Chunks(_) => Err(BrokeOff::Ended),
        }
    }

    /// Returns the bytes that followed the response head, unparsed.
    pub fn into_rest(self) -> Bytes {
        self.rest
    }

    /// Returns the next piece of the body.
    ///
    /// # Errors
    /// Fails if the received bytes are not a valid body.
    pub fn advance(&mut self) -> Result<BodyStep, BrokeOff> {
        match &mut self.left {
            Left::Exactly(0) => Ok(BodyStep::End),
            Left::Chunks(chunks) => chunks.advance(&mut self.rest),
            _ if self.rest.is_empty() => Ok(BodyStep::More),
            Left::Exactly(left) => {
                let data = take(&mut self.rest, *left);
                *left -= data.len() as u64;
                Ok(BodyStep::Frame(Frame::data(data)))
            }
            Left::UntilClose => Ok(BodyStep::Frame(Frame::data(std::mem::take(&mut self.rest)))),
        }
    }
}

/// Takes at most `most` bytes from the front.
fn take(bytes: &mut Bytes, most: u64) -> Bytes {
    match usize::try_from(most) {
        Ok(most) if most < bytes.len() => bytes.split_to(most),
        _ => std::mem::take(bytes),
    }
}

/// The state of the parser of a chunked body.
#[derive(Debug, Default)]
struct Chunks {
    at: ChunkState,
    /// Size of the chunk in bytes while its size is parsed, then the number of bytes left of it.
    size: u64,
    extensions: usize,
    /// The trailers as they were received, each line with its end.
    trailers: Vec<u8>,
    fields: usize,
}

/// What the parser expects next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum ChunkState {
    /// The first digit of a chunk size.
    #[default]
    Start,
    /// Another digit of the size, or what ends it.
    Size,
    /// White space after a size, which some servers write.
    Space,
    Extension,
    /// The line feed that ends the line of a chunk size.
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// The start of a line after the last chunk.
    Line,
    Trailer,
    TrailerLf,
    LastLf,
    End,
}

impl Chunks {
    fn advance(&mut self, rest: &mut Bytes) -> Result<BodyStep, BrokeOff> {
        loop {
            match self.at {
                ChunkState::End => return Ok(BodyStep::End),
                ChunkState::Data if !rest.is_empty() => {
                    let data = take(rest, self.size);
                    self.size -= data.len() as u64;
                    if self.size == 0 {
                        self.at = ChunkState::DataCr;
                    }
                    return Ok(BodyStep::Frame(Frame::data(data)));
                }
                _ => {}
            }
            let mut read = 0;
            for byte in rest.iter() {
                read += 1;
                self.at = self.step(*byte)?;
                if matches!(self.at, ChunkState::Data | ChunkState::End) {
                    break;
                }
            }
            rest.advance(read);
            if self.at == ChunkState::End && !self.trailers.is_empty() {
                return Ok(BodyStep::Frame(Frame::trailers(self.trailers()?)));
            }
            if rest.is_empty() && self.at != ChunkState::End {
                return Ok(BodyStep::More);
            }
        }
    }

    /// Parses one byte that is not body data.
    fn step(&mut self, byte: u8) -> Result<ChunkState, BrokeOff> {
        match (self.at, byte) {
            (ChunkState::Start | ChunkState::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => self.digit(byte),
            (ChunkState::Size | ChunkState::Space, b' ' | b'\t') => Ok(ChunkState::Space),
            (ChunkState::Size | ChunkState::Space, b';') => Ok(ChunkState::Extension),
            (ChunkState::Size | ChunkState::Space | ChunkState::Extension, b'\r') => Ok(ChunkState::SizeLf),
            (ChunkState::Extension, _) if byte != b'\n' && self.extensions < EXTENSION_BYTES => {
                self.extensions += 1;
                Ok(ChunkState::Extension)
            }
            (ChunkState::SizeLf, b'\n') => Ok(if self.size == 0 { ChunkState::Line } else { ChunkState::Data }),
            (ChunkState::DataCr, b'\r') => Ok(ChunkState::DataLf),
            (ChunkState::DataLf, b'\n') => Ok(ChunkState::Start),
            (ChunkState::Line, b'\r') => Ok(ChunkState::LastLf),
            (ChunkState::LastLf, b'\n') => Ok(ChunkState::End),
            (ChunkState::Line | ChunkState::Trailer | ChunkState::TrailerLf, _) => self.trailer(byte),
            _ => Err(BrokeOff::Body("malformed chunk")),
        }
    }

    fn digit(&mut self, byte: u8) -> Result<ChunkState, BrokeOff> {
        let digit = u64::from(char::from(byte).to_digit(16).unwrap_or_default());
        if self.at == ChunkState::Start {
            self.size = 0;
        }
        let size = self.size.checked_mul(16).and_then(|size| size.checked_add(digit));
        self.size = size.ok_or(BrokeOff::Body("the chunk size is too large"))?;
        Ok(ChunkState::Size)
    }

    fn trailer(&mut self, byte: u8) -> Result<ChunkState, BrokeOff> {
        if self.trailers.len() >= HEAD_BYTES || self.fields > HEAD_FIELDS {
            return Err(BrokeOff::Body("the trailers are too long"));
        }
        self.trailers.push(byte);
        match (self.at, byte) {
            (ChunkState::Line | ChunkState::Trailer, b'\r') => Ok(ChunkState::TrailerLf),
            (ChunkState::Line | ChunkState::Trailer, b'\n') => Err(BrokeOff::Body("malformed trailer")),
            (ChunkState::TrailerLf, b'\n') => {
                self.fields += 1;
                Ok(ChunkState::Line)
            }
            (ChunkState::TrailerLf, _) => Err(BrokeOff::Body("malformed trailer")),
            _ => Ok(ChunkState::Trailer),
        }
    }

    fn trailers(&mut self) -> Result<HeaderMap, BrokeOff> {
        let mut text = std::mem::take(&mut self.trailers);
        text.extend_from_slice(b"\r\n");
        let mut room = vec![httparse::EMPTY_HEADER; self.fields];
        let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(&text, &mut room) else {
            return Err(BrokeOff::Body("malformed trailer"));
        };
        let mut map = HeaderMap::with_capacity(fields.len());
        for field in fields {
            let name = HeaderName::from_bytes(field.name.as_bytes());
            let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(field.value)) else {
                return Err(BrokeOff::Body("malformed trailer"));
            };
            map.append(name, value);
        }
        Ok(map)
    }
}
