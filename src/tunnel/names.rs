//! What a Socket.IO session is called, in the first frames of its tunnel: only for upstreams whose ordinary requests `follow`
//! sockets. A WebSocket-first session is pinned for them, too.
//!
//! Bounded: the worker's first 32 frames and 16 KiB, and text frames of up to 2 KiB that are not
//! compressed; a namespace that is connected later is not seen. The bytes pass as they are (invariant 5); a frame's own
//! bytes may be on their way to the client when its id is learned, before the client can have used it.

use std::sync::Arc;

use crate::affinity::pins::Key;
use crate::affinity::{self, Hold, session};
use crate::proxy::Job;
use crate::proxy::ask::Kind;
use crate::proxy::headers::Client;
use crate::sockets::Listed;
use crate::state::Shared;
use crate::upstream::Upstream;

/// Frames looked at: the open packet, the upgrade's probe, a few namespaces, and what comes between.
const FRAMES: u8 = 32;

/// Bytes looked at, frames that are passed over included.
const BYTES: usize = 16 * 1024;

/// The longest frame read; a connect packet has about 60 bytes.
const LONGEST: usize = 2_048;

/// Looks at what a worker says first.
pub struct Names {
    shared: Arc<Shared>,
    upstream: Arc<Upstream>,
    client: Client,
    /// The session, once it is known.
    key: Option<Key>,
    /// Of a frame that is not whole yet.
    begun: Vec<u8>,
    /// Bytes of a frame that is passed over, still to come.
    skip: u64,
    frames: u8,
    bytes: usize,
}

impl Names {
    /// `None`: nobody follows sockets here, or this is none of Socket.IO's.
    pub fn of(job: &Job) -> Option<Box<Self>> {
        if job.upstream.config.follow.is_empty() {
            return None;
        }
        let key = match job.ask.kind {
            Kind::Session { key, .. } if job.ask.is_engine_io(&job.upstream) => Some(key),
            Kind::Handshake => None,
            Kind::Session { .. } | Kind::Ordinary | Kind::Birth | Kind::UnknownSid | Kind::Preflight(_) => return None,
        };
        Some(Box::new(Self {
            shared: job.conn.thread.shared.clone(),
            upstream: job.upstream.clone(),
            client: job.client,
            key,
            begun: Vec::new(),
            skip: 0,
            frames: FRAMES,
            bytes: BYTES,
        }))
    }

    /// Looks at bytes of the worker's; `false`: it has seen enough. A WebSocket-first session's place on
    /// the list of sockets goes to its pin.
    pub fn look(&mut self, bytes: &[u8], listed: &mut Option<Listed>, hold: &mut Option<Hold>) -> bool {
        let bytes = bytes.get(..self.bytes).unwrap_or(bytes);
        self.bytes -= bytes.len();
        self.begun.extend_from_slice(bytes);
        loop {
            let passed = usize::try_from(self.skip).unwrap_or(usize::MAX).min(self.begun.len());
            self.begun.drain(..passed);
            self.skip -= passed as u64;
            match take(&self.begun) {
                Taken::NeedMore => break,
                Taken::Skip(length) => self.skip = length,
                Taken::Text { start, end } => {
                    let text = self.begun.get(start..end).unwrap_or_default().to_vec();
                    self.hear(&text, listed, hold);
                    self.skip = end as u64;
                }
                Taken::No => return false,
            }
            self.frames -= 1;
            if self.frames == 0 {
                return false;
            }
        }
        if self.begun.is_empty() {
            // An idle tunnel owns no buffer (invariant 9).
            self.begun = Vec::new();
        }
        self.bytes > 0
    }

    fn hear(&mut self, text: &[u8], listed: &mut Option<Listed>, hold: &mut Option<Hold>) {
        let name = &self.upstream.config.name;
        match (self.key, session::websocket_open(text)) {
            (None, Some(open)) => {
                let key = self.shared.keys.key(name, open.sid.as_bytes());
                let ttl = self.upstream.learn(open.ping_interval, open.ping_timeout, open.max_payload);
                if let Some(listed) = listed.take() {
                    affinity::pin_listed(&self.shared, key, self.client, listed, ttl, true);
                    *hold = affinity::hold(&self.shared, key).map(|hold| hold.of_known_tunnel(true));
                }
                self.key = Some(key);
            }
            (Some(key), None) => {
                if let Some(id) = session::socket_id(text) {
                    affinity::alias(&self.shared, name, id.as_bytes(), key, self.client);
                }
            }
            (None, None) | (Some(_), Some(_)) => {}
        }
    }
}

/// What the bytes at a boundary are.
#[derive(Debug, PartialEq, Eq)]
enum Taken {
    NeedMore,
    /// A frame of this many bytes that says nothing here.
    Skip(u64),
    /// A whole text frame: where its payload is.
    Text {
        start: usize,
        end: usize,
    },
    /// No frame of a worker.
    No,
}

/// Reads a worker's frame (RFC 6455 §5.2).
fn take(bytes: &[u8]) -> Taken {
    const FIN_TEXT: u8 = 0x81;
    let (first, start, length) = match bytes {
        [_, 0x80..=0xff, ..] => return Taken::No,
        [first, 127, rest @ ..] => match rest.first_chunk() {
            Some(length) => (*first, 10, u64::from_be_bytes(*length)),
            None => return Taken::NeedMore,
        },
        [first, 126, high, low, ..] => (*first, 4, u64::from(u16::from_be_bytes([*high, *low]))),
        [first, length @ 0..=125, ..] => (*first, 2, u64::from(*length)),
        _ => return Taken::NeedMore,
    };
    let end = (start as u64).saturating_add(length);
    match usize::try_from(end) {
        Ok(end) if first == FIN_TEXT && end <= LONGEST => {
            if bytes.len() < end {
                Taken::NeedMore
            } else {
                Taken::Text { start, end }
            }
        }
        _ => Taken::Skip(end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_at_a_boundary() {
        assert_eq!(take(b""), Taken::NeedMore);
        assert_eq!(take(b"\x81"), Taken::NeedMore);
        assert_eq!(take(b"\x81\x02a"), Taken::NeedMore);
        assert_eq!(take(b"\x81\x02abc"), Taken::Text { start: 2, end: 4 });
        assert_eq!(take(b"\x82\x05"), Taken::Skip(7), "binary");
        assert_eq!(take(b"\xc1\x05"), Taken::Skip(7), "compressed");
        assert_eq!(take(b"\x81\x7e\x10\x00"), Taken::Skip(4_100), "long");
        assert_eq!(take(b"\x81\x7f\0\0\0\0\0\0\0"), Taken::NeedMore);
        assert_eq!(take(b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff"), Taken::Skip(u64::MAX));
        assert_eq!(take(b"\x81\x85"), Taken::No, "masked");
    }
}
