//! State that requests of one sid share, on any thread, while they search for its owner.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::Discoveries;
use crate::fleet::SharedPin;
use crate::keys::Key;
use crate::locks::lock;
use crate::rules::FollowedSession;
use crate::upstream::serial::WorkerSerial;
use crate::upstream::worker::Worker;

/// How long verdicts are valid for requests that join a search. A search lasts as long as its slowest request (a poll
/// takes a whole pingInterval), and by then a worker that was silent may answer.
pub(crate) const FRESH: Duration = Duration::from_secs(1);

/// Searches under way, each with the number of requests that take part. They are bounded by the number of requests.
pub(crate) type Searches = Mutex<HashMap<Key, (usize, Arc<Search>)>>;

/// A worker's answer to a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProbeVerdict {
    /// The worker knows the session.
    Owns,
    /// The worker refused the session.
    Refuses,
    /// The worker is alive, but its answer does not tell.
    Alive,
    /// All connections of the worker are in use, so that it was not asked.
    Full,
    /// The worker did not answer, could not be reached, or was not asked.
    Silent,
}

pub(crate) type Verdicts = Vec<(Arc<Worker>, ProbeVerdict)>;

/// State that requests of one sid share while they search for its owner.
#[derive(Default)]
pub(crate) struct Search {
    /// Verdicts of all workers, and when they were given; one probe serves all requests within [`FRESH`].
    pub(crate) verdicts: tokio::sync::Mutex<Option<(Instant, Verdicts)>>,
    /// The session's pin in the fleet's Redis, and when it was looked up.
    pub(crate) fleet: tokio::sync::Mutex<Option<(Instant, Option<SharedPin>)>>,
    /// What the fleet knows of this id, which ordinary requests name, and when it was asked.
    pub(crate) followed: tokio::sync::Mutex<Option<(Instant, Option<FollowedSession>)>>,
    /// Serials of workers that refused the real sid.
    pub(crate) refused: Mutex<Vec<WorkerSerial>>,
    /// Workers at which GETs wait, the newest last: the first guess for the POST that will make them answer.
    pub(crate) silent: Mutex<Vec<Arc<Worker>>>,
}

/// Membership of a request in a search; the last member removes the search from the map.
pub(crate) struct Joined<'a> {
    discoveries: &'a Discoveries,
    key: Key,
    pub(crate) search: Arc<Search>,
}

impl<'a> Joined<'a> {
    pub(crate) fn new(discoveries: &'a Discoveries, key: Key) -> Self {
        let mut searches = lock(&discoveries.searches);
        let (joined, search) = searches.entry(key).or_default();
        *joined += 1;
        Self { discoveries, key, search: search.clone() }
    }
}

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        let mut searches = lock(&self.discoveries.searches);
        if let Entry::Occupied(mut entry) = searches.entry(self.key) {
            entry.get_mut().0 -= 1;
            if entry.get().0 == 0 {
                entry.remove();
            }
        }
    }
}

/// Marks the worker at which a GET of this sid waits, for as long as it waits. Several may wait at once.
pub(crate) struct Waiting<'a> {
    search: &'a Search,
    worker: Arc<Worker>,
}

impl<'a> Waiting<'a> {
    pub(crate) fn at(search: &'a Search, worker: &Arc<Worker>) -> Self {
        lock(&search.silent).push(worker.clone());
        Self { search, worker: worker.clone() }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut silent = lock(&self.search.silent);
        if let Some(place) = silent.iter().rposition(|worker| Arc::ptr_eq(worker, &self.worker)) {
            silent.remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Address};
    use crate::cookie::WorkerId;
    use crate::keys::Keys;
    use crate::metrics::Metrics;

    #[test]
    fn the_last_request_ends_a_search() {
        let config = config::for_command_line(&["127.0.0.1:8000".into()], &["127.0.0.1:8001".into()]).unwrap();
        let discoveries = Discoveries::new(&config.limits);
        let key = Keys::random().unwrap().key("app", b"sid");
        let (one, two) = (Joined::new(&discoveries, key), Joined::new(&discoveries, key));
        assert!(Arc::ptr_eq(&one.search, &two.search));
        // As if another thread had counted itself but did not have its `Arc` yet.
        let late = one.search.clone();
        drop(one);
        assert_eq!(lock(&discoveries.searches).len(), 1);
        drop(two);
        assert!(lock(&discoveries.searches).is_empty());
        drop(late);
    }

    #[test]
    fn the_first_of_two_gets_to_end_leaves_the_mark_of_the_other() {
        let worker = |name: &str| {
            let series = Metrics::new().worker("app", name);
            Worker::new("app", Address::Unix("/w".into()), name.to_owned(), WorkerId(1), series)
        };
        let (search, one, two) = (Search::default(), worker("one"), worker("two"));
        let names = || lock(&search.silent).iter().map(|worker| worker.name.clone()).collect::<Vec<_>>();
        let (first, second) = (Waiting::at(&search, &one), Waiting::at(&search, &two));
        assert_eq!(names(), ["one", "two"]);
        drop(first);
        assert_eq!(names(), ["two"], "the second one is still waiting");
        drop(second);
        assert!(names().is_empty());
    }
}
