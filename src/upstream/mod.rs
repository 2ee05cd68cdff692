//! A pool of workers: its members, its hash ring, and what was learned from its traffic.

pub(crate) mod addresses;
pub(crate) mod admin_state;
pub(crate) mod connections;
pub(crate) mod counts;
pub(crate) mod diagnostics;
pub(crate) mod eject;
mod elsewhere;
pub(crate) mod exchange;
pub(crate) mod health;
pub(crate) mod rate;
pub(crate) mod restarts;
pub(crate) mod ring;
mod seating;
pub(crate) mod serial;
pub(crate) mod session_ends;
pub(crate) mod session_numbers;
pub(crate) mod session_paths;
pub(crate) mod slow_requests;
pub(crate) mod states;
pub(crate) mod status_text;
pub(crate) mod worker;

use std::collections::HashMap;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::clock::{self, Millis};
use crate::config::rules::Protocol;
use crate::config::{self, Affinity};
use crate::cookie::{Jar, WorkerId, worker_id};
use crate::engine_io::Handshake;
use crate::events::tell;
use crate::keys::Key;
use crate::metrics::{Metrics, UpstreamSeries};
use crate::rules::{self, LiveRule};
use admin_state::AdminChange;
use connections::tls;
use rate::RateLimits;
use ring::Ring;
use seating::{MovedWorkers, Seating};
use serial::WorkerSerial;
use session_numbers::{LearnedNumbers, SessionNumbers};
use session_paths::SessionPaths;
use worker::Worker;

/// Size in bytes of the replay buffer for a request body while no worker has reported its `maxPayload`: Engine.IO's own
/// default (docs/reference/protocols.md §1.7).
const DEFAULT_PAYLOAD: u64 = 1_000_000;

/// Session time-out while no ping numbers were learned: the largest defaults of all versions, 25 + 60 s
/// (docs/reference/routing.md §1).
const DEFAULT_SESSION: Duration = Duration::from_secs(25 + 60);

/// Time added to pingInterval + pingTimeout (docs/reference/protocols.md §1.7).
const SLACK: Duration = Duration::from_secs(5);

/// Retries per second that are always allowed, regardless of traffic.
const RETRIES_ALWAYS: u64 = 3;

/// A live upstream: a pool of workers with everything that routes requests to them.
pub struct Upstream {
    /// The configuration from which the upstream was built.
    pub config: config::Upstream,
    /// The workers in the order of the configuration, which the ring's indices refer to, followed by those that the
    /// file no longer names. These stay until their last session is over (docs/reference/routing.md §8).
    pub members: Vec<Member>,
    /// Whether the file no longer names this upstream. No route leads to it then, and it is dropped with its last
    /// member.
    pub removed: bool,
    /// The rules that find a request's session, in order.
    pub rules: Vec<LiveRule>,
    /// The signed cookie, if it is one of the affinity sources.
    pub jar: Option<Jar>,
    /// Whether the client address is one of the affinity sources.
    pub by_address: bool,
    /// Rate limits for all clients of this upstream in total.
    pub limits: Option<Arc<RateLimits>>,
    /// The rules by which workers are ejected.
    pub eject: eject::EjectionRules,
    /// The state that outlives a reload.
    pub carried: Arc<UpstreamMemory>,
    /// Number of this build of the upstream, which no other one has.
    number: u64,
    ring: Ring,
    by_id: HashMap<WorkerId, usize>,
}

/// One worker in a pool, with its weight.
pub struct Member {
    /// The live worker, which may be shared with earlier snapshots.
    pub worker: Arc<Worker>,
    /// The worker's weight among new sessions; 0 for a removed worker.
    pub weight: u32,
}

impl Member {
    /// Creates the member for a worker in the file. The live worker with the same name and address is reused, even if
    /// it had been removed.
    fn named(
        new: &config::Worker,
        upstream: &config::Upstream,
        secret: &[u8],
        metrics: &Metrics,
        before: Option<&Upstream>,
    ) -> Self {
        let mut known = before.iter().flat_map(|before| &before.members).map(|member| &member.worker);
        let known = known.find(|worker| worker.address == new.address && worker.name == new.name).cloned();
        let worker = known.unwrap_or_else(|| {
            let id = match &upstream.machine {
                // Each machine of a fleet has workers of its own under such a name.
                Some(machine) => worker_id(secret, &upstream.name, &format!("{machine}/{}", new.name)),
                None => worker_id(secret, &upstream.name, &new.name),
            };
            let series = metrics.worker(&upstream.name, &new.name);
            Worker::new(&upstream.name, new.address.clone(), new.name.clone(), id, series)
        });
        worker.ipv6.set_tried(new.or_ipv6);
        worker.gate.set_limit(upstream.max_connections);
        worker.set_of_range(new.of_range);
        worker.change(AdminChange::File(new.admin), upstream);
        Self { worker, weight: new.weight }
    }
}

