//! What all threads share: the snapshot (one swap replaces it), the pins, the budgets, the counters.
//!
//! `Config ─build─► Snapshot ─one swap─► requests`. A snapshot is immutable and holds no file path. Live workers and
//! what an upstream has learned are carried over from the previous snapshot, by name and address, so a reload loses
//! nothing (ARCHITECTURE.md, invariant 8).

pub(crate) mod admissions;
pub(crate) mod config_status;
pub(crate) mod mail_users;
mod readiness;
mod replay;
pub(crate) mod told;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use arc_swap::ArcSwap;
use hyper::header::HeaderName;
use tokio::sync::watch;

use crate::affinity::Sessions;
use crate::affinity::discoveries::Discoveries;
use crate::bus::BusMembers;
use crate::client_limits::ClientLimits;
use crate::config::jwt::KeySource;
use crate::config::{self, AdminAddress, Config};
use crate::descriptors;
use crate::emit::EmitRates;
use crate::events::Events;
use crate::fleet::Fleet;
use crate::history::History;
use crate::keys::Keys;
use crate::metrics::Metrics;
use crate::processes::Processes;
use crate::queue::OfflineQueues;
use crate::route::Guarded;
use crate::route::guard::RouteGuard;
use crate::route::live_keys::LiveKeys;
use crate::telemetry::access_file::AccessSink;
#[cfg(feature = "otel")]
use crate::traces::Traces;
use crate::upstream::Upstream;
use crate::upstream::addresses::Unresolved;
use crate::upstream::worker::Worker;
use admissions::Admissions;
use config_status::ConfigStatus;
pub(crate) use readiness::{AppStatus, Readiness};
pub(crate) use replay::{Replay, ReplayRoom};

/// State that all threads share.
pub struct Shared {
    /// The live view of the config.
    pub snapshot: ArcSwap<Snapshot>,
    /// Signals that the snapshot was replaced; health checks and DNS lookups follow it.
    pub changed: watch::Sender<()>,
    /// DNS names of workers that do not resolve at present.
    pub unresolved: Unresolved,
    /// Every session, its pin and its live socket.
    pub sessions: Arc<Sessions>,
    /// Every series of the metrics.
    pub metrics: Arc<Metrics>,
    /// The numbers of the last day.
    pub(crate) history: History,
    /// The processes of workers, as far as they were found.
    pub(crate) processes: Arc<Processes>,
    /// What has happened: the same as in `metrics`.
    pub events: Arc<Events>,
    /// Limits as configured; a reload replaces them.
    pub limits: ArcSwap<config::Limits>,
    /// Messages for users whose clients are away.
    pub(crate) queues: Arc<OfflineQueues>,
    /// Processes that are linked to the bus.
    pub(crate) bus: Arc<BusMembers>,
    /// Memory used by request bodies that are held for replay.
    pub(crate) replay: Replay,
    /// Budgets of discovery, and the sids known to have no owner.
    pub discoveries: Discoveries,
    /// Limits of client connections, per address and in total.
    pub caps: Arc<ClientLimits>,
    /// Rates of the backend's messages.
    pub emit_rates: EmitRates,
    /// What guards remember of sessions and their clients.
    pub(crate) admissions: Admissions,
    /// Number of client connections open now.
    pub clients: AtomicUsize,
    /// Queue of the spans of traces.
    #[cfg(feature = "otel")]
    pub(crate) traces: Arc<Traces>,
    /// Secret that signs cookies and keys the ring.
    pub secret: Vec<u8>,
    /// What is known about the configuration file: when it was loaded, and the last error.
    pub config: ConfigStatus,
    /// Time at which stickyd began to serve.
    pub started: Instant,
}

/// The immutable live view of one config.
pub struct Snapshot {
    /// Pools of workers, in the order of the config. Upstreams that the file no longer names come last; each stays
    /// until its last session has ended.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Everything else in the config that a reload can change: routes, access log, listeners.
    pub rules: Arc<GlobalRules>,
}

/// The parts of a config other than its upstreams that a reload can change.
pub struct GlobalRules {
    /// Routes, tried in this order.
    pub routes: Vec<Guarded>,
    /// Notifications: receivers, and when they are told.
    pub notify: Arc<config::NotifyRules>,
    /// Fields that tell workers the claims of tokens, on any route: no client may send them.
    pub(crate) claim_fields: Vec<HeaderName>,
    /// The access log; `None`: it is off.
    pub(crate) access_log: Option<Arc<AccessSink>>,
    /// Traces; `None`: there are none.
    #[cfg(feature = "otel")]
    pub(crate) telemetry: Option<Arc<config::Telemetry>>,
    /// Addresses of the listeners and of the admin listener; a worker must never have one of them.
    pub listeners: Vec<SocketAddr>,
}

