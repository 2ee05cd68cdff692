//! Finds where the frames and messages of a tunnel begin and end, and builds the few frames that stickyd sends itself.
//!
//! Bytes pass a tunnel exactly as they were sent (ARCHITECTURE.md, invariant 5). To insert a Ping or a Close between
//! them, to count messages, and to know which side sent a Close, it is enough to read the frame headers as they pass.
//! [`Observer`] does that, one per direction, fed with every chunk, however it is cut. It reads 2 to 10 bytes of each
//! frame and skips the rest, except for the payloads that carry a [`Signal`].
//!
//! An observer that meets bytes that are not valid WebSocket frames (RFC 6455 §5) steps aside for good: it reports no
//! boundary any more, so nothing is inserted, and the bytes pass as before. A worker may well write `HTTP/1.1 400 Bad
//! Request` after its 101.
//!
//! Out of scope: payloads (never kept, inflated or checked as UTF-8, and unmasked only where they are read), answers to
//! protocol errors (those are between client and worker), masked frames (stickyd sends frames to clients only), and IO.

mod first;
pub(crate) mod outgoing;
mod signal;
#[cfg(test)]
mod tests;

#[cfg(any(test, feature = "testing"))]
pub use first::FIRST_BYTES_MAX;
pub use first::{FirstText, first_text};
use outgoing::CONTROL_MAX;
pub(crate) use outgoing::text_frame;
pub use outgoing::{CloseCode, close_frame, ping_frame};
use signal::Digest;
pub use signal::{Mark, Signal};

/// First byte of a complete text message in one frame, not compressed.
const FIN_TEXT: u8 = 0x81;

/// The sender of the bytes that an [`Observer`] reads. Clients mask every frame, workers none (RFC 6455 §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The bytes come from the client.
    Client,
    /// The bytes come from the worker.
    Worker,
}

/// What an observer found in one chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Frames of any kind whose last byte was in the chunk.
    pub frames: u32,
    /// Control frames among them (RFC 6455 §5.5).
    pub controls: u32,
    /// Data messages whose last byte was in the chunk. A fragmented message counts once (RFC 6455 §5.4).
    pub messages: u32,
    /// Whether the header of this direction's first Close was in the chunk (RFC 6455 §5.5.1); its body may still
    /// follow.
    pub close: bool,
}

/// Follows one direction of a tunnel and finds where its frames and messages end.
#[derive(Clone, Debug)]
pub struct Observer {
    /// Bytes of the current frame still to come, masking key included. While the length is being read: the part of it
    /// read so far. For a frame whose payload is read, until the next frame begins: the masking key in the upper 32
    /// bits, and in the lower 32 bits the digest of the payload so far, or its length while the key is still being
    /// read.
    left: u64,
    phase: Phase,
    /// First header byte of the current or last frame: FIN, RSV1–3 and the opcode.
    first: u8,
    from: Sender,
    /// Whether a data message has begun whose FIN frame has not.
    fragmented: bool,
    close_seen: bool,
}

/// The meaning of the next byte of a direction (RFC 6455 §5.2). The number counts the bytes of that part still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    First,
    Second,
    Length16(u8),
    Length64(u8),
    /// The masking key of a frame whose payload is read.
    Key(u8),
    /// A payload that is read: a control frame's, or a text of one byte.
    Read(u8),
    Body,
    Aside,
}

impl Observer {
    /// Creates an observer of a direction in which nothing was sent yet.
    pub fn new(from: Sender) -> Self {
        Self { left: 0, phase: Phase::First, first: 0, from, fragmented: false, close_seen: false }
    }

    /// Observes the next bytes of the direction. They may be cut anywhere, down to single bytes.
    #[inline]
    pub fn feed(&mut self, bytes: &[u8]) -> Observed {
        self.feed_heeding(bytes, |_| {})
    }

