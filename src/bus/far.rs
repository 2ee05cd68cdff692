//! The hubs of other machines: members there are peers of the members here, and messages go both ways.
//!
//! Each hub tells the others which members it has, at every change and every [`ANNOUNCE`]; one that is silent for
//! [`SILENT`] has none. Published messages go to all hubs of the group, answers to one. Nothing is confirmed or sent
//! again: what is lost on the way is lost, as without other machines. Left out: the way itself, an [`FarQueue`]
//! queue and calls of [`FarHubs::hear`], and what protects messages there (`crate::fleet`).

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::sync::Notify;

use super::Hub;
use super::frame::{self, MemberId, Publish};
use super::group::{BusGroup, GroupKey};

/// Time between two announcements of the same members.
pub(crate) const ANNOUNCE: Duration = Duration::from_secs(2);
/// Time without an announcement after which a hub counts as gone.
const SILENT: Duration = Duration::from_secs(7);
/// Longest message to other machines, in bytes: what the fleet carries (`fleet::Fleet::publish`).
const LONGEST: usize = 1024 * 1024;
/// Bytes of messages that wait for the way to other machines; the oldest go first.
const WAITING: usize = 8 * 1024 * 1024;
/// Pairs of hub and group that are remembered.
const MOST_PAIRS: usize = 16 * 1024;
/// Maximum number of senders of other machines that are remembered without being members.
const MOST_EMITTERS: usize = 1_024;
/// Members that one announcement may name.
const MOST_MEMBERS: usize = 4_096;

/// One run of one hub, by a random number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct HubId(pub(crate) u64);

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FarTarget {
    /// To every hub that has members of the group.
    Group(GroupKey),
    /// Sent to one hub.
    Hub(HubId),
}

/// Messages that wait for the way to other machines, and the groups whose messages are wanted.
#[derive(Debug, Default)]
pub(crate) struct FarQueue {
    queue: RefCell<VecDeque<(FarTarget, Bytes)>>,
    bytes: Cell<usize>,
    wanted: RefCell<Vec<GroupKey>>,
    filled: Notify,
    dropped: Cell<u64>,
}

impl FarQueue {
    fn push(&self, target: FarTarget, message: Bytes) {
        self.bytes.set(self.bytes.get() + message.len());
        let mut queue = self.queue.borrow_mut();
        queue.push_back((target, message));
        while self.bytes.get() > WAITING && queue.len() > 1 {
            let first = queue.pop_front().map_or(0, |(_, message)| message.len());
            self.bytes.set(self.bytes.get().saturating_sub(first));
            self.dropped.set(self.dropped.get() + 1);
        }
        self.filled.notify_one();
    }

    /// Waits for messages, and takes up to `most` bytes of them, but at least one.
    pub(crate) async fn next(&self, most: usize) -> Vec<(FarTarget, Bytes)> {
        loop {
            let mut taken = Vec::new();
            let mut size = 0;
            while size < most
                && let Some((target, message)) = self.queue.borrow_mut().pop_front()
            {
                size += message.len();
                taken.push((target, message));
            }
            self.bytes.set(self.bytes.get().saturating_sub(size));
            if !taken.is_empty() {
                return taken;
            }
            self.filled.notified().await;
        }
    }

    /// Drops what waits: it would come too late.
    pub(crate) fn clear(&self) {
        self.dropped.set(self.dropped.get() + self.queue.borrow_mut().drain(..).count() as u64);
        self.bytes.set(0);
    }

    /// The groups whose messages are wanted, in the order in which they were first wanted.
    pub(crate) fn wanted(&self, from: usize) -> Vec<GroupKey> {
        self.wanted.borrow().iter().skip(from).cloned().collect()
    }

    /// Number of messages that were dropped since the last call.
    pub(crate) fn take_dropped(&self) -> u64 {
        self.dropped.take()
    }
}

/// What is known of a hub's members in one group.
#[derive(Debug)]
struct FarMembers {
    heard: Instant,
    members: Vec<MemberId>,
}

/// The hubs of other machines; without a way to them, nothing here has an effect.
#[derive(Debug, Default)]
pub(crate) struct FarHubs {
    way: Option<Rc<FarQueue>>,
    known: RefCell<HashMap<(HubId, GroupKey), FarMembers>>,
    linked: Cell<bool>,
    /// Senders of the backend's messages on other machines, oldest first: they get answers without
    /// being members.
    emitters: RefCell<VecDeque<(MemberId, HubId)>>,
}

impl FarHubs {
    /// With a way to other machines.
    pub(crate) fn over(way: Rc<FarQueue>) -> Self {
        Self { way: Some(way), ..Self::default() }
    }

