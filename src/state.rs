//! What all threads share: the snapshot (one swap replaces it), the pins, the budgets, the counters.
//!
//! `Config ─build─► Snapshot ─one swap─► requests`. A snapshot is immutable and holds no path; live workers and what an
//! upstream has learned are carried over from the snapshot before it, by name and address, so a reload forgets nothing
//! (invariant 8).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use arc_swap::ArcSwap;

use crate::affinity::Pin;
use crate::affinity::discover::Discoveries;
use crate::affinity::pins::{Keys, Pins};
use crate::config::{self, Config};
use crate::metrics::Metrics;
use crate::reload;
use crate::upstream::Upstream;

/// What all threads share.
pub struct Shared {
    /// The live view of the config.
    pub snapshot: ArcSwap<Snapshot>,
    /// Sessions and their workers.
    pub pins: Pins<Pin>,
    /// Turns sids and addresses into keys nobody outside can predict.
    pub keys: Keys,
    /// Every series.
    pub metrics: Metrics,
    /// Bounds, from the config at start.
    pub limits: config::Limits,
    /// Request bodies held for replay.
    pub replay: Replay,
    /// Budgets and memory of discovery.
    pub discoveries: Discoveries,
    /// Client connections open.
    pub clients: AtomicUsize,
    /// Signs cookies, keys the ring.
    pub secret: Vec<u8>,
    /// What is known of the configuration's file.
    pub config: reload::Status,
    /// When stickyd began to serve.
    pub started: Instant,
}

/// The immutable live view of one config.
pub struct Snapshot {
    /// Pools of workers, in the order of the config.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Tried in order.
    pub routes: Vec<config::Route>,
    /// One log line a request.
    pub access_log: bool,
}

impl Shared {
    /// The state a config starts with.
    pub fn new(config: &Config, secret: Vec<u8>, keys: Keys) -> Arc<Self> {
        let metrics = Metrics::new();
        let snapshot = Snapshot::build(config, &secret, &metrics, None);
        Arc::new(Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            pins: Pins::new(config.limits.pins, config.limits.pins_per_address, Instant::now()),
            keys,
            metrics,
            limits: config.limits.clone(),
            replay: Replay { held: AtomicUsize::new(0), limit: config.limits.replay_bytes },
            discoveries: Discoveries::new(&config.limits),
            clients: AtomicUsize::new(0),
            secret,
            config: reload::Status::default(),
            started: Instant::now(),
        })
    }

    /// Replaces the snapshot by one built from `config`, carrying over what lives.
    pub fn replace(&self, config: &Config) {
        let old = self.snapshot.load_full();
        self.snapshot.store(Arc::new(Snapshot::build(config, &self.secret, &self.metrics, Some(&old))));
    }
}

impl Snapshot {
    fn build(config: &Config, secret: &[u8], metrics: &Metrics, old: Option<&Self>) -> Self {
        let upstreams = config
            .upstreams
            .iter()
            .map(|new| {
                let before = old.and_then(|old| old.upstreams.iter().find(|before| before.config.name == new.name));
                Arc::new(Upstream::build(new, secret, metrics, before.map(|before| &**before)))
            })
            .collect();
        Self { upstreams, routes: config.routes.clone(), access_log: config.log.access }
    }
}

/// Counts bytes of request bodies held for replay, all threads together.
pub struct Replay {
    held: AtomicUsize,
    limit: usize,
}

/// Room for a body; gives it back when dropped.
pub struct Room {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Replay {
    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.held.load(Relaxed)
    }
}

impl Room {
    /// Room for nothing yet.
    pub fn none(shared: &Arc<Shared>) -> Self {
        Self { shared: shared.clone(), bytes: 0 }
    }

    /// Takes `more` bytes; `false` when all bodies together would be over the limit.
    pub fn grow(&mut self, more: usize) -> bool {
        let replay = &self.shared.replay;
        if replay.held.fetch_add(more, Relaxed).saturating_add(more) > replay.limit {
            replay.held.fetch_sub(more, Relaxed);
            return false;
        }
        self.bytes += more;
        true
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared.replay.held.fetch_sub(self.bytes, Relaxed);
    }
}
