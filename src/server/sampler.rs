//! Takes a sample of every worker and upstream once per second, for the history and for viewers.
//!
//! The work grows with the number of workers, not with that of sockets: every number is a count that is kept anyway.
//! CPU and memory of a worker cost one small file of /proc per second, once its process is known; the search for it
//! runs on a thread of its own, and again when the process has ended. After each sample, `lookout` looks for what has
//! happened.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus::core::Metric as _;
use tokio_util::task::TaskTracker;

use super::lookout::Lookout;
use crate::config::Address;
use crate::history::{Numbers, SampledUpstream, SampledWorker, StateNow, WorkerKey, sum};
use crate::metrics::Way;
use crate::processes::{self, ProcessUsage};
use crate::sockets::Transport;
use crate::state::{Shared, Snapshot};
use crate::upstream::Upstream;
use crate::upstream::serial::WorkerSerial;
use crate::upstream::worker::Worker;
use crate::websocket::round_trip::Half;

/// Number of seconds that a late sample may stand for; a longer pause is a gap.
const LATEST: u64 = 3;

/// Number of seconds over which the percentiles of round-trips are computed: clients answer a ping every 20 s or so.
const TRIPS_OVER: usize = 30;

/// Time after which the process of a worker that was not found is searched for again: the first time, and at most.
const SEARCH_FIRST: Duration = Duration::from_secs(5);
const SEARCH_LAST: Duration = Duration::from_secs(300);

/// Takes samples for as long as the control thread lives.
pub(crate) async fn keep(shared: Arc<Shared>, tasks: TaskTracker) {
    let (mut sampler, mut lookout) = (Sampler::default(), Lookout::default());
    loop {
        tokio::time::sleep(until_next_second(SystemTime::now())).await;
        let snapshot = shared.snapshot.load_full();
        sampler.sample(&shared, &snapshot, &tasks);
        lookout.look(&shared, &snapshot);
    }
}

/// Returns the time to the beginning of the next second, so that samples of all resolutions begin at whole ones.
fn until_next_second(now: SystemTime) -> Duration {
    let part = now.duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    // A little later, because the timer may be early by a millisecond of the clock.
    Duration::from_nanos(1_000_000_000 - u64::from(part)) + Duration::from_millis(2)
}

/// What the sample before was made from.
#[derive(Default)]
struct Sampler {
    before: Option<(Instant, u64)>,
    workers: HashMap<WorkerSerial, WorkerTotals>,
    upstreams: BTreeMap<String, UpstreamTotals>,
    search: ProcessSearch,
}

/// Counts of a worker, whose growth is a rate.
#[derive(Clone, Copy)]
struct WorkerTotals {
    counts: [u64; 7],
    usage: Option<(u32, ProcessUsage)>,
}

/// Counts of an upstream, whose growth is a rate.
#[derive(Default)]
struct UpstreamTotals {
    refusals: [u64; 3],
    /// Buckets of round-trip times at the last samples, the newest first.
    trips: VecDeque<Vec<(f64, u64)>>,
}

impl Sampler {
    fn sample(&mut self, shared: &Arc<Shared>, snapshot: &Snapshot, tasks: &TaskTracker) {
        let (now, t) = (Instant::now(), crate::history::now_s());
        let before = self.before.replace((now, t));
        let span = before.map_or(0.0, |(before, _)| now.duration_since(before).as_secs_f32());
        // The rates of a late sample are means over the time since the one before, so it stands for all of it.
        let seconds = before.and_then(|(_, then)| t.checked_sub(then)).filter(|seconds| *seconds <= LATEST);
        let table = shared.processes.last();
        let mut all: BTreeMap<WorkerKey, SampledWorker> = BTreeMap::new();
        let mut missing = HashSet::new();
        for worker in snapshot.workers().filter(|worker| !worker.is_unused()) {
            let process = table.workers.get(&worker.address).filter(|process| !process.shared);
            let usage = process.and_then(|process| Some((process.pid, processes::usage(process)?)));
            if usage.is_none() && !table.workers.get(&worker.address).is_some_and(|process| process.shared) {
                missing.insert(worker.address.clone());
            }
            let sampled = self.worker(worker, usage, span);
            // A removed worker and the one that has its name now are one series; the present one comes first.
            let key = sampled.key.clone();
            all.entry(key)
                .and_modify(|known| known.numbers = sum(Some(known.numbers), &sampled.numbers))
                .or_insert(sampled);
        }
        self.forget(snapshot);
        let upstreams = snapshot.upstreams.iter().map(|upstream| self.upstream(upstream, span)).collect();
        if before.is_some() {
            shared.history.record(t, seconds.unwrap_or(1), all.into_values().collect(), upstreams);
        }
        self.search.go_on(shared, missing, tasks, now);
    }

