//! A pool of workers: its members, its ring, and what it has learned.

pub mod connect;
pub mod health;
pub mod io;
pub mod tls;
pub mod worker;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::affinity::cookie::{Jar, WorkerId, worker_id};
use crate::affinity::ring::{self, Ring, Seat};
use crate::clock;
use crate::config::{self, Affinity};
use crate::metrics::{Metrics, UpstreamSeries};
use worker::{Session, Worker};

/// Replay buffer where no worker has said its `maxPayload`: Engine.IO's own default (protocols §1.7).
const DEFAULT_PAYLOAD: u64 = 1_000_000;

/// Ping numbers where none was learned: the largest defaults of all versions, 25 + 60 s (design.md §3).
const DEFAULT_SESSION: Duration = Duration::from_secs(25 + 60);

/// Added to pingInterval + pingTimeout (protocols §1.7).
const SLACK: Duration = Duration::from_secs(5);

/// A pool of workers.
pub struct Upstream {
    /// As configured.
    pub config: config::Upstream,
    /// Its workers, in the order of the config; the ring's indices point here.
    pub members: Vec<Member>,
    /// Engine.IO sids decide.
    pub socket_io: bool,
    /// The signed cookie, when it is one of the sources.
    pub jar: Option<Jar>,
    /// The client's address is one of the sources.
    pub by_address: bool,
    /// What outlives a reload.
    pub carried: Arc<Carried>,
    ring: Ring,
    by_id: HashMap<WorkerId, usize>,
}

/// A worker in a pool.
pub struct Member {
    /// The live worker.
    pub worker: Arc<Worker>,
    /// Its share of new sessions.
    pub weight: u32,
}

/// What an upstream keeps over a reload.
pub struct Carried {
    /// Its counters.
    pub series: UpstreamSeries,
    /// Locked while a *new session* is seated, so that two threads cannot both take the last seat of the bounded load;
    /// never for other requests.
    seating: Mutex<()>,
    /// Largest pingInterval + pingTimeout learned, ms.
    session_ms: AtomicU64,
    /// Largest maxPayload learned, bytes.
    payload: AtomicU64,
    /// Sessions learned since the last look at how many share one address.
    pub learned: AtomicU32,
}

impl Upstream {
    /// The live upstream of `config`; takes over from `before` what has the same name and addresses.
    pub fn build(config: &config::Upstream, secret: &[u8], metrics: &Metrics, before: Option<&Self>) -> Self {
        let carried = before.map_or_else(
            || {
                Arc::new(Carried {
                    series: metrics.upstream(&config.name),
                    seating: Mutex::default(),
                    session_ms: AtomicU64::new(0),
                    payload: AtomicU64::new(0),
                    learned: AtomicU32::new(0),
                })
            },
            |before| before.carried.clone(),
        );
        let links = tls::links(config);
        let members: Vec<Member> = config
            .workers
            .iter()
            .map(|new| {
                let known = before.and_then(|before| {
                    before.members.iter().find(|m| m.worker.address == new.address && m.worker.name == new.name)
                });
                let worker = known.map_or_else(
                    || {
                        let id = worker_id(secret, &config.name, &new.name);
                        let series = metrics.worker(&config.name, &new.name);
                        Worker::new(&config.name, new.address.clone(), new.name.clone(), id, series)
                    },
                    |member| member.worker.clone(),
                );
                worker.set_admin(new.admin);
                worker.set_link(tls::link(links.as_ref(), new));
                Member { worker, weight: new.weight }
            })
            .collect();
        let ids: Vec<_> = members.iter().map(|m| (m.worker.id, m.weight)).collect();
        let has = |affinity| config.affinity.contains(&affinity);
        Self {
            ring: Ring::build(secret, &ids),
            by_id: ids.iter().enumerate().map(|(index, (id, _))| (*id, index)).collect(),
            socket_io: has(Affinity::SocketIo),
            jar: has(Affinity::Cookie).then(|| Jar::new(secret, &config.name, config.cookie_same_site)),
            by_address: has(Affinity::Address),
            members,
            carried,
            config: config.clone(),
        }
    }

    /// Its counters.
    pub fn series(&self) -> &UpstreamSeries {
        &self.carried.series
    }

    /// The worker a cookie names.
    pub fn worker(&self, id: WorkerId) -> Option<&Arc<Worker>> {
        self.by_id.get(&id).and_then(|&index| self.members.get(index)).map(|member| &member.worker)
    }

    /// Seats a new session: bounded load on the ring (design.md §3.2). The returned count is the session's, already in
    /// the worker's load.
    pub fn place(&self, key: &[u8], tried: &[u64]) -> Option<Session> {
        let _seating = self.carried.seating.lock().unwrap_or_else(PoisonError::into_inner);
        let now_s = clock::now_s();
        let seat = |index| {
            let worker = &self.members.get::<usize>(index)?.worker;
            worker.recent.note(now_s);
            Some(worker.session())
        };
        let seats = |takes_new: fn(&Worker) -> bool| -> Vec<Seat> {
            let free = |worker: &Worker| takes_new(worker) && !tried.contains(&worker.serial);
            let seat = |Member { worker, weight }: &Member| Seat {
                takes_new: free(worker),
                weight: *weight,
                load: worker.sessions(),
                recent: worker.recent.count(now_s),
            };
            self.members.iter().map(seat).collect()
        };
        ring::place(&self.ring, key, &seats(Worker::takes_new))
            .or_else(|| ring::place(&self.ring, key, &seats(Worker::takes_new_at_worst)))
            .and_then(seat)
    }

    /// The pure hash of `key` over workers that take new sessions, else over those that serve at all.
    pub fn hash(&self, key: &[u8], tried: &[u64]) -> Option<&Arc<Worker>> {
        let untried = |index: usize| self.members.get(index).filter(|m| !tried.contains(&m.worker.serial));
        ring::hash(&self.ring, key, |index| untried(index).is_some_and(|m| m.worker.takes_new()))
            .or_else(|| ring::hash(&self.ring, key, |index| untried(index).is_some_and(|m| m.worker.serves())))
            .and_then(|index| self.members.get(index))
            .map(|member| &member.worker)
    }

    /// Remembers the numbers of a learned session; returns how long its pin lives without activity.
    pub fn learn(&self, ping_interval: Duration, ping_timeout: Duration, max_payload: Option<u64>) -> Duration {
        let session = ping_interval + ping_timeout;
        let ms = u64::try_from(session.as_millis()).unwrap_or(u64::MAX);
        self.carried.session_ms.fetch_max(ms, Relaxed);
        self.carried.payload.fetch_max(max_payload.unwrap_or(0), Relaxed);
        session + SLACK
    }

    /// How long a session lives whose ping numbers nobody saw: the largest learned, else the largest default.
    pub fn session_ttl(&self) -> Duration {
        match self.carried.session_ms.load(Relaxed) {
            0 => DEFAULT_SESSION + SLACK,
            ms => Duration::from_millis(ms) + SLACK,
        }
    }

    /// Bytes of a request body held for replay at most.
    pub fn max_replay(&self) -> usize {
        let learned = self.carried.payload.load(Relaxed);
        usize::try_from(if learned == 0 { DEFAULT_PAYLOAD } else { learned }).unwrap_or(usize::MAX)
    }
}
