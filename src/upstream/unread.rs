//! The body of a worker's answer: what has come of it and is not passed on yet, and where it ends.
//!
//! Chunks are read as RFC 9112 §7.1 writes them and no more loosely: CRLF only, and as many bytes of extensions and trailers
//! as anybody needs. Pure, and the same however the bytes come in pieces. Left out: the socket (`connect`), and which trailers
//! may pass (`proxy::trailers`).

use bytes::{Buf, Bytes};
use hyper::body::{Frame, SizeHint};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use super::answer::{HEAD_BYTES, HEAD_FIELDS};
use super::broke_off::BrokeOff;

/// Bytes of chunk extensions in one body: nobody uses them, and each is read byte by byte.
const EXTENSION_BYTES: usize = 16 * 1024;

/// How long a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// So many bytes; 0: there is none.
    Exactly(u64),
    /// As its chunks say.
    Chunked,
    /// Up to the end of the connection.
    UntilClose,
}

/// A body that is not read yet.
#[derive(Debug)]
pub struct Unread {
    /// Came already.
    rest: Bytes,
    left: Left,
}

/// What is still to come of a body.
#[derive(Debug)]
enum Left {
    Exactly(u64),
    /// Boxed: its trailers make it larger than the others, and every answer moves it.
    Chunks(Box<Chunks>),
    UntilClose,
}

/// What comes next.
#[derive(Debug)]
pub enum Next {
    /// This.
    Frame(Frame<Bytes>),
    /// Nothing: that was all.
    End,
    /// Nothing until more has come.
    More,
}

impl Unread {
    /// A body of which `rest` has come, and perhaps more than of it.
    pub fn new(length: Length, rest: Bytes) -> Self {
        let left = match length {
            Length::Exactly(bytes) => Left::Exactly(bytes),
            Length::Chunked => Left::Chunks(Box::default()),
            Length::UntilClose => Left::UntilClose,
        };
        Self { rest, left }
    }

    /// Nothing more is to be passed on.
    pub fn is_end_stream(&self) -> bool {
        match &self.left {
            Left::Exactly(left) => *left == 0,
            Left::Chunks(chunks) => chunks.at == At::End,
            Left::UntilClose => false,
        }
    }

    /// It ended, and nothing came behind it, nor trailers: what is said in those may be said once more where it counts.
    pub fn is_clean(&self) -> bool {
        let is_bare = match &self.left {
            Left::Chunks(chunks) => chunks.fields == 0,
            Left::Exactly(_) | Left::UntilClose => true,
        };
        is_bare && self.is_end_stream() && self.rest.is_empty()
    }

    /// As much of its length as is known.
    pub fn size_hint(&self) -> SizeHint {
        match &self.left {
            Left::Exactly(left) => SizeHint::with_exact(*left),
            Left::Chunks(_) | Left::UntilClose => SizeHint::default(),
        }
    }

    /// Bytes that are sure to come before the next that have to be looked at; 0: not known.
    pub fn expected(&self) -> u64 {
        match &self.left {
            Left::Exactly(left) => *left,
            Left::Chunks(chunks) if chunks.at == At::Data => chunks.size,
            Left::Chunks(_) | Left::UntilClose => 0,
        }
    }

    /// More has come; only after [`Next::More`].
    pub fn came(&mut self, bytes: Bytes) {
        self.rest = bytes;
    }

    /// The connection has ended; only after [`Next::More`].
    ///
    /// # Errors
    /// The body has not.
    pub fn closed(&mut self) -> Result<(), BrokeOff> {
        match self.left {
            Left::UntilClose => {
                self.left = Left::Exactly(0);
                Ok(())
            }
            Left::Exactly(_) | Left::Chunks(_) => Err(BrokeOff::Ended),
        }
    }

    /// What came behind an answer's head, as it is.
    pub fn into_rest(self) -> Bytes {
        self.rest
    }

    /// What comes next.
    ///
    /// # Errors
    /// What came is no body.
    pub fn advance(&mut self) -> Result<Next, BrokeOff> {
        match &mut self.left {
            Left::Exactly(0) => Ok(Next::End),
            Left::Chunks(chunks) => chunks.advance(&mut self.rest),
            _ if self.rest.is_empty() => Ok(Next::More),
            Left::Exactly(left) => {
                let data = take(&mut self.rest, *left);
                *left -= data.len() as u64;
                Ok(Next::Frame(Frame::data(data)))
            }
            Left::UntilClose => Ok(Next::Frame(Frame::data(std::mem::take(&mut self.rest)))),
        }
    }
}

/// Takes at most `most` bytes.
fn take(bytes: &mut Bytes, most: u64) -> Bytes {
    match usize::try_from(most) {
        Ok(most) if most < bytes.len() => bytes.split_to(most),
        _ => std::mem::take(bytes),
    }
}

