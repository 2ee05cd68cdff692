//! Frames between the hub and a worker's preload (`src/bus/preload/link.cjs`): four bytes of length, one byte of type,
//! then the body. Numbers are big-endian; sequence numbers and positions have six bytes, ids of members eight.
//!
//! The hub reads what it needs to route a message and leaves its payload unread. What the payload says is only for the
//! preloads, so that their format can change without the hub.

use std::collections::HashMap;
use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Version of this protocol. A preload of another version is refused, and its worker stays on its own.
pub(crate) const VERSION: u32 = 1;

/// Longest frame, in bytes. A fetch of 9,000 sockets is answered in parts of 256 KiB; an emit may carry a file.
pub(crate) const LONGEST: usize = 64 * 1024 * 1024;

/// One Socket.IO server of one process, as it calls itself for its whole life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct MemberId(pub(crate) u64);

impl fmt::Debug for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl<'de> Deserialize<'de> for MemberId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map(Self).map_err(serde::de::Error::custom)
    }
}

impl Serialize for MemberId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{self:?}"))
    }
}

/// First frame of a link: who connects, and what it has seen before the link was made anew.
#[derive(Debug, Deserialize)]
pub(crate) struct LinkHello {
    pub(crate) version: u32,
    /// Upstream that the worker belongs to, empty if its environment does not say.
    pub(crate) upstream: String,
    /// Path of the Socket.IO server; members of one upstream and path share their messages.
    pub(crate) path: String,
    pub(crate) member: MemberId,
    pub(crate) pid: u32,
    /// Slot of a worker that stickyd started, empty otherwise.
    #[serde(default)]
    pub(crate) worker: String,
    #[serde(default)]
    pub(crate) node: String,
    #[serde(default)]
    pub(crate) socketio: String,
    /// Milliseconds in which a lost session may be recovered, 0 if the server does not recover.
    #[serde(default)]
    pub(crate) recovery: u64,
    /// The hub's number of the last message before the member was first linked.
    #[serde(default)]
    pub(crate) since: u64,
    /// Name of the adapter that the application has set; such a worker is not linked.
    pub(crate) own_adapter: Option<String>,
    /// Number of the last message seen, by its origin; `None` for a member that never was linked.
    pub(crate) seen: Option<HashMap<MemberId, u64>>,
}

/// The clients that a message is for, so that those that miss it can recover it.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(crate) struct Audience {
    pub(crate) nsp: String,
    pub(crate) id: String,
    pub(crate) rooms: Vec<Value>,
    pub(crate) except: Vec<Value>,
}

/// A message for all other members of the group.
#[derive(Debug)]
pub(crate) struct Publish {
    pub(crate) sequence: u64,
    /// The hub's number of the last message that the origin had handled before.
    pub(crate) after: u64,
    pub(crate) audience: Option<Audience>,
    /// An ordinary broadcast, whose payload is the same if two workers send the same message.
    pub(crate) broadcast: bool,
    pub(crate) payload: Bytes,
}

impl Publish {
    /// The payload without the id at its end, which differs where all else is the same.
    pub(crate) fn comparable(&self) -> &[u8] {
        // The id is the last part: five bytes of head, then its text.
        let id = self.audience.as_ref().map_or(0, |audience| 5 + audience.id.len());
        self.payload.get(..self.payload.len().saturating_sub(id)).unwrap_or_default()
    }
}

/// State of a client's session, told while it is live and when it ends.
#[derive(Debug, Deserialize)]
pub(crate) struct SessionUpdate {
    pub(crate) nsp: String,
    pub(crate) pid: String,
    #[serde(default)]
    pub(crate) sid: String,
    #[serde(default)]
    pub(crate) rooms: Vec<Value>,
    #[serde(default)]
    pub(crate) data: Value,
    /// The connection broke, and its client may recover.
    #[serde(default)]
    pub(crate) ended: bool,
    /// The session is over and cannot be recovered.
    #[serde(default)]
    pub(crate) dropped: bool,
}

