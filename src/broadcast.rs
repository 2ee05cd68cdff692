//! Broadcasts: one message to many WebSockets, its frames, and what became of it at each socket.
//!
//! Each frame is built once and shared by all sockets. A socket is handed a [`Posted`], which its tunnel's task inserts
//! between two messages of the worker (`tunnel::insert`). Each `Posted` is counted exactly once, whatever happens to
//! it; a tunnel that ends while it holds one counts it, too. When the broadcast is over, messages that are not inserted
//! yet are dropped: a late message is worse than none. Not in this module: which sockets are chosen
//! (`admin::broadcast`), and when the message is inserted.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::Notify;

use crate::locks::lock;
use crate::websocket::frames::text_frame;

/// Maximum length of an outgoing message in bytes.
pub(crate) const LONGEST: usize = 64 * 1024;

/// Outcome of a broadcast at one socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The message was sent: the client's kernel, or its HTTP/2 stream, has taken all of it.
    Reached,
    /// Neither the route nor the upstream of the socket allows broadcasts.
    Denied,
    /// The client is polling.
    Polling,
    /// The client speaks Socket.IO but has not finished its upgrade, or its open packet was not understood.
    NotReady,
    /// The broadcast has no text for a plain WebSocket, or no event for a Socket.IO client.
    OtherKind,
    /// The tunnel does not speak WebSocket, is closing, or ended before the message was sent.
    Closing,
    /// The socket did not take the message in time, or too many others still waited for it.
    Slow,
}

impl Fate {
    /// All outcomes, in the order used in answers.
    pub const ALL: [Self; 7] =
        [Self::Reached, Self::Denied, Self::Polling, Self::NotReady, Self::OtherKind, Self::Closing, Self::Slow];

    /// Name of the outcome in API answers and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Reached => "reached",
            Self::Denied => "denied",
            Self::Polling => "polling",
            Self::NotReady => "not_ready",
            Self::OtherKind => "other_kind",
            Self::Closing => "closing",
            Self::Slow => "slow",
        }
    }
}

/// One broadcast: its frames, and the count of its outcomes.
pub(crate) struct Broadcast {
    /// Frame for plain WebSockets; `None` if there is no text.
    text: Option<Bytes>,
    /// Frame for Socket.IO clients; `None` if there is no event.
    event: Option<Bytes>,
    tally: Mutex<FateTally>,
    done: Notify,
}

/// Number of sockets per outcome, in the order of [`Fate::ALL`].
pub(crate) type FateCounts = [u32; Fate::ALL.len()];

#[derive(Default)]
struct FateTally {
    counts: FateCounts,
    /// Number of sockets that hold the message and have no outcome yet.
    waiting: u32,
    over: bool,
}

impl FateTally {
    fn count(&mut self, fate: Fate, sockets: u32) {
        if let Some(count) = self.counts.get_mut(fate as usize) {
            *count += sockets;
        }
    }
}

impl Broadcast {
    /// Prepares a broadcast: `text` for plain WebSockets, `event` (made by [`event`]) for Socket.IO clients.
    pub(crate) fn new(text: Option<&str>, event: Option<&str>) -> Arc<Self> {
        let frame = |text: &str| Bytes::from(text_frame(text));
        let (text, event) = (text.map(frame), event.map(frame));
        Arc::new(Self { text, event, tally: Mutex::default(), done: Notify::new() })
    }

    /// Prepares whole frames, which one socket gets together, whatever its kind.
    pub(crate) fn of_frames(frames: Bytes) -> Arc<Self> {
        let (text, event) = (Some(frames.clone()), Some(frames));
        Arc::new(Self { text, event, tally: Mutex::default(), done: Notify::new() })
    }

    /// The same message with a count of its own.
    pub(crate) fn once_more(&self) -> Arc<Self> {
        let (text, event) = (self.text.clone(), self.event.clone());
        Arc::new(Self { text, event, tally: Mutex::default(), done: Notify::new() })
    }

