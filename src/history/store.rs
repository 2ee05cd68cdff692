//! The history of all workers and upstreams, bounded by memory. The code is pure: times are arguments.
//!
//! A worker's series is found by upstream and name, so that a worker that comes back goes on with it. If there is no
//! memory for one more series, that of the worker gone longest makes room; if all workers live, further ones share the
//! series of "others", and are counted.

use std::collections::BTreeMap;

use super::numbers::{UPSTREAM_NUMBERS, WORKER_NUMBERS};
use super::rings::{Rings, SAMPLES};

/// Age of a worker's newest sample, in seconds, from which on its series may make room for another.
const GONE_S: u64 = 5;

/// Memory that the series of one worker takes, in bytes: its samples, and some for its names and the table.
const BYTES: usize = SAMPLES * WORKER_NUMBERS.len() * 4 + 1_024;

/// Memory that the series of one upstream takes, in bytes.
const BYTES_OF_UPSTREAM: usize = SAMPLES * UPSTREAM_NUMBERS.len() * 4 + 1_024;

/// Upstream and name of a worker. The series of others has neither.
pub(crate) type WorkerKey = (String, String);

/// One series: its rings, and the number by which samples name it.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) serial: u32,
    pub(crate) rings: Rings,
}

/// The series of all workers and upstreams.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) workers: BTreeMap<WorkerKey, Series>,
    pub(crate) upstreams: BTreeMap<String, Series>,
    others: Series,
    limit: usize,
    serials: u32,
    /// Number of workers that share the series of others, at the last sample.
    pub(crate) dropped: usize,
}

/// Serial of the series that workers share for which there is no memory.
pub(crate) const OTHERS: u32 = 0;

impl Store {
    /// Creates an empty history of at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        let others = Series { serial: OTHERS, rings: Rings::new(&WORKER_NUMBERS) };
        Self { workers: BTreeMap::new(), upstreams: BTreeMap::new(), others, limit, serials: OTHERS, dropped: 0 }
    }

    /// Returns the memory that all series take, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        BYTES + self.workers.len() * BYTES + self.upstreams.len() * BYTES_OF_UPSTREAM
    }

    /// Returns the series of a worker, which is made if there is memory for it.
    pub(crate) fn worker(&mut self, key: &WorkerKey, t: u64) -> Option<&mut Series> {
        if !self.workers.contains_key(key) {
            if self.bytes() + BYTES > self.limit && !self.make_room(t) {
                return None;
            }
            self.serials += 1;
            let series = Series { serial: self.serials, rings: Rings::new(&WORKER_NUMBERS) };
            self.workers.insert(key.clone(), series);
        }
        self.workers.get_mut(key)
    }

    /// Returns the series of an upstream, which is made if there is memory for it.
    pub(crate) fn upstream(&mut self, name: &str, t: u64) -> Option<&mut Series> {
        if !self.upstreams.contains_key(name) {
            if self.bytes() + BYTES_OF_UPSTREAM > self.limit && !self.make_room(t) {
                return None;
            }
            self.serials += 1;
            let series = Series { serial: self.serials, rings: Rings::new(&UPSTREAM_NUMBERS) };
            self.upstreams.insert(name.to_owned(), series);
        }
        self.upstreams.get_mut(name)
    }

    /// Drops the series whose newest sample is the oldest, if its worker or upstream is gone.
    fn make_room(&mut self, t: u64) -> bool {
        let is_gone = |series: &Series| series.rings.newest() + GONE_S < t;
        let oldest = |series: &Series| series.rings.newest();
        let worker = self.workers.iter().filter(|(_, one)| is_gone(one)).min_by_key(|(_, one)| oldest(one));
        if let Some(key) = worker.map(|(key, _)| key.clone()) {
            return self.workers.remove(&key).is_some();
        }
        let upstream = self.upstreams.iter().filter(|(_, one)| is_gone(one)).min_by_key(|(_, one)| oldest(one));
        let name = upstream.map(|(name, _)| name.clone());
        name.is_some_and(|name| self.upstreams.remove(&name).is_some())
    }

    /// Adds the samples of one second. Returns the serial under which each worker's numbers are kept.
    pub(crate) fn add(
        &mut self,
        t: u64,
        workers: &[(WorkerKey, Numbers)],
        upstreams: &[(String, [f32; 5])],
    ) -> Vec<u32> {
        for (name, numbers) in upstreams {
            if let Some(series) = self.upstream(name, t) {
                series.rings.add(t, numbers);
            }
        }
        let (mut shared, mut dropped) = (None::<Numbers>, 0);
        let mut serials = Vec::with_capacity(workers.len());
        for (key, numbers) in workers {
            if let Some(series) = self.worker(key, t) {
                series.rings.add(t, numbers);
                serials.push(series.serial);
            } else {
                dropped += 1;
                serials.push(OTHERS);
                shared = Some(sum(shared, numbers));
            }
        }
        if let Some(shared) = shared {
            self.others.rings.add(t, &shared);
        }
        self.dropped = dropped;
        serials
    }

    /// Returns the series that workers share for which there is no memory, if there are such workers.
    pub(crate) fn others(&self) -> Option<&Series> {
        (self.others.rings.newest() > 0).then_some(&self.others)
    }

    /// Stores unfinished steps as if they were over.
    pub(crate) fn close_all(&mut self) {
        let all = self.workers.values_mut().chain(self.upstreams.values_mut());
        all.for_each(|series| series.rings.close_all());
    }
}