/// A body in chunks.
#[derive(Debug, Default)]
struct Chunks {
    at: At,
    /// Of the chunk that is read, or bytes left of it.
    size: u64,
    extensions: usize,
    /// As they came, each line with its end.
    trailers: Vec<u8>,
    fields: usize,
}

/// What is expected next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum At {
    /// The first digit of a size.
    #[default]
    Start,
    /// Another digit, or what ends it.
    Size,
    /// White space behind a size, which some write.
    Space,
    Extension,
    /// The end of a size's line.
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// The begin of a line behind the last chunk.
    Line,
    Trailer,
    TrailerLf,
    LastLf,
    End,
}

impl Chunks {
    fn advance(&mut self, rest: &mut Bytes) -> Result<Next, BrokeOff> {
        loop {
            match self.at {
                At::End => return Ok(Next::End),
                At::Data if !rest.is_empty() => {
                    let data = take(rest, self.size);
                    self.size -= data.len() as u64;
                    if self.size == 0 {
                        self.at = At::DataCr;
                    }
                    return Ok(Next::Frame(Frame::data(data)));
                }
                _ => {}
            }
            let mut read = 0;
            for byte in rest.iter() {
                read += 1;
                self.at = self.step(*byte)?;
                if matches!(self.at, At::Data | At::End) {
                    break;
                }
            }
            rest.advance(read);
            if self.at == At::End && !self.trailers.is_empty() {
                return Ok(Next::Frame(Frame::trailers(self.trailers()?)));
            }
            if rest.is_empty() && self.at != At::End {
                return Ok(Next::More);
            }
        }
    }

    /// One byte that is no data.
    fn step(&mut self, byte: u8) -> Result<At, BrokeOff> {
        match (self.at, byte) {
            (At::Start | At::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => self.digit(byte),
            (At::Size | At::Space, b' ' | b'\t') => Ok(At::Space),
            (At::Size | At::Space, b';') => Ok(At::Extension),
            (At::Size | At::Space | At::Extension, b'\r') => Ok(At::SizeLf),
            (At::Extension, _) if byte != b'\n' && self.extensions < EXTENSION_BYTES => {
                self.extensions += 1;
                Ok(At::Extension)
            }
            (At::SizeLf, b'\n') => Ok(if self.size == 0 { At::Line } else { At::Data }),
            (At::DataCr, b'\r') => Ok(At::DataLf),
            (At::DataLf, b'\n') => Ok(At::Start),
            (At::Line, b'\r') => Ok(At::LastLf),
            (At::LastLf, b'\n') => Ok(At::End),
            (At::Line | At::Trailer | At::TrailerLf, _) => self.trailer(byte),
            _ => Err(BrokeOff::Body("a chunk is none")),
        }
    }

    fn digit(&mut self, byte: u8) -> Result<At, BrokeOff> {
        let digit = u64::from(char::from(byte).to_digit(16).unwrap_or_default());
        if self.at == At::Start {
            self.size = 0;
        }
        let size = self.size.checked_mul(16).and_then(|size| size.checked_add(digit));
        self.size = size.ok_or(BrokeOff::Body("a chunk is too large"))?;
        Ok(At::Size)
    }

    fn trailer(&mut self, byte: u8) -> Result<At, BrokeOff> {
        if self.trailers.len() >= HEAD_BYTES || self.fields > HEAD_FIELDS {
            return Err(BrokeOff::Body("too long trailers"));
        }
        self.trailers.push(byte);
        match (self.at, byte) {
            (At::Line | At::Trailer, b'\r') => Ok(At::TrailerLf),
            (At::Line | At::Trailer, b'\n') => Err(BrokeOff::Body("a trailer is none")),
            (At::TrailerLf, b'\n') => {
                self.fields += 1;
                Ok(At::Line)
            }
            (At::TrailerLf, _) => Err(BrokeOff::Body("a trailer is none")),
            _ => Ok(At::Trailer),
        }
    }

    fn trailers(&mut self) -> Result<HeaderMap, BrokeOff> {
        let mut text = std::mem::take(&mut self.trailers);
        text.extend_from_slice(b"\r\n");
        let mut room = vec![httparse::EMPTY_HEADER; self.fields];
        let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(&text, &mut room) else {
            return Err(BrokeOff::Body("a trailer is none"));
        };
        let mut map = HeaderMap::with_capacity(fields.len());
        for field in fields {
            let name = HeaderName::from_bytes(field.name.as_bytes());
            let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(field.value)) else {
                return Err(BrokeOff::Body("a trailer is none"));
            };
            map.append(name, value);
        }
        Ok(map)
    }
}
