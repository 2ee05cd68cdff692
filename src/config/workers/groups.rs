//! Expands the entries of `workers` into workers: one for each port of a range and each address of a DNS name; and
//! gives each worker its name.
//!
//! [`expand`] is used when a configuration is loaded, and by the running system when a DNS name has new addresses. Left
//! out: looking up the addresses (`upstream::addresses`), and how entries are written (the parent module).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::super::{Address, AdminState, Upstream, Worker};

/// Maximum number of workers per entry: a mistyped range (`3000-30010`) must be an error, not start 27,000 health
/// checks.
pub(crate) const MAX_RANGE: usize = 1024;

/// A parsed entry of `workers`: the addresses of its workers and their common settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Addresses of the entry's workers.
    pub at: GroupPlace,
    /// Name of the entry; if it has several workers, each gets the name with a suffix.
    pub name: Option<String>,
    /// Weight of each worker, 1..=256.
    pub weight: u32,
    /// Admin state of each worker.
    pub admin: AdminState,
}

/// Addresses of the workers of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupPlace {
    /// Absolute path of a unix socket.
    Unix(PathBuf),
    /// An IP address, with one worker at each port.
    Ip(IpAddr, RangeInclusive<u16>),
    /// `localhost`: 127.0.0.1, or ::1 if nothing listens there, with one worker at each port.
    Localhost(RangeInclusive<u16>),
    /// A DNS name in lower case, with one worker at each port of each of its addresses.
    Name(String, RangeInclusive<u16>),
}

/// The addresses of each DNS name, sorted and without duplicates. A list is never empty: a name that has never resolved
/// is not in the map.
pub(crate) type ResolvedNames = BTreeMap<String, Vec<IpAddr>>;

impl GroupPlace {
    /// The DNS name, if the workers are given by one.
    pub(crate) fn host(&self) -> Option<&str> {
        match self {
            Self::Name(host, _) => Some(host),
            Self::Unix(_) | Self::Ip(..) | Self::Localhost(_) => None,
        }
    }
}

/// The workers that the entries of an upstream expand to.
pub(crate) struct Expanded {
    /// Workers, each with the index of its entry; addresses and names are unique.
    pub(crate) workers: Vec<(Worker, usize)>,
    pub(crate) doubles: Vec<Double>,
    /// Indices of entries that would expand to more than [`MAX_RANGE`] workers.
    pub(crate) over: Vec<usize>,
}

/// A worker that an earlier entry contains already.
pub(crate) struct Double {
    pub(crate) worker: Worker,
    /// Whether the two have the same address; otherwise only the same name.
    pub(crate) address: bool,
    pub(crate) first: usize,
    pub(crate) second: usize,
}

/// Expands `groups` into workers, with the addresses `found` for DNS names. If two entries lead to the same address,
/// the first one gets it; a worker whose name is taken gets its address as its name. `before` are the previous workers,
/// which keep their names (see [`Group::name_of`]).
pub(crate) fn expand(groups: &[Group], found: &ResolvedNames, before: &[Worker]) -> Expanded {
    let mut addresses: HashMap<Address, usize> = HashMap::new();
    let mut names: HashMap<String, usize> = HashMap::new();
    let mut expanded = Expanded { workers: Vec::new(), doubles: Vec::new(), over: Vec::new() };
    for (second, group) in groups.iter().enumerate() {
        let mut members = group.members(found, before);
        if members.len() > MAX_RANGE {
            members.truncate(MAX_RANGE);
            expanded.over.push(second);
        }
        for mut worker in members {
            if let Some(&first) = addresses.get(&worker.address) {
                expanded.doubles.push(Double { worker, address: true, first, second });
                continue;
            }
            if let Some(&first) = names.get(&worker.name) {
                expanded.doubles.push(Double { worker: worker.clone(), address: false, first, second });
                worker.name = worker.address.to_string();
                if names.contains_key(&worker.name) {
                    continue;
                }
            }
            addresses.insert(worker.address.clone(), second);
            names.insert(worker.name.clone(), second);
            expanded.workers.push((worker, second));
        }
    }
    expanded
}

