//! The numbers of the last day, of each worker and upstream: rings of samples, and a stream of the newest.
//!
//! The control thread takes one sample per second (`server::sampler`) and hands it to [`History::record`]. Rates are
//! means over a step, gauges have a last value and a maximum, and a time without samples stays a gap. The memory is
//! bounded by `[history] memory`; at stop everything is written to the state directory and read again at start.
//! RabbitMQ's management plugin says it as well: for more than a day, a Prometheus server is the right place. Left out:
//! where the numbers come from, and the frames of the live stream (`admin::live`).

mod file;
mod numbers;
mod rings;
mod store;
mod view;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::broadcast;

use crate::events::{Event, EventKind, Events, Severity};
use crate::locks::lock;
pub(crate) use numbers::{UPSTREAM_NUMBERS, WORKER_NUMBERS};
pub(crate) use store::{Numbers, OTHERS, WorkerKey, sum};
pub(crate) use view::{HistoryQuery, HistoryRange, MOST_NUMBERS, push_number, quoted};

use store::Store;

/// Name of the file in the state directory.
const FILE: &str = "history";

/// Maximum number of samples that a viewer may be behind.
const BEHIND: usize = 8;

/// Number of workers above which viewers get only every fifth sample.
const MANY: usize = 100;

/// State of a worker in a sample, as far as a change of it should be seen at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StateNow {
    pub(crate) health: &'static str,
    pub(crate) admin: &'static str,
    pub(crate) ejected: bool,
    /// Number of sessions that are left, if they are to end.
    pub(crate) drain_left: Option<u32>,
}

/// One worker in a sample.
#[derive(Debug, Clone)]
pub(crate) struct SampledWorker {
    pub(crate) key: WorkerKey,
    pub(crate) numbers: Numbers,
    pub(crate) state: StateNow,
}

/// One upstream in a sample.
#[derive(Debug, Clone)]
pub(crate) struct SampledUpstream {
    pub(crate) name: String,
    pub(crate) numbers: [f32; UPSTREAM_NUMBERS.len()],
}

/// The sample of one second.
#[derive(Debug, Default)]
pub(crate) struct LiveSample {
    /// Time in seconds since 1970.
    pub(crate) t: u64,
    /// Workers with the serials of their series; [`OTHERS`] for several of them, if memory was short.
    pub(crate) workers: Vec<(u32, SampledWorker)>,
    /// Upstreams with the serials of their series.
    pub(crate) upstreams: Vec<(u32, SampledUpstream)>,
    /// Whether the series are others than in the sample before that viewers got.
    pub(crate) has_new_series: bool,
    /// Whether a state differs from the sample before that viewers got.
    pub(crate) has_new_states: bool,
    /// The frame of the live stream, written once for all viewers by the first of them.
    pub(crate) frame: OnceLock<Bytes>,
}

impl LiveSample {
    /// Returns the seconds between two samples that viewers get.
    pub(crate) fn every_s(&self) -> u64 {
        if self.workers.len() > MANY { 5 } else { 1 }
    }

    fn has_same_series(&self, other: &Self) -> bool {
        let names = |sample: &Self| {
            let workers = sample.workers.iter().map(|(serial, one)| (*serial, one.key.clone()));
            let upstreams = sample.upstreams.iter().map(|(serial, one)| (*serial, one.name.clone()));
            (workers.collect::<Vec<_>>(), upstreams.collect::<Vec<_>>())
        };
        self.workers.len() == other.workers.len() && names(self) == names(other)
    }

    fn has_same_states(&self, other: &Self) -> bool {
        let states = |sample: &'_ Self| sample.workers.iter().map(|(_, one)| one.state.clone()).collect::<Vec<_>>();
        states(self) == states(other)
    }
}

/// The history of one server.
pub(crate) struct History {
    store: Mutex<Store>,
    latest: Mutex<Latest>,
    stream: broadcast::Sender<Arc<LiveSample>>,
    /// Where the history is kept over a restart.
    file: Option<PathBuf>,
}

#[derive(Default)]
struct Latest {
    sample: Arc<LiveSample>,
    /// The last sample that viewers got, or could have got.
    sent: Arc<LiveSample>,
}

impl History {
    /// Reads the history that an earlier stickyd has left in the state directory. A file that cannot be used is told,
    /// and the history begins anew.
    pub(crate) fn open(memory: usize, state_dir: Option<&Path>, events: &Events) -> Self {
        let (mut store, file) = (Store::new(memory), state_dir.map(|directory| directory.join(FILE)));
        if let Some(path) = &file
            && let Err(error) = file::load(&mut store, path, now_s())
        {
            tracing::warn!(file = %path.display(), %error, "the history is not used and begins anew");
            let text = format!("the history in {} is not used and begins anew: {error}", path.display());
            events.tell(Event::new(EventKind::Advice, Severity::Warning, text));
            store = Store::new(memory);
        }
        Self { store: Mutex::new(store), latest: Mutex::default(), stream: broadcast::Sender::new(BEHIND), file }
    }