/// The numbers of a worker at one second.
pub(crate) type Numbers = [f32; WORKER_NUMBERS.len()];

/// Adds the numbers of a worker to a sum; a number that is not known adds nothing.
pub(crate) fn sum(sum: Option<Numbers>, more: &Numbers) -> Numbers {
    let Some(mut sum) = sum else { return *more };
    for (all, one) in sum.iter_mut().zip(more) {
        *all = match (all.is_nan(), one.is_nan()) {
            (true, _) => *one,
            (false, true) => *all,
            (false, false) => *all + one,
        };
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: u64 = 1_764_328_800;
    const MIB: usize = 1 << 20;

    fn key(number: usize) -> WorkerKey {
        ("app".to_owned(), format!("127.0.0.1:{number}"))
    }

    fn samples(numbers: std::ops::Range<usize>) -> Vec<(WorkerKey, Numbers)> {
        numbers.map(|number| (key(number), [1.0; 12])).collect()
    }

    #[test]
    fn three_hundred_workers_fit_into_32_mib() {
        let mut store = Store::new(32 * MIB);
        let serials = store.add(T, &samples(0..300), &[("app".to_owned(), [0.0; 5])]);
        assert_eq!((store.workers.len(), store.dropped, store.upstreams.len()), (300, 0, 1));
        assert!(store.bytes() <= 32 * MIB && !serials.contains(&OTHERS));
        let codes: usize =
            store.workers.values().flat_map(|one| one.rings.rings()).map(|ring| ring.codes.capacity()).sum();
        assert!(codes * 4 <= 300 * BYTES, "as much as is counted");
    }

    #[test]
    fn workers_beyond_the_memory_share_one_series() {
        let mut store = Store::new(MIB);
        let serials = store.add(T, &samples(0..30), &[]);
        let (own, shared) = (store.workers.len(), serials.iter().filter(|serial| **serial == OTHERS).count());
        assert!(own > 5 && own + shared == 30 && store.dropped == shared && store.bytes() <= MIB);
        let others = store.others().unwrap().rings.columns(0, T, 1);
        assert_eq!(others[0].values[0], f32::from(u16::try_from(shared).unwrap()));
        // A worker that is gone makes room for one that lives; those that live stay.
        let known = store.workers.keys().cloned().collect::<Vec<_>>();
        let stay: Vec<_> = known.iter().skip(1).map(|key| (key.clone(), [1.0; 12])).collect();
        (1..10).for_each(|i| _ = store.add(T + i, &stay, &[]));
        let more: Vec<_> = stay.iter().cloned().chain(samples(99..101)).collect();
        let serials = store.add(T + 10, &more, &[]);
        assert!(!store.workers.contains_key(&known[0]) && stay.iter().all(|(key, _)| store.workers.contains_key(key)));
        assert_eq!(serials.iter().filter(|serial| **serial == OTHERS).count(), 1);
    }
}
