//! Members of one upstream and path: the hub hands each message of one to all others.
//!
//! A message is confirmed to its origin when it has been written to every other member, or their links are gone. What
//! is not confirmed the origin sends again after the link was made anew, so a killed hub loses no message. For the same
//! reason the last messages are kept for some seconds: members come back one after the other. Members discard what they
//! have seen, by origin and number.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::duplicates::Duplicates;
use super::far::HubId;
use super::frame::{self, LinkHello, MemberId, Publish, RestoreQuery, SessionUpdate};
use super::outbox::LinkOutbox;
use super::recovery::Recovery;

/// Time in which a member that comes back gets what it has missed.
const REPLAY_TIME: Duration = Duration::from_secs(10);
/// Bytes of messages that are kept for members that come back.
const REPLAY_BYTES: usize = 8 * 1024 * 1024;
/// Origins whose last number is remembered.
const ORIGINS: usize = 1_024;

/// Upstream and path that members have in common.
pub(crate) type GroupKey = (String, String);

/// The members of one upstream and path, and what was said among them.
#[derive(Debug, Default)]
pub(crate) struct BusGroup {
    members: HashMap<MemberId, Rc<LinkOutbox>>,
    /// Members on other machines, each with its hub.
    far: HashMap<MemberId, HubId>,
    /// Last number of each origin, also of those that are gone.
    origins: HashMap<MemberId, u64>,
    recent: VecDeque<RecentMessage>,
    recent_bytes: usize,
    duplicates: Duplicates,
    /// Sender of the backend's messages, which is not a member.
    emitter: GroupEmitter,
    pub(crate) recovery: Recovery,
}

/// The sender of the backend's messages in one group; its numbers have no gaps, as those of members.
#[derive(Debug)]
struct GroupEmitter {
    id: MemberId,
    sequence: u64,
}

impl Default for GroupEmitter {
    fn default() -> Self {
        Self { id: MemberId(crate::random::u64()), sequence: 0 }
    }
}

#[derive(Debug)]
struct RecentMessage {
    at: Instant,
    origin: MemberId,
    position: u64,
    sequence: u64,
    frame: Bytes,
}

/// What became of a published message.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// Members that it was queued for.
    pub(crate) sent: usize,
    /// It is time to warn of messages that two workers send alike.
    pub(crate) duplicates: bool,
    /// It had been published before the link was made anew.
    pub(crate) known: bool,
}

impl BusGroup {
    /// Adds a member, tells the others, and sends it what it has missed. Returns the number of messages that it missed
    /// and that are no longer kept.
    pub(crate) fn join(&mut self, now: Instant, hello: &LinkHello, outbox: &Rc<LinkOutbox>, position: u64) -> u64 {
        let all = self.members.keys().chain(self.far.keys());
        let others: Vec<_> = all.copied().filter(|id| *id != hello.member).collect();
        outbox.push(frame::welcome(&others, position));
        let joined = frame::joined(hello.member);
        self.others(hello.member).for_each(|other| _ = other.push(joined.clone()));
        self.members.insert(hello.member, outbox.clone());
        self.recovery.wanted(hello.recovery);
        self.forget_origins();
        hello.seen.as_ref().map_or(0, |seen| self.replay(now, hello, seen, outbox))
    }

    fn replay(&mut self, now: Instant, hello: &LinkHello, seen: &HashMap<MemberId, u64>, outbox: &LinkOutbox) -> u64 {
        let (member, since) = (hello.member, hello.since);
        self.forget_old(now);
        // What was said before the member was first linked was not for its clients.
        let unseen = |message: &&RecentMessage| {
            message.origin != member
                && message.position > since
                && message.sequence > seen.get(&message.origin).copied().unwrap_or(0)
        };
        let mut first: HashMap<MemberId, u64> = HashMap::new();
        for message in self.recent.iter().filter(unseen) {
            first.entry(message.origin).or_insert(message.sequence);
            outbox.push(message.frame.clone());
        }
        // Numbers have no gaps, so what lies before the first replayed one, or up to the last, is lost.
        let lost = |(origin, last): (&MemberId, &u64)| {
            let next = seen.get(origin)? + 1;
            Some(first.get(origin).copied().unwrap_or(last + 1).saturating_sub(next))
        };
        self.origins.iter().filter(|(origin, _)| **origin != member).filter_map(lost).sum()
    }

    /// Removes a member and tells the others. Returns false, and does nothing, if another connection has taken its
    /// place.
    pub(crate) fn leave(&mut self, now: Instant, member: MemberId, outbox: &Rc<LinkOutbox>) -> bool {
        if !self.members.get(&member).is_some_and(|current| Rc::ptr_eq(current, outbox)) {
            return false;
        }
        self.members.remove(&member);
        let left = frame::left(member);
        self.members.values().for_each(|other| _ = other.push(left.clone()));
        self.recovery.left(now, member);
        true
    }

