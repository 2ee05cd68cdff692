//! Paths at which the workers of an upstream have shown that they know sessions: a worker refused an unknown id there
//! in the words of the protocol, or a session that began there came back.
//!
//! Only at these paths, and at those that a protocol has by default, discovery sends probes that a client did not send
//! (docs/reference/routing.md §1): anywhere else a probe would be a request to the application, made in a client's
//! name. The number of paths is bounded; clients may make up paths below a known one, and the oldest is forgotten then.

use std::collections::VecDeque;
use std::sync::Mutex;

use crate::keys::Key;
use crate::locks::lock;

/// Maximum number of paths remembered for an upstream. An application has one or two.
const PATHS: usize = 64;

/// Maximum number of paths for which a worker's answer to probes is remembered.
const PROBED: usize = 16;

/// The paths at which an upstream's sessions live, as keyed hashes.
#[derive(Default)]
pub(crate) struct SessionPaths(Mutex<VecDeque<SessionPath>>);

#[derive(Clone, Copy)]
struct SessionPath {
    path: Key,
    /// Whether a worker has refused an unknown id there, so that whatever is accepted there is a session.
    refuses: bool,
}

impl SessionPaths {
    /// Whether sessions are known to live at this path.
    pub(crate) fn is_known(&self, path: Key) -> bool {
        lock(&self.0).iter().any(|known| known.path == path)
    }

    /// Whether workers refuse unknown ids at this path.
    pub(crate) fn refuses(&self, path: Key) -> bool {
        lock(&self.0).iter().any(|known| known.path == path && known.refuses)
    }

    /// Remembers a path at which a session came back.
    pub(crate) fn learn(&self, path: Key) {
        self.remember(SessionPath { path, refuses: false });
    }

    /// Remembers a path at which a worker refused an unknown id.
    pub(crate) fn learn_refusal(&self, path: Key) {
        self.remember(SessionPath { path, refuses: true });
    }

    /// Remembers a path. If there are too many, the one that was confirmed longest ago is forgotten.
    fn remember(&self, mut new: SessionPath) {
        let mut paths = lock(&self.0);
        if let Some(place) = paths.iter().position(|known| known.path == new.path)
            && let Some(known) = paths.remove(place)
        {
            new.refuses |= known.refuses;
        } else if paths.len() >= PATHS {
            paths.pop_front();
        }
        paths.push_back(new);
    }
}

/// Whether a worker can be asked with `PUT` probes at a path (docs/reference/protocols.md §1.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Oracle {
    /// The worker was not asked yet, or its answer did not tell.
    Untried,
    /// The worker answered code 1 to a random sid.
    Usable,
    /// The worker answered a `PUT` with a random sid in another way, so that only its being alive can be seen.
    Useless,
}

/// What one worker answers to probes, by path. A restart of the worker ends this.
#[derive(Default)]
pub(crate) struct Oracles(Mutex<VecDeque<(Key, Oracle)>>);

impl Oracles {
    /// What the worker answers to probes at this path.
    pub(crate) fn at(&self, path: Key) -> Oracle {
        let known = lock(&self.0).iter().find(|(known, _)| *known == path).map(|(_, oracle)| *oracle);
        known.unwrap_or(Oracle::Untried)
    }

    /// Records what probes with a random sid showed.
    pub(crate) fn set(&self, path: Key, oracle: Oracle) {
        let mut oracles = lock(&self.0);
        oracles.retain(|(known, _)| *known != path);
        if oracles.len() >= PROBED {
            oracles.pop_front();
        }
        oracles.push_back((path, oracle));
    }

    /// Forgets everything, because another process may listen at the worker's address.
    pub(crate) fn forget(&self) {
        lock(&self.0).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_bounded_and_confirmed_ones_stay() {
        let paths = SessionPaths::default();
        let (own, made_up) = (Key(0, 0), |i: usize| Key(1, i as u64));
        paths.learn(own);
        for i in 0..PATHS * 3 {
            paths.learn(made_up(i));
            if i % 10 == 0 {
                paths.learn(own);
            }
        }
        assert!(paths.is_known(own) && paths.is_known(made_up(PATHS * 3 - 1)));
        assert!(!paths.is_known(made_up(0)));
        assert!(!paths.refuses(own), "a page may take any session back");
        paths.learn_refusal(own);
        paths.learn(own);
        assert!(paths.refuses(own));
        assert_eq!(lock(&paths.0).len(), PATHS);
    }

    #[test]
    fn a_workers_answers_are_remembered_by_path() {
        let oracles = Oracles::default();
        oracles.set(Key(1, 1), Oracle::Usable);
        oracles.set(Key(2, 2), Oracle::Useless);
        assert_eq!((oracles.at(Key(1, 1)), oracles.at(Key(2, 2))), (Oracle::Usable, Oracle::Useless));
        assert_eq!(oracles.at(Key(3, 3)), Oracle::Untried, "one path tells nothing of another");
        for i in 0..PROBED as u64 {
            oracles.set(Key(9, i), Oracle::Usable);
        }
        assert_eq!((oracles.at(Key(1, 1)), lock(&oracles.0).len()), (Oracle::Untried, PROBED));
        oracles.forget();
        assert_eq!(oracles.at(Key(9, 1)), Oracle::Untried);
    }
}