/// Returns the workers of the previous snapshot that are not among `named` and still have sessions, tunnels or
/// requests.
fn removed(named: &[Member], config: &config::Upstream, before: Option<&Upstream>) -> Vec<Member> {
    let is_named = |worker: &Worker| named.iter().any(|member| member.worker.serial == worker.serial);
    let left = before.iter().flat_map(|before| &before.members).map(|member| &member.worker);
    let left = left.filter(|worker| !is_named(worker) && worker.is_needed()).map(|worker| {
        if !worker.admin.is_removed() {
            tell!(worker.series.events, WorkerRemoved, info,
                upstream = %worker.upstream, worker = %worker.name, sessions = worker.sessions(),
                policy = config.removed.word(), "worker removed from the configuration: no new sessions");
        }
        worker.change(AdminChange::Remove, config);
        Member { worker: worker.clone(), weight: 0 }
    });
    left.collect()
}

/// The state of an upstream that is kept over a reload.
pub struct UpstreamMemory {
    /// The metric counters of this upstream.
    pub series: UpstreamSeries,
    /// Locked while a *new session* is seated, so that two threads cannot both take the last seat of the bounded load.
    /// Other requests never lock it.
    seating: Mutex<Seating>,
    moved: Arc<MovedWorkers>,
    /// Locked while a worker is ejected, so that no more than the allowed share is ejected.
    ejecting: Mutex<()>,
    /// Number of recent requests that were sent a second time.
    pub retries: eject::Window,
    /// Numbers of the upstream's sessions, as far as they came back.
    pub(crate) numbers: LearnedNumbers,
    /// Paths at which the workers showed that they know sessions.
    pub(crate) paths: SessionPaths,
    /// Number of sessions learned, counted to check regularly how many of them share one address.
    pub learned: AtomicU32,
}

impl Upstream {
    /// Builds the live upstream for `config`. Workers of `before` with the same name and address, and the carried
    /// state, are kept.
    pub fn build(config: &config::Upstream, secret: &[u8], metrics: &Metrics, before: Option<&Self>) -> Self {
        if !config.hosts().is_empty() {
            metrics.begin_names(&config.name);
        }
        let carried = before.map_or_else(
            || {
                Arc::new(UpstreamMemory {
                    series: metrics.upstream(&config.name),
                    seating: Mutex::default(),
                    moved: Arc::default(),
                    ejecting: Mutex::default(),
                    retries: eject::Window::default(),
                    numbers: LearnedNumbers::default(),
                    paths: SessionPaths::default(),
                    learned: AtomicU32::new(0),
                })
            },
            |before| before.carried.clone(),
        );
        let mut members: Vec<Member> =
            config.workers.iter().map(|new| Member::named(new, config, secret, metrics, before)).collect();
        let links = tls::links(config);
        for (member, new) in members.iter().zip(&config.workers) {
            member.worker.moved.report_to(&carried.moved);
            member.worker.set_link(tls::link(links.as_ref(), new));
        }
        let ids: Vec<_> = members.iter().map(|m| (m.worker.id, m.weight)).collect();
        members.extend(removed(&members, config, before));
        // Reversed so that a configured worker wins over a removed one of the same name: cookies with that name are
        // then its own.
        let by_id = members.iter().enumerate().rev().map(|(index, m)| (m.worker.id, index)).collect();
        let has = |affinity| config.affinity.contains(affinity);
        Self {
            number: seating::number(),
            ring: Ring::build(secret, &ids),
            by_id,
            removed: false,
            rules: rules::live(config, metrics),
            jar: has(&Affinity::Cookie).then(|| Jar::new(secret, &config.name, config.cookie_same_site)),
            by_address: has(&Affinity::Address),
            limits: RateLimits::follow(config.rate, before.and_then(|before| before.limits.as_ref())),
            eject: eject::EjectionRules::of(config),
            members,
            carried,
            config: config.clone(),
        }
    }

    /// Returns the live upstream that follows `before`: the same one if nothing has changed.
    pub fn follow(
        config: &config::Upstream,
        secret: &[u8],
        metrics: &Metrics,
        before: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        match before {
            Some(before) if !before.removed && before.config == *config && !before.has_unneeded() => before.clone(),
            before => Arc::new(Self::build(config, secret, metrics, before.map(|before| &**before))),
        }
    }

    /// Returns what is left of an upstream that the file no longer names; `None` once it has no sessions.
    pub fn retire(self: &Arc<Self>, secret: &[u8], metrics: &Metrics) -> Option<Arc<Self>> {
        if self.removed && !self.has_unneeded() {
            return Some(self.clone());
        }
        let without_workers = config::Upstream { workers: Vec::new(), ..self.config.clone() };
        let left = Self { removed: true, ..Self::build(&without_workers, secret, metrics, Some(self)) };
        (!left.members.is_empty()).then(|| Arc::new(left))
    }

    /// Whether there is a removed worker that has nothing left to serve.
    pub fn has_unneeded(&self) -> bool {
        self.members.iter().any(|m| m.worker.admin.is_removed() && !m.worker.is_needed())
    }

