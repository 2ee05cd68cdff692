//! What the fleet has said a moment ago of ids that requests `follow`. Pure: time is an argument.
//!
//! A page sends many requests with the id of its socket, so Redis is asked once in a while, not for each. Left out:
//! sessions that are pinned here, which never need it.

use std::collections::HashMap;

use super::budget::Cleaned;
use crate::clock::Millis;
use crate::cookie::WorkerId;
use crate::keys::Key;

/// Maximum number of ids that are known at once.
const FOLLOWED: usize = 65_536;

/// How long the worker of an id is known, in milliseconds. A session never moves, but a socket that has been recovered
/// keeps its id in a new session.
const FOUND_MS: u64 = 5_000;

/// How long it is known that the fleet does not know an id, in milliseconds: short, as its session may just begin.
const NOT_FOUND_MS: u64 = 500;

/// Ids that requests have named, by the key that a session with this id would have.
#[derive(Default)]
pub(crate) struct FollowedIds {
    known: HashMap<Key, (Millis, Option<WorkerId>)>,
    cleaned: Cleaned,
}

impl FollowedIds {
    /// Remembers the worker of an id, or that there is none. Without room, the next request asks again.
    pub(crate) fn remember(&mut self, id: Key, worker: Option<WorkerId>, now_ms: Millis) {
        if self.known.len() >= FOLLOWED && self.cleaned.take_due(now_ms) {
            self.known.retain(|_, (until, _)| *until > now_ms);
        }
        if self.known.len() < FOLLOWED || self.known.contains_key(&id) {
            let time = if worker.is_some() { FOUND_MS } else { NOT_FOUND_MS };
            self.known.insert(id, (now_ms.plus_ms(time), worker));
        }
    }

    /// What is known of an id: its worker, or that there is none; `None` if the fleet has to be asked.
    pub(crate) fn recall(&self, id: Key, now_ms: Millis) -> Option<Option<WorkerId>> {
        self.known.get(&id).filter(|(until, _)| *until > now_ms).map(|(_, worker)| *worker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_asked_again_later() {
        let mut followed = FollowedIds::default();
        let (one, other, worker) = (Key(1, 1), Key(2, 2), Some(WorkerId(7)));
        followed.remember(one, worker, Millis::new(0));
        followed.remember(other, None, Millis::new(0));
        let known = |followed: &FollowedIds, ms| [one, other].map(|id| followed.recall(id, Millis::new(ms)));
        assert_eq!(known(&followed, NOT_FOUND_MS - 1), [Some(worker), Some(None)]);
        assert_eq!(known(&followed, NOT_FOUND_MS), [Some(worker), None]);
        assert_eq!(known(&followed, FOUND_MS), [None, None]);
        followed.remember(other, worker, Millis::new(FOUND_MS));
        assert_eq!(followed.recall(other, Millis::new(FOUND_MS)), Some(worker), "its session has begun");
    }

    #[test]
    fn a_flood_of_ids_is_bounded() {
        let mut followed = FollowedIds::default();
        for id in 0..2 * FOLLOWED as u64 {
            followed.remember(Key(id, id), None, Millis::new(0));
        }
        assert_eq!(followed.known.len(), FOLLOWED);
        followed.remember(Key(1, 1), Some(WorkerId(7)), Millis::new(0));
        assert_eq!(followed.recall(Key(1, 1), Millis::new(0)), Some(Some(WorkerId(7))), "its place is its own");
        let late = Millis::new(NOT_FOUND_MS);
        followed.remember(Key(u64::MAX, 0), None, late);
        assert_eq!(followed.recall(Key(u64::MAX, 0), late), Some(None), "old ids were removed");
    }
}
