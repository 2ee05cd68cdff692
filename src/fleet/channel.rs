//! Messages among the stickyds over Redis' publish and subscribe. Each is sealed and carries its sender, a rising
//! number and its time: forged, replayed and late ones are dropped. Messages that were sent while the connection was
//! away are lost, which receivers learn as a gap.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, Value, cmd};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use super::Fleet;
use super::connect::Connector;
use crate::locks::lock;

/// Number of messages that may wait for one receiver.
const WAITING: usize = 1_024;

/// Age from which on a message counts as replayed, in milliseconds.
const LATE_MS: i64 = 30_000;

/// Maximum number of senders whose last number is remembered.
const SENDERS: usize = 4_096;

/// Interval of PINGs on the connection, and pause before a new one.
const PING: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_secs(1);

/// What a receiver gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FleetMessage {
    /// A message of another stickyd.
    Message {
        /// Number of the sender.
        from: u64,
        /// The content of the message.
        payload: Vec<u8>,
    },
    /// Messages may have been lost here.
    Gap,
}

/// What precedes the content of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MessageStamp {
    pub(super) node: u64,
    pub(super) number: u64,
    /// Time by the clock of the Redis.
    pub(super) sent_ms: i64,
}

impl MessageStamp {
    pub(super) fn encode(self, payload: &[u8]) -> Vec<u8> {
        [&self.node.to_be_bytes()[..], &self.number.to_be_bytes(), &self.sent_ms.to_be_bytes(), payload].concat()
    }

    fn decode(plain: &[u8]) -> Option<(Self, &[u8])> {
        let (node, rest) = plain.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (sent_ms, payload) = rest.split_first_chunk()?;
        let (node, number) = (u64::from_be_bytes(*node), u64::from_be_bytes(*number));
        Some((Self { node, number, sent_ms: i64::from_be_bytes(*sent_ms) }, payload))
    }
}

struct ChannelReceiver {
    to: mpsc::Sender<FleetMessage>,
    /// Whether a message was dropped that it has not been told of.
    has_gap: bool,
}

/// The receivers on this stickyd, and the number of its last message.
#[derive(Default)]
pub(super) struct Channels {
    receivers: Mutex<BTreeMap<String, Vec<ChannelReceiver>>>,
    changed: Notify,
    number: Mutex<u64>,
}

impl Channels {
    pub(super) fn subscribe(&self, channel: String) -> mpsc::Receiver<FleetMessage> {
        let (to, messages) = mpsc::channel(WAITING);
        lock(&self.receivers).entry(channel).or_default().push(ChannelReceiver { to, has_gap: false });
        self.changed.notify_one();
        messages
    }

    pub(super) fn next_number(&self) -> MutexGuard<'_, u64> {
        lock(&self.number)
    }

    fn names(&self) -> Vec<String> {
        lock(&self.receivers).keys().cloned().collect()
    }

    /// Hands a message to the receivers of a channel; returns whether one of them had no room.
    fn deliver(&self, channel: &str, message: &FleetMessage) -> bool {
        let mut full = false;
        if let Some(receivers) = lock(&self.receivers).get_mut(channel) {
            receivers.retain(|receiver| !receiver.to.is_closed());
            for receiver in receivers {
                if receiver.has_gap {
                    receiver.has_gap = receiver.to.try_send(FleetMessage::Gap).is_err();
                }
                if receiver.has_gap || receiver.to.try_send(message.clone()).is_err() {
                    (receiver.has_gap, full) = (true, true);
                }
            }
        }
        full
    }
}

/// Receives messages for ever, over one connection at a time.
pub(super) async fn listen(fleet: Arc<Fleet>, connector: Connector) {
    let mut last: HashMap<u64, u64> = HashMap::new();
    loop {
        while fleet.channels.names().is_empty() {
            fleet.channels.changed.notified().await;
        }
        let (push, mut pushed) = mpsc::channel::<PushInfo>(4_096);
        // A full channel drops the message, as a slow network would.
        let push = move |info: PushInfo| push.try_send(info);
        if let Ok(mut connection) = connector.subscriber(push).await {
            receive(&fleet, &mut connection, &mut pushed, &mut last).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Receives until the connection fails.
async fn receive(
    fleet: &Fleet,
    connection: &mut MultiplexedConnection,
    pushed: &mut mpsc::Receiver<PushInfo>,
    last: &mut HashMap<u64, u64>,
) {
    let mut known: Vec<String> = Vec::new();
    loop {
        let new: Vec<_> = fleet.channels.names().into_iter().filter(|name| !known.contains(name)).collect();
        if !new.is_empty() {
            match timeout(PING, connection.subscribe(&new)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return,
            }
            new.iter().for_each(|channel| _ = fleet.channels.deliver(channel, &FleetMessage::Gap));
            known.extend(new);
        }
        tokio::select! {
            info = pushed.recv() => {
                let Some(info) = info else { return };
                match info.kind {
                    PushKind::Disconnection => return,
                    PushKind::Message => arrived(fleet, info.data, last),
                    _ => {}
                }
            }
            () = fleet.channels.changed.notified() => {}
            () = tokio::time::sleep(PING) => {
                let ping = timeout(PING, cmd("PING").query_async::<Value>(connection)).await;
                if !matches!(ping, Ok(Ok(_))) {
                    return;
                }
            }
        }
    }
}

fn arrived(fleet: &Fleet, data: Vec<Value>, last: &mut HashMap<u64, u64>) {
    let mut data = data.into_iter();
    let (Some(Value::BulkString(channel)), Some(Value::BulkString(sealed))) = (data.next(), data.next()) else {
        return;
    };
    let Ok(channel) = String::from_utf8(channel) else { return };
    let Some(plain) = fleet.seals.open(&channel, &sealed) else { return fleet.series.message("bad_seal") };
    let Some((sent, payload)) = MessageStamp::decode(&plain) else { return fleet.series.message("bad_seal") };
    if sent.node == fleet.node {
        return;
    }
    let is_new = last.get(&sent.node).is_none_or(|number| sent.number > *number);
    let is_late = (fleet.fleet_ms() - sent.sent_ms).abs() > LATE_MS;
    if !is_new || is_late {
        return fleet.series.message("dropped");
    }
    if last.len() >= SENDERS && !last.contains_key(&sent.node) {
        last.clear();
    }
    last.insert(sent.node, sent.number);
    let message = FleetMessage::Message { from: sent.node, payload: payload.to_vec() };
    fleet.series.message(if fleet.channels.deliver(&channel, &message) { "dropped" } else { "received" });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_of_a_message_comes_back_as_it_was() {
        let sent = MessageStamp { node: 7, number: 1 << 40, sent_ms: -5 };
        let plain = sent.encode(b"content");
        assert_eq!(MessageStamp::decode(&plain), Some((sent, &b"content"[..])));
        assert_eq!(MessageStamp::decode(&plain[..23]), None);
    }

    #[test]
    fn a_slow_receiver_learns_that_it_missed_messages() {
        let channels = Channels::default();
        let mut messages = channels.subscribe("c".to_owned());
        let message = |i: u64| FleetMessage::Message { from: i, payload: Vec::new() };
        let full = (0..WAITING as u64 + 10).filter(|i| channels.deliver("c", &message(*i))).count();
        assert_eq!(full, 10);
        for i in 0..WAITING as u64 {
            assert_eq!(messages.try_recv(), Ok(message(i)));
        }
        assert!(messages.try_recv().is_err());
        assert!(!channels.deliver("c", &message(7)));
        assert_eq!((messages.try_recv(), messages.try_recv()), (Ok(FleetMessage::Gap), Ok(message(7))));
    }
}