    /// Returns the message for one socket. If there is no frame for its kind, counts it as [`Fate::OtherKind`] and
    /// returns `None`.
    pub(crate) fn post(self: &Arc<Self>, socket_io: bool) -> Option<Posted> {
        let frame = if socket_io { &self.event } else { &self.text };
        let Some(frame) = frame.clone() else {
            self.count(Fate::OtherKind);
            return None;
        };
        self.tally().waiting += 1;
        Some(Posted { of: self.clone(), frame, fate: Fate::Closing })
    }

    /// Counts a socket that is not handed the message.
    pub(crate) fn count(&self, fate: Fate) {
        self.tally().count(fate, 1);
    }

    /// Completes once every socket that was handed the message has an outcome. Only one task may wait for it.
    pub(crate) async fn decided(&self) {
        while self.tally().waiting > 0 {
            self.done.notified().await;
        }
    }

    /// Ends the broadcast and returns the number of sockets per outcome; sockets without an outcome count as
    /// [`Fate::Slow`].
    pub(crate) fn finish(&self) -> FateCounts {
        let mut tally = self.tally();
        if !std::mem::replace(&mut tally.over, true) {
            let waiting = tally.waiting;
            tally.count(Fate::Slow, waiting);
        }
        tally.counts
    }

    fn decide(&self, fate: Fate) {
        let mut tally = self.tally();
        tally.waiting -= 1;
        if !tally.over {
            tally.count(fate, 1);
            if tally.waiting == 0 {
                self.done.notify_one();
            }
        }
    }

    fn tally(&self) -> MutexGuard<'_, FateTally> {
        // The counts stay meaningful even if a thread panicked while holding the lock.
        lock(&self.tally)
    }
}

/// The message of a broadcast for one socket; its outcome is counted when it is dropped.
pub struct Posted {
    of: Arc<Broadcast>,
    frame: Bytes,
    fate: Fate,
}

impl Posted {
    /// The WebSocket frame to send; it is never empty.
    pub fn frame(&self) -> Bytes {
        self.frame.clone()
    }

    /// Length of the frame in bytes.
    pub fn size(&self) -> usize {
        self.frame.len()
    }

    /// Records that the message was sent.
    pub fn reached(mut self) {
        self.fate = Fate::Reached;
    }

    /// Records why the message will not be sent.
    pub fn missed(mut self, why: Fate) {
        self.fate = why;
    }

    /// Whether the broadcast is over, so that the message must no longer be sent.
    pub fn is_over(&self) -> bool {
        self.of.tally().over
    }
}

impl Drop for Posted {
    fn drop(&mut self) {
        self.of.decide(self.fate);
    }
}

/// Encodes a Socket.IO event, the same in protocol revisions 3 to 5: Engine.IO's message type `4`, Socket.IO's EVENT
/// type `2`, the namespace unless it is `/`, and the array of the name and the arguments.
pub(crate) fn event(namespace: &str, name: &str, args: &[Value]) -> String {
    let array = event_array(name, args);
    if namespace == "/" { format!("42{array}") } else { format!("42{namespace},{array}") }
}

/// Encodes the name and the arguments of an event as a JSON array.
pub(crate) fn event_array(name: &str, args: &[Value]) -> String {
    Value::from_iter(std::iter::once(Value::from(name)).chain(args.iter().cloned())).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_the_socket_io_wire_format() {
        assert_eq!(event("/", "hello", &[1.into(), "zwei".into()]), r#"42["hello",1,"zwei"]"#);
        assert_eq!(event("/chat", "hello", &[]), r#"42/chat,["hello"]"#);
    }

    #[test]
    fn each_message_is_counted_exactly_once() {
        let broadcast = Broadcast::new(Some("hi"), None);
        assert!(broadcast.post(true).is_none());
        let [a, b, c, d] = std::array::from_fn(|_| broadcast.post(false).unwrap());
        assert_eq!(a.frame(), &b"\x81\x02hi"[..]);
        a.reached();
        b.missed(Fate::Slow);
        drop(c);
        assert!(!d.is_over());
        let counts = broadcast.finish();
        assert_eq!(counts, [1, 0, 0, 0, 1, 1, 2]);
        assert!(d.is_over());
        d.reached();
        assert_eq!(broadcast.finish(), counts, "late outcomes are not counted");
    }
}