    /// Observes the next bytes, and passes the signals of small frames to `heed`, in order, each after its last byte.
    #[inline]
    pub fn feed_heeding(&mut self, bytes: &[u8], mut heed: impl FnMut(Signal)) -> Observed {
        let mut seen = Observed::default();
        let closed_before = self.close_seen;
        let mut rest = bytes;
        while let Some(end) = self.advance(rest) {
            // The sums cannot wrap: a frame has at least two bytes, and no chunk has 8 GiB.
            seen.frames = seen.frames.wrapping_add(1);
            seen.controls = seen.controls.wrapping_add(u32::from(is_control(self.first)));
            seen.messages = seen.messages.wrapping_add(u32::from(is_fin(self.first) && !is_control(self.first)));
            if self.left != 0
                && let Some(signal) = self.digest().signal(self.first & 0x0f)
            {
                heed(signal);
            }
            rest = rest.get(end..).unwrap_or_default();
        }
        seen.close = self.close_seen && !closed_before;
        seen
    }

    /// Whether the position is between two frames, also before the first byte. A control frame may be inserted here
    /// (RFC 6455 §5.4), unless [`close_seen`](Self::close_seen): nothing may follow a Close (§5.5.1).
    #[inline]
    pub fn at_frame_boundary(&self) -> bool {
        self.phase == Phase::First
    }

    /// Whether the position is between two messages: at a frame boundary, with no fragmented message open (RFC 6455
    /// §5.4).
    pub fn at_message_boundary(&self) -> bool {
        self.at_frame_boundary() && !self.fragmented
    }

    /// How many of these next bytes belong to the current frame, if it ends among them; 0 at a frame boundary. `None`
    /// if it goes on after them, or they are not valid frames. It changes nothing: feed the bytes once they are
    /// written.
    pub fn next_boundary(&self, bytes: &[u8]) -> Option<usize> {
        if self.at_frame_boundary() { Some(0) } else { self.clone().advance(bytes) }
    }

    /// How many of these next bytes come before the first position where stickyd may insert a frame: a data frame if
    /// `message` is set, else a control frame (RFC 6455 §5.4). `None` if there is no such position among them; there is
    /// none after a Close. It changes nothing.
    pub fn next_place(&self, bytes: &[u8], message: bool) -> Option<usize> {
        let mut ahead = self.clone();
        let mut at = 0;
        while !ahead.close_seen {
            if ahead.at_frame_boundary() && !(message && ahead.fragmented) {
                return Some(at);
            }
            at += ahead.advance(bytes.get(at..).unwrap_or_default())?;
        }
        None
    }

    /// Whether all bytes so far were valid frames. Once false it stays false, and no boundary is known any more.
    #[inline]
    pub fn is_websocket(&self) -> bool {
        self.phase != Phase::Aside
    }

    /// Whether this direction has begun a Close frame (RFC 6455 §5.5.1).
    #[inline]
    pub fn close_seen(&self) -> bool {
        self.close_seen
    }

    /// Advances to the end of the current or next frame and returns its position; `None` if the bytes end before it.
    #[inline]
    fn advance(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut octets = bytes.iter();
        while self.phase != Phase::Body {
            self.phase = self.header(*octets.next()?);
            match self.phase {
                Phase::Aside => return None,
                // A payload that is read has ended.
                Phase::First => return Some(bytes.len() - octets.as_slice().len()),
                _ => {}
            }
        }
        let here = octets.as_slice().len();
        match usize::try_from(self.left) {
            Ok(left) if left <= here => {
                self.phase = Phase::First;
                self.left = 0;
                Some(bytes.len() - here + left)
            }
            _ => {
                self.left -= here as u64;
                None
            }
        }
    }

    /// Reads one byte of a frame header (RFC 6455 §5.2), or of a payload that is read.
    #[inline]
    fn header(&mut self, octet: u8) -> Phase {
        match self.phase {
            Phase::First => self.header_first(octet),
            Phase::Second => self.header_second(octet),
            Phase::Length16(more) => self.header_length(octet, more, Phase::Length16, 126),
            // The most significant bit must be 0 (§5.2), which also keeps `left` from overflowing.
            Phase::Length64(8) if octet & 0x80 != 0 => Phase::Aside,
            Phase::Length64(more) => self.header_length(octet, more, Phase::Length64, 0x1_0000),
            Phase::Key(more) => self.key(octet, more),
            Phase::Read(more) => self.read(octet, more),
            end @ (Phase::Body | Phase::Aside) => end,
        }
    }

