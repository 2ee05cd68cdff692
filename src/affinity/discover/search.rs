//! What requests of one sid share while they look for its owner, on whatever threads they are.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::lock;
use super::probe::Verdict;
use crate::affinity::pins::Key;
use crate::state::Shared;
use crate::upstream::worker::Worker;

/// How long verdicts hold for requests that join a search. A search lasts as long as its slowest request, a poll for a
/// whole pingInterval, and by then a worker that was silent may speak.
pub(super) const FRESH: Duration = Duration::from_secs(1);

/// Searches under way, with how many requests take part in each. Bounded by the requests themselves.
pub(super) type Searches = Mutex<HashMap<Key, (usize, Arc<Search>)>>;

pub(super) type Verdicts = Vec<(Arc<Worker>, Verdict)>;

/// What requests of one sid share while they look for its owner.
#[derive(Default)]
pub(super) struct Search {
    /// What all workers said to the probe, and when; asked once for all who come within [`FRESH`].
    pub(super) verdicts: tokio::sync::Mutex<Option<(Instant, Verdicts)>>,
    /// Serials of workers that refused the real sid.
    pub(super) refused: Mutex<Vec<u64>>,
    /// Where a GET waits: the first guess of the POST that will wake it.
    pub(super) silent: Mutex<Option<Arc<Worker>>>,
}

/// A request's share in a search; the last one out takes it off the list.
pub(super) struct Joined<'a> {
    shared: &'a Shared,
    key: Key,
    pub(super) search: Arc<Search>,
}

impl<'a> Joined<'a> {
    pub(super) fn new(shared: &'a Shared, key: Key) -> Self {
        let mut searches = lock(&shared.discoveries.searches);
        let (joined, search) = searches.entry(key).or_default();
        *joined += 1;
        Self { shared, key, search: search.clone() }
    }
}

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        let mut searches = lock(&self.shared.discoveries.searches);
        if let Entry::Occupied(mut entry) = searches.entry(self.key) {
            entry.get_mut().0 -= 1;
            if entry.get().0 == 0 {
                entry.remove();
            }
        }
    }
}

/// Says where this sid's GET waits, for as long as it does.
pub(super) struct Waiting<'a>(&'a Search);

impl<'a> Waiting<'a> {
    pub(super) fn at(search: &'a Search, worker: &Arc<Worker>) -> Self {
        *lock(&search.silent) = Some(worker.clone());
        Self(search)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        *lock(&self.0.silent) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::affinity::pins::Keys;
    use crate::config;

    #[test]
    fn the_last_one_out_ends_a_search() {
        let config = config::for_command_line(&["127.0.0.1:8000".into()], &["127.0.0.1:8001".into()]).unwrap();
        let shared = Shared::new(&config, vec![1; 32], Keys::random().unwrap());
        let key = shared.keys.key("app", b"sid");
        let (one, two) = (Joined::new(&shared, key), Joined::new(&shared, key));
        assert!(Arc::ptr_eq(&one.search, &two.search));
        // As if another thread were between its count and its `Arc`.
        let late = one.search.clone();
        drop(one);
        assert_eq!(lock(&shared.discoveries.searches).len(), 1);
        drop(two);
        assert!(lock(&shared.discoveries.searches).is_empty());
        drop(late);
    }
}
