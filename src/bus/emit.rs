//! Messages of the backend for the workers of an upstream: published like those of a worker, and counted.
//!
//! Each group of members has a sender of its own, which is not a member: servers neither count it nor wait for it.
//! Members answer it with the number of sockets that they handed the message to and, if asked, with the answers of
//! these clients. A member that does not answer in time counts as silent. Left out: what is done at a member
//! (`preload/adapter.cjs`).

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

use super::Hub;
use super::frame::{MemberId, Publish};
use super::group::{BusGroup, GroupKey};
use crate::telemetry::say_full;

/// Path that Socket.IO servers have if nothing else is set.
const USUAL_PATH: &str = "/socket.io";
/// Time in which members must say how many sockets they have handed the message to.
const COUNT_TIME: Duration = Duration::from_secs(2);
/// Further time for the answers of clients, after theirs is over.
const ACK_MARGIN: Duration = Duration::from_millis(500);
/// Maximum number of answers of clients that are kept for one message, and of their bytes.
const MOST_ANSWERS: usize = 10_000;
const MOST_ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// Orders that wait for the hub.
const WAITING: usize = 64;

/// A message of the backend: a Socket.IO event for the clients in some rooms of a namespace.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EmitMessage {
    pub(crate) namespace: String,
    /// Rooms that the clients are in; empty: all clients of the namespace.
    pub(crate) rooms: Vec<String>,
    /// Clients in these rooms do not get it.
    pub(crate) except: Vec<String>,
    pub(crate) event: String,
    pub(crate) args: Vec<Value>,
}

impl EmitMessage {
    /// Data of the event's packet: its name and its arguments.
    pub(crate) fn data(&self) -> Value {
        Value::from_iter(std::iter::once(Value::from(self.event.as_str())).chain(self.args.iter().cloned()))
    }
}

/// A message to publish, and where to tell what became of it.
pub(crate) struct BusEmit {
    pub(crate) upstream: String,
    /// Path of the Socket.IO servers; `None`: the usual one, or all if none has it.
    pub(crate) path: Option<String>,
    pub(crate) matter: EmitMatter,
    pub(crate) done: oneshot::Sender<BusEmitted>,
}

/// What members are to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum EmitMatter {
    /// Hand an event to their clients; with a time, the clients are to answer in it.
    Event(EmitMessage, Option<Duration>),
    /// Answer with the Engine.IO session of the socket with this id in this namespace. Members of other machines may be
    /// left out.
    Session { namespace: String, id: String, near_only: bool },
}

impl EmitMatter {
    /// Whether members tell more than a number.
    fn has_answers(&self) -> bool {
        !matches!(self, Self::Event(_, None))
    }

    /// Whether the first answer is enough.
    fn is_search(&self) -> bool {
        matches!(self, Self::Session { .. })
    }

    /// Whether members of other machines are left out.
    fn is_near_only(&self) -> bool {
        matches!(self, Self::Session { near_only: true, .. })
    }

    /// Time in which members are to answer.
    fn patience(&self) -> Duration {
        match self {
            Self::Event(_, Some(time)) => *time + ACK_MARGIN,
            Self::Event(_, None) | Self::Session { .. } => COUNT_TIME,
        }
    }

    /// The header of the message, as members read it.
    fn header(&self, number: u64) -> Value {
        match self {
            Self::Session { namespace, id, .. } => json!({ "k": "session", "n": namespace, "q": number, "id": id }),
            Self::Event(message, ack) => {
                let EmitMessage { namespace, rooms, except, .. } = message;
                let time = ack.and_then(|time| u64::try_from(time.as_millis()).ok());
                let flags = time.map_or_else(|| json!({}), |ms| json!({ "timeout": ms }));
                let kind = if ack.is_some() { "ack" } else { "emit" };
                let o = json!({ "r": rooms, "x": except, "f": flags });
                json!({ "k": kind, "n": namespace, "o": o, "q": number, "d": message.data() })
            }
        }
    }
}

