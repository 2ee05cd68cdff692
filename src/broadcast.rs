//! A message to many WebSockets at once: its frames, who got it, and why others did not.
//!
//! Each frame is built once and shared by all. A socket is handed its [`Posted`], which its tunnel's task puts in between two
//! messages of the worker's (`tunnel::insert`) and which counts itself exactly once, whatever becomes of it: a tunnel that
//! ends with it counts it, too. Once a broadcast is over, what has no place yet is thrown away: late words are worse than
//! none. Left out: which sockets (`admin::broadcast`), and when it is put in.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::Notify;

use crate::tunnel::frames::text_frame;

/// Bytes of a message at most, as it goes out.
pub const LONGEST: usize = 64 * 1024;

/// What became of a message at one socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was sent: the client's kernel, or its HTTP/2 stream, has taken all of it.
    Reached,
    /// Neither its route nor its upstream allows it.
    Denied,
    /// It polls.
    Polling,
    /// A Socket.IO client that has not finished its upgrade, or whose open packet was not understood.
    NotReady,
    /// There is no text for a plain one, or no event for a Socket.IO one.
    OtherKind,
    /// It speaks no WebSocket, or has parted, or ended meanwhile.
    Closing,
    /// It did not take it in time, or was still busy with the one before.
    Slow,
}

impl Fate {
    /// All, in the order of answers.
    pub const ALL: [Self; 7] =
        [Self::Reached, Self::Denied, Self::Polling, Self::NotReady, Self::OtherKind, Self::Closing, Self::Slow];

    /// The word for it in answers and metrics.
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

/// One broadcast.
pub struct Broadcast {
    /// For plain WebSockets.
    text: Option<Bytes>,
    /// For Socket.IO ones.
    event: Option<Bytes>,
    tally: Mutex<Tally>,
    done: Notify,
}

/// How often each fate was met, in the order of [`Fate::ALL`].
pub type Counts = [u32; Fate::ALL.len()];

#[derive(Default)]
struct Tally {
    counts: Counts,
    /// Handed out, and not decided.
    waiting: u32,
    over: bool,
}

impl Tally {
    fn count(&mut self, fate: Fate, sockets: u32) {
        if let Some(count) = self.counts.get_mut(fate as usize) {
            *count += sockets;
        }
    }
}

impl Broadcast {
    /// `text` for plain WebSockets, `event` as [`event`] makes it for Socket.IO ones.
    pub fn new(text: Option<&str>, event: Option<&str>) -> Arc<Self> {
        let frame = |text: &str| Bytes::from(text_frame(text));
        let (text, event) = (text.map(frame), event.map(frame));
        Arc::new(Self { text, event, tally: Mutex::default(), done: Notify::new() })
    }

    /// For one socket; `None`, and counted: there is nothing for its kind.
    pub fn post(self: &Arc<Self>, socket_io: bool) -> Option<Posted> {
        let frame = if socket_io { &self.event } else { &self.text };
        let Some(frame) = frame.clone() else {
            self.count(Fate::OtherKind);
            return None;
        };
        self.tally().waiting += 1;
        Some(Posted { of: self.clone(), frame, fate: Fate::Closing })
    }

    /// A socket that is handed nothing.
    pub fn count(&self, fate: Fate) {
        self.tally().count(fate, 1);
    }

    /// Ready once every socket that was handed it is decided. One waiter.
    pub async fn decided(&self) {
        while self.tally().waiting > 0 {
            self.done.notified().await;
        }
    }

    /// It is over: who has not taken it was slow. How often each fate was met.
    pub fn finish(&self) -> Counts {
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

    fn tally(&self) -> MutexGuard<'_, Tally> {
        // Counts stay meaningful whatever panicked.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message for one socket; counted when it is dropped.
pub struct Posted {
    of: Arc<Broadcast>,
    frame: Bytes,
    fate: Fate,
}

impl Posted {
    /// What is to be sent; not empty.
    pub fn frame(&self) -> Bytes {
        self.frame.clone()
    }

    /// It was sent.
    pub fn reached(mut self) {
        self.fate = Fate::Reached;
    }

    /// It will not be.
    pub fn missed(mut self, why: Fate) {
        self.fate = why;
    }

    /// Nobody waits for it any more.
    pub fn is_over(&self) -> bool {
        self.of.tally().over
    }
}

impl Drop for Posted {
    fn drop(&mut self) {
        self.of.decide(self.fate);
    }
}

/// A Socket.IO event (protocol revisions 3 to 5 alike): Engine.IO's message `4`, Socket.IO's EVENT `2`, the namespace where it
/// is not `/`, and the array of name and arguments.
pub fn event(namespace: &str, name: &str, args: &[Value]) -> String {
    let array = Value::from_iter(std::iter::once(Value::from(name)).chain(args.iter().cloned()));
    if namespace == "/" { format!("42{array}") } else { format!("42{namespace},{array}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_as_socket_io_writes_them() {
        assert_eq!(event("/", "hello", &[1.into(), "zwei".into()]), r#"42["hello",1,"zwei"]"#);
        assert_eq!(event("/chat", "hello", &[]), r#"42/chat,["hello"]"#);
    }

    #[test]
    fn each_is_counted_once_whatever_becomes_of_it() {
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
        assert_eq!(broadcast.finish(), counts, "over is over");
    }
}
