//! The alarms of an upstream: bounds on sockets, restarts, CPU, memory and refusals. Pure.
//!
//! Once per second the caller hands over what it has counted, and gets the problems that there are. The highest number
//! of sockets is kept for 15 minutes, so a drop is noticed wherever it begins; after that time the lower number is the
//! usual one. Alarms on gauges must last for `for`; restarts and refusals are counted in spans of their own.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::incidents::{Moment, Problem, ProblemKey};
use crate::config::alarm::{Alarm, AlarmRate, SocketBounds};
use crate::config::notify::Topic;

/// Time for which the highest number of sockets counts.
const PEAK: Duration = Duration::from_secs(900);

/// Interval of the samples of which the highest counts.
const SAMPLE: Duration = Duration::from_secs(10);

/// Smallest number of sockets whose drop is an alarm: a share of a few sockets means nothing.
const FEW: u64 = 5;

/// What was counted in an upstream.
#[derive(Debug, Default)]
pub(super) struct UpstreamCounts {
    pub(super) sockets: u64,
    /// Requests of sessions that workers refused, since the start.
    pub(super) refusals: u64,
    /// Sockets by the place of a label alarm in the configuration; empty if they were not counted now.
    pub(super) labels: Vec<u64>,
    pub(super) workers: Vec<WorkerCounts>,
    /// How many workers take new sessions, and how many there are.
    pub(super) left: (usize, usize),
}

/// What was counted of one worker.
#[derive(Debug, Default)]
pub(super) struct WorkerCounts {
    pub(super) name: String,
    /// Restarts since the start of stickyd.
    pub(super) restarts: u64,
    /// CPU usage in percent of one core; `None`: not known.
    pub(super) cpu: Option<u64>,
    /// Resident memory in bytes; `None`: not known.
    pub(super) memory: Option<u64>,
    pub(super) sessions: u64,
}

/// What alarms of one upstream remember.
#[derive(Default)]
pub(super) struct AlarmMemory {
    sockets: Peak,
    refusals: RateWindow,
    /// By label and value; the last count is kept between two countings.
    labels: BTreeMap<(String, String), (Peak, u64)>,
    restarts: BTreeMap<String, RateWindow>,
}

impl AlarmMemory {
    /// Returns the problems of an upstream by its alarms.
    pub(super) fn problems(
        &mut self,
        now: Moment,
        upstream: &str,
        alarm: &Alarm,
        counts: &UpstreamCounts,
    ) -> Vec<Problem> {
        let about = About { upstream, hold: alarm.lasting.0, left: counts.left };
        let mut all = Vec::new();
        let peak = self.sockets.observe(now, counts.sockets);
        about.sockets(&mut all, "", alarm.sockets, counts.sockets, peak);
        self.labels(now, &about, &mut all, alarm, counts);
        if let Some(rate) = alarm.refusals {
            let count = self.refusals.observe(now, counts.refusals, rate.per);
            all.extend((count > rate.count.into()).then(|| about.refusals(count, rate)));
        }
        self.restarts.retain(|name, _| counts.workers.iter().any(|worker| worker.name == *name));
        for worker in &counts.workers {
            if let Some(rate) = alarm.restarts {
                let window = self.restarts.entry(worker.name.clone()).or_default();
                let count = window.observe(now, worker.restarts, rate.per);
                all.extend((count > rate.count.into()).then(|| about.restarts(worker, count, rate)));
            }
            if let (Some(most), Some(cpu)) = (alarm.cpu, worker.cpu) {
                all.extend((cpu > most.into()).then(|| about.cpu(worker, cpu, most)));
            }
            if let (Some(most), Some(memory)) = (alarm.memory, worker.memory) {
                all.extend((memory > most).then(|| about.memory(worker, memory, most)));
            }
        }
        all
    }

    fn labels(
        &mut self,
        now: Moment,
        about: &About<'_>,
        all: &mut Vec<Problem>,
        alarm: &Alarm,
        counts: &UpstreamCounts,
    ) {
        let known = |label: &str, value: &str| alarm.labels.iter().any(|one| one.label == label && one.value == value);
        self.labels.retain(|(label, value), _| known(label, value));
        for (place, one) in alarm.labels.iter().enumerate() {
            let key = (one.label.clone(), one.value.clone());
            if let Some(count) = counts.labels.get(place) {
                let (_, last) = self.labels.entry(key.clone()).or_default();
                *last = *count;
            }
            // Until sockets were counted once, nothing is known.
            let Some((peak, count)) = self.labels.get_mut(&key) else { continue };
            let highest = peak.observe(now, *count);
            about.sockets(all, &format!("{}={}", one.label, one.value), one.sockets, *count, highest);
        }
    }
}