/// A client asks for its lost session.
#[derive(Debug, Deserialize)]
pub(crate) struct RestoreQuery {
    pub(crate) request: u64,
    pub(crate) nsp: String,
    pub(crate) pid: String,
    pub(crate) offset: String,
}

/// What a process tells about itself every five seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
pub(crate) struct ProcessFacts {
    /// Mean delay of the event loop in the last five seconds, in milliseconds.
    pub lag_ms: f64,
    /// Delay of the event loop that 1 % of its turns exceeded, in milliseconds.
    pub lag_p99_ms: f64,
    /// Bytes of JavaScript objects in use.
    pub heap_used: u64,
    /// Bytes that the heap has taken from the system.
    pub heap_total: u64,
    /// Number of live Engine.IO clients.
    pub clients: u64,
    /// Live sockets of the main namespace.
    pub sockets: u64,
    /// Port that its HTTP server listens on, 0 if it is not known.
    #[serde(default)]
    pub port: u16,
}

/// One frame that a worker sends.
#[derive(Debug)]
pub(crate) enum Incoming {
    Hello(Box<LinkHello>),
    Publish(Publish),
    Direct { to: MemberId, payload: Bytes },
    Session(Box<SessionUpdate>),
    Restore(RestoreQuery),
    Facts(ProcessFacts),
}

/// Reason why a worker's link is cut.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// This version does not know the type.
    #[error("unknown frame type {0}")]
    Type(u8),
    /// The body ends before its fields do.
    #[error("a frame ends too early")]
    Short,
    /// A part in JSON cannot be read.
    #[error("a frame's JSON cannot be read: {0}")]
    Json(#[from] serde_json::Error),
}

const RECOVERABLE: u8 = 1;
const BROADCAST: u8 = 2;

/// Reads a frame from its type and body.
pub(crate) fn read(mut frame: Bytes) -> Result<Incoming, FrameError> {
    match frame.try_get_u8().map_err(|_| FrameError::Short)? {
        1 => Ok(Incoming::Hello(serde_json::from_slice(&frame)?)),
        2 => read_publish(frame).map(Incoming::Publish),
        3 => Ok(Incoming::Direct { to: member(&mut frame)?, payload: frame }),
        4 => Ok(Incoming::Session(serde_json::from_slice(&frame)?)),
        5 => Ok(Incoming::Restore(serde_json::from_slice(&frame)?)),
        6 => Ok(Incoming::Facts(serde_json::from_slice(&frame)?)),
        other => Err(FrameError::Type(other)),
    }
}

/// Reads the body of a published message.
pub(crate) fn read_publish(mut frame: Bytes) -> Result<Publish, FrameError> {
    let (sequence, after) = (six_bytes(&mut frame)?, six_bytes(&mut frame)?);
    let flags = frame.try_get_u8().map_err(|_| FrameError::Short)?;
    let length = frame.try_get_u32().map_err(|_| FrameError::Short)? as usize;
    if length > frame.len() {
        return Err(FrameError::Short);
    }
    let about = frame.split_to(length);
    // Rooms that cannot be read (half of a surrogate pair, which a client may choose) only cost the recovery.
    let audience = (flags & RECOVERABLE != 0).then(|| serde_json::from_slice(&about).ok()).flatten();
    Ok(Publish { sequence, after, audience, broadcast: flags & BROADCAST != 0, payload: frame })
}

/// Writes the body of a published message as [`read_publish`] reads it.
pub(crate) fn write_publish(out: &mut BytesMut, publish: &Publish) {
    let audience = publish.audience.as_ref().and_then(|audience| serde_json::to_vec(audience).ok());
    let flags = if audience.is_some() { RECOVERABLE } else { 0 } | if publish.broadcast { BROADCAST } else { 0 };
    let about = audience.unwrap_or_default();
    out.put_uint(publish.sequence, 6);
    out.put_uint(publish.after, 6);
    out.put_u8(flags);
    out.put_u32(u32::try_from(about.len()).unwrap_or(u32::MAX));
    out.put_slice(&about);
    out.put_slice(&publish.payload);
}