impl GlobalRules {
    /// Builds the rules of a config. Counters of guards are carried over from `before`, by the route's host and path.
    pub(crate) fn of(config: &Config, before: Option<&Self>) -> Arc<Self> {
        let admin = config.admin.addresses().filter_map(|address| match address {
            AdminAddress::Tcp(address) => Some(*address),
            AdminAddress::Unix(_) | AdminAddress::None => None,
        });
        let listeners = config.listeners.iter().map(|listener| listener.address).chain(admin).collect();
        let known: Vec<_> = before.iter().flat_map(|before| &before.routes).collect();
        let keys = shared_keys(config, &known);
        let guarded = |route: &config::Route| {
            let same = |old: &&&Guarded| old.route.host == route.host && old.route.path == route.path;
            let old = known.iter().find(same).and_then(|old| old.watch.as_ref());
            let source = route.guards.jwt.as_ref().map(|jwt| &jwt.keys);
            let keys =
                source.and_then(|wanted| keys.iter().find(|(source, _)| *source == wanted)).map(|(_, keys)| keys);
            let labels = config.upstreams.get(route.upstream).map(|upstream| upstream.labels.clone());
            Guarded::new(route.clone(), RouteGuard::follow(route, &labels.unwrap_or_default(), old, keys))
        };
        let routes = config.routes.iter().map(guarded).collect();
        let jwts = config.routes.iter().filter_map(|route| route.guards.jwt.as_ref());
        let mut claim_fields: Vec<_> = jwts.flat_map(|jwt| jwt.headers.iter().map(|(name, _)| name.clone())).collect();
        let copied = config.routes.iter().filter_map(|route| route.guards.forward.as_ref());
        claim_fields.extend(copied.flat_map(|forward| forward.copy.iter().cloned()));
        claim_fields.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        claim_fields.dedup();
        Arc::new(Self {
            routes,
            notify: config.notify.clone(),
            claim_fields,
            access_log: AccessSink::follow(&config.log, before.and_then(|before| before.access_log.as_ref())),
            #[cfg(feature = "otel")]
            telemetry: config.telemetry.clone(),
            listeners,
        })
    }
}

/// The keys of tokens, one entry per source: routes that take them from one server share them, also after a reload.
fn shared_keys<'c>(config: &'c Config, known: &[&Guarded]) -> Vec<(&'c KeySource, Arc<LiveKeys>)> {
    let mut all: Vec<(&KeySource, Arc<LiveKeys>)> = Vec::new();
    for jwt in config.routes.iter().filter_map(|route| route.guards.jwt.as_ref()) {
        if all.iter().any(|(source, _)| **source == jwt.keys) {
            continue;
        }
        let kept = known.iter().filter_map(|old| old.watch.as_ref()?.jwt.as_ref());
        let kept = kept.filter(|old| old.config.keys == jwt.keys).map(|old| old.keys.clone()).next();
        all.push((&jwt.keys, kept.unwrap_or_else(|| LiveKeys::new(&jwt.keys))));
    }
    all
}

impl Shared {
    /// Builds the state that a config starts with.
    pub fn new(config: &Config, secret: Vec<u8>, keys: Keys) -> Arc<Self> {
        let metrics = Arc::new(Metrics::new());
        let snapshot = Snapshot::build(config.upstreams.iter(), GlobalRules::of(config, None), &secret, &metrics, None);
        let sessions = Sessions::new(&config.limits, keys.clone(), metrics.clone());
        if let Some(settings) = &config.fleet {
            match Fleet::new(settings, &secret, metrics.fleet.clone()) {
                Ok(fleet) => sessions.join(Arc::new(fleet)),
                Err(_) => tracing::error!("cannot derive the keys of the fleet: this stickyd stays alone"),
            }
        }
        let queues = OfflineQueues::new(sessions.fleet().cloned(), metrics.clone());
        queues.follow(config.upstreams.iter());
        Arc::new(Self {
            queues,
            snapshot: ArcSwap::from_pointee(snapshot),
            changed: watch::Sender::new(()),
            unresolved: Unresolved::default(),
            caps: ClientLimits::new(&config.limits, descriptors::limit(), keys, metrics.clone()),
            sessions,
            bus: BusMembers::new(metrics.clone()),
            history: History::open(config.history.memory, config.state_dir.as_deref(), &metrics.events),
            processes: Arc::default(),
            events: metrics.events.clone(),
            #[cfg(feature = "otel")]
            traces: Traces::new(&metrics.spans),
            metrics,
            limits: ArcSwap::from_pointee(config.limits.clone()),
            replay: Replay::new(config.limits.replay_bytes),
            discoveries: Discoveries::new(&config.limits),
            emit_rates: EmitRates::default(),
            admissions: Admissions::new(&config.limits),
            clients: AtomicUsize::new(0),
            secret,
            config: ConfigStatus::default(),
            started: Instant::now(),
        })
    }
}

impl Snapshot {
    pub(crate) fn build<'a>(
        upstreams: impl Iterator<Item = &'a config::Upstream> + Clone,
        rules: Arc<GlobalRules>,
        secret: &[u8],
        metrics: &Metrics,
        old: Option<&Self>,
    ) -> Self {
        let before: Vec<_> = old.iter().flat_map(|old| &old.upstreams).collect();
        let known = |name: &str| before.iter().find(|one| one.config.name == name).copied();
        let mut live: Vec<_> =
            upstreams.clone().map(|new| Upstream::follow(new, secret, metrics, known(&new.name))).collect();
        // Dropped upstreams come last: routes refer to the others by their position in the file.
        let dropped = before.iter().filter(|one| !upstreams.clone().any(|new| new.name == one.config.name));
        live.extend(dropped.filter_map(|one| one.retire(secret, metrics)));
        Self { upstreams: live, rules }
    }

    /// Returns the upstreams that the file names, in the order of the file.
    pub fn named(&self) -> impl Iterator<Item = &config::Upstream> + Clone {
        self.upstreams.iter().filter(|upstream| !upstream.removed).map(|upstream| &upstream.config)
    }

    /// Returns the upstream with this name, if the file still names it.
    pub fn upstream(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.upstreams.iter().find(|upstream| !upstream.removed && upstream.config.name == name)
    }

    /// Returns every worker, including removed ones that still have sessions.
    pub fn workers(&self) -> impl Iterator<Item = &Arc<Worker>> {
        self.upstreams.iter().flat_map(|upstream| &upstream.members).map(|member| &member.worker)
    }
}
