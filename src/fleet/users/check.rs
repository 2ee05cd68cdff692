//! Reads the list of a user's sockets, removes entries that stand for no socket, and finds those that have to go.
//!
//! Redis may contain anything: entries that do not open, that stand there twice, or whose stickyd is dead are removed
//! where they are met. The entries of a stickyd that lives are its own business: it is asked to look at them
//! (`upkeep`).

use std::collections::{BTreeMap, BTreeSet};

use redis::{Value, cmd};
use tokio::time::timeout;

use super::{LONG, NewPlace, TOPIC, UserKey, UserTerms, list_command};
use crate::fleet::{Fleet, QUESTION};
use crate::locks::lock;

/// Number of entries by which a list may have grown since its length was read.
const SLACK: usize = 256;

/// Number of entries that are read at most: 850 KB. Those after them do not count.
pub(super) const LONGEST: usize = 16_384;

/// Maximum number of entries that one message names.
const NAMED: usize = 4_096;

/// Size of an entry before it is sealed, in bytes.
pub(super) const ENTRY: usize = 24;

/// Number of entries that are opened without a pause for other tasks of the thread.
const AT_ONCE: usize = 128;

/// Number of readings until entries that are removed no longer stand in the way.
const READINGS: usize = 3;

/// What an entry says once it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct UserEntry {
    /// The stickyd that has the socket.
    pub(super) node: u64,
    /// Number of the place there.
    pub(super) number: u64,
    /// The session of the socket, the same on all stickyds; 0: none that could be elsewhere, too.
    pub(super) session: u64,
}

impl UserEntry {
    pub(super) fn encode(self) -> [u8; ENTRY] {
        let mut plain = [0; ENTRY];
        let numbers = [self.node, self.number, self.session].map(u64::to_be_bytes);
        plain.iter_mut().zip(numbers.as_flattened()).for_each(|(to, from)| *to = *from);
        plain
    }

    pub(super) fn decode(plain: &[u8]) -> Option<Self> {
        let (node, rest) = plain.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let [node, number, session] = [*node, *number, rest.try_into().ok()?].map(u64::from_be_bytes);
        Some(Self { node, number, session })
    }

    /// What counts once: a session, or else a socket.
    fn counts_as(self) -> (u64, u64) {
        if self.session == 0 { (self.node, self.number) } else { (0, self.session) }
    }
}

/// An entry as it stands in Redis.
pub(super) struct UserListed {
    pub(super) entry: UserEntry,
    pub(super) member: Vec<u8>,
}

/// What was read of a list.
pub(super) struct UserList {
    /// Entries that stand for sockets, as far as this stickyd can tell, in the order of the list.
    pub(super) live: Vec<UserListed>,
}

impl UserList {
    /// Number of sockets that count.
    pub(super) fn count(&self) -> usize {
        self.live.iter().map(|one| one.entry.counts_as()).collect::<BTreeSet<_>>().len()
    }

    /// Entries of the first `over` sockets that count, wherever they stand.
    fn first(self, over: usize) -> Vec<UserListed> {
        let mut first = BTreeSet::new();
        for one in &self.live {
            if first.len() >= over {
                break;
            }
            first.insert(one.entry.counts_as());
        }
        self.live.into_iter().filter(|one| first.contains(&one.entry.counts_as())).collect()
    }
}

impl Fleet {
    /// Checks a user once Redis has the new socket.
    pub(super) async fn check_new(&self, new: NewPlace) {
        let Ok(Ok(length)) = timeout(QUESTION, new.length).await else {
            return self.series.user_checked("unknown");
        };
        let Some(place) = self.users.get(new.number) else { return };
        if length <= place.terms.most {
            return self.series.user_checked("within");
        }
        let Some(own) = self.opened(place.user, &place.member) else { return };
        let checked = match place.terms.refuses {
            true => self.refuse_new(place.user, place.terms, own, length).await,
            false => self.close_oldest(place.user, place.terms, length).await,
        };
        self.series.user_checked(match checked {
            Some(true) => "over",
            Some(false) => "within",
            None => "unknown",
        });
    }