    /// Number of members of other machines.
    pub(crate) fn members(&self) -> usize {
        self.known.borrow().values().map(|known| known.members.len()).sum()
    }

    /// The members of a group here have changed. `is_first`: the group has no member yet that other hubs know.
    pub(crate) fn changed(&self, key: &GroupKey, group: &mut BusGroup, is_first: bool) {
        let Some(way) = &self.way else { return };
        if is_first && !way.wanted.borrow().contains(key) {
            way.wanted.borrow_mut().push(key.clone());
            way.filled.notify_one();
        }
        for ((hub, of), known) in &*self.known.borrow() {
            if of == key {
                group.far_members(*hub, &known.members);
            }
        }
        if self.linked.get() {
            way.push(FarTarget::Group(key.clone()), announcement(key, group, is_first));
        }
    }

    /// Hands a message of a member here to the other machines, if the group has members there.
    pub(crate) fn publish(&self, key: &GroupKey, group: &BusGroup, origin: MemberId, publish: &Publish) -> FarOutcome {
        let Some(way) = self.way.as_ref().filter(|_| self.linked.get() && group.has_far()) else {
            return FarOutcome::Alone;
        };
        let message = published(key, origin, publish);
        if message.len() > LONGEST {
            return FarOutcome::TooLong;
        }
        way.push(FarTarget::Group(key.clone()), message);
        FarOutcome::Sent
    }

    /// Hands an answer to the hub of the member that asked.
    pub(crate) fn direct(&self, key: &GroupKey, group: &BusGroup, origin: MemberId, to: MemberId, payload: &[u8]) {
        let emitter = || self.emitters.borrow().iter().find(|(id, _)| *id == to).map(|(_, hub)| *hub);
        if let Some((way, hub)) = self.way.as_ref().zip(group.far_hub(to).or_else(emitter))
            && payload.len() <= LONGEST
        {
            way.push(FarTarget::Hub(hub), answered(key, origin, to, payload));
        }
    }

    /// The way is open: the others are told the members of this hub, and asked for theirs.
    pub(crate) fn link(&self, hub: &Hub) {
        self.linked.set(true);
        self.announce(hub, true);
    }

    /// What the others said may be lost: they are asked again, unless the way is closed. [`Self::link`] asks then.
    pub(crate) fn ask(&self, hub: &Hub) {
        if self.linked.get() {
            self.announce(hub, true);
        }
    }

    /// The way is gone: at once nothing is waited for from other machines.
    pub(crate) fn lose(&self, hub: &Hub) {
        self.linked.set(false);
        if let Some(way) = &self.way {
            way.clear();
        }
        let gone: Vec<_> = self.known.borrow_mut().drain().map(|(pair, _)| pair).collect();
        gone.iter().for_each(|(id, key)| forget(hub, *id, key));
    }

    /// Tells the others the members of this hub, and forgets hubs that are silent.
    pub(crate) fn tick(&self, hub: &Hub, now: Instant) {
        if self.linked.get() {
            self.announce(hub, false);
        }
        let mut gone = Vec::new();
        self.known.borrow_mut().retain(|pair, known| {
            let stays = now.saturating_duration_since(known.heard) < SILENT;
            if !stays {
                gone.push(pair.clone());
            }
            stays
        });
        gone.iter().for_each(|(id, key)| forget(hub, *id, key));
    }

    /// Tells the others that this hub has no members left.
    pub(crate) fn leave(&self, hub: &Hub) {
        if let Some(way) = self.way.as_ref().filter(|_| self.linked.get()) {
            for key in hub.groups.borrow().keys() {
                way.push(FarTarget::Group(key.clone()), announcement(key, &BusGroup::default(), false));
            }
        }
    }

    /// Remembers the hub of a sender that is not a member.
    fn note_emitter(&self, emitter: MemberId, from: HubId) {
        let mut emitters = self.emitters.borrow_mut();
        if !emitters.contains(&(emitter, from)) {
            if emitters.len() >= MOST_EMITTERS {
                emitters.pop_front();
            }
            emitters.push_back((emitter, from));
        }
    }

    fn announce(&self, hub: &Hub, asks: bool) {
        let Some(way) = &self.way else { return };
        for (key, group) in &*hub.groups.borrow() {
            way.push(FarTarget::Group(key.clone()), announcement(key, &group.borrow(), asks));
        }
    }