/// What all problems of an upstream have in common.
struct About<'a> {
    upstream: &'a str,
    hold: Duration,
    left: (usize, usize),
}

impl About<'_> {
    fn sockets(&self, all: &mut Vec<Problem>, label: &str, bounds: SocketBounds, count: u64, peak: u64) {
        let Self { upstream, hold, .. } = *self;
        let of = if label.is_empty() { upstream.to_owned() } else { format!("{upstream} with {label}") };
        let option = if label.is_empty() { String::new() } else { format!(" --label {label}") };
        let many = format!("numbers of sockets of {upstream} are too low");
        let todo = format!("stickyd sockets --upstream {upstream}{option}");
        let problem = |event, what, why| {
            let what_hold = Some(hold);
            self.problem(Topic::Sockets, event, label, what_hold, (what, many.clone(), why), 0, todo.clone())
        };
        if let Some(below) = bounds.below.filter(|below| count < u64::from(*below)) {
            let what = format!("{of} has too few sockets");
            all.push(problem("sockets_low", what, format!("{count}, fewer than {below}")));
        }
        // In integers: count < peak × (100 − drop) / 100.
        let fell = |drop: &u32| peak >= FEW && count * 100 < peak * u64::from(100 - (*drop).min(100));
        let all_gone = |drop: &u32| *drop == 100 && peak >= FEW && count == 0;
        if let Some(drop) = bounds.drop.filter(|drop| fell(drop) || all_gone(drop)) {
            let what = format!("the sockets of {of} have dropped by more than {drop}%");
            let why = format!("{count} are left of {peak}, the most in the last 15 minutes");
            all.push(problem("sockets_dropped", what, why));
        }
    }

    fn refusals(&self, count: u64, rate: AlarmRate) -> Problem {
        let upstream = self.upstream;
        let what = format!("clients of {upstream} lose their sessions");
        let many = format!("upstreams lose sessions of {upstream}");
        let why = format!("{count} requests of sessions were refused in {}, more than {}", span(rate.per), rate.count);
        let todo = format!("stickyd stats; stickyd workers {upstream}");
        self.problem(Topic::Sessions, "sessions_lost", "", Some(Duration::ZERO), (what, many, why), 0, todo)
    }

    fn restarts(&self, worker: &WorkerCounts, count: u64, rate: AlarmRate) -> Problem {
        let (upstream, name) = (self.upstream, &worker.name);
        let what = format!("{upstream}/{name} restarts too often");
        let many = format!("workers of {upstream} restart too often");
        let why = format!("{count} restarts in {}, more than {}", span(rate.per), rate.count);
        let texts = (what, many, why);
        let hold = Some(Duration::ZERO);
        self.problem(Topic::Worker, "worker_restarts", name, hold, texts, worker.sessions, self.workers())
    }

    fn cpu(&self, worker: &WorkerCounts, cpu: u64, most: u32) -> Problem {
        let (upstream, name) = (self.upstream, &worker.name);
        let what = format!("{upstream}/{name} uses too much CPU");
        let many = format!("workers of {upstream} use too much CPU");
        let why = format!("{cpu}% of a core, more than {most}%");
        let hold = Some(self.hold);
        self.problem(Topic::Worker, "worker_cpu", name, hold, (what, many, why), worker.sessions, self.workers())
    }

    fn memory(&self, worker: &WorkerCounts, memory: u64, most: u64) -> Problem {
        let (upstream, name) = (self.upstream, &worker.name);
        let what = format!("{upstream}/{name} uses too much memory");
        let many = format!("workers of {upstream} use too much memory");
        let why = format!("{} MB, more than {} MB", memory / 1_000_000, most / 1_000_000);
        let hold = Some(self.hold);
        self.problem(Topic::Worker, "worker_memory", name, hold, (what, many, why), worker.sessions, self.workers())
    }

    fn workers(&self) -> String {
        format!("stickyd workers {}", self.upstream)
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of a problem that differ; callers name each")]
    fn problem(
        &self,
        topic: Topic,
        event: &'static str,
        subject: &str,
        hold: Option<Duration>,
        (what, many, why): (String, String, String),
        sessions: u64,
        todo: String,
    ) -> Problem {
        let key = ProblemKey { topic, event, upstream: self.upstream.to_owned(), subject: subject.to_owned() };
        let meaning = left(self.upstream, self.left);
        Problem { key, hold, what, many, why, sessions, meaning, todo, mark: 0 }
    }
}

