//! DNS names among the workers: looked up again and again, on the control thread. Their addresses are workers.
//!
//! One task for each name of an upstream, one lookup under way for each at most. Other addresses than before change the
//! upstream's workers by difference (`Shared::set_addresses`): what stays is not touched, what went serves the sessions it
//! has. A lookup that fails, or gives nothing, changes nothing and says so: a name server's bad minute must not end
//! sessions. Lookups are the system's (getaddrinfo: /etc/hosts, search domains, nsswitch), so a record's time to live is
//! not known here; left out for the same reason: SRV records.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::health::jitter;
use crate::config::{self, Address, At, Group, MAX_RANGE};
use crate::state::{Shared, Snapshot};

/// After this long without an answer the lookup is said to have timed out. More than the 5 s in which glibc turns from a
/// dead name server to the next one.
const PATIENCE: Duration = Duration::from_secs(10);

/// A name that did not resolve is looked up again after this time, if its interval is longer: somebody may be waiting.
const AGAIN: Duration = Duration::from_secs(2);

/// What a DNS name is at, for operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its addresses are those of the last lookup.
    Resolved,
    /// The last lookup gave nothing; its addresses are those of before.
    Kept,
    /// It has never had an address.
    Unresolved,
}

impl State {
    /// The word for it in metrics and the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::Resolved => "resolved",
            Self::Kept => "kept",
            Self::Unresolved => "unresolved",
        }
    }
}

/// A DNS name among an upstream's workers, as operators see it.
#[derive(Debug)]
pub struct Name {
    /// The upstream's name.
    pub upstream: String,
    /// The name.
    pub host: String,
    /// What it is at.
    pub state: State,
    /// Its addresses, sorted.
    pub ips: Vec<IpAddr>,
    /// Why the last lookup gave nothing.
    pub error: Option<String>,
}

/// An upstream's name and a DNS name among its workers.
type Key = (String, String);

/// Of each name whose last lookup gave nothing the reason.
#[derive(Default)]
pub struct Unresolved(Mutex<BTreeMap<Key, String>>);

impl Unresolved {
    /// Every DNS name of a snapshot.
    pub fn names(&self, snapshot: &Snapshot) -> Vec<Name> {
        let reasons = self.lock();
        let mut names = Vec::new();
        for config in snapshot.upstreams.iter().filter(|one| !one.removed).map(|one| &one.config) {
            for host in config.hosts() {
                let error = reasons.get(&(config.name.clone(), host.to_owned())).cloned();
                let ips = config.found.get(host).cloned().unwrap_or_default();
                let state = match (&error, ips.is_empty()) {
                    (_, true) => State::Unresolved,
                    (Some(_), false) => State::Kept,
                    (None, false) => State::Resolved,
                };
                names.push(Name { upstream: config.name.clone(), host: host.to_owned(), state, ips, error });
            }
        }
        names
    }

    /// Whether it is news.
    fn add(&self, key: &Key, reason: &str) -> bool {
        self.lock().insert(key.clone(), reason.to_owned()).is_none()
    }

    /// Whether it was there.
    fn remove(&self, key: &Key) -> bool {
        self.lock().remove(key).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, String>> {
        // Texts for operators: they mean something whatever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps every DNS name of the snapshot looked up until `stop`; a new snapshot touches only names that come or go.
pub async fn keep(shared: Arc<Shared>, tasks: TaskTracker, stop: CancellationToken) {
    let mut watches: HashMap<Key, CancellationToken> = HashMap::new();
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
                let watch = Watch { shared: shared.clone(), key: key.clone(), told: Cell::new(false) };
                tasks.spawn_local(stop.clone().run_until_cancelled_owned(watch.run()));
                stop
            });
        }
        if !matches!(stop.run_until_cancelled(changed.changed()).await, Some(Ok(()))) {
            return;
        }
    }
}

fn keys(snapshot: &Snapshot) -> BTreeSet<Key> {
    let named = snapshot.upstreams.iter().filter(|one| !one.removed).map(|one| &one.config);
    named.flat_map(|config| config.hosts().into_iter().map(|host| (config.name.clone(), host.to_owned()))).collect()
}

/// One name of one upstream.
struct Watch {
    shared: Arc<Shared>,
    key: Key,
    /// That it leads to ourselves.
    told: Cell<bool>,
}