    /// Writes the history to the state directory, at stop.
    pub(crate) fn save(&self) {
        let Some(path) = &self.file else { return };
        let mut store = lock(&self.store);
        store.close_all();
        if let Err(error) = file::save(&store, path, now_s()) {
            tracing::warn!(file = %path.display(), %error, "the history could not be written");
        }
    }

    /// Stores a sample for `seconds` up to `t`, and passes it to viewers.
    pub(crate) fn record(&self, t: u64, seconds: u64, workers: Vec<SampledWorker>, upstreams: Vec<SampledUpstream>) {
        let of_workers: Vec<_> = workers.iter().map(|one| (one.key.clone(), one.numbers)).collect();
        let of_upstreams: Vec<_> = upstreams.iter().map(|one| (one.name.clone(), one.numbers)).collect();
        let (serials, upstreams) = {
            let mut store = lock(&self.store);
            let mut serials = Vec::new();
            for t in t + 1 - seconds.max(1)..=t {
                serials = store.add(t, &of_workers, &of_upstreams);
            }
            let serial = |name: &str| store.upstreams.get(name).map_or(OTHERS, |series| series.serial);
            (serials, upstreams.into_iter().map(|one| (serial(&one.name), one)).collect())
        };
        let workers = serials.into_iter().zip(workers).collect();
        self.pass_on(LiveSample { t, workers, upstreams, ..LiveSample::default() });
    }

    fn pass_on(&self, mut sample: LiveSample) {
        let mut latest = lock(&self.latest);
        let is_due = sample.t >= latest.sent.t + sample.every_s() || sample.t < latest.sent.t;
        sample.has_new_series = !sample.has_same_series(&latest.sent);
        sample.has_new_states = sample.has_new_series || !sample.has_same_states(&latest.sent);
        latest.sample = Arc::new(sample);
        if is_due {
            latest.sent = latest.sample.clone();
            // An error only means that there is no viewer.
            let _ = self.stream.send(latest.sample.clone());
        }
    }

    /// Returns the newest sample.
    #[cfg(test)]
    pub(crate) fn latest(&self) -> Arc<LiveSample> {
        lock(&self.latest).sample.clone()
    }

    /// Returns the newest sample that viewers got, and a stream of those that follow it.
    pub(crate) fn subscribe(&self) -> (Arc<LiveSample>, broadcast::Receiver<Arc<LiveSample>>) {
        let latest = lock(&self.latest);
        // Under the lock, so that no sample is passed on in between.
        (latest.sent.clone(), self.stream.subscribe())
    }

    /// Returns what is asked for as JSON, up to now.
    pub(crate) fn json(&self, query: &HistoryQuery) -> String {
        view::write(&lock(&self.store), query, now_s())
    }

    /// Returns the number of workers that share one series, because there is no memory for their own.
    pub(crate) fn dropped(&self) -> usize {
        lock(&self.store).dropped
    }

    /// Returns the memory that the history takes, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        lock(&self.store).bytes()
    }
}

/// Returns the seconds since 1970.
pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: u64 = 1_764_328_800;

    fn worker(number: usize, health: &'static str) -> SampledWorker {
        let state = StateNow { health, admin: "ready", ejected: false, drain_left: None };
        SampledWorker { key: ("app".to_owned(), number.to_string()), numbers: [1.0; 12], state }
    }

    #[test]
    fn changes_are_marked_once() {
        let history = History::open(4 << 20, None, &Events::new());
        let (_, mut stream) = history.subscribe();
        for (i, states) in [&["up"][..], &["up"], &["gone"], &["gone"], &["gone", "up"]].into_iter().enumerate() {
            let workers = states.iter().enumerate().map(|(number, health)| worker(number, health)).collect();
            history.record(T + i as u64, 1, workers, Vec::new());
        }
        let mut marks = Vec::new();
        while let Ok(sample) = stream.try_recv() {
            marks.push((sample.has_new_series, sample.has_new_states));
        }
        assert_eq!(marks, [(true, true), (false, false), (false, true), (false, false), (true, true)]);
        assert_eq!((history.latest().t, history.dropped()), (T + 4, 0));
        assert!(history.bytes() < 4 << 20);
    }

    #[test]
    fn with_many_workers_viewers_get_every_fifth_sample() {
        let history = History::open(4 << 20, None, &Events::new());
        let (_, mut stream) = history.subscribe();
        for i in 0..11 {
            let health = if i < 7 { "up" } else { "hung" };
            history.record(T + i, 1, (0..=MANY).map(|number| worker(number, health)).collect(), Vec::new());
        }
        let mut times = Vec::new();
        while let Ok(sample) = stream.try_recv() {
            times.push((sample.t - T, sample.has_new_states));
        }
        assert_eq!(times, [(0, true), (5, false), (10, true)], "a change in between is not lost");
    }
}