fn six_bytes(frame: &mut Bytes) -> Result<u64, FrameError> {
    frame.try_get_uint(6).map_err(|_| FrameError::Short)
}

fn member(frame: &mut Bytes) -> Result<MemberId, FrameError> {
    frame.try_get_u64().map(MemberId).map_err(|_| FrameError::Short)
}

/// Answer to a [`LinkHello`]: the other members of the group, and the position after which messages come.
pub(crate) fn welcome(members: &[MemberId], position: u64) -> Bytes {
    let body = serde_json::json!({ "members": members, "position": position }).to_string();
    frame(1, &[body.as_bytes()])
}

/// A published message with the hub's own number, as all other members get it.
pub(crate) fn message(position: u64, origin: MemberId, sequence: u64, payload: &[u8]) -> Bytes {
    let numbers = (position.to_be_bytes(), sequence.to_be_bytes());
    frame(2, &[&numbers.0[2..], &origin.0.to_be_bytes(), &numbers.1[2..], payload])
}

/// An answer from one member to another.
pub(crate) fn direct(origin: MemberId, payload: &[u8]) -> Bytes {
    frame(3, &[&origin.0.to_be_bytes(), payload])
}

/// Tells an origin that everything up to this number has been handed on.
pub(crate) fn ack(sequence: u64) -> Bytes {
    frame(4, &[&sequence.to_be_bytes()[2..]])
}

/// Tells a member that another one was linked.
pub(crate) fn joined(member: MemberId) -> Bytes {
    frame(5, &[&member.0.to_be_bytes()])
}

/// Tells a member that another one's link is gone.
pub(crate) fn left(member: MemberId) -> Bytes {
    frame(6, &[&member.0.to_be_bytes()])
}

/// Answer to a [`RestoreQuery`]: the session, if it is known, and the messages that its client missed.
pub(crate) fn restored(request: u64, session: Option<Value>, missed: &[Bytes]) -> Bytes {
    let header = serde_json::json!({ "request": request, "session": session }).to_string();
    let mut body = BytesMut::new();
    body.put_u32(u32::try_from(header.len()).unwrap_or(u32::MAX));
    body.put_slice(header.as_bytes());
    for payload in missed {
        body.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
        body.put_slice(payload);
    }
    frame(7, &[&body])
}

fn frame(kind: u8, parts: &[&[u8]]) -> Bytes {
    let length = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut bytes = BytesMut::with_capacity(4 + length);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    bytes.put_u8(kind);
    parts.iter().for_each(|part| bytes.put_slice(part));
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client may choose the name of a room; JSON.stringify writes half of a surrogate pair as `\\ud800`, which no
    /// Rust string can hold.
    #[test]
    fn an_unreadable_audience_costs_the_recovery_only() {
        let mut body = vec![2];
        body.extend_from_slice(&[0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3]);
        let about = br#"{"nsp":"/","id":"x","rooms":["\ud800"],"except":[]}"#;
        body.extend_from_slice(&u32::try_from(about.len()).unwrap().to_be_bytes());
        body.extend_from_slice(about);
        body.extend_from_slice(b"payload");
        let Ok(Incoming::Publish(publish)) = read(body.into()) else { panic!("a published message") };
        assert!(publish.audience.is_none() && publish.payload == "payload");
    }

    #[test]
    fn a_published_message_is_read_in_full() {
        let mut body = vec![2];
        body.extend_from_slice(&[0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 9, 3]);
        let about = br#"{"nsp":"/","id":"x","rooms":["a",7],"except":[]}"#;
        body.extend_from_slice(&u32::try_from(about.len()).unwrap().to_be_bytes());
        body.extend_from_slice(about);
        body.extend_from_slice(b"payload");
        let Ok(Incoming::Publish(publish)) = read(body.into()) else { panic!("a published message") };
        assert_eq!((publish.sequence, publish.after, publish.broadcast), (258, 9, true));
        assert_eq!(publish.audience.unwrap().rooms, [Value::from("a"), Value::from(7)]);
        assert_eq!(&publish.payload[..], b"payload");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_of_a_worker_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = read(bytes.into());
        }
    }
}
