//! Looks once per second at what may be a problem: workers, upstreams, their alarms, certificates, the configuration
//! and DNS names.
//!
//! It looks at states and not at events, so that nothing is missed, and what stays a problem over a reload stays the
//! same problem. A port of a range that no process has used is none, and neither is a state that an operator has set.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::alarms::{AlarmMemory, UpstreamCounts, WorkerCounts, left};
use super::incidents::{Moment, Problem, ProblemEnd, ProblemKey};
use super::message::span;
use crate::config::alarm::Alarm;
use crate::config::notify::Topic;
use crate::config::{Address, AdminState};
use crate::metrics::socket_labels::Transport;
use crate::processes::ProcessTable;
use crate::sockets::{SHARDS, SocketRow, Sockets};
use crate::spawn::{PoolState, SlotState};
use crate::state::{Shared, Snapshot};
use crate::upstream::addresses::NameState;
use crate::upstream::serial::WorkerSerial;
use crate::upstream::status_text;
use crate::upstream::worker::{Worker, WorkerHealth};
use crate::upstream::{Member, Upstream};

/// Time before its expiry from which a certificate is a problem.
const EXPIRES: Duration = Duration::from_secs(14 * 86_400);

/// Interval of counting sockets by their labels, which walks all of them (some 0.1 µs each).
const LABELS_EVERY: Duration = Duration::from_secs(10);

/// CPU usage in percent of one core, and memory in bytes, of the processes of workers.
pub(super) type WorkerUsage = HashMap<Address, (Option<u64>, u64)>;

/// Returns the usage of workers' processes. A process that stands for several workers does not measure one.
pub(super) fn usage_of(table: &ProcessTable) -> WorkerUsage {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a percentage, cut to its range")]
    let whole = |percent: f64| percent.round().clamp(0.0, 1_000_000.0) as u64;
    let own = table.workers.iter().filter(|(_, process)| !process.shared);
    own.map(|(address, process)| (address.clone(), (process.cpu_percent.map(whole), process.memory_bytes))).collect()
}

/// What the look outside of the shared state has found.
pub(super) struct Around {
    pub(super) usage: Arc<WorkerUsage>,
    /// The workers that stickyd starts.
    pub(super) pools: Vec<PoolState>,
}

/// What is remembered between two looks.
#[derive(Default)]
pub(super) struct Watch {
    /// Sessions of workers when they were last up.
    sessions: HashMap<WorkerSerial, u64>,
    alarms: HashMap<String, AlarmMemory>,
    labels_at: Option<Moment>,
}

impl Watch {
    /// Returns every problem that there is now.
    pub(super) async fn look(&mut self, now: Moment, shared: &Shared, around: &Around) -> Vec<Problem> {
        let snapshot = shared.snapshot.load_full();
        let counts_labels = self.labels_at.is_none_or(|at| now.saturating_sub(at) >= LABELS_EVERY);
        let labels =
            if counts_labels { count_labels(&shared.sessions.sockets, &snapshot).await } else { HashMap::new() };
        if counts_labels {
            self.labels_at = Some(now);
        }
        let mut all = Vec::new();
        for upstream in snapshot.upstreams.iter().filter(|upstream| !upstream.removed) {
            let pool = around.pools.iter().find(|pool| pool.upstream == upstream.config.name);
            self.workers(&mut all, upstream, pool);
            if let Some(alarm) = &upstream.config.alarm {
                let name = &upstream.config.name;
                let counts = counts(upstream, around, pool, labels.get(name).cloned().unwrap_or_default());
                all.extend(self.alarms.entry(name.clone()).or_default().problems(now, name, alarm, &counts));
            }
        }
        let has_alarm = |name: &String| snapshot.upstream(name).is_some_and(|one| one.config.alarm.is_some());
        self.alarms.retain(|name, _| has_alarm(name));
        let live: Vec<_> = snapshot.workers().map(|worker| worker.serial).collect();
        self.sessions.retain(|serial, _| live.contains(serial));
        certificates(&mut all, shared);
        config(&mut all, shared);
        names(&mut all, shared, &snapshot);
        all
    }

