//! A page of a user's messages, sorted into what one socket can be sent, what is over, and what is for other sockets.

use super::message::{self, MessageContent, QueuedMessage};
use crate::fleet::Fleet;
use crate::sockets::{Mailbag, Socket, SocketKind};

/// Some messages of a page, sorted.
#[derive(Default)]
pub(super) struct PageBatch {
    pub(super) messages: Vec<QueuedMessage>,
    /// The same as they are in Redis.
    pub(super) raws: Vec<Vec<u8>>,
    pub(super) expired: Vec<Vec<u8>>,
    pub(super) forged: Vec<Vec<u8>>,
    /// Number of messages before them that are for another socket, and the last of these.
    pub(super) others: usize,
    pub(super) last_other: Option<Vec<u8>>,
}

impl PageBatch {
    /// Sorts a page into what can be sent, what is over, and what is for another kind of socket.
    pub(super) fn of(
        fleet: &Fleet,
        list: &str,
        page: Vec<Vec<u8>>,
        most: usize,
        is_for: impl Fn(&QueuedMessage) -> bool,
    ) -> Self {
        let (now_ms, mut batch, mut bytes) = (fleet.fleet_ms(), Self::default(), 0);
        for raw in page {
            if message::expires_ms(&raw).is_some_and(|at| at <= now_ms) {
                batch.expired.push(raw);
                continue;
            }
            match message::open(fleet, list, &raw) {
                None => batch.forged.push(raw),
                Some(message) if is_for(&message) => {
                    bytes += message.content.size();
                    if bytes > most && !batch.messages.is_empty() {
                        return batch;
                    }
                    batch.messages.push(message);
                    batch.raws.push(raw);
                }
                Some(_) if batch.messages.is_empty() => {
                    batch.others += 1;
                    batch.last_other = Some(raw);
                }
                // It would be skipped with those that are sent before it.
                Some(_) => return batch,
            }
        }
        batch
    }
}

/// Whether a socket is of the kind that a message is for, and its namespace is connected.
pub(super) fn is_for(content: &MessageContent, socket: &Socket, bag: &Mailbag) -> bool {
    suits(content, socket.kind(), |needed| bag.is_connected(needed))
}

/// As `is_for`, with the namespaces that count as connected.
pub(super) fn suits(content: &MessageContent, kind: SocketKind, is_open: impl Fn(&str) -> bool) -> bool {
    content.needs(kind).is_some_and(|needed| kind == SocketKind::Plain || is_open(needed))
}
