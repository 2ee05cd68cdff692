//! Where the frames and messages of a tunnel begin and end, and the few frames stickyd says itself.
//!
//! Bytes pass a tunnel exactly as they were sent (invariant 5). To put a Ping or a Close of our own between them, to
//! count messages and to know who said goodbye, it is enough to read the frame headers as they go by: [`Observer`] does
//! that, one per direction, fed with every chunk however it is cut. It looks at 2 to 10 bytes of each frame and skips
//! the rest, but for the payloads that tell a [`Signal`].
//!
//! An observer that meets bytes that are no WebSocket (RFC 6455 §5) steps aside for good: it knows no boundary ever
//! after, so nothing is put in, and the bytes go on as before. A worker may well write `HTTP/1.1 400 Bad Request`
//! behind its 101.
//!
//! Left out on purpose: payloads (never kept, inflated or checked as UTF-8; unmasked only where they are read), answers to
//! protocol errors (those are between client and worker), masked frames of ours (we speak to clients only), and IO.

mod first;
mod ours;
mod signal;
#[cfg(test)]
mod tests;

pub use first::{FIRST_BYTES_MAX, FIRST_TEXT_MAX, FirstText, first_text};
use ours::CONTROL_MAX;
pub use ours::{CloseCode, CloseCodeError, ControlFrame, close_frame, ping_frame, text_frame};
use signal::Digest;
pub use signal::{Mark, Signal};

/// A whole text message, not compressed.
const FIN_TEXT: u8 = 0x81;

/// Who sends the bytes an [`Observer`] sees. Clients mask every frame, workers none (RFC 6455 §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The bytes come from the client.
    Client,
    /// The bytes come from the worker.
    Worker,
}

/// What one chunk held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Frames of any kind whose last byte was in the chunk.
    pub frames: u32,
    /// Control frames among them (RFC 6455 §5.5).
    pub controls: u32,
    /// Data messages whose last byte was in the chunk; a fragmented message counts once (RFC 6455 §5.4).
    pub messages: u32,
    /// The header of this direction's first Close was in the chunk (RFC 6455 §5.5.1); its body may still follow.
    pub close: bool,
}

/// Follows one direction of a tunnel: where frames and messages end.
#[derive(Clone, Debug)]
pub struct Observer {
    /// Bytes of the frame still to come, masking key included. While its length is being read: the length so far. Of a
    /// frame whose payload is read, up to the next frame: its masking key, then 32 bits of what is kept of the payload (of
    /// its length, while the key is still to come).
    left: u64,
    phase: Phase,
    /// First header byte of the current or last frame: FIN, RSV1–3, opcode.
    first: u8,
    from: Sender,
    /// A data message has begun and its FIN frame has not.
    fragmented: bool,
    close_seen: bool,
}

/// What the next byte of a direction is (RFC 6455 §5.2). The number is how many bytes of the length are still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    First,
    Second,
    Length16(u8),
    Length64(u8),
    /// Of a frame whose payload is read: its masking key.
    Key(u8),
    /// A payload that is read.
    Read(u8),
    Body,
    Aside,
}

impl Observer {
    /// An observer of a direction that has not said anything yet.
    pub fn new(from: Sender) -> Self {
        Self { left: 0, phase: Phase::First, first: 0, from, fragmented: false, close_seen: false }
    }

    /// Takes note of the next bytes of the direction. Any cut will do, down to single bytes.
    #[inline]
    pub fn feed(&mut self, bytes: &[u8]) -> Seen {
        self.feed_heeding(bytes, |_| {})
    }

