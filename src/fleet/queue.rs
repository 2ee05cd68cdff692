//! What waits to be sent to one Redis. It is bounded, and its oldest writes are dropped first. Left out: sending
//! (`shard`).

use std::collections::VecDeque;

use redis::{Cmd, Value, cmd};
use tokio::sync::oneshot;

use super::pin::SharedValue;

/// Maximum number of writes that wait: 4 MB, and what is sent in seconds after a pause of Redis.
pub(crate) const MOST_WRITES: usize = 65_536;

/// Maximum size of the messages that wait, in bytes.
const MOST_MESSAGES: usize = 8 << 20;

/// Maximum number of lookups that wait; more are answered at once as if the pin was unknown.
const MOST_LOOKUPS: usize = 16_384;

/// Maximum number of questions about users that wait.
const MOST_QUESTIONS: usize = 4_096;

/// Maximum number of entries that are removed together: each removal looks through a list, 0.3 ms for 10,000 sockets of
/// one user, and lookups wait for the same batch.
const MOST_LEAVING: usize = 64;

/// Maximum number of commands that are sent together.
const BATCH: usize = 512;

/// A change of a shared pin, or a message.
pub(crate) enum Write {
    /// Stores the pin of a session.
    Set(PinChange),
    /// Keeps the pin of a session for longer; it is stored again if Redis has lost it.
    Renew(PinChange),
    /// Forgets the pin of a session.
    Forget(String),
    /// Publishes a sealed message on a channel.
    Publish(String, Vec<u8>),
    /// Adds an entry to the list of a user's sockets.
    Enter(PlaceEntry),
    /// Removes an entry from the list of a user's sockets.
    Leave(LostEntry),
    /// Notes that the client of a session owes a CONNECT packet.
    Owes(String),
    /// Keeps the list of a user's sockets for longer.
    Keep(String),
}

/// An entry of the list of a user's sockets.
pub(crate) struct PlaceEntry {
    pub(crate) name: String,
    pub(crate) member: Vec<u8>,
    /// Told how long the list is with it.
    pub(crate) done: Option<oneshot::Sender<usize>>,
}

/// An entry that is to be removed.
pub(crate) struct LostEntry {
    pub(crate) name: String,
    pub(crate) member: Vec<u8>,
}

/// A pin or a name, sealed only when it is sent, so that the caller need not do it.
pub(crate) struct PinChange {
    pub(crate) name: String,
    pub(crate) value: SharedValue,
    /// Told when Redis has the pin.
    pub(crate) done: Option<oneshot::Sender<()>>,
}

impl PinChange {
    pub(crate) fn new(name: String, value: impl Into<SharedValue>) -> Self {
        Self { name, value: value.into(), done: None }
    }
}

/// A question for the value of a key.
pub(crate) struct Lookup {
    pub(crate) name: String,
    pub(crate) answer: oneshot::Sender<Option<Vec<u8>>>,
}

/// Commands whose replies are waited for.
pub(crate) struct Question {
    pub(crate) commands: Vec<Cmd>,
    pub(crate) answer: oneshot::Sender<Vec<Value>>,
}

/// Everything that waits for one Redis.
#[derive(Default)]
pub(crate) struct Queue {
    pub(crate) writes: VecDeque<Write>,
    pub(crate) lookups: VecDeque<Lookup>,
    pub(crate) questions: VecDeque<Question>,
    message_bytes: usize,
}

/// What is sent together: at most [`BATCH`] commands of each kind.
pub(crate) struct Batch {
    pub(crate) lookups: Vec<Lookup>,
    pub(crate) questions: Vec<Question>,
    pub(crate) writes: Vec<Write>,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.lookups.is_empty() && self.questions.is_empty()
    }
}

impl Queue {
    pub(crate) fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.lookups.is_empty() && self.questions.is_empty()
    }

    /// Adds a write; returns whether an older one was dropped for it, or it found no room itself.
    pub(crate) fn write(&mut self, write: Write) -> bool {
        if let Write::Publish(_, message) = &write {
            if self.message_bytes + message.len() > MOST_MESSAGES {
                return true;
            }
            self.message_bytes += message.len();
        }
        let dropped = self.writes.len() >= MOST_WRITES && self.take_write().is_some();
        self.writes.push_back(write);
        dropped
    }

    /// Adds a question; `false` if too many wait. The asker then learns at once that there is no answer.
    pub(crate) fn ask(&mut self, question: Question) -> bool {
        let has_room = self.questions.len() < MOST_QUESTIONS;
        if has_room {
            self.questions.push_back(question);
        }
        has_room
    }

    /// Takes what is sent next.
    pub(crate) fn take_batch(&mut self) -> Batch {
        let lookups = self.lookups.drain(..self.lookups.len().min(BATCH)).collect();
        let questions = self.questions.drain(..self.questions.len().min(BATCH)).collect();
        let mut leaving = 0;
        let next = || {
            let write = if leaving < MOST_LEAVING { self.take_write() } else { None };
            leaving += usize::from(matches!(write, Some(Write::Leave(_))));
            write
        };
        let writes = std::iter::from_fn(next).take(BATCH).collect();
        Batch { lookups, questions, writes }
    }

    /// Takes the oldest write.
    pub(crate) fn take_write(&mut self) -> Option<Write> {
        let write = self.writes.pop_front()?;
        if let Write::Publish(_, message) = &write {
            self.message_bytes -= message.len();
        }
        Some(write)
    }

    /// Adds a lookup; `false` if too many wait.
    pub(crate) fn look_up(&mut self, lookup: Lookup) -> bool {
        let has_room = self.lookups.len() < MOST_LOOKUPS;
        if has_room {
            self.lookups.push_back(lookup);
        }
        has_room
    }

    /// Drops the questions and lookups: their askers learn at once that there is no answer.
    pub(crate) fn give_up(&mut self) {
        self.lookups.clear();
        self.questions.clear();
    }
}

/// A command on one key.
pub(super) fn on(name: &str, key: &str) -> Cmd {
    let mut command = cmd(name);
    command.arg(key);
    command
}

/// The bytes of a reply.
pub(super) fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_write_makes_room() {
        let mut queue = Queue::default();
        for i in 0..MOST_WRITES {
            assert!(!queue.write(Write::Forget(i.to_string())));
        }
        assert!(queue.write(Write::Forget("new".to_owned())));
        assert_eq!(queue.writes.len(), MOST_WRITES);
        let Some(Write::Forget(oldest)) = queue.take_write() else { panic!() };
        assert_eq!(oldest, "1");
    }

    #[test]
    fn removals_from_lists_are_spread_over_batches() {
        let mut queue = Queue::default();
        for i in 0..100 {
            let entry = LostEntry { name: "list".to_owned(), member: vec![i] };
            queue.write(Write::Leave(entry));
            queue.write(Write::Forget(i.to_string()));
        }
        let sizes: Vec<_> = (0..3).map(|_| queue.take_batch().writes.len()).collect();
        assert_eq!(sizes, [127, 73, 0]);
    }

    #[test]
    fn messages_are_bounded_by_their_size() {
        let mut queue = Queue::default();
        let message = || Write::Publish("c".to_owned(), vec![0; 1 << 20]);
        let dropped = (0..10).filter(|_| queue.write(message())).count();
        assert_eq!(dropped, 2, "8 MB wait");
        while queue.take_write().is_some() {}
        assert!(!queue.write(message()), "room again");
    }
}
