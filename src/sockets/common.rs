//! Data that many sockets have in common, stored once: route, user agent, and the rules of their labels.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, Weak};

use super::labels::SocketFacts;
use super::{Sockets, lock};
use crate::clock::{self, Seconds};
use crate::config::labels::LabelRules;
use crate::telemetry::say_full;

/// Maximum number of distinct entries. Browsers have some hundred user agents; sockets with further made-up ones are
/// stored without any.
const MOST: usize = 4_096;

/// Data shared by all sockets of one route, user agent and set of label rules.
pub(crate) struct Common {
    /// The list that the sockets are on.
    pub(crate) sockets: Weak<Sockets>,
    pub(crate) key: CommonKey,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct CommonKey {
    /// Host and path of the route; `None` if there are no routes.
    pub(crate) route: Option<Arc<str>>,
    /// User agent, shortened; empty if there was none or too many are known.
    pub(crate) agent: Box<str>,
    pub(crate) labels: Arc<LabelRules>,
}

/// An entry of the set, compared by its key alone.
struct KeptCommon(Arc<Common>);

impl PartialEq for KeptCommon {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for KeptCommon {}

impl std::hash::Hash for KeptCommon {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}

impl std::borrow::Borrow<CommonKey> for KeptCommon {
    fn borrow(&self) -> &CommonKey {
        &self.0.key
    }
}

/// All shared entries that are in use.
#[derive(Default)]
pub(crate) struct Commons(Mutex<KnownCommon>);

#[derive(Default)]
struct KnownCommon {
    all: HashSet<KeptCommon>,
    /// Second at which the set was full of entries in use; it is searched for unused ones again a second later.
    full_s: Option<Seconds>,
}

impl Commons {
    pub(crate) fn get(&self, sockets: &Weak<Sockets>, facts: &SocketFacts) -> Arc<Common> {
        let mut key = facts.common.clone();
        let mut known = lock(&self.0);
        if let Some(KeptCommon(common)) = known.all.get(&key) {
            return common.clone();
        }
        if known.all.len() >= MOST && !known.makes_room(clock::now_s()) {
            say_full!("too many different user agents: user agents of new sockets are not stored");
            key.agent = Box::default();
            if let Some(KeptCommon(common)) = known.all.get(&key) {
                return common.clone();
            }
        }
        let common = Arc::new(Common { sockets: sockets.clone(), key });
        known.all.insert(KeptCommon(common.clone()));
        common
    }
}

impl KnownCommon {
    /// Removes entries that are not in use; returns whether there is room then.
    fn makes_room(&mut self, now_s: Seconds) -> bool {
        if self.full_s.is_some_and(|full| full == now_s) {
            return false;
        }
        self.all.retain(|kept| Arc::strong_count(&kept.0) > 1);
        let full = self.all.len() >= MOST;
        self.full_s = full.then_some(now_s);
        !full
    }
}
