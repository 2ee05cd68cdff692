//! The few payloads an [`Observer`](super::Observer) reads: those of control frames, and of text messages of one byte.
//!
//! A ping and its pong carry the same payload (RFC 6455 §5.5.3), and Engine.IO's packets `2` (ping), `3` (pong) and `5`
//! (upgrade) are text messages of one byte. Nothing is kept: of a ping's payload a mark is made as its bytes go by, however
//! they are cut. Left out: compressed messages, whose one byte may be anything, and messages in fragments.

#[cfg(test)]
mod tests;

/// What a small frame said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// A Ping (RFC 6455 §5.5.2).
    Ping(Mark),
    /// A Pong (RFC 6455 §5.5.3).
    Pong(Mark),
    /// A Close (RFC 6455 §5.5.1), and its code where it has one.
    Close(Option<u16>),
    /// A text message of one byte, in one frame, not compressed.
    Text(u8),
}

/// Of two payloads that are the same it is the same; of others it is another, but for one time in four thousand million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(pub u32);

impl Mark {
    /// Of a whole payload.
    pub fn of(payload: &[u8]) -> Self {
        let digest = payload.iter().fold(Digest::of_opcode(PING), |digest, octet| digest.with(PING, *octet));
        Self(digest.0)
    }
}

const TEXT: u8 = 0x1;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// What is kept of a payload while it goes by; never 0 at a frame's end.
#[derive(Clone, Copy)]
pub(super) struct Digest(pub(super) u32);

impl Digest {
    /// Of nothing yet.
    pub(super) fn of_opcode(opcode: u8) -> Self {
        match opcode {
            // A one, and behind it the bytes of the code.
            CLOSE => Self(1),
            // FNV-1a's own beginning.
            _ => Self(0x811c_9dc5),
        }
    }

    /// One more byte of the payload, without its mask.
    pub(super) fn with(self, opcode: u8, octet: u8) -> Self {
        match opcode {
            CLOSE if self.0 > 0xffff => self,
            CLOSE => Self(self.0 << 8 | u32::from(octet)),
            TEXT => Self(0x100 | u32::from(octet)),
            // FNV-1a.
            _ => Self((self.0 ^ u32::from(octet)).wrapping_mul(0x0100_0193)),
        }
    }

    /// What it comes to at the end of a frame.
    pub(super) fn signal(self, opcode: u8) -> Option<Signal> {
        match opcode {
            // The byte is what is left of it.
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