impl Watch {
    async fn run(self) {
        let mut changed = self.shared.changed.subscribe();
        // The configuration's own lookup was the first one.
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

    /// Asks the snapshot's configuration of the upstream; `None` once it is no more.
    fn config<T>(&self, ask: impl FnOnce(&config::Upstream) -> T) -> Option<T> {
        self.shared.snapshot.load().upstream(&self.key.0).map(|upstream| ask(&upstream.config))
    }

    /// Until the next lookup; a new interval counts at once. `None`: the upstream is no more.
    async fn pause(&self, resolves: bool, changed: &mut watch::Receiver<()>) -> Option<()> {
        let began = Instant::now();
        // Spread, so that a hundred names are not asked for in one millisecond.
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

    /// One lookup, on a thread of its own: it blocks for as long as the system's resolver likes, and when stickyd stops
    /// nobody waits for it. One that has timed out is still waited for here, and its late answer is as good as any: asking
    /// again meanwhile would only pile up threads.
    async fn look_up(&self) -> io::Result<Vec<IpAddr>> {
        let (sender, mut answer) = oneshot::channel();
        let host = self.host().to_owned();
        let thread = std::thread::Builder::new().name("dns".to_owned());
        // Who asked may have left.
        thread.spawn(move || sender.send(config::look_up(&host)).is_ok())?;
        let answer = match timeout_at(Instant::now() + PATIENCE, &mut answer).await {
            Ok(answer) => answer,
            Err(_) => {
                self.unresolved("timeout", "no answer in time");
                answer.await
            }
        };
        answer.unwrap_or_else(|_| Err(io::Error::other("the lookup ended in a panic")))
    }

    /// An answer; whether it holds any address.
    fn resolved(&self, ips: Vec<IpAddr>) -> bool {
        let (ours, ips): (Vec<_>, Vec<_>) = config::tidy(ips).into_iter().partition(|ip| self.is_ours(*ip));
        if !ours.is_empty() && !self.told.replace(true) {
            tracing::warn!(upstream = %self.key.0, name = %self.host(), addresses = ?ours,
                "a name leads to stickyd's own listener: these addresses are left out");
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
            tracing::info!(%upstream, %name, came = ?not_in(&ips, &had), went = ?not_in(&had, &ips),
                addresses = ips.len(), "the addresses of a name have changed");
            self.shared.metrics.dns_changes.with_label_values(&[upstream]).inc();
            let over = self.workers(ips.len()) > MAX_RANGE;
            self.shared.set_addresses(upstream, name, ips);
            if over {
                tracing::warn!(%upstream, %name, used = MAX_RANGE,
                    "a name stands for more workers than an entry may: the first ones are used");
            }
        } else if again {
            tracing::info!(%upstream, %name, addresses = ips.len(), "a name resolves again");
        }
        true
    }

    /// Workers that one entry would have with so many addresses.
    fn workers(&self, addresses: usize) -> usize {
        self.ports().iter().map(|ports| ports.len() * addresses).max().unwrap_or(0)
    }

    /// The ports of each entry with this name.
    fn ports(&self) -> Vec<RangeInclusive<u16>> {
        let ports = |group: &Group| match &group.at {
            At::Name(host, ports) if host == self.host() => Some(ports.clone()),
            _ => None,
        };
        self.config(|config| config.groups.iter().filter_map(ports).collect()).unwrap_or_default()
    }

    /// A lookup that gave nothing: `false`, it does not resolve. Said when it begins, not each time.
    fn unresolved(&self, result: &str, reason: &str) -> bool {
        self.count(result);
        if self.shared.unresolved.add(&self.key, reason) {
            let (upstream, name) = (&self.key.0, self.host());
            match self.config(|config| config.found.get(name).map_or(0, Vec::len)).unwrap_or(0) {
                0 => tracing::warn!(%upstream, %name, reason, "a name does not resolve: its workers are missing"),
                kept => tracing::warn!(%upstream, %name, reason, kept,
                    "a name does not resolve any more: the addresses it had stay"),
            }
        }
        false
    }

    fn count(&self, result: &str) {
        self.shared.metrics.dns_lookups.with_label_values(&[self.key.0.as_str(), result]).inc();
    }

    /// Whether a worker there would be one of our own listeners: every request would come back until the descriptors are
    /// gone.
    fn is_ours(&self, ip: IpAddr) -> bool {
        let mut at = self.ports().into_iter().flatten().map(|port| Address::Tcp(SocketAddr::new(ip, port)));
        let rules = self.shared.snapshot.load().rules.clone();
        at.any(|address| rules.listeners.iter().any(|own| config::is_listener(&address, *own)))
    }
}
