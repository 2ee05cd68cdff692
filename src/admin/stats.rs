//! `/api/v1/stats`: the counters, as totals and as rates over the last minute, for use without a Prometheus server.
//!
//! A sample is taken every five seconds, and twelve are kept; their size depends on the number of workers. Left out:
//! older values and percentiles, which need `/metrics`.

mod live;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;

use super::Api;
use super::api::stats::{CounterRates, CounterTotals};
use super::api::{LiveCounts, StatsAnswer, UpstreamStats, WorkerStats};
use crate::affinity::pins::SHARDS;
use crate::clock;
use crate::metrics::Way;
use crate::state::{Shared, Snapshot};
use crate::upstream::Upstream;
use crate::upstream::serial::WorkerSerial;
use crate::upstream::worker::Worker;
use live::LiveTotals;

/// Interval between two samples.
const EVERY: Duration = Duration::from_secs(5);

/// Number of samples kept: those of one minute.
const SAMPLES: usize = 12;

/// Largest worker serial whose sessions' ages are shown; the table of ages is as long as the largest serial.
const SERIALS: usize = 1 << 16;

/// Names and values of an upstream's counters.
type CounterValues = [(&'static str, u64); 13];

/// The counters at one moment.
struct Sample {
    at: Instant,
    upstreams: HashMap<String, CounterValues>,
    /// Number of requests of each worker, by serial.
    workers: HashMap<WorkerSerial, u64>,
}

/// Samples of the last minute, the newest first.
#[derive(Default)]
pub(crate) struct LastMinute(Mutex<VecDeque<Sample>>);

impl LastMinute {
    /// Takes samples for as long as the control thread lives.
    pub(crate) async fn keep(self: Arc<Self>, shared: Arc<Shared>) {
        loop {
            {
                let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                samples.truncate(SAMPLES - 1);
                samples.push_front(Sample::take(&shared.snapshot.load()));
            }
            tokio::time::sleep(EVERY).await;
        }
    }
}

impl Sample {
    fn take(snapshot: &Snapshot) -> Self {
        Self {
            at: Instant::now(),
            upstreams: snapshot.upstreams.iter().map(|one| (one.config.name.clone(), counts(one))).collect(),
            workers: snapshot.workers().map(|worker| (worker.serial, worker.series.requests())).collect(),
        }
    }
}

fn counts(upstream: &Upstream) -> CounterValues {
    let series = upstream.series();
    let sockets = upstream.members.first().map(|member| &member.worker.series.sockets);
    let (opened, closed) = sockets.map(|sockets| sockets.turnover()).unwrap_or_default();
    let bytes = |way| sockets.map_or(0, |sockets| sockets.all_bytes(way));
    [
        ("requests", upstream.members.iter().map(|member| member.worker.series.requests()).sum()),
        ("failures", upstream.members.iter().map(|member| member.worker.series.failures()).sum()),
        ("handshakes", series.learned.get()),
        ("upgrades", series.upgrades_granted.get()),
        ("refusals_forwarded", series.refusals_forwarded.get()),
        ("refusals_healed", series.refusals_healed.get()),
        ("refusals_own", series.refusals_own.get()),
        ("retries", series.passed_on.get() + series.resent.get()),
        ("drained", series.drained_tunnels.get() + series.drained_polling.get()),
        ("sockets_opened", opened),
        ("sockets_closed", closed),
        ("bytes_up", bytes(Way::Up)),
        ("bytes_down", bytes(Way::Down)),
    ]
}

/// `GET /api/v1/stats`: totals, rates and live numbers, overall, per upstream and per worker.
pub(crate) async fn show(State(api): State<Api>) -> Json<StatsAnswer> {
    let snapshot = api.shared.snapshot.load_full();
    let ages = Ages::of(&api.shared, &snapshot);
    let sockets = LiveTotals::of(&api.shared.sessions.sockets).await;
    let now = Sample::take(&snapshot);
    let samples = api.history.0.lock().unwrap_or_else(PoisonError::into_inner);
    let before = samples.back();
    let span = before.map_or(0.0, |before| now.at.saturating_duration_since(before.at).as_secs_f64());
    let mut totals: Option<CounterValues> = None;
    let mut earlier: Option<CounterValues> = None;
    let mut upstreams = Vec::new();
    for upstream in &snapshot.upstreams {
        let counted = counts(upstream);
        // An upstream that is not in the sample is new: it started from zero.
        let old = before.and_then(|before| before.upstreams.get(&upstream.config.name).copied());
        let old = old.unwrap_or_else(|| counted.map(|(name, _)| (name, 0)));
        totals = Some(add(totals, counted));
        earlier = Some(add(earlier, old));
        let workers: Vec<&Worker> = upstream.members.iter().map(|member| &*member.worker).collect();
        upstreams.push(UpstreamStats {
            labels: sockets.labels(&upstream.config.name),
            live: live(&workers, &ages),
            rates: rates(counted, old, span),
            sockets: sockets.sum(&workers).describe(),
            totals: named(counted),
            upstream: upstream.config.name.clone(),
        });
    }
    let workers: Vec<&Worker> = snapshot.workers().map(|worker| &**worker).collect();
    let (totals, earlier) = (totals.unwrap_or_default(), earlier.unwrap_or_default());
    Json(StatsAnswer {
        live: live(&workers, &ages),
        rates: rates(totals, earlier, span),
        rates_over_s: whole_seconds(span),
        sockets: sockets.sum(&workers).describe(),
        totals: named(totals),
        upstreams,
        workers: workers.iter().map(|one| worker(one, before, span, (&ages, &sockets))).collect(),
    })
}

fn worker(worker: &Worker, before: Option<&Sample>, span: f64, (ages, sockets): (&Ages, &LiveTotals)) -> WorkerStats {
    let requests = worker.series.requests();
    let old = before.and_then(|before| before.workers.get(&worker.serial)).copied().unwrap_or(0);
    WorkerStats {
        failures: worker.series.failures(),
        live: live(&[worker], ages),
        requests,
        requests_per_s: rate(requests, old, span),
        sockets: sockets.sum(&[worker]).describe(),
        upstream: worker.upstream.to_string(),
        worker: worker.name.clone(),
    }
}

fn live(workers: &[&Worker], ages: &Ages) -> LiveCounts {
    let sum = |of: fn(&Worker) -> u32| workers.iter().map(|worker| u64::from(of(worker))).sum::<u64>();
    LiveCounts {
        average_age_s: ages.average(workers),
        in_flight: sum(Worker::in_flight),
        sessions: sum(Worker::sessions),
        tunnels: sum(Worker::tunnels),
    }
}

fn add(sum: Option<CounterValues>, more: CounterValues) -> CounterValues {
    let mut sum = sum.unwrap_or_else(|| more.map(|(name, _)| (name, 0)));
    for ((_, all), (_, one)) in sum.iter_mut().zip(more) {
        *all += one;
    }
    sum
}

fn named(counts: CounterValues) -> CounterTotals {
    counts.into_iter().filter(|(name, _)| !name.is_empty()).map(|(name, count)| (name.to_owned(), count)).collect()
}

fn rates(now: CounterValues, before: CounterValues, span: f64) -> CounterRates {
    let both = now.into_iter().zip(before).filter(|((name, _), _)| !name.is_empty());
    both.map(|((name, now), (_, before))| (format!("{name}_per_s"), rate(now, before, span))).collect()
}

fn whole_seconds(span: f64) -> u64 {
    u64::try_from(Duration::from_secs_f64(span).as_millis().div_ceil(1_000)).unwrap_or(u64::MAX)
}

/// Returns a rate with two decimals; `None` while there is no sample to compare with. A removed worker takes its counts
/// away, so the total can shrink; a rate is never below 0.
fn rate(now: u64, before: u64, span: f64) -> Option<f64> {
    #[allow(clippy::cast_precision_loss, reason = "two places of a rate need no more than 53 bits")]
    let grown = now.saturating_sub(before) as f64;
    (span >= 0.5).then(|| (grown / span * 100.0).round() / 100.0)
}

/// Number and total age of each worker's pinned sessions, by the worker's serial.
struct Ages(Vec<(u64, u64)>);

impl Ages {
    /// Adds them up in one walk over all pins: 10 ns each, with one shard locked at a time.
    fn of(shared: &Shared, snapshot: &Snapshot) -> Self {
        let serial = |worker: &Worker| usize::try_from(worker.serial.get()).ok().filter(|serial| *serial < SERIALS);
        let most = snapshot.workers().filter_map(|worker| serial(worker)).max().unwrap_or(0);
        let (mut sums, now_s) = (vec![(0, 0); most + 1], clock::now_s());
        for shard in 0..SHARDS {
            shared.sessions.pins.each(shard, |_, pin| {
                if let Some((count, sum)) = pin.worker().and_then(|worker| sums.get_mut(serial(worker)?)) {
                    *count += 1;
                    *sum += u64::from(pin.age_s(now_s));
                }
            });
        }
        Self(sums)
    }

    /// Returns the average age in seconds over these workers; `None` if they have no pinned session.
    fn average(&self, workers: &[&Worker]) -> Option<u64> {
        let of = |worker: &&Worker| self.0.get(usize::try_from(worker.serial.get()).ok()?).copied();
        let (count, sum) = workers.iter().filter_map(of).fold((0, 0), |(c, s), (count, sum)| (c + count, s + sum));
        sum.checked_div(count)
    }
}