    /// The same; `heed` is told what small frames said, each once its last byte was here, in their order.
    #[inline]
    pub fn feed_heeding(&mut self, bytes: &[u8], mut heed: impl FnMut(Signal)) -> Seen {
        let mut seen = Seen::default();
        let closed_before = self.close_seen;
        let mut rest = bytes;
        while let Some(end) = self.advance(rest) {
            // No sum can wrap: a frame has two bytes or more, and no chunk has 8 GiB.
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

    /// Between two frames: a control frame of ours may go in here (RFC 6455 §5.4), unless
    /// [`close_seen`](Self::close_seen): nothing may follow a Close (§5.5.1). True before the first byte.
    #[inline]
    pub fn at_frame_boundary(&self) -> bool {
        self.phase == Phase::First
    }

    /// Between two messages: a frame boundary with no fragmented message open (RFC 6455 §5.4).
    #[inline]
    pub fn at_message_boundary(&self) -> bool {
        self.at_frame_boundary() && !self.fragmented
    }

    /// How many of these next bytes still belong to the current frame, if it ends among them; 0 at a frame boundary.
    /// `None`: it goes on behind them, or they are no WebSocket. Changes nothing: feed what was written afterwards.
    pub fn next_boundary(&self, bytes: &[u8]) -> Option<usize> {
        if self.at_frame_boundary() { Some(0) } else { self.clone().advance(bytes) }
    }

    /// How many of these next bytes come before a place for a frame of ours: a data frame's with `message`, else a control
    /// frame's (RFC 6455 §5.4). `None`: there is none among them, and none behind a Close. Changes nothing.
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

    /// False for good once the bytes were no WebSocket. Then no boundary is known any more.
    #[inline]
    pub fn is_websocket(&self) -> bool {
        self.phase != Phase::Aside
    }

    /// This direction has begun a Close frame (RFC 6455 §5.5.1).
    #[inline]
    pub fn close_seen(&self) -> bool {
        self.close_seen
    }

    /// Goes to the end of the current (or next) frame and says where that is, or to the end of the bytes.
    #[inline]
    fn advance(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut octets = bytes.iter();
        while self.phase != Phase::Body {
            self.phase = self.header(*octets.next()?);
            match self.phase {
                Phase::Aside => return None,
                // A payload that was read has ended.
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
            // The most significant bit must be 0 (§5.2); it also keeps `left` from overflowing.
            Phase::Length64(8) if octet & 0x80 != 0 => Phase::Aside,
            Phase::Length64(more) => self.header_length(octet, more, Phase::Length64, 0x1_0000),
            Phase::Key(more) => self.key(octet, more),
            Phase::Read(more) => self.read(octet, more),
            end @ (Phase::Body | Phase::Aside) => end,
        }
    }

    /// FIN, RSV1–3 and the opcode. RSV1 marks a compressed message on its first frame only (RFC 7692 §6); RSV2, RSV3
    /// and the opcodes 3–7 and 11–15 have no meaning that anybody agreed on.
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

    /// The mask bit, and the length or what follows in its place.
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

    /// One of the `more` bytes of an extended length. Its shortest form must have been used (§5.2), so `least` is the
    /// smallest legal value.
    #[inline]
    fn header_length(&mut self, octet: u8, more: u8, same: fn(u8) -> Phase, least: u64) -> Phase {
        self.left = self.left << 8 | u64::from(octet);
        match more {
            2.. => same(more - 1),
            _ if self.left < least => Phase::Aside,
            _ => self.body(self.left),
        }
    }

    /// A frame whose payload is read begins.
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

    /// The last 32 bits are the payload's length.
    fn key(&mut self, octet: u8, more: u8) -> Phase {
        let [_, a, b, c, .., payload] = self.left.to_be_bytes();
        let key = u32::from_be_bytes([a, b, c, octet]);
        if more > 1 {
            self.left = u64::from(key) << 32 | u64::from(payload);
            return Phase::Key(more - 1);
        }
        self.read_from(key, payload)
    }

    /// A worker's key is 0: what is not masked stays as it is.
    fn read(&mut self, octet: u8, more: u8) -> Phase {
        let [mask, a, b, c, ..] = self.left.to_be_bytes();
        let digest = self.digest().with(self.first & 0x0f, octet ^ mask);
        self.left = u64::from(u32::from_be_bytes([a, b, c, mask])) << 32 | u64::from(digest.0);
        if more > 1 { Phase::Read(more - 1) } else { Phase::First }
    }

    /// Of the frame whose payload is, or was, read.
    fn digest(&self) -> Digest {
        let [.., a, b, c, d] = self.left.to_be_bytes();
        Digest(u32::from_be_bytes([a, b, c, d]))
    }

    /// The masking key is skipped together with the payload: nothing reads either.
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