    fn worker(&mut self, worker: &Arc<Worker>, usage: Option<(u32, ProcessUsage)>, span: f32) -> SampledWorker {
        let series = &worker.series;
        let [opened, closed] = series.turnover();
        let bytes = [Way::Up, Way::Down].map(|way| series.socket_bytes(way));
        let counts = [series.requests(), series.failures(), series.refusals.get(), opened, closed, bytes[0], bytes[1]];
        let totals = WorkerTotals { counts, usage };
        let before = self.workers.insert(worker.serial, totals);
        let rates = growth(before.map_or(counts, |before| before.counts), counts, span);
        let cpu = match (before.and_then(|before| before.usage), usage) {
            (Some((old, then)), Some((new, now))) if old == new && span > 0.0 => {
                number((now.cpu_s - then.cpu_s).max(0.0)) / span * 100.0
            }
            _ => f32::NAN,
        };
        let websockets = [Transport::WebSocket, Transport::WebSocketH2].map(|one| series.live_sockets(one));
        let [requests, failures, refusals, opened, closed, up, down] = rates;
        let numbers: Numbers = [
            count(worker.sessions().into()),
            count(websockets.iter().sum()),
            requests,
            failures,
            refusals,
            opened,
            closed,
            up,
            down,
            count(worker.in_flight().into()),
            cpu,
            usage.map_or(f32::NAN, |(_, usage)| count(usage.memory_bytes)),
        ];
        let drain_left = worker.admin.ending().map(|_| worker.sessions());
        let state = StateNow {
            health: worker.health().word(),
            admin: worker.admin.word(),
            ejected: worker.is_ejected(),
            drain_left,
        };
        SampledWorker { key: (worker.upstream.to_string(), worker.name.clone()), numbers, state }
    }

    fn upstream(&mut self, upstream: &Upstream, span: f32) -> SampledUpstream {
        let (name, series) = (upstream.config.name.clone(), upstream.series());
        let refusals = [series.refusals_own.get(), series.refusals_healed.get(), series.refusals_forwarded.get()];
        let is_new = !self.upstreams.contains_key(&name);
        let totals = self.upstreams.entry(name.clone()).or_default();
        let before = std::mem::replace(&mut totals.refusals, refusals);
        let [own, healed, forwarded] = growth(if is_new { refusals } else { before }, refusals, span);
        let metric = series.round_trip(Half::Client).metric();
        let buckets = metric.get_histogram().get_bucket();
        let trips: Vec<_> = buckets.iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).collect();
        let oldest = totals.trips.back().unwrap_or(&trips);
        let [p50, p95] = [0.5, 0.95].map(|part| percentile_ms(oldest, &trips, part));
        totals.trips.truncate(TRIPS_OVER - 1);
        totals.trips.push_front(trips);
        SampledUpstream { name, numbers: [own, healed, forwarded, p50, p95] }
    }

    /// Forgets workers and upstreams that are gone.
    fn forget(&mut self, snapshot: &Snapshot) {
        let live: HashSet<_> = snapshot.workers().map(|worker| worker.serial).collect();
        self.workers.retain(|serial, _| live.contains(serial));
        self.upstreams.retain(|name, _| snapshot.upstreams.iter().any(|one| one.config.name == *name));
    }
}