    /// Refuses the new socket if as many others stand before it as the user may have. Returns whether it did; `None` if
    /// Redis does not say.
    async fn refuse_new(&self, user: UserKey, terms: UserTerms, own: UserEntry, length: usize) -> Option<bool> {
        let _turn = if length > LONG { Some(self.users.long_turn.lock().await) } else { None };
        // A session may count elsewhere already, which only the list shows.
        if length > LONG && own.session == 0 && self.users.was_full_just_now(user, length) {
            self.give_way(own.number, true);
            return Some(true);
        }
        if length > LONG && !self.users.try_read_long(user) {
            return None;
        }
        for _ in 0..READINGS {
            let list = self.read_list(user, length).await?;
            let (count, seen) = (list.count(), list.live.len());
            let others: Vec<_> = list.live.into_iter().take_while(|one| one.entry != own).collect();
            // Elsewhere, the session counts already.
            if others.iter().any(|one| one.entry.counts_as() == own.counts_as()) {
                return Some(false);
            }
            let is_in_sight = others.len() < seen;
            let others = UserList { live: others };
            if others.count() >= terms.most {
                self.users.found_full(user);
                self.ask_owners(user, &others.live, false);
                self.give_way(own.number, true);
                return Some(true);
            }
            if is_in_sight || count < terms.most {
                return Some(false);
            }
            // The own entry still waits, or comes after those that are being removed.
        }
        None
    }

    /// Closes the first sockets of a list, so that as many stay as the user may have. Returns whether there were too
    /// many; `None` if Redis does not say.
    pub(super) async fn close_oldest(&self, user: UserKey, terms: UserTerms, length: usize) -> Option<bool> {
        let _turn = if length > LONG { Some(self.users.long_turn.lock().await) } else { None };
        if length > LONG && !self.users.try_read_long(user) {
            // The next round looks again (`upkeep`).
            return None;
        }
        let list = self.read_list(user, length).await?;
        let over = list.count().saturating_sub(terms.most);
        let first = list.first(over);
        for one in first.iter().filter(|one| one.entry.node == self.node) {
            self.give_way(one.entry.number, false);
        }
        self.ask_owners(user, &first, true);
        Some(!first.is_empty())
    }

    pub(super) fn give_way(&self, number: u64, is_new: bool) {
        if let Some(place) = self.users.get(number) {
            place.holder.give_way(is_new);
        }
    }

    /// Reads a user's list, which was this long a moment ago, and has those removed that stand for no socket; `None` if
    /// Redis does not say.
    pub(super) async fn read_list(&self, user: UserKey, length: usize) -> Option<UserList> {
        let mut range = list_command("LRANGE", &self.list_name(user));
        range.arg(0).arg(length.saturating_add(SLACK).min(LONGEST).saturating_sub(1));
        // Otherwise, what is being removed already would be removed once more at each reading.
        let removes = self.sees_all(user);
        let found = match self.ask_list(user, vec![range]).await?.pop()? {
            Value::Array(found) => found,
            Value::ServerError(error) => {
                self.was_refused(user, error.code());
                return None;
            }
            _ => return None,
        };
        let (listed, rubbish) = self.open_all(user, found).await;
        let dead = self.dead_nodes(&listed).await?;
        let mut list = UserList { live: Vec::new() };
        rubbish.into_iter().filter(|_| removes).for_each(|member| self.remove_entry(user, member));
        let mut seen = BTreeSet::new();
        for one in listed {
            let UserEntry { node, number, .. } = one.entry;
            let is_lost = dead.contains(&node) || (node == self.node && !self.has_place(number));
            if !is_lost && seen.insert(one.entry) {
                list.live.push(one);
            } else if removes {
                self.remove_entry(user, one.member);
            }
        }
        Some(list)
    }