    /// Reads the byte with FIN, RSV1–3 and the opcode. RSV1 marks a compressed message, on its first frame only (RFC
    /// 7692 §6). RSV2, RSV3 and the opcodes 3–7 and 11–15 have no standard meaning.
    #[inline]
    fn header_first(&mut self, octet: u8) -> Phase {
        let fin = is_fin(octet);
        let rsv1 = octet & 0x40 != 0;
        let legal = match octet & 0x3f {
            0x0 => self.fragmented && !rsv1,
            0x1 | 0x2 => !self.fragmented,
            0x8..=0xa => fin && !rsv1,
            _ => false,
        };
        if !legal {
            return Phase::Aside;
        }
        self.first = octet;
        self.left = 0;
        if !is_control(octet) {
            self.fragmented = !fin;
        }
        Phase::Second
    }

    /// Reads the byte with the mask bit and the short length, or the marker of an extended length.
    #[inline]
    fn header_second(&mut self, octet: u8) -> Phase {
        let masked = octet & 0x80 != 0;
        let length = octet & 0x7f;
        let too_long = is_control(self.first) && usize::from(length) > CONTROL_MAX;
        if too_long || masked != (self.from == Sender::Client) {
            return Phase::Aside;
        }
        self.close_seen |= self.first & 0x0f == 0x8;
        if is_control(self.first) || (self.first == FIN_TEXT && length == 1) {
            return self.small(length);
        }
        match length {
            126 => Phase::Length16(2),
            127 => Phase::Length64(8),
            _ => self.body(u64::from(length)),
        }
    }

    /// Reads one of the `more` last bytes of an extended length. The shortest form is required (§5.2), so `least` is
    /// the smallest legal value.
    #[inline]
    fn header_length(&mut self, octet: u8, more: u8, same: fn(u8) -> Phase, least: u64) -> Phase {
        self.left = self.left << 8 | u64::from(octet);
        match more {
            2.. => same(more - 1),
            _ if self.left < least => Phase::Aside,
            _ => self.body(self.left),
        }
    }

    /// Begins a frame whose payload is read.
    fn small(&mut self, payload: u8) -> Phase {
        if self.from == Sender::Client {
            self.left = u64::from(payload);
            return Phase::Key(4);
        }
        self.read_from(0, payload)
    }

    fn read_from(&mut self, key: u32, payload: u8) -> Phase {
        self.left = u64::from(key) << 32 | u64::from(Digest::of_opcode(self.first & 0x0f).0);
        if payload == 0 { Phase::First } else { Phase::Read(payload) }
    }

    /// Reads one byte of the masking key. Until the key is complete, the low 32 bits of `left` hold the payload's
    /// length.
    fn key(&mut self, octet: u8, more: u8) -> Phase {
        let [_, a, b, c, .., payload] = self.left.to_be_bytes();
        let key = u32::from_be_bytes([a, b, c, octet]);
        if more > 1 {
            self.left = u64::from(key) << 32 | u64::from(payload);
            return Phase::Key(more - 1);
        }
        self.read_from(key, payload)
    }

    /// Reads one byte of a payload. A worker's masking key is 0, so its bytes stay as they are.
    fn read(&mut self, octet: u8, more: u8) -> Phase {
        let [mask, a, b, c, ..] = self.left.to_be_bytes();
        let digest = self.digest().with(self.first & 0x0f, octet ^ mask);
        self.left = u64::from(u32::from_be_bytes([a, b, c, mask])) << 32 | u64::from(digest.0);
        if more > 1 { Phase::Read(more - 1) } else { Phase::First }
    }

    /// The digest of the frame whose payload is being read, or was read last.
    fn digest(&self) -> Digest {
        let [.., a, b, c, d] = self.left.to_be_bytes();
        Digest(u32::from_be_bytes([a, b, c, d]))
    }

    /// Begins a body that is skipped. The masking key is skipped with the payload, because neither is read.
    #[inline]
    fn body(&mut self, payload: u64) -> Phase {
        let key = if self.from == Sender::Client { 4 } else { 0 };
        self.left = payload + key;
        Phase::Body
    }
}

fn is_fin(first: u8) -> bool {
    first & 0x80 != 0
}

fn is_control(first: u8) -> bool {
    first & 0x08 != 0
}