/// Says how many workers of an upstream take new sessions.
pub(super) fn left(upstream: &str, (left, all): (usize, usize)) -> String {
    match (left, all) {
        (0, _) => format!("No worker of {upstream} takes new sessions"),
        (1, 1) => format!("The only worker of {upstream} takes new sessions"),
        (1, all) => format!("1 of {all} workers of {upstream} takes new sessions"),
        (left, all) => format!("{left} of {all} workers of {upstream} take new sessions"),
    }
}

fn span(per: Duration) -> &'static str {
    match per.as_secs() {
        ..60 => "a second",
        60..3_600 => "a minute",
        3_600..86_400 => "an hour",
        _ => "a day",
    }
}

/// The highest of the values of the last 15 minutes.
#[derive(Default)]
struct Peak {
    /// The highest value of each interval, with its beginning.
    samples: VecDeque<(Moment, u64)>,
}

impl Peak {
    fn observe(&mut self, now: Moment, value: u64) -> u64 {
        while self.samples.front().is_some_and(|(at, _)| now.saturating_sub(*at) > PEAK) {
            self.samples.pop_front();
        }
        match self.samples.back_mut() {
            Some((at, highest)) if now.saturating_sub(*at) < SAMPLE => *highest = value.max(*highest),
            _ => self.samples.push_back((now, value)),
        }
        self.samples.iter().map(|(_, highest)| *highest).max().unwrap_or(value)
    }
}

/// How much a counter has grown in a span of time.
#[derive(Default)]
struct RateWindow {
    samples: VecDeque<(Moment, u64)>,
}

impl RateWindow {
    /// Number of samples in the span.
    const SAMPLES: u32 = 60;

