//! DNS names among the workers: each name is resolved again and again on the control thread, and its addresses become
//! workers.
//!
//! There is one task per name of an upstream, with at most one lookup in progress. If the addresses differ from the
//! last ones, only the difference is applied to the upstream's workers (`Shared::set_addresses`): addresses that stay
//! are not touched, and workers of addresses that are gone serve their existing sessions. A lookup that fails or
//! returns no address changes nothing and is logged, because a short outage of a name server must not end sessions.
//! Lookups go through the system's resolver (getaddrinfo: /etc/hosts, search domains, nsswitch), which does not return
//! the time to live of a record. SRV records are not supported for the same reason.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{self, Address, Group, GroupPlace, MAX_RANGE};
use crate::control::Control;
use crate::events::tell;
use crate::state::{Shared, Snapshot};
use crate::upstream::addresses::DnsKey;
use crate::upstream::health::jitter;

/// Time without an answer after which a lookup is reported as timed out. It exceeds the 5 s after which glibc turns
/// from a dead name server to the next one.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(10);

/// Maximum pause before a name that did not resolve is looked up again, even if its interval is longer: clients may be
/// waiting.
const AGAIN: Duration = Duration::from_secs(2);

/// Keeps every DNS name of the snapshot resolved until `stop`. A new snapshot affects only names that are added or
/// removed.
pub(crate) async fn keep(shared: Arc<Shared>, tasks: TaskTracker, stop: CancellationToken) {
    let mut watches: HashMap<DnsKey, CancellationToken> = HashMap::new();
    let mut changed = shared.changed.subscribe();
    loop {
        let wanted = keys(&shared.snapshot.load());
        watches.retain(|key, watch| {
            let stays = wanted.contains(key);
            if !stays {
                watch.cancel();
                shared.unresolved.remove(key);
            }
            stays
        });
        for key in wanted {
            watches.entry(key).or_insert_with_key(|key| {
                let stop = stop.child_token();
                let watch = NameWatch { shared: shared.clone(), key: key.clone(), told: Cell::new(false) };
                tasks.spawn_local(stop.clone().run_until_cancelled_owned(watch.run()));
                stop
            });
        }
        if !matches!(stop.run_until_cancelled(changed.changed()).await, Some(Ok(()))) {
            return;
        }
    }
}

fn keys(snapshot: &Snapshot) -> BTreeSet<DnsKey> {
    let named = snapshot.upstreams.iter().filter(|one| !one.removed).map(|one| &one.config);
    named.flat_map(|config| config.hosts().into_iter().map(|host| (config.name.clone(), host.to_owned()))).collect()
}

/// The repeated lookups of one DNS name of one upstream.
struct NameWatch {
    shared: Arc<Shared>,
    key: DnsKey,
    /// Whether it was logged already that the name resolves to a listener of stickyd.
    told: Cell<bool>,
}

impl NameWatch {
    async fn run(self) {
        let mut changed = self.shared.changed.subscribe();
        // Loading the configuration made the first lookup.
        let mut resolves = self.config(|config| config.found.contains_key(self.host())).unwrap_or(false);
        loop {
            if self.pause(resolves, &mut changed).await.is_none() {
                return;
            }
            resolves = match self.look_up().await {
                Ok(ips) => self.resolved(ips),
                Err(error) => self.unresolved("failed", &error.to_string()),
            };
        }
    }

    fn host(&self) -> &str {
        &self.key.1
    }

    /// Calls `ask` with the upstream's configuration in the current snapshot; `None` if the upstream no longer exists.
    fn config<T>(&self, ask: impl FnOnce(&config::Upstream) -> T) -> Option<T> {
        self.shared.snapshot.load().upstream(&self.key.0).map(|upstream| ask(&upstream.config))
    }

    /// Waits until the next lookup is due; a changed interval applies at once. `None` if the upstream no longer exists.
    async fn pause(&self, resolves: bool, changed: &mut watch::Receiver<()>) -> Option<()> {
        let began = Instant::now();
        // The jitter keeps a hundred names from being looked up within the same millisecond.
        let tenth = jitter(Duration::from_millis(200)).as_secs_f64();
        loop {
            let interval = self.config(|config| config.dns_interval)?;
            let pause = if resolves { interval } else { interval.min(AGAIN) };
            match timeout_at(began + pause.mul_f64(0.9 + tenth), changed.changed()).await {
                Err(_) => return Some(()),
                Ok(said) => said.ok()?,
            }
        }
    }

