//! DNS names among the workers: which of them resolve, and what the last lookup of the others said. Left out: the
//! lookups themselves (`server::dns`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard};

use crate::config;
use crate::locks::lock;

/// The state of a DNS name, as shown to operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameState {
    /// The addresses are those of the last lookup.
    Resolved,
    /// The last lookup failed or returned no address; the earlier addresses are kept.
    Kept,
    /// The name has never had an address.
    Unresolved,
}

impl NameState {
    /// Returns the name of this state in metrics and the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::Resolved => "resolved",
            Self::Kept => "kept",
            Self::Unresolved => "unresolved",
        }
    }
}

/// A DNS name among an upstream's workers, as shown to operators.
#[derive(Debug)]
pub struct Name {
    /// Name of the upstream whose configuration has the DNS name.
    pub upstream: String,
    /// The DNS name itself, as in the configuration.
    pub host: String,
    /// Whether the name resolves at present.
    pub state: NameState,
    /// The addresses in use for the name, sorted.
    pub ips: Vec<IpAddr>,
    /// Why the last lookup failed or returned no address; `None` if it succeeded.
    pub error: Option<String>,
}

/// The name of an upstream and a DNS name among its workers.
pub(crate) type DnsKey = (String, String);

/// The names whose last lookup failed or returned no address, each with the reason.
#[derive(Default)]
pub struct Unresolved(Mutex<BTreeMap<DnsKey, String>>);

impl Unresolved {
    /// Returns every DNS name in a snapshot with its state.
    pub fn names<'a>(&self, upstreams: impl Iterator<Item = &'a config::Upstream>) -> Vec<Name> {
        let reasons = self.lock();
        let mut names = Vec::new();
        for config in upstreams {
            for host in config.hosts() {
                let error = reasons.get(&(config.name.clone(), host.to_owned())).cloned();
                let ips = config.found.get(host).cloned().unwrap_or_default();
                let state = match (&error, ips.is_empty()) {
                    (_, true) => NameState::Unresolved,
                    (Some(_), false) => NameState::Kept,
                    (None, false) => NameState::Resolved,
                };
                names.push(Name { upstream: config.name.clone(), host: host.to_owned(), state, ips, error });
            }
        }
        names
    }

    /// Records that a lookup gave no address. Returns whether the previous one did.
    pub(crate) fn add(&self, key: &DnsKey, reason: &str) -> bool {
        self.lock().insert(key.clone(), reason.to_owned()).is_none()
    }

    /// Removes the record of a failed lookup. Returns whether there was one.
    pub(crate) fn remove(&self, key: &DnsKey) -> bool {
        self.lock().remove(key).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<DnsKey, String>> {
        // The map holds texts for operators, which stay valid whatever panicked.
        lock(&self.0)
    }
}
