//! Learns the ids of a Socket.IO session from the first frames of its tunnel. Only for upstreams whose ordinary
//! requests name such ids (`follow`); for these, a WebSocket-first session is pinned as well.
//!
//! The work is bounded: only the worker's first 32 frames and 16 KiB are inspected, and only text frames of up to 2 KiB
//! that are not compressed. A namespace connected later is not learned. The bytes pass unchanged
//! (ARCHITECTURE.md, invariant 5). A frame may already be on its way to the client when its id is learned, but the
//! client cannot have used the id yet.

use std::sync::Arc;

use crate::affinity::SessionHold;
use crate::affinity::Sessions;
use crate::affinity::Ttl;
use crate::client::Client;
use crate::engine_io;
use crate::keys::Key;
use crate::sockets::Listed;
use crate::upstream::Upstream;

/// Number of frames inspected: the open packet, the upgrade's probe, a few namespaces, and other frames between them.
const FRAMES: u8 = 32;

/// Number of bytes inspected, including the frames that are skipped.
const BYTES: usize = 16 * 1024;

/// The longest frame that is read, in bytes; a connect packet has about 60.
const LONGEST: usize = 2_048;

/// Inspects the first frames of a worker for ids.
pub(crate) struct Names {
    sessions: Arc<Sessions>,
    upstream: Arc<Upstream>,
    client: Client,
    /// The pin's key of the session, once it is known.
    key: Option<Key>,
    /// The beginning of a frame that is not complete yet.
    begun: Vec<u8>,
    /// Bytes still to come of a frame that is skipped.
    skip: u64,
    frames: u8,
    bytes: usize,
}

impl Names {
    /// Reads the frames of one tunnel. `key`: the session it belongs to, where that is known already.
    pub(crate) fn new(sessions: Arc<Sessions>, upstream: Arc<Upstream>, client: Client, key: Option<Key>) -> Self {
        Self { sessions, upstream, client, key, begun: Vec::new(), skip: 0, frames: FRAMES, bytes: BYTES }
    }

    /// Inspects bytes from the worker; `false` once it needs no more. For a WebSocket-first session it moves the entry
    /// on the list of sockets into the new pin.
    pub(crate) fn look(&mut self, bytes: &[u8], listed: &mut Option<Listed>, hold: &mut Option<SessionHold>) -> bool {
        let bytes = bytes.get(..self.bytes).unwrap_or(bytes);
        self.bytes -= bytes.len();
        self.begun.extend_from_slice(bytes);
        loop {
            let passed = usize::try_from(self.skip).unwrap_or(usize::MAX).min(self.begun.len());
            self.begun.drain(..passed);
            self.skip -= passed as u64;
            match take(&self.begun) {
                FrameAtBoundary::NeedMore => break,
                FrameAtBoundary::Skip(length) => self.skip = length,
                FrameAtBoundary::Text { start, end } => {
                    let text = self.begun.get(start..end).unwrap_or_default().to_vec();
                    self.hear(&text, listed, hold);
                    self.skip = end as u64;
                }
                FrameAtBoundary::No => return false,
            }
            self.frames -= 1;
            if self.frames == 0 {
                return false;
            }
        }
        if self.begun.is_empty() {
            // An idle tunnel owns no buffer (ARCHITECTURE.md, invariant 9).
            self.begun = Vec::new();
        }
        self.bytes > 0
    }

    fn hear(&mut self, text: &[u8], listed: &mut Option<Listed>, hold: &mut Option<SessionHold>) {
        let name = &self.upstream.config.name;
        match (self.key, engine_io::websocket_open(text)) {
            (None, Some(open)) => {
                let key = self.sessions.keys.key(name, open.sid.as_bytes());
                let ttl = self.upstream.learn(key, &open);
                if let Some(listed) = listed.take() {
                    self.sessions.pin_listed(key, self.client, listed, Ttl::Announced(ttl));
                    *hold = self.sessions.hold(key).map(|hold| hold.of_known_tunnel(true));
                }
                self.key = Some(key);
            }
            (Some(key), None) => {
                if let Some(id) = engine_io::socket_id(text) {
                    self.sessions.alias(name, id.as_bytes(), key, self.client);
                }
            }
            (None, None) | (Some(_), Some(_)) => {}
        }
    }
}

/// The result of parsing the bytes at a frame boundary.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FrameAtBoundary {
    NeedMore,
    /// A frame of this many bytes that is not of interest.
    Skip(u64),
    /// A complete text frame, with the position of its payload.
    Text {
        start: usize,
        end: usize,
    },
    /// Not a valid frame of a worker.
    No,
}

/// Parses a frame of a worker (RFC 6455 §5.2).
pub(super) fn take(bytes: &[u8]) -> FrameAtBoundary {
    const FIN_TEXT: u8 = 0x81;
    let (first, start, length) = match bytes {
        [_, 0x80..=0xff, ..] => return FrameAtBoundary::No,
        [first, 127, rest @ ..] => match rest.first_chunk() {
            Some(length) => (*first, 10, u64::from_be_bytes(*length)),
            None => return FrameAtBoundary::NeedMore,
        },
        [first, 126, high, low, ..] => (*first, 4, u64::from(u16::from_be_bytes([*high, *low]))),
        [first, length @ 0..=125, ..] => (*first, 2, u64::from(*length)),
        _ => return FrameAtBoundary::NeedMore,
    };
    let end = (start as u64).saturating_add(length);
    match usize::try_from(end) {
        Ok(end) if first == FIN_TEXT && end <= LONGEST => {
            if bytes.len() < end {
                FrameAtBoundary::NeedMore
            } else {
                FrameAtBoundary::Text { start, end }
            }
        }
        _ => FrameAtBoundary::Skip(end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_skipped_or_rejected() {
        assert_eq!(take(b""), FrameAtBoundary::NeedMore);
        assert_eq!(take(b"\x81"), FrameAtBoundary::NeedMore);
        assert_eq!(take(b"\x81\x02a"), FrameAtBoundary::NeedMore);
        assert_eq!(take(b"\x81\x02abc"), FrameAtBoundary::Text { start: 2, end: 4 });
        assert_eq!(take(b"\x82\x05"), FrameAtBoundary::Skip(7), "binary");
        assert_eq!(take(b"\xc1\x05"), FrameAtBoundary::Skip(7), "compressed");
        assert_eq!(take(b"\x81\x7e\x10\x00"), FrameAtBoundary::Skip(4_100), "long");
        assert_eq!(take(b"\x81\x7f\0\0\0\0\0\0\0"), FrameAtBoundary::NeedMore);
        assert_eq!(take(b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff"), FrameAtBoundary::Skip(u64::MAX));
        assert_eq!(take(b"\x81\x85"), FrameAtBoundary::No, "masked");
    }
}
