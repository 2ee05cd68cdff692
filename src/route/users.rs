//! The live sockets of each user, for `users` of a route. A socket joins when its user is known, and counts until it is
//! over. The table holds weak references, so that it never keeps a socket alive; they are swept.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, Weak};

use crate::config::guards::{OverLimit, UserLimit};
use crate::fleet::Fleet;
use crate::fleet::users::{UserKey, UserTerms};
use crate::locks::lock;
use crate::sockets::Socket;

/// Number of locks, so that threads rarely wait for each other.
const SHARDS: usize = 16;

/// A part of the table: the sockets of each user, by the hash of its name.
type UserShard = Mutex<HashMap<u64, Vec<Weak<Socket>>>>;

/// Result of counting a new socket.
pub(crate) enum JoinedUser {
    /// It is counted. The user's oldest sockets are to be closed, if there are too many.
    In {
        /// The sockets to be closed.
        over: Vec<Arc<Socket>>,
    },
    /// It is one too many, and is to be closed itself.
    TooMany,
}

/// The live sockets of the users of one route.
pub(crate) struct Users {
    limit: UserLimit,
    /// Names the route and what names its users, alike on all stickyds of a fleet.
    scope: String,
    hasher: RandomState,
    shards: [UserShard; SHARDS],
}

impl Users {
    /// Makes an empty table.
    pub(crate) fn new(limit: UserLimit, route: &str) -> Arc<Self> {
        let scope = format!("{route} {:?}", limit.by);
        Arc::new(Self { limit, scope, hasher: RandomState::new(), shards: Default::default() })
    }

    /// The limit as configured.
    pub(crate) fn limit(&self) -> &UserLimit {
        &self.limit
    }

    /// Names a user in the fleet, and says how many sockets it may have there.
    pub(crate) fn in_fleet(&self, fleet: &Fleet, user: &str) -> (UserKey, UserTerms) {
        let terms = UserTerms { most: self.most(), refuses: self.limit.over == OverLimit::Refuses };
        (fleet.user_key(&self.scope, user), terms)
    }

    /// Whether one more socket of this user has to be refused.
    pub(crate) fn is_full(&self, user: &str) -> bool {
        if self.limit.over != OverLimit::Refuses {
            return false;
        }
        let key = self.hasher.hash_one(user);
        let Some(shard) = self.shard(key) else { return false };
        lock(shard).get(&key).is_some_and(|all| all.iter().filter(|one| lives(one)).count() >= self.most())
    }

    /// Counts a socket of this user, once; `None` if it was counted before.
    pub(crate) fn join(&self, user: &str, socket: &Arc<Socket>) -> Option<JoinedUser> {
        let key = self.hasher.hash_one(user);
        let shard = self.shard(key)?;
        let mut shard = lock(shard);
        let all = shard.entry(key).or_default();
        all.retain(lives);
        if all.iter().any(|one| std::ptr::eq(one.as_ptr(), Arc::as_ptr(socket))) {
            return None;
        }
        if all.len() >= self.most() && self.limit.over == OverLimit::Refuses {
            return Some(JoinedUser::TooMany);
        }
        all.push(Arc::downgrade(socket));
        let over = all.len().saturating_sub(self.most());
        // In the order in which they came: the first are the oldest.
        Some(JoinedUser::In { over: all.drain(..over).filter_map(|one| one.upgrade()).collect() })
    }

    /// Forgets sockets that are over, in one part of the table; called in turn for each part.
    pub(crate) fn sweep(&self, turn: usize) {
        if let Some(shard) = self.shards.get(turn % SHARDS) {
            let mut shard = lock(shard);
            shard.retain(|_, all| {
                all.retain(lives);
                !all.is_empty()
            });
            if shard.capacity() > 64 && shard.len() * 4 < shard.capacity() {
                shard.shrink_to_fit();
            }
        }
    }

    fn most(&self) -> usize {
        usize::try_from(self.limit.sockets).unwrap_or(usize::MAX)
    }

    fn shard(&self, key: u64) -> Option<&UserShard> {
        self.shards.get(usize::try_from(key % SHARDS as u64).unwrap_or(0))
    }
}

/// Whether the socket goes on: it has neither ended nor been told to.
fn lives(socket: &Weak<Socket>) -> bool {
    socket.upgrade().is_some_and(|socket| socket.has_begun() && !socket.is_ordered())
}