    /// Returns the rule for Engine.IO, if it is one of the upstream's affinities.
    pub fn socket_io(&self) -> Option<&LiveRule> {
        self.rules.iter().find(|live| live.rule.protocol == Protocol::SocketIo)
    }

    /// Returns the metric counters of this upstream.
    pub fn series(&self) -> &UpstreamSeries {
        &self.carried.series
    }

    /// Returns the worker with the id in a cookie.
    pub fn worker(&self, id: WorkerId) -> Option<&Arc<Worker>> {
        self.by_id.get(&id).and_then(|&index| self.members.get(index)).map(|member| &member.worker)
    }

    /// Returns the worker that the hash of `key` selects among workers that take new sessions, else among those that
    /// would in the worst case, else among those that serve at all. A worker whose share grows back after an ejection
    /// or restart gets a growing part of its keys; each key moves back once and then stays.
    pub fn hash(&self, key: &[u8], tried: &[WorkerSerial]) -> Option<&Arc<Worker>> {
        let untried = |index: usize| self.members.get(index).filter(|m| !tried.contains(&m.worker.serial));
        ring::hash(&self.ring, key, |index| {
            untried(index).is_some_and(|m| m.worker.takes_new_and_stays() && self.may_have(&m.worker, key))
        })
        .or_else(|| ring::hash(&self.ring, key, |index| untried(index).is_some_and(|m| m.worker.takes_new_and_stays())))
        .or_else(|| ring::hash(&self.ring, key, |index| untried(index).is_some_and(|m| m.worker.takes_new())))
        .or_else(|| ring::hash(&self.ring, key, |index| untried(index).is_some_and(|m| m.worker.takes_new_at_worst())))
        .or_else(|| ring::hash(&self.ring, key, |index| untried(index).is_some_and(|m| m.worker.serves())))
        .and_then(|index| self.members.get(index))
        .map(|member| &member.worker)
    }

    /// Returns the largest part of its share that any worker which takes new sessions may get. If all of them have just
    /// returned, none has to yield to the others.
    fn most_eased_in(&self) -> u32 {
        let takers = self.members.iter().filter(|member| member.worker.takes_new());
        takers.map(|member| member.worker.eject.part(clock::now_ms, &self.eject)).max().unwrap_or(eject::WHOLE)
    }

    /// Returns the worker's part of its share relative to the `best` one, in parts of [`eject::WHOLE`].
    fn part(&self, worker: &Worker, best: u32) -> u32 {
        let part = worker.eject.part(clock::now_ms, &self.eject);
        (part * eject::WHOLE).checked_div(best).unwrap_or(eject::WHOLE).min(eject::WHOLE)
    }

    fn may_have(&self, worker: &Worker, key: &[u8]) -> bool {
        // Outside of a slow start this costs one load, and nothing else is evaluated.
        if worker.eject.part(clock::now_ms, &self.eject) == eject::WHOLE {
            return true;
        }
        self.ring.draw(worker.id, key, eject::WHOLE) < self.part(worker, self.most_eased_in())
    }

    /// Whether one more request may be sent a second time within the retry budget; if so, it is counted. The budget is
    /// a percentage of the requests that ejection counted for all workers.
    pub fn try_take_retry(&self, now_ms: Millis) -> bool {
        let slot = self.eject.slot(now_ms);
        let requests: u64 = self.members.iter().map(|m| m.worker.eject.requests(now_ms, &self.eject)).sum();
        let budget = u64::from(self.config.retry_budget);
        let always = (RETRIES_ALWAYS * self.eject.cell_ms * u64::from(eject::CELLS)).div_ceil(1_000);
        let may = budget > 0 && self.carried.retries.count(slot) < always + requests * budget / 100;
        if may {
            self.carried.retries.note(slot);
        }
        may
    }

    /// How long a session with these ping numbers lives without activity. The numbers are learned for the upstream once
    /// the session comes back.
    pub(crate) fn learn(&self, session: Key, open: &Handshake) -> Duration {
        let numbers = SessionNumbers {
            session: open.ping_interval + open.ping_timeout,
            payload: open.max_payload.unwrap_or_default(),
        };
        self.carried.numbers.begin(session, numbers);
        numbers.session + SLACK
    }

    /// Returns the lifetime of a session whose ping numbers are unknown: the largest learned, else the largest default.
    pub fn session_ttl(&self) -> Duration {
        match self.carried.numbers.largest().session {
            Duration::ZERO => DEFAULT_SESSION + SLACK,
            session => session + SLACK,
        }
    }

    /// Returns the maximum number of bytes of a request body that are held for a replay.
    pub fn max_replay(&self) -> usize {
        let learned = self.carried.numbers.largest().payload;
        usize::try_from(if learned == 0 { DEFAULT_PAYLOAD } else { learned }).unwrap_or(usize::MAX)
    }
}