    /// Redis has refused a command on a list. A value of another kind is not from stickyd, and is deleted.
    pub(super) fn was_refused(&self, user: UserKey, code: &str) {
        if code == "WRONGTYPE" {
            self.change_list(user, crate::fleet::queue::Write::Forget(self.list_name(user)));
        }
    }

    pub(super) fn opened(&self, user: UserKey, member: &[u8]) -> Option<UserEntry> {
        self.seals.open(&self.list_name(user), member).and_then(|plain| UserEntry::decode(&plain))
    }

    /// Opens entries; returns those that open, and the others.
    async fn open_all(&self, user: UserKey, found: Vec<Value>) -> (Vec<UserListed>, Vec<Vec<u8>>) {
        let name = self.list_name(user);
        let (mut listed, mut rubbish) = (Vec::new(), Vec::new());
        for (value, number) in found.into_iter().zip(1_usize..) {
            if number.is_multiple_of(AT_ONCE) {
                tokio::task::yield_now().await;
            }
            let Value::BulkString(member) = value else { continue };
            match self.seals.open(&name, &member).and_then(|plain| UserEntry::decode(&plain)) {
                Some(entry) => listed.push(UserListed { entry, member }),
                None => rubbish.push(member),
            }
        }
        if !rubbish.is_empty() {
            self.counts_lookup("bad_seal");
        }
        (listed, rubbish)
    }

    fn has_place(&self, number: u64) -> bool {
        lock(&self.users.held).contains_key(&number)
    }

    /// The stickyds of these entries that no longer show themselves; `None` if Redis does not say.
    async fn dead_nodes(&self, listed: &[UserListed]) -> Option<BTreeSet<u64>> {
        let mut unknown: BTreeSet<u64> = listed.iter().map(|one| one.entry.node).collect();
        unknown.remove(&self.node);
        lock(&self.members).iter().for_each(|member| _ = unknown.remove(&member.node));
        if unknown.is_empty() {
            return Some(unknown);
        }
        // A stickyd that has just started, or one that is dead.
        let mut get = cmd("MGET");
        unknown.iter().for_each(|node| _ = get.arg(self.control_name(&format!("m:{node:016x}"))));
        let shard = self.control_shard()?.clone();
        let Value::Array(shown) = self.ask_shard(&shard, vec![get]).await?.pop()? else { return None };
        let dead = unknown.into_iter().zip(shown).filter(|(_, shown)| *shown == Value::Nil);
        Some(dead.map(|(node, _)| node).collect())
    }

    /// Tells other stickyds which of their entries were met: they remove those that stand for no socket of theirs, and
    /// with `gives_way` end the sockets.
    pub(super) fn ask_owners(&self, user: UserKey, listed: &[UserListed], gives_way: bool) {
        let mut by_node: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for one in listed.iter().filter(|one| one.entry.node != self.node).take(NAMED) {
            by_node.entry(one.entry.node).or_default().extend_from_slice(&one.member);
        }
        for (node, members) in by_node {
            let head = [&[u8::from(gives_way)][..], &node.to_be_bytes(), &user.0].concat();
            self.publish(TOPIC, &[head, members].concat());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_back_as_it_was() {
        let entry = UserEntry { node: 0x0102_0304_0506_0708, number: u64::MAX, session: 7 };
        assert_eq!(UserEntry::decode(&entry.encode()), Some(entry));
        for length in [0, 7, 8, 16, 23, 25, 44] {
            assert_eq!(UserEntry::decode(&vec![7; length]), None);
        }
    }

    #[test]
    fn the_sockets_of_one_session_count_once() {
        let listed =
            |node, number, session| UserListed { entry: UserEntry { node, number, session }, member: Vec::new() };
        let live = vec![listed(1, 1, 9), listed(1, 2, 0), listed(2, 1, 9), listed(2, 2, 0)];
        let list = UserList { live };
        assert_eq!(list.count(), 3);
        let first: Vec<_> = list.first(1).iter().map(|one| (one.entry.node, one.entry.number)).collect();
        assert_eq!(first, [(1, 1), (2, 1)], "the whole session goes");
    }
}