/// Looks for the processes of workers that are not known yet, less and less often.
#[derive(Default)]
struct ProcessSearch {
    missing: HashSet<Address>,
    next: Option<Instant>,
    pause: Duration,
}

impl ProcessSearch {
    fn go_on(&mut self, shared: &Arc<Shared>, missing: HashSet<Address>, tasks: &TaskTracker, now: Instant) {
        if missing.is_empty() || missing != self.missing {
            (self.pause, self.next) = (SEARCH_FIRST, None);
        }
        self.missing = missing;
        if self.missing.is_empty() || self.next.is_some_and(|next| now < next) {
            return;
        }
        self.next = Some(now + self.pause);
        self.pause = (self.pause * 2).min(SEARCH_LAST);
        let (shared, addresses) = (shared.clone(), shared.snapshot.load());
        let addresses = addresses.workers().map(|worker| worker.address.clone()).collect();
        tasks.spawn_local(async move { drop(shared.processes.look(addresses).await) });
    }
}

/// Returns the growth of counts per second; a count that has shrunk begins anew.
fn growth<const N: usize>(before: [u64; N], now: [u64; N], span: f32) -> [f32; N] {
    let mut rates = [0.0; N];
    for (rate, (before, now)) in rates.iter_mut().zip(before.into_iter().zip(now)) {
        *rate = if span > 0.0 { count(now.saturating_sub(before)) / span } else { 0.0 };
    }
    rates
}

/// Returns the time in milliseconds below which this part of the measurements was that came after `before`, linear
/// inside a bucket. Buckets are upper bounds in seconds with counts of all measurements up to them.
fn percentile_ms(before: &[(f64, u64)], now: &[(f64, u64)], part: f64) -> f32 {
    let counts: Vec<(f64, u64)> =
        now.iter().zip(before).map(|((bound, now), (_, then))| (*bound, now.saturating_sub(*then))).collect();
    let Some((_, all)) = counts.last().copied().filter(|(_, all)| *all > 0) else { return f32::NAN };
    #[allow(clippy::cast_precision_loss, reason = "a percentile needs no more than 53 bits")]
    let wanted = part * all as f64;
    let (mut low, mut below) = (0.0, 0.0);
    for (bound, count) in counts {
        #[allow(clippy::cast_precision_loss, reason = "a percentile needs no more than 53 bits")]
        let count = count as f64;
        if count >= wanted && count > below {
            return number((low + (bound - low) * (wanted - below) / (count - below)) * 1_000.0);
        }
        (low, below) = (bound, count);
    }
    number(low * 1_000.0)
}

#[allow(clippy::cast_precision_loss, reason = "a sample has 24 bits per number")]
fn count(count: u64) -> f32 {
    count as f32
}

#[allow(clippy::cast_possible_truncation, reason = "a sample has 24 bits per number")]
fn number(number: f64) -> f32 {
    number as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_latest_measurements() {
        let before = [(0.01, 5), (0.1, 5), (1.0, 5)];
        let now = [(0.01, 5), (0.1, 15), (1.0, 25)];
        assert_eq!(percentile_ms(&before, &now, 0.5), 100.0);
        assert_eq!(percentile_ms(&before, &now, 0.25), 55.0);
        assert_eq!(percentile_ms(&before, &now, 0.95), 910.0);
        assert!(percentile_ms(&now, &now, 0.5).is_nan(), "nothing was measured");
        assert!(percentile_ms(&[], &[], 0.5).is_nan());
    }

    #[test]
    fn samples_are_taken_just_after_whole_seconds() {
        let at = |ms: u64| until_next_second(UNIX_EPOCH + Duration::from_millis(ms));
        assert_eq!((at(5_000), at(5_999)), (Duration::from_millis(1_002), Duration::from_millis(3)));
    }

    #[test]
    fn a_count_that_begins_anew_has_no_negative_rate() {
        assert_eq!(growth([10, 5], [20, 0], 2.0), [5.0, 0.0]);
        assert_eq!(growth([10], [20], 0.0), [0.0]);
    }
}