    fn observe(&mut self, now: Moment, counter: u64, per: Duration) -> u64 {
        // A counter that has shrunk belongs to another worker of this name.
        if self.samples.back().is_some_and(|(_, last)| counter < *last) {
            self.samples.clear();
        }
        while self.samples.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= per) {
            self.samples.pop_front();
        }
        let step = per / Self::SAMPLES;
        if self.samples.back().is_none_or(|(at, _)| now.saturating_sub(*at) >= step) {
            self.samples.push_back((now, counter));
        }
        counter.saturating_sub(self.samples.front().map_or(counter, |(_, first)| *first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::alarm::{LabelAlarm, Lasting};

    fn at(s: u64) -> Moment {
        Duration::from_secs(s)
    }

    fn events(problems: &[Problem]) -> Vec<(&'static str, &str)> {
        problems.iter().map(|problem| (problem.key.event, problem.key.subject.as_str())).collect()
    }

    fn sockets(sockets: u64) -> UpstreamCounts {
        UpstreamCounts { sockets, left: (2, 3), ..UpstreamCounts::default() }
    }

    #[test]
    fn few_sockets_and_a_drop_are_problems_for_a_quarter_of_an_hour() {
        let alarm = Alarm { sockets: SocketBounds { below: Some(50), drop: Some(50) }, ..Alarm::default() };
        let mut memory = AlarmMemory::default();
        let mut look = |s, count| memory.problems(at(s), "app", &alarm, &sockets(count));
        assert_eq!(look(0, 200), []);
        assert_eq!(look(10, 100), []);
        assert_eq!(events(&look(20, 99)), [("sockets_dropped", "")]);
        let both = look(30, 49);
        assert_eq!(events(&both), [("sockets_low", ""), ("sockets_dropped", "")]);
        assert_eq!(both[0].hold, Some(Duration::from_secs(300)));
        assert_eq!(both[1].why, "49 are left of 200, the most in the last 15 minutes");
        assert_eq!(both[1].meaning, "2 of 3 workers of app take new sessions");
        for s in 31..900 {
            assert_eq!(look(s, 99).len(), 1, "{s}");
        }
        assert_eq!(look(920, 99), [], "the lower number is the usual one now");
    }

    #[test]
    fn all_of_a_hundred_percent_and_few_sockets_are_handled() {
        let alarm = Alarm { sockets: SocketBounds { below: None, drop: Some(100) }, ..Alarm::default() };
        let mut memory = AlarmMemory::default();
        assert_eq!(memory.problems(at(0), "app", &alarm, &sockets(5)), []);
        assert_eq!(memory.problems(at(1), "app", &alarm, &sockets(1)), []);
        assert_eq!(memory.problems(at(2), "app", &alarm, &sockets(0)).len(), 1);
        let mut memory = AlarmMemory::default();
        memory.problems(at(0), "app", &alarm, &sockets(4));
        assert_eq!(memory.problems(at(1), "app", &alarm, &sockets(0)), []);
    }

    #[test]
    fn a_label_is_watched_once_it_was_counted() {
        let one = LabelAlarm {
            label: "store".to_owned(),
            value: "7".to_owned(),
            sockets: SocketBounds { below: Some(1), drop: None },
        };
        let alarm = Alarm { labels: vec![one], lasting: Lasting(Duration::ZERO), ..Alarm::default() };
        let mut memory = AlarmMemory::default();
        let count = |labels: &[u64]| UpstreamCounts { labels: labels.to_vec(), ..sockets(9) };
        assert_eq!(memory.problems(at(0), "app", &alarm, &count(&[])), []);
        assert_eq!(memory.problems(at(1), "app", &alarm, &count(&[3])), []);
        let found = memory.problems(at(2), "app", &alarm, &count(&[0]));
        assert_eq!(events(&found), [("sockets_low", "store=7")]);
        assert_eq!(found[0].what, "app with store=7 has too few sockets");
        assert_eq!(found[0].todo, "stickyd sockets --upstream app --label store=7");
        assert_eq!(memory.problems(at(3), "app", &alarm, &count(&[])).len(), 1, "the last count holds");
    }

    #[test]
    fn restarts_and_refusals_are_counted_in_their_spans() {
        let rate = |count, s| Some(AlarmRate { count, per: Duration::from_secs(s) });
        let alarm = Alarm { restarts: rate(2, 3_600), refusals: rate(10, 60), ..Alarm::default() };
        let mut memory = AlarmMemory::default();
        let (mut second, mut before) = (0, (7, 100));
        // Looks once per second up to `s`, at which the counters change.
        let mut look = |s, restarts, refusals| {
            let mut found = Vec::new();
            while second <= s {
                let (restarts, refusals) = if second == s { (restarts, refusals) } else { before };
                let workers = vec![WorkerCounts { name: "w1".to_owned(), restarts, ..WorkerCounts::default() }];
                let counts = UpstreamCounts { workers, refusals, ..sockets(0) };
                found = memory.problems(at(second), "app", &alarm, &counts);
                second += 1;
            }
            before = (restarts, refusals);
            events(&found).iter().map(|(event, _)| *event).collect::<Vec<_>>()
        };
        assert_eq!(look(0, 7, 100), Vec::<&str>::new(), "what was before the start counts not");
        assert_eq!(look(60, 9, 110), Vec::<&str>::new());
        assert_eq!(look(90, 10, 110), ["worker_restarts"]);
        assert_eq!(look(100, 10, 121), ["sessions_lost", "worker_restarts"]);
        assert_eq!(look(300, 10, 121), ["worker_restarts"]);
        assert_eq!(look(3_900, 10, 121), Vec::<&str>::new());
        assert_eq!(look(3_901, 0, 121), Vec::<&str>::new(), "another worker");
    }

    #[test]
    fn cpu_and_memory_of_workers_are_compared() {
        let alarm = Alarm { cpu: Some(85), memory: Some(900_000_000), ..Alarm::default() };
        let worker =
            |name: &str, cpu, memory| WorkerCounts { name: name.to_owned(), cpu, memory, ..Default::default() };
        let workers = vec![
            worker("a", Some(85), Some(900_000_000)),
            worker("b", Some(86), Some(900_000_001)),
            worker("c", None, None),
        ];
        let counts = UpstreamCounts { workers, ..sockets(0) };
        let found = AlarmMemory::default().problems(at(0), "app", &alarm, &counts);
        assert_eq!(events(&found), [("worker_cpu", "b"), ("worker_memory", "b")]);
        assert_eq!(
            (found[0].why.as_str(), found[1].why.as_str()),
            ("86% of a core, more than 85%", "900 MB, more than 900 MB")
        );
    }

    #[test]
    fn windows_stay_small() {
        let (mut peak, mut rate) = (Peak::default(), RateWindow::default());
        for s in 0..100_000 {
            peak.observe(at(s), s);
            rate.observe(at(s), s, at(86_400));
        }
        assert!(peak.samples.len() <= 92 && rate.samples.len() <= 62, "{} {}", peak.samples.len(), rate.samples.len());
    }
}