    /// Hands a message to all other members. `mark` is held by every queued copy, until it has been written.
    pub(crate) fn publish(
        &mut self,
        now: Instant,
        origin: MemberId,
        position: u64,
        publish: &Publish,
        mark: &Rc<()>,
    ) -> Published {
        let last = self.origins.entry(origin).or_default();
        if *last >= publish.sequence {
            return Published { known: true, ..Published::default() };
        }
        *last = publish.sequence;
        let frame = frame::message(position, origin, publish.sequence, &publish.payload);
        let sent = self.others(origin).map(|other| usize::from(other.push_marked(frame.clone(), mark))).sum();
        self.recovery.log(now, position, origin, publish);
        self.recent_bytes += frame.len();
        self.recent.push_back(RecentMessage { at: now, origin, position, sequence: publish.sequence, frame });
        self.forget_old(now);
        let duplicates = publish.broadcast && self.duplicates.add(now, origin, publish.comparable());
        Published { sent, duplicates, known: false }
    }

    /// Returns sender and number of the next message of the backend.
    pub(crate) fn next_emit(&mut self) -> (MemberId, u64) {
        self.emitter.sequence += 1;
        (self.emitter.id, self.emitter.sequence)
    }

    /// Whether this is the sender of the backend's messages.
    pub(crate) fn is_emitter(&self, id: MemberId) -> bool {
        self.emitter.id == id
    }

    /// Ids of all members, also of those on other machines.
    pub(crate) fn all_members(&self) -> impl Iterator<Item = MemberId> {
        self.members.keys().chain(self.far.keys()).copied()
    }

    /// Ids of the members on this machine.
    pub(crate) fn near(&self) -> impl Iterator<Item = MemberId> {
        self.members.keys().copied()
    }

    /// Whether the group has members on other machines.
    pub(crate) fn has_far(&self) -> bool {
        !self.far.is_empty()
    }

    /// The hub of a member on another machine.
    pub(crate) fn far_hub(&self, member: MemberId) -> Option<HubId> {
        self.far.get(&member).copied()
    }

    /// Takes the members that another hub has now, and tells those here which came and which left.
    pub(crate) fn far_members(&mut self, hub: HubId, members: &[MemberId]) {
        let Self { members: near, far, .. } = self;
        let tell = |frame: Bytes| near.values().for_each(|member| _ = member.push(frame.clone()));
        far.retain(|id, of| {
            let stays = *of != hub || members.contains(id);
            if !stays {
                tell(frame::left(*id));
            }
            stays
        });
        for id in members.iter().filter(|id| !near.contains_key(id)) {
            if far.insert(*id, hub).is_none() {
                tell(frame::joined(*id));
            }
        }
    }

    /// Sends an answer to one member; false if it is gone.
    pub(crate) fn direct(&self, origin: MemberId, to: MemberId, payload: &[u8]) -> bool {
        self.members.get(&to).is_some_and(|member| member.push(frame::direct(origin, payload)))
    }

    /// Takes the state of a session of this member.
    pub(crate) fn session(&mut self, now: Instant, member: MemberId, update: SessionUpdate) {
        self.recovery.update(now, member, update);
    }

    /// Returns the answer to a question for a lost session.
    pub(crate) fn restore(&mut self, now: Instant, position: u64, member: MemberId, query: &RestoreQuery) -> Bytes {
        match self.recovery.restore(now, position, member, query) {
            Some((session, missed)) => frame::restored(query.request, Some(session), &missed),
            None => frame::restored(query.request, None, &[]),
        }
    }

    /// Forgets what is too old. Returns whether the group may be removed.
    pub(crate) fn sweep(&mut self, now: Instant) -> bool {
        self.members.values().for_each(|outbox| outbox.cut_if_stuck(now));
        self.forget_old(now);
        self.recovery.sweep(now);
        self.members.is_empty() && self.recent.is_empty() && self.recovery.bytes() == 0
    }

    fn others(&self, member: MemberId) -> impl Iterator<Item = &Rc<LinkOutbox>> {
        self.members.iter().filter(move |(id, _)| **id != member).map(|(_, outbox)| outbox)
    }

    fn forget_old(&mut self, now: Instant) {
        let old = |message: &RecentMessage| now.duration_since(message.at) > REPLAY_TIME;
        while self.recent.front().is_some_and(|message| self.recent_bytes > REPLAY_BYTES || old(message)) {
            self.recent_bytes -= self.recent.pop_front().map_or(0, |message| message.frame.len());
        }
    }

    fn forget_origins(&mut self) {
        if self.origins.len() > ORIGINS {
            let Self { origins, members, recent, .. } = self;
            origins.retain(|id, _| members.contains_key(id) || recent.iter().any(|message| message.origin == *id));
        }
    }
}

/// Groups by upstream and path, on the thread of the hub.
pub(crate) type Groups = RefCell<HashMap<GroupKey, Rc<RefCell<BusGroup>>>>;

#[cfg(test)]
mod tests;
