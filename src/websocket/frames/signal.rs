//! The few payloads that an [`Observer`](super::Observer) reads: those of control frames, and of text messages of one
//! byte.
//!
//! A ping and its pong carry the same payload (RFC 6455 §5.5.3), and Engine.IO's packets `2` (ping), `3` (pong) and `5`
//! (upgrade) are text messages of one byte. No payload is stored: the payload of a ping is hashed into a mark as its
//! bytes pass, however they are cut. Out of scope: compressed messages, whose one byte may be anything, and fragmented
//! messages.

#[cfg(test)]
mod tests;

/// The content of a small frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// A Ping (RFC 6455 §5.5.2).
    Ping(Mark),
    /// A Pong (RFC 6455 §5.5.3).
    Pong(Mark),
    /// A Close (RFC 6455 §5.5.1), with its code if it has one.
    Close(Option<u16>),
    /// A text message of one byte, in one frame, not compressed.
    Text(u8),
}

/// A 32-bit hash of a payload. Equal payloads have equal marks; different ones collide about once in four thousand
/// million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(pub u32);

impl Mark {
    /// The mark of a whole payload.
    pub fn of(payload: &[u8]) -> Self {
        let digest = payload.iter().fold(Digest::of_opcode(PING), |digest, octet| digest.with(PING, *octet));
        Self(digest.0)
    }
}

const TEXT: u8 = 0x1;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// The state kept of a payload while it passes; never 0 at the end of a frame.
#[derive(Clone, Copy)]
pub(crate) struct Digest(pub(crate) u32);

impl Digest {
    /// The initial state for a frame with this opcode.
    pub(crate) fn of_opcode(opcode: u8) -> Self {
        match opcode {
            // A one, after which the bytes of the code are shifted in.
            CLOSE => Self(1),
            // The offset basis of FNV-1a.
            _ => Self(0x811c_9dc5),
        }
    }

    /// Adds one unmasked byte of the payload.
    pub(crate) fn with(self, opcode: u8, octet: u8) -> Self {
        match opcode {
            CLOSE if self.0 > 0xffff => self,
            CLOSE => Self(self.0 << 8 | u32::from(octet)),
            TEXT => Self(0x100 | u32::from(octet)),
            // One step of FNV-1a.
            _ => Self((self.0 ^ u32::from(octet)).wrapping_mul(0x0100_0193)),
        }
    }

    /// The signal of a frame that has ended.
    pub(crate) fn signal(self, opcode: u8) -> Option<Signal> {
        match opcode {
            // The lowest byte is the message.
            TEXT => Some(Signal::Text(self.0.to_be_bytes()[3])),
            CLOSE => Some(Signal::Close((self.0 > 0xffff).then(|| {
                let [_, _, high, low] = self.0.to_be_bytes();
                u16::from_be_bytes([high, low])
            }))),
            PING => Some(Signal::Ping(Mark(self.0))),
            PONG => Some(Signal::Pong(Mark(self.0))),
            _ => None,
        }
    }
}