    /// Makes one lookup on its own thread, because the system's resolver may block for any time, and stickyd must not
    /// wait for it when it stops. A lookup that timed out is still awaited, and a late answer is used: starting another
    /// one meanwhile would only pile up threads.
    async fn look_up(&self) -> io::Result<Vec<IpAddr>> {
        let (sender, mut answer) = oneshot::channel();
        let host = self.host().to_owned();
        let thread = std::thread::Builder::new().name("dns".to_owned());
        // The send fails if this task was cancelled, which is fine.
        thread.spawn(move || sender.send(config::look_up(&host)).is_ok())?;
        let answer = match timeout_at(Instant::now() + LOOKUP_PATIENCE, &mut answer).await {
            Ok(answer) => answer,
            Err(_) => {
                self.unresolved("timeout", "no answer in time");
                answer.await
            }
        };
        answer.unwrap_or_else(|_| Err(io::Error::other("the lookup panicked")))
    }

    /// Handles a successful lookup. Returns whether it gave any usable address.
    fn resolved(&self, ips: Vec<IpAddr>) -> bool {
        let (ours, ips): (Vec<_>, Vec<_>) = config::tidy(ips).into_iter().partition(|ip| self.is_ours(*ip));
        if !ours.is_empty() && !self.told.replace(true) {
            tell!(self.shared.events, Advice, warn, upstream = %self.key.0, name = %self.host(), addresses = ?ours,
                "name resolves to stickyd's own listener: these addresses are ignored");
        }
        if ips.is_empty() {
            return self.unresolved("empty", "it resolves to no address");
        }
        self.count("ok");
        let (upstream, name) = (&self.key.0, self.host());
        let had = self.config(|config| config.found.get(name).cloned()).flatten().unwrap_or_default();
        let again = self.shared.unresolved.remove(&self.key);
        if had != ips {
            let not_in = |these: &[IpAddr], those: &[IpAddr]| -> Vec<IpAddr> {
                these.iter().filter(|ip| those.binary_search(ip).is_err()).copied().collect()
            };
            tell!(self.shared.events, DnsChanged, info,
                upstream = %upstream, %name, came = ?not_in(&ips, &had), went = ?not_in(&had, &ips),
                addresses = ips.len(), "the addresses of a name have changed");
            self.shared.metrics.names.changes.with_label_values(&[upstream]).inc();
            let over = self.workers(ips.len()) > MAX_RANGE;
            Control::new(self.shared.clone()).set_addresses(upstream, name, ips);
            if over {
                tell!(self.shared.events, Advice, warn, upstream = %upstream, %name, used = MAX_RANGE,
                    "name resolves to more addresses than an entry may have workers: only the first are used");
            }
        } else if again {
            tell!(self.shared.events, DnsChanged, info, upstream = %upstream, %name, addresses = ips.len(),
                "name resolves again");
        }
        true
    }

    /// Returns the number of workers that one configured entry would have with this many addresses.
    fn workers(&self, addresses: usize) -> usize {
        self.ports().iter().map(|ports| ports.len() * addresses).max().unwrap_or(0)
    }

    /// Returns the port range of each configured entry that has this name.
    fn ports(&self) -> Vec<RangeInclusive<u16>> {
        let ports = |group: &Group| match &group.at {
            GroupPlace::Name(host, ports) if host == self.host() => Some(ports.clone()),
            _ => None,
        };
        self.config(|config| config.groups.iter().filter_map(ports).collect()).unwrap_or_default()
    }

    /// Handles a lookup that gave no address; returns `false`, as the name does not resolve. Only the first of several
    /// failed lookups in a row is logged.
    fn unresolved(&self, result: &str, reason: &str) -> bool {
        self.count(result);
        if self.shared.unresolved.add(&self.key, reason) {
            let (upstream, name) = (&self.key.0, self.host());
            match self.config(|config| config.found.get(name).map_or(0, Vec::len)).unwrap_or(0) {
                0 => tell!(self.shared.events, DnsFailed, warn,
                    upstream = %upstream, %name, reason, "name does not resolve: its workers are missing"),
                kept => tell!(self.shared.events, DnsFailed, warn, upstream = %upstream, %name, reason, kept,
                    "name no longer resolves: its last addresses are kept"),
            }
        }
        false
    }

    fn count(&self, result: &str) {
        self.shared.metrics.names.lookups.with_label_values(&[self.key.0.as_str(), result]).inc();
    }

    /// Whether a worker at this address would be one of stickyd's own listeners. Every request would then loop back
    /// until no file descriptor is left.
    fn is_ours(&self, ip: IpAddr) -> bool {
        let mut at = self.ports().into_iter().flatten().map(|port| Address::Tcp(SocketAddr::new(ip, port)));
        let rules = self.shared.snapshot.load().rules.clone();
        at.any(|address| rules.listeners.iter().any(|own| config::is_listener(&address, *own)))
    }
}