/// What became of a message.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct BusEmitted {
    /// Paths of Socket.IO servers that it was for.
    pub(crate) servers: usize,
    /// Socket.IO servers that have handed it to their clients.
    pub(crate) workers: usize,
    /// Socket.IO servers that did not answer.
    pub(crate) silent: usize,
    /// Sockets that it was handed to.
    pub(crate) sockets: u64,
    /// Answers of clients, in the order in which they came.
    pub(crate) answers: Vec<Value>,
    /// Answers of clients that came and were not kept, because there were too many or they were too large.
    pub(crate) dropped: u64,
}

/// The way of orders to the hub's thread.
pub(crate) type EmitSender = mpsc::Sender<BusEmit>;

/// Makes the way of orders to the hub's thread.
pub(super) fn channel() -> (EmitSender, mpsc::Receiver<BusEmit>) {
    mpsc::channel(WAITING)
}

/// Messages whose members have not all answered, on the hub's thread.
#[derive(Default)]
pub(crate) struct EmitsUnderWay {
    last: Cell<u64>,
    all: RefCell<HashMap<u64, UnderWay>>,
}

struct UnderWay {
    result: BusEmitted,
    answer_bytes: usize,
    /// Members that have more to say, with the number of answers of clients that are still to come.
    waiting: HashMap<MemberId, i64>,
    /// Members that have said how many sockets they have.
    counted: HashSet<MemberId>,
    with_ack: bool,
    /// Whether the first answer is enough.
    is_search: bool,
    done: Rc<Notify>,
}

/// One answer of a member (`adapter.cjs`).
#[derive(Deserialize)]
struct MemberAnswer {
    q: u64,
    /// Number of sockets that the message was handed to.
    c: Option<u32>,
    /// The answer of a client.
    #[serde(default, deserialize_with = "present")]
    a: Option<Value>,
    /// The member has no such namespace.
    none: Option<Value>,
}

fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

/// Takes orders until stickyd stops.
pub(super) async fn serve(hub: Rc<Hub>, mut orders: mpsc::Receiver<BusEmit>) {
    let mut running = tokio::task::JoinSet::new();
    while let Some(order) = orders.recv().await {
        while running.try_join_next().is_some() {}
        if running.len() >= WAITING {
            running.join_next().await;
        }
        let hub = hub.clone();
        running.spawn_local(async move {
            let emitted = run(&hub, &order).await;
            let _ = order.done.send(emitted);
        });
    }
}

async fn run(hub: &Rc<Hub>, order: &BusEmit) -> BusEmitted {
    let groups = hub.emit_groups(order);
    let mut all = Vec::new();
    for (key, group) in groups {
        all.push(begin(hub, order, &key, &group));
    }
    let end = tokio::time::Instant::now() + order.matter.patience();
    let mut result = BusEmitted { servers: all.len(), ..BusEmitted::default() };
    for (number, done) in all {
        let left = end.saturating_duration_since(tokio::time::Instant::now());
        let _ = timeout(left, done.notified()).await;
        let Some(one) = hub.emits.all.borrow_mut().remove(&number) else { continue };
        result.silent += one.result.silent;
        result.silent += one.waiting.keys().filter(|member| !one.counted.contains(*member)).count();
        result.workers += one.result.workers;
        result.sockets += one.result.sockets;
        result.answers.extend(one.result.answers);
        result.dropped += one.result.dropped;
    }
    if result.dropped > 0 {
        say_full!(
            limit = MOST_ANSWERS,
            dropped = result.dropped,
            "answers of clients to a message of the backend were dropped: there are too many, or over 4 MiB"
        );
    }
    result
}

/// Publishes a message in one group; returns its number and what is notified once all members have answered.
fn begin(hub: &Hub, order: &BusEmit, key: &GroupKey, group: &RefCell<BusGroup>) -> (u64, Rc<Notify>) {
    let emits = &hub.emits;
    emits.last.set(emits.last.get() + 1);
    let (number, done) = (emits.last.get(), Rc::new(Notify::new()));
    let near_only = order.matter.is_near_only();
    let waiting: HashMap<_, _> = {
        let group = group.borrow();
        let is_asked = |member: &MemberId| !near_only || group.far_hub(*member).is_none();
        group.all_members().filter(is_asked).map(|member| (member, 0)).collect()
    };
    if waiting.is_empty() {
        done.notify_one();
    }
    let under_way = UnderWay {
        result: BusEmitted::default(),
        answer_bytes: 0,
        waiting,
        counted: HashSet::new(),
        with_ack: order.matter.has_answers(),
        is_search: order.matter.is_search(),
        done: done.clone(),
    };
    emits.all.borrow_mut().insert(number, under_way);
    let (origin, sequence) = group.borrow_mut().next_emit();
    let publish = Publish {
        sequence,
        after: hub.position.get(),
        audience: None,
        broadcast: false,
        payload: payload(&order.matter.header(number).to_string()),
    };
    let position = hub.next_position();
    let published = group.borrow_mut().publish(Instant::now(), origin, position, &publish, &Rc::new(()));
    hub.count(key, &published);
    if !near_only {
        hub.far.publish(key, &group.borrow(), origin, &publish);
    }
    (number, done)
}