impl Group {
    fn members(&self, found: &ResolvedNames, before: &[Worker]) -> Vec<Worker> {
        let (ips, ports) = match &self.at {
            GroupPlace::Unix(path) => {
                let address = Address::Unix(path.clone());
                let name = self.name.clone().unwrap_or_else(|| address.to_string());
                let (weight, admin) = (self.weight, self.admin);
                return vec![Worker { address, or_ipv6: false, host: None, of_range: false, name, weight, admin }];
            }
            GroupPlace::Ip(ip, ports) => (std::slice::from_ref(ip), ports),
            GroupPlace::Localhost(ports) => (&[IpAddr::V4(Ipv4Addr::LOCALHOST)][..], ports),
            GroupPlace::Name(host, ports) => (found.get(host).map_or(&[][..], Vec::as_slice), ports),
        };
        let all = ips.iter().flat_map(|ip| ports.clone().map(|port| SocketAddr::new(*ip, port)));
        let of_range = ports.start() != ports.end();
        let worker = |at| {
            let name = self.name_of(at, ips.len() == 1, of_range, before);
            let host = self.at.host().map(str::to_owned);
            let or_ipv6 = matches!(self.at, GroupPlace::Localhost(_));
            let (address, weight, admin) = (Address::Tcp(at), self.weight, self.admin);
            Worker { address, or_ipv6, host, of_range, name, weight, admin }
        };
        // One more than the maximum, so that the caller sees that there are too many.
        all.take(MAX_RANGE + 1).map(worker).collect()
    }

    /// Name of the worker at the address `at`. If the entry has several workers, its name gets a suffix: `NAME-PORT`
    /// for a range, `NAME-IP` for a DNS name with several addresses, `NAME-IP-PORT` for both.
    ///
    /// A worker keeps its name for as long as its address stays. It is identified by name and address, and cookies
    /// refer to its name, so an additional worker must not change its identity. Therefore a DNS name that goes from one
    /// address to two has the workers NAME and NAME-IP, and either may remain later. (Two proxies of a fleet may then
    /// use different names for one worker until they are restarted. Requests with a cookie of the other proxy are
    /// placed by the ring; sids are not affected.)
    fn name_of(&self, at: SocketAddr, only_ip: bool, several_ports: bool, before: &[Worker]) -> String {
        let Some(name) = &self.name else { return at.to_string() };
        let port = if several_ports { format!("-{}", at.port()) } else { String::new() };
        let (alone, among) = (format!("{name}{port}"), format!("{name}-{}{port}", at.ip()));
        let had = |worker: &&Worker| {
            worker.address == Address::Tcp(at)
                && (worker.name == alone || worker.name == among)
                && self.at.host().is_some()
        };
        match before.iter().find(had) {
            Some(worker) => worker.name.clone(),
            None if only_ip => alone,
            None => among,
        }
    }
}

impl Upstream {
    /// Every DNS name among the upstream's workers, once.
    pub fn hosts(&self) -> BTreeSet<&str> {
        self.groups.iter().filter_map(|group| group.at.host()).collect()
    }

    /// Whether a DNS name has never resolved, so that there may be workers that are not known yet.
    pub fn lacks_addresses(&self) -> bool {
        self.groups.iter().filter_map(|group| group.at.host()).any(|host| !self.found.contains_key(host))
    }

    /// The upstream with new addresses for `host`; they are not empty and have passed [`super::tidy`].
    pub(crate) fn with_addresses(&self, host: &str, ips: Vec<IpAddr>) -> Self {
        let mut found = self.found.clone();
        found.insert(host.to_owned(), ips);
        self.expanded(found, &self.workers)
    }

    /// The upstream as the successor of `before`: DNS names that do not resolve now keep their addresses, and workers
    /// keep their names.
    pub(crate) fn after(&self, before: &Self) -> Self {
        let mut found = self.found.clone();
        for host in self.hosts() {
            if let (false, Some(ips)) = (found.contains_key(host), before.found.get(host)) {
                found.insert(host.to_owned(), ips.clone());
            }
        }
        let before = if self.spawn.is_some() == before.spawn.is_some() { &before.workers[..] } else { &[] };
        self.expanded(found, before)
    }