    fn workers(&mut self, all: &mut Vec<Problem>, upstream: &Upstream, pool: Option<&PoolState>) {
        let members = || upstream.members.iter().filter(|member| is_wanted(member));
        for worker in members().map(|member| &*member.worker) {
            if worker.health() == WorkerHealth::Up {
                self.sessions.insert(worker.serial, worker.sessions().into());
            } else if worker.admin() == AdminState::Ready {
                let sessions = self.sessions.get(&worker.serial).copied().unwrap_or_default();
                all.push(worker_down(upstream, worker, sessions));
            }
        }
        if let Some(pool) = pool {
            let missing =
                pool.workers.iter().filter(|slot| matches!(slot.state, "crash loop" | "waiting" | "starting"));
            all.extend(missing.map(|slot| slot_down(upstream, slot)));
        }
        // An upstream that is empty on purpose has no worker that could take sessions.
        let has_members = members().next().is_some() || !upstream.config.hosts().is_empty() || pool.is_some();
        let is_off = pool.is_some_and(|pool| pool.workers.iter().all(|slot| slot.state == "stopped"));
        if has_members && !is_off && !upstream.members.iter().any(|member| member.worker.takes_new()) {
            all.push(no_worker(upstream));
        }
    }
}

/// Whether a member of an upstream is one that should work: the file names it, and it is more than an unused port.
fn is_wanted(member: &Member) -> bool {
    !member.worker.admin.is_removed() && !member.worker.is_unused()
}

fn problem(topic: Topic, event: &'static str, upstream: &str, subject: &str) -> Problem {
    Problem {
        key: ProblemKey { topic, event, upstream: upstream.to_owned(), subject: subject.to_owned() },
        hold: None,
        what: String::new(),
        many: String::new(),
        why: String::new(),
        sessions: 0,
        meaning: String::new(),
        todo: String::new(),
        mark: 0,
    }
}

/// How many workers take new sessions, and how many should.
fn workers_left(upstream: &Upstream) -> (usize, usize) {
    let wanted = || upstream.members.iter().filter(|member| is_wanted(member));
    let spawned = upstream.config.spawn.as_ref().map_or(0, |spawn| usize::try_from(spawn.instances).unwrap_or(0));
    (wanted().filter(|member| member.worker.takes_new()).count(), wanted().count().max(spawned))
}

fn worker_down(upstream: &Upstream, worker: &Worker, sessions: u64) -> Problem {
    let (name, at) = (&upstream.config.name, &worker.name);
    let (one, many) = match worker.health() {
        WorkerHealth::Hung => ("does not answer", "do not answer"),
        WorkerHealth::Starting => ("does not pass its checks", "do not pass their checks"),
        WorkerHealth::Gone | WorkerHealth::Leaving | WorkerHealth::Up => ("is down", "are down"),
    };
    Problem {
        what: format!("{name}/{at} {one}"),
        many: format!("workers of {name} {many}"),
        why: status_text::health(worker),
        sessions,
        meaning: left(name, workers_left(upstream)),
        todo: format!("stickyd workers {name}"),
        mark: worker.generation().into(),
        ..problem(Topic::Worker, "worker_down", name, at)
    }
}

/// A worker that stickyd should have started, and that is not in the snapshot.
fn slot_down(upstream: &Upstream, slot: &SlotState) -> Problem {
    let (name, number) = (&upstream.config.name, slot.worker.to_string());
    let (what, many) = match slot.state {
        "crash loop" => ("ends again and again", "end again and again"),
        _ => ("has no healthy process", "have no healthy process"),
    };
    Problem {
        what: format!("{name}/{number} {what}"),
        many: format!("workers of {name} {many}"),
        why: slot.why.clone().unwrap_or_default(),
        meaning: left(name, workers_left(upstream)),
        todo: format!("stickyd logs {name}/{number}"),
        mark: slot.restarts,
        ..problem(Topic::Worker, "worker_not_started", name, &number)
    }
}