/// The message as members read it: one part, its header in JSON.
fn payload(header: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(5 + header.len());
    out.put_u32(u32::try_from(header.len()).unwrap_or(u32::MAX));
    out.put_u8(0);
    out.put_slice(header.as_bytes());
    out.freeze()
}

fn read(mut payload: &[u8]) -> Option<MemberAnswer> {
    let length = usize::try_from(payload.try_get_u32().ok()?).ok()?;
    payload.try_get_u8().ok()?;
    serde_json::from_slice(payload.get(..length)?).ok()
}

impl EmitsUnderWay {
    /// Takes the answer of a member.
    pub(super) fn answered(&self, member: MemberId, payload: &[u8]) {
        let Some(answer) = read(payload) else { return };
        let mut all = self.all.borrow_mut();
        let Some(one) = all.get_mut(&answer.q) else { return };
        let Some(left) = one.waiting.get_mut(&member) else { return };
        if answer.none.is_some() {
            one.waiting.remove(&member);
        } else if let Some(count) = answer.c {
            if !one.counted.insert(member) {
                return;
            }
            one.result.workers += 1;
            one.result.sockets += u64::from(count);
            *left += i64::from(if one.with_ack { count } else { 0 });
        } else if let Some(value) = answer.a {
            *left -= 1;
            let left = *left;
            one.answer_bytes += payload.len();
            if one.result.answers.len() < MOST_ANSWERS && one.answer_bytes <= MOST_ANSWER_BYTES {
                one.result.answers.push(value);
            } else {
                one.result.dropped += 1;
            }
            if one.is_search {
                one.waiting.clear();
                return one.end_if_complete();
            }
            if left > 0 {
                return;
            }
        }
        one.settle(member);
    }

    /// A member is gone: its answers do not come any more.
    pub(super) fn gone(&self, member: MemberId) {
        for one in self.all.borrow_mut().values_mut() {
            if one.waiting.contains_key(&member) {
                one.waiting.remove(&member);
                one.result.silent += usize::from(!one.counted.contains(&member));
                one.end_if_complete();
            }
        }
    }
}

impl UnderWay {
    /// Waits no longer for a member that has said everything.
    fn settle(&mut self, member: MemberId) {
        if self.counted.contains(&member) && self.waiting.get(&member).is_some_and(|left| *left <= 0) {
            self.waiting.remove(&member);
        }
        self.end_if_complete();
    }

    fn end_if_complete(&self) {
        if self.waiting.is_empty() {
            self.done.notify_one();
        }
    }
}

impl Hub {
    /// The groups that a message is for.
    fn emit_groups(&self, order: &BusEmit) -> Vec<(GroupKey, Rc<RefCell<BusGroup>>)> {
        let groups = self.groups.borrow();
        let of_upstream = |(upstream, _): &GroupKey| *upstream == order.upstream || upstream.is_empty();
        let found = groups.iter().filter(|(key, group)| of_upstream(key) && group.borrow().near().next().is_some());
        let found: Vec<_> = found.map(|(key, group)| (key.clone(), group.clone())).collect();
        // Socket.IO takes a slash off the end of its path.
        let path = order.path.as_deref().map_or(USUAL_PATH, |path| path.strip_suffix('/').unwrap_or(path));
        let has_path = found.iter().any(|((_, of), _)| of == path);
        if order.path.is_none() && !has_path {
            return found;
        }
        found.into_iter().filter(|((_, of), _)| of == path).collect()
    }
}

#[cfg(test)]
mod tests;
