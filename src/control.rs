//! The one writer of the snapshot: it swaps a new one in, tells those that follow it, and lets the drains begin that a
//! change has ordered. Only the control thread calls it, so that no change is lost to another.
//!
//! Left out: reading and checking a configuration (`reload`), and what a snapshot is (`state`).

use std::net::IpAddr;
use std::sync::Arc;

use crate::clock;
use crate::config::{self, Config};
use crate::drain;
use crate::state::{GlobalRules, Shared, Snapshot};
use crate::upstream::worker::Worker;

/// Changes the live state. A handle: copies change the same state.
#[derive(Clone)]
pub(crate) struct Control(Arc<Shared>);

impl Control {
    /// The writer of this state.
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// Replaces the snapshot by one built from `config`, carrying over live workers and what was learned. Like
    /// `set_addresses` and `forget_unneeded`, it is only called on the control thread, so that no change overwrites
    /// another.
    pub(crate) fn apply(&self, config: &Config) {
        let old = self.0.snapshot.load_full();
        let after = |new: &config::Upstream| match old.upstreams.iter().find(|one| one.config.name == new.name) {
            Some(before) => new.after(&before.config),
            None => new.clone(),
        };
        let upstreams: Vec<_> = config.upstreams.iter().map(after).collect();
        self.set_limits(&config.limits);
        self.follow(upstreams.iter(), GlobalRules::of(config, Some(&old.rules)));
    }

    /// Sets limits for everything that arrives from now on; each thread reads them at its next tick, within a second.
    /// Limits that need a restart (`Config::needs_restart`) are read only at start.
    fn set_limits(&self, new: &config::Limits) {
        let old = self.0.limits.load_full();
        if *old == *new {
            return;
        }
        self.0.caps.set(new);
        self.0.sessions.pins.set_per_address(new.pins_per_address);
        self.0.sessions.aliases.set_per_address(new.pins_per_address);
        self.0.replay.set_limit(new.replay_bytes);
        if (old.discoveries, old.discoveries_per_address) != (new.discoveries, new.discoveries_per_address) {
            self.0.discoveries.set(new);
        }
        self.0.limits.store(Arc::new(new.clone()));
    }

    /// Sets the addresses that the DNS name `host` resolves to (sorted, not empty) and updates the upstream's workers.
    pub(crate) fn set_addresses(&self, upstream: &str, host: &str, ips: Vec<IpAddr>) {
        let old = self.0.snapshot.load_full();
        let Some(changed) = old.upstream(upstream).map(|changed| changed.config.with_addresses(host, ips)) else {
            return;
        };
        let all = old.named().map(|one| if one.name == upstream { &changed } else { one });
        self.follow(all, old.rules.clone());
    }

    /// Sets the workers of an upstream that stickyd itself has started.
    pub(crate) fn set_spawned(&self, upstream: &str, workers: Vec<config::Worker>) {
        let old = self.0.snapshot.load_full();
        // An upstream that now lists its workers has none that stickyd starts.
        let spawns = old.upstream(upstream).filter(|upstream| upstream.config.spawn.is_some());
        let Some(changed) = spawns.map(|changed| changed.config.with_spawned(workers)) else { return };
        let all = old.named().map(|one| if one.name == upstream { &changed } else { one });
        self.follow(all, old.rules.clone());
    }

    /// Forgets removed workers whose last session has ended.
    pub(crate) fn forget_unneeded(&self) {
        let old = self.0.snapshot.load_full();
        if old.upstreams.iter().any(|upstream| upstream.has_unneeded()) {
            self.follow(old.named(), old.rules.clone());
        }
    }

    fn follow<'a>(&self, upstreams: impl Iterator<Item = &'a config::Upstream> + Clone, rules: Arc<GlobalRules>) {
        let old = self.0.snapshot.load_full();
        let new = Snapshot::build(upstreams, rules, &self.0.secret, &self.0.metrics, Some(&old));
        let stays =
            |worker: &Worker| new.workers().any(|one| one.upstream == worker.upstream && one.name == worker.name);
        for gone in old.workers().filter(|worker| !stays(worker)) {
            self.0.metrics.forget_worker(&gone.upstream, &gone.name);
        }
        self.0.snapshot.store(Arc::new(new));
        self.0.queues.follow(self.0.snapshot.load().named());
        drain::polling::look(&self.0, clock::now_ms());
        self.0.changed.send_replace(());
    }
}