fn no_worker(upstream: &Upstream) -> Problem {
    let name = &upstream.config.name;
    Problem {
        what: format!("{name} has no worker that takes new sessions"),
        many: format!("upstreams without a worker: {name}"),
        meaning: "New clients get 503".to_owned(),
        todo: format!("stickyd workers {name}"),
        ..problem(Topic::Upstream, "upstream_empty", name, "")
    }
}

fn certificates(all: &mut Vec<Problem>, shared: &Shared) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    for (listener, name, until_s) in shared.metrics.certificates() {
        let Some(left) = Duration::from_secs(until_s).checked_sub(now) else {
            all.push(certificate(&listener, &name, "has expired".to_owned(), "Clients reject it"));
            continue;
        };
        if left < EXPIRES {
            let what = format!("expires in {}", span(left));
            all.push(certificate(&listener, &name, what, "Clients will reject it then"));
        }
    }
}

fn certificate(listener: &str, name: &str, what: String, meaning: &str) -> Problem {
    Problem {
        what: format!("the certificate of {name} {what}"),
        many: "certificates expire or have expired".to_owned(),
        why: format!("at the listener {listener}"),
        meaning: meaning.to_owned(),
        todo: "stickyd reload (after the files were renewed)".to_owned(),
        ..problem(Topic::Certificate, "certificate_expiring", "", &format!("{name} at {listener}"))
    }
}

fn config(all: &mut Vec<Problem>, shared: &Shared) {
    let state = shared.config.now();
    let Some(error) = state.error else { return };
    let file = state.file.map(|file| file.display().to_string()).unwrap_or_default();
    if let Some(why) = state.certificate {
        all.push(Problem {
            what: "a certificate or key in the configuration file cannot be used".to_owned(),
            many: "certificates or keys cannot be used".to_owned(),
            why,
            meaning: "The certificates that were loaded before stay in use, and may expire".to_owned(),
            todo: format!("stickyd check {file}"),
            ..problem(Topic::Certificate, "certificate_failed", "", "")
        });
    }
    all.push(Problem {
        what: "the configuration file was refused".to_owned(),
        many: "configuration files were refused".to_owned(),
        why: error.lines().next().unwrap_or_default().to_owned(),
        meaning: "The configuration before it stays in use".to_owned(),
        todo: format!("stickyd check {file}"),
        ..problem(Topic::Config, "config_refused", "", "")
    });
}

fn names(all: &mut Vec<Problem>, shared: &Shared, snapshot: &Snapshot) {
    for name in shared.unresolved.names(snapshot.named()) {
        let meaning = match name.state {
            NameState::Resolved => continue,
            NameState::Kept => "The addresses that are known stay in use",
            NameState::Unresolved => "There are no workers by this name",
        };
        all.push(Problem {
            what: format!("the name {} of {} does not resolve", name.host, name.upstream),
            many: format!("names of {} do not resolve", name.upstream),
            why: name.error.unwrap_or_default(),
            meaning: meaning.to_owned(),
            todo: format!("getent hosts {}", name.host),
            ..problem(Topic::Dns, "dns_failed", &name.upstream, &name.host)
        });
    }
}

fn counts(upstream: &Upstream, around: &Around, pool: Option<&PoolState>, labels: Vec<u64>) -> UpstreamCounts {
    let live = |worker: &Worker| {
        Transport::ALL.into_iter().map(|transport| worker.series.live_sockets(transport)).sum::<u64>()
    };
    let worker = |member: &Member| {
        let worker = &member.worker;
        let (cpu, memory) =
            around.usage.get(&worker.address).map_or((None, None), |(cpu, memory)| (*cpu, Some(*memory)));
        let restarts = worker.series.restarts.get();
        WorkerCounts { name: worker.name.clone(), restarts, cpu, memory, sessions: worker.sessions().into() }
    };
    let mut workers: Vec<_> = upstream.members.iter().filter(|member| is_wanted(member)).map(worker).collect();
    // A worker that stickyd starts is in the snapshot only while it is healthy; its restarts are known here.
    for slot in pool.iter().flat_map(|pool| &pool.workers) {
        let name = slot.worker.to_string();
        match workers.iter_mut().find(|worker| worker.name == name) {
            Some(worker) => worker.restarts = slot.restarts,
            None => workers.push(WorkerCounts { name, restarts: slot.restarts, ..WorkerCounts::default() }),
        }
    }
    UpstreamCounts {
        sockets: upstream.members.iter().map(|member| live(&member.worker)).sum(),
        refusals: upstream.series().refusals_forwarded.get(),
        labels,
        workers,
        left: workers_left(upstream),
    }
}