    /// The upstream with these workers, which stickyd itself has started.
    pub(crate) fn with_spawned(&self, workers: Vec<Worker>) -> Self {
        Self { workers, ..self.clone() }
    }

    fn expanded(&self, found: ResolvedNames, before: &[Worker]) -> Self {
        if self.spawn.is_some() {
            // Only the spawner knows them. Those of a list that the file had before are no longer named.
            return self.with_spawned(before.to_vec());
        }
        let workers = expand(&self.groups, &found, before).workers.into_iter().map(|(worker, _)| worker).collect();
        Self { found, workers, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(name: Option<&str>, ports: RangeInclusive<u16>) -> Upstream {
        let at = GroupPlace::Name("app.test".to_owned(), ports);
        let group = Group { at, name: name.map(str::to_owned), weight: 1, admin: AdminState::Ready };
        Upstream::new("app".to_owned(), vec![group], ResolvedNames::new())
    }

    fn at(upstream: &Upstream, last: &[u8]) -> Upstream {
        upstream.with_addresses("app.test", last.iter().map(|&last| [10, 0, 0, last].into()).collect())
    }

    fn names(upstream: &Upstream) -> Vec<String> {
        upstream.workers.iter().map(|worker| format!("{}={}", worker.name, worker.address)).collect()
    }

    #[test]
    fn a_worker_keeps_its_name_while_its_address_stays() {
        let none = upstream(Some("w"), 1..=1);
        assert!(none.workers.is_empty() && none.lacks_addresses());
        let one = at(&none, &[1]);
        assert_eq!(names(&one), ["w=10.0.0.1:1"]);
        let two = at(&one, &[1, 2]);
        assert_eq!(names(&two), ["w=10.0.0.1:1", "w-10.0.0.2=10.0.0.2:1"]);
        assert_eq!(names(&at(&two, &[2])), ["w-10.0.0.2=10.0.0.2:1"]);
        assert_eq!(names(&at(&two, &[2, 3])), ["w-10.0.0.2=10.0.0.2:1", "w-10.0.0.3=10.0.0.3:1"]);
        assert_eq!(names(&at(&one, &[2])), ["w=10.0.0.2:1"], "a single worker keeps the name at a new address");
        assert_eq!(names(&at(&none, &[1, 2]))[0], "w-10.0.0.1=10.0.0.1:1");
        let range = at(&at(&upstream(Some("w"), 1..=2), &[1]), &[1, 2]);
        assert_eq!(
            names(&range),
            ["w-1=10.0.0.1:1", "w-2=10.0.0.1:2", "w-10.0.0.2-1=10.0.0.2:1", "w-10.0.0.2-2=10.0.0.2:2"]
        );
    }

    #[test]
    fn a_reload_that_cannot_resolve_keeps_addresses_and_names() {
        let two = at(&at(&upstream(Some("w"), 1..=1), &[1]), &[1, 2]);
        assert_eq!(names(&upstream(Some("w"), 1..=1).after(&two)), names(&two));
        // New addresses of a name replace the old ones, and so does a new name of the entry.
        assert_eq!(names(&at(&upstream(Some("w"), 1..=1), &[1]).after(&two)), ["w=10.0.0.1:1"]);
        assert_eq!(names(&upstream(Some("x"), 1..=1).after(&two))[0], "x-10.0.0.1=10.0.0.1:1");
    }

    #[test]
    fn a_taken_name_or_address_is_not_an_error() {
        let mut app = upstream(Some("w"), 1..=1);
        let entry = |ip: [u8; 4], name: &str| Group {
            at: GroupPlace::Ip(ip.into(), 1..=1),
            name: Some(name.to_owned()),
            weight: 1,
            admin: AdminState::Ready,
        };
        app.groups.insert(0, entry([10, 0, 0, 1], "first"));
        app.groups.insert(0, entry([10, 9, 9, 9], "w-10.0.0.3"));
        let names = names(&at(&app, &[1, 2, 3]));
        let expected = ["w-10.0.0.3=10.9.9.9:1", "first=10.0.0.1:1", "w-10.0.0.2=10.0.0.2:1", "10.0.0.3:1=10.0.0.3:1"];
        assert_eq!(names, expected);
    }
}
