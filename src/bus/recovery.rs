//! Sessions and missed messages for Socket.IO's connection state recovery, kept outside of the workers: a client can
//! recover on any worker, also after its own worker has died.
//!
//! A client tells the id of the last message that it has seen. Which messages it missed depends on the order in which
//! *its* worker delivered them: that worker's own messages at once, those of others when the hub sent them. The hub
//! rebuilds this order from `after`, the position that the origin had reached when it published.
//! Left out: anything that a restart of stickyd would have to keep. A client then begins a new session.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};

use super::frame::{Audience, MemberId, Publish, RestoreQuery, SessionUpdate};

/// Bytes of messages and sessions that one group keeps; the oldest messages go first.
pub(crate) const KEPT_BYTES: usize = 64 * 1024 * 1024;
/// Longest time that a lost session is kept, whatever the application asks for.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Bytes that an entry costs in addition to its texts.
const OVERHEAD: usize = 200;

/// The recoverable state of one group.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    keep: Duration,
    log: VecDeque<LoggedMessage>,
    /// Position of each logged message, by its id.
    positions: HashMap<String, u64>,
    sessions: HashMap<(String, String), KeptSession>,
    bytes: usize,
    /// Messages that were dropped before their time because the group holds too much.
    pub(crate) dropped: u64,
}

#[derive(Debug)]
struct LoggedMessage {
    at: Instant,
    position: u64,
    after: u64,
    origin: MemberId,
    audience: Audience,
    payload: Bytes,
}

impl LoggedMessage {
    fn cost(&self) -> usize {
        OVERHEAD + self.payload.len() + 2 * self.audience.id.len()
    }

    fn reaches(&self, nsp: &str, rooms: &[Value]) -> bool {
        let Audience { nsp: to, rooms: wanted, except, .. } = &self.audience;
        let included = wanted.is_empty() || wanted.iter().any(|room| rooms.contains(room));
        to == nsp && included && !except.iter().any(|room| rooms.contains(room))
    }
}

#[derive(Debug)]
struct KeptSession {
    member: MemberId,
    sid: String,
    rooms: Vec<Value>,
    data: Value,
    /// Time at which the connection broke; `None` while it is live.
    ended: Option<Instant>,
    /// Position up to which a recovery has already given its client everything.
    floor: u64,
    cost: usize,
}

impl Recovery {
    /// Whether a member of this group recovers sessions, for this many milliseconds.
    pub(crate) fn wanted(&mut self, ms: u64) {
        self.keep = self.keep.max(Duration::from_millis(ms)).min(LONGEST);
    }

    /// Keeps a message that clients may miss.
    pub(crate) fn log(&mut self, now: Instant, position: u64, origin: MemberId, publish: &Publish) {
        let Some(audience) = publish.audience.clone() else { return };
        if self.keep.is_zero() {
            return;
        }
        self.positions.insert(audience.id.clone(), position);
        // A copy: the payload is a part of all that was read at once, which would be kept with it.
        let (after, payload) = (publish.after, Bytes::copy_from_slice(&publish.payload));
        let message = LoggedMessage { at: now, position, after, origin, audience, payload };
        self.bytes += message.cost();
        self.log.push_back(message);
        while self.bytes > KEPT_BYTES && self.log.len() > 1 {
            self.dropped += 1;
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(old) = self.log.pop_front() {
            self.bytes = self.bytes.saturating_sub(old.cost());
            self.positions.remove(&old.audience.id);
        }
    }

    /// Takes what a worker tells about a session.
    pub(crate) fn update(&mut self, now: Instant, member: MemberId, update: SessionUpdate) {
        let key = (update.nsp, update.pid);
        let before = self.sessions.remove(&key);
        self.bytes = self.bytes.saturating_sub(before.as_ref().map_or(0, |session| session.cost));
        // A worker that dropped its own copy says nothing about a session that has moved to another one.
        let moved = before.as_ref().is_some_and(|session| session.member != member);
        if update.dropped && !moved || self.keep.is_zero() {
            return;
        }
        if update.dropped {
            if let Some(session) = before {
                self.bytes += session.cost;
                self.sessions.insert(key, session);
            }
            return;
        }
        let floor = before.map_or(0, |session| session.floor);
        let texts = update.rooms.iter().map(|room| room.as_str().map_or(8, str::len) + 24).sum::<usize>();
        let cost = OVERHEAD + texts + update.data.to_string().len() + key.0.len() + key.1.len();
        let ended = update.ended.then_some(now);
        let SessionUpdate { sid, rooms, data, .. } = update;
        if self.bytes + cost > 2 * KEPT_BYTES {
            self.dropped += 1;
            return;
        }
        self.bytes += cost;
        self.sessions.insert(key, KeptSession { member, sid, rooms, data, ended, floor, cost });
    }

    /// All live sessions of this member have lost their worker.
    pub(crate) fn left(&mut self, now: Instant, member: MemberId) {
        for session in self.sessions.values_mut().filter(|session| session.member == member) {
            session.ended.get_or_insert(now);
        }
    }

    /// Finds a lost session and the messages that its client missed, in the order of the hub. `position` is the hub's
    /// last number: `member` gets everything after it as it comes.
    pub(crate) fn restore(
        &mut self,
        now: Instant,
        position: u64,
        member: MemberId,
        query: &RestoreQuery,
    ) -> Option<(Value, Vec<Bytes>)> {
        let keep = self.keep;
        let offset = *self.positions.get(&query.offset)?;
        let key = (query.nsp.clone(), query.pid.clone());
        let session = self.sessions.get_mut(&key)?;
        if session.ended.is_none_or(|at| now.duration_since(at) > keep) {
            return None;
        }
        let seen = self.log.get(index(&self.log, offset)?)?;
        // Positions up to which the client has seen the messages of others, and of its own worker.
        let (others, own, own_after) = if offset <= session.floor {
            (session.floor, session.floor, 0)
        } else if seen.origin == session.member {
            (seen.after, offset, 0)
        } else {
            (offset, 0, offset)
        };
        let missed = |message: &&LoggedMessage| {
            let unseen = if message.origin == session.member {
                message.position > own && message.after >= own_after
            } else {
                message.position > others
            };
            unseen && message.reaches(&query.nsp, &session.rooms)
        };
        let first = self.log.partition_point(|message| message.position <= others.min(offset).max(session.floor));
        let found: Vec<Bytes> = self.log.range(first..).filter(missed).map(|message| message.payload.clone()).collect();
        let answer = json!({ "sid": session.sid, "rooms": session.rooms, "data": session.data });
        session.floor = position;
        session.member = member;
        Some((answer, found))
    }

    /// Forgets what is too old to be recovered.
    pub(crate) fn sweep(&mut self, now: Instant) {
        let keep = self.keep;
        let old = |at: Instant| now.duration_since(at) > keep;
        while self.log.front().is_some_and(|message| old(message.at)) {
            self.forget_oldest();
        }
        let mut freed = 0;
        self.sessions.retain(|_, session| {
            let stays = session.ended.is_none_or(|at| !old(at));
            freed += if stays { 0 } else { session.cost };
            stays
        });
        self.bytes = self.bytes.saturating_sub(freed);
    }

    /// Bytes held, by estimate.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

fn index(log: &VecDeque<LoggedMessage>, position: u64) -> Option<usize> {
    log.binary_search_by_key(&position, |message| message.position).ok()
}

#[cfg(test)]
mod tests;