/// Counts sockets by the labels that have alarms, by upstream and in the order of the alarms; yields to other tasks in
/// between. Walks the sockets only if there is such an alarm.
async fn count_labels(sockets: &Sockets, snapshot: &Snapshot) -> HashMap<String, Vec<u64>> {
    let mut alarms: HashMap<String, (Arc<Alarm>, Vec<u64>)> = HashMap::new();
    for config in snapshot.named() {
        if let Some(alarm) = config.alarm.as_ref().filter(|alarm| !alarm.labels.is_empty()) {
            alarms.insert(config.name.clone(), (alarm.clone(), vec![0; alarm.labels.len()]));
        }
    }
    if alarms.is_empty() {
        return HashMap::new();
    }
    let mut row = SocketRow::default();
    for shard in 0..SHARDS {
        for socket in sockets.shard(shard) {
            let Some((alarm, counts)) = alarms.get_mut(&*socket.worker().upstream) else { continue };
            socket.tell(&mut row);
            for (name, value) in row.labels(&socket) {
                let places = alarm.labels.iter().zip(counts.iter_mut());
                places.filter(|(one, _)| one.label == name && one.value == value).for_each(|(_, count)| *count += 1);
            }
        }
        tokio::task::yield_now().await;
    }
    alarms.into_iter().map(|(name, (_, counts))| (name, counts)).collect()
}

/// Explains how a problem has ended.
pub(super) fn ending(shared: &Shared, problem: &Problem) -> ProblemEnd {
    let ProblemKey { event, upstream, subject, .. } = &problem.key;
    let plain = |how: String| ProblemEnd { how, detail: String::new() };
    match *event {
        "worker_down" => worker_ending(shared, problem),
        "worker_not_started" => plain(format!("{upstream}/{subject} has a healthy process again")),
        "upstream_empty" => plain(format!("{upstream} has a worker again that takes new sessions")),
        "sockets_low" | "sockets_dropped" => plain(format!("over: {}", problem.what)),
        "config_refused" => plain("the configuration file is in use again".to_owned()),
        "dns_failed" => plain(format!("the name {subject} of {upstream} resolves again")),
        "certificate_failed" => plain("the certificates and keys in the configuration file can be used".to_owned()),
        "certificate_expiring" => plain(format!("the certificate of {subject} was renewed")),
        _ => plain(format!("over: {}", problem.what)),
    }
}

fn worker_ending(shared: &Shared, problem: &Problem) -> ProblemEnd {
    let ProblemKey { upstream, subject, .. } = &problem.key;
    let snapshot = shared.snapshot.load();
    let members = snapshot.upstream(upstream).map(|upstream| upstream.members.as_slice()).unwrap_or_default();
    let worker = members.iter().map(|member| &member.worker).find(|worker| worker.name == *subject);
    let (how, detail) = match worker {
        None => ("is no longer configured", String::new()),
        Some(worker) if worker.admin.is_removed() => ("is no longer configured", String::new()),
        Some(worker) if worker.admin() == AdminState::Maint => ("was set to maint", String::new()),
        Some(worker) if worker.admin() == AdminState::Drain => ("was set to drain", String::new()),
        Some(worker) if u64::from(worker.generation()) != problem.mark => {
            ("is up again", format!("restarted, generation {}", worker.generation()))
        }
        Some(_) => ("is up again", String::new()),
    };
    ProblemEnd { how: format!("{upstream}/{subject} {how}"), detail }
}