    /// Takes a message of another hub. Returns whether it could be read.
    pub(crate) fn hear(&self, hub: &Hub, from: HubId, message: Bytes, now: Instant) -> bool {
        let Some((key, said)) = read(message) else { return false };
        let group = hub.groups.borrow().get(&key).cloned();
        match said {
            // Nothing reaches them, so no call may wait for them; they are asked once the way is open.
            FarMessage::Members { .. } if !self.linked.get() => {}
            FarMessage::Members { members, asks } => {
                let pair = (from, key.clone());
                let is_room = self.known.borrow().len() < MOST_PAIRS || self.known.borrow().contains_key(&pair);
                if members.is_empty() || !is_room {
                    self.known.borrow_mut().remove(&pair);
                } else {
                    self.known.borrow_mut().insert(pair, FarMembers { heard: now, members: members.clone() });
                }
                if let Some(group) = group {
                    group.borrow_mut().far_members(from, if is_room { &members } else { &[] });
                    if let Some(way) = self.way.as_ref().filter(|_| asks) {
                        way.push(FarTarget::Group(key.clone()), announcement(&key, &group.borrow(), false));
                    }
                }
            }
            FarMessage::Published { origin, publish } => {
                let Some(group) = group else { return true };
                if group.borrow().far_hub(origin).is_none() {
                    self.note_emitter(origin, from);
                }
                let position = hub.next_position();
                let published = group.borrow_mut().publish(now, origin, position, &publish, &Rc::new(()));
                hub.count(&key, &published);
            }
            FarMessage::Answered { origin, to, payload } => {
                if let Some(group) = group {
                    if group.borrow().is_emitter(to) {
                        hub.emits.answered(origin, &payload);
                    } else {
                        group.borrow().direct(origin, to, &payload);
                    }
                }
            }
        }
        true
    }
}

/// What became of a message for other machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FarOutcome {
    /// The group has no members on other machines.
    Alone,
    Sent,
    /// It is longer than [`LONGEST`], and stays on this machine.
    TooLong,
}

fn forget(hub: &Hub, id: HubId, key: &GroupKey) {
    if let Some(group) = hub.groups.borrow().get(key) {
        group.borrow_mut().far_members(id, &[]);
    }
}

/// One message between hubs.
#[derive(Debug)]
enum FarMessage {
    Members { members: Vec<MemberId>, asks: bool },
    Published { origin: MemberId, publish: Publish },
    Answered { origin: MemberId, to: MemberId, payload: Bytes },
}

const MEMBERS: u8 = 1;
const PUBLISHED: u8 = 2;
const ANSWERED: u8 = 3;

/// The head of each message: its kind, and the group.
fn head(kind: u8, (upstream, path): &GroupKey) -> BytesMut {
    let mut message = BytesMut::new();
    message.put_u8(kind);
    for text in [upstream, path] {
        message.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
        message.put_slice(text.as_bytes());
    }
    message
}

fn announcement(key: &GroupKey, group: &BusGroup, asks: bool) -> Bytes {
    let mut message = head(MEMBERS, key);
    message.put_u8(u8::from(asks));
    group.near().take(MOST_MEMBERS).for_each(|id| message.put_u64(id.0));
    message.freeze()
}

fn published(key: &GroupKey, origin: MemberId, publish: &Publish) -> Bytes {
    let mut message = head(PUBLISHED, key);
    message.put_u64(origin.0);
    frame::write_publish(&mut message, publish);
    message.freeze()
}

fn answered(key: &GroupKey, origin: MemberId, to: MemberId, payload: &[u8]) -> Bytes {
    let mut message = head(ANSWERED, key);
    message.put_u64(origin.0);
    message.put_u64(to.0);
    message.put_slice(payload);
    message.freeze()
}

/// Reads a message; `None` if it is not one.
fn read(mut message: Bytes) -> Option<(GroupKey, FarMessage)> {
    let kind = message.try_get_u8().ok()?;
    let key = (text(&mut message)?, text(&mut message)?);
    let said = match kind {
        MEMBERS => {
            let asks = message.try_get_u8().ok()? != 0;
            let mut members = Vec::new();
            while members.len() < MOST_MEMBERS
                && let Ok(id) = message.try_get_u64()
            {
                members.push(MemberId(id));
            }
            FarMessage::Members { members, asks }
        }
        PUBLISHED => {
            let origin = MemberId(message.try_get_u64().ok()?);
            FarMessage::Published { origin, publish: frame::read_publish(message).ok()? }
        }
        ANSWERED => {
            let (origin, to) = (message.try_get_u64().ok()?, message.try_get_u64().ok()?);
            FarMessage::Answered { origin: MemberId(origin), to: MemberId(to), payload: message }
        }
        _ => return None,
    };
    Some((key, said))
}

fn text(message: &mut Bytes) -> Option<String> {
    let length = usize::try_from(message.try_get_u32().ok()?).ok()?;
    let bytes = (length <= message.len()).then(|| message.split_to(length))?;
    String::from_utf8(bytes.into()).ok()
}

#[cfg(test)]
mod tests;
