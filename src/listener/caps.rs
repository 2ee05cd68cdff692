//! How many clients there may be: in all, of one address, and in tunnels of one address; and the descriptors they leave.
//!
//! Counted at accept, before TLS, and closed at once where full: a client that waits in a backlog cannot tell stickyd from a
//! dead one, and a balancer in front would not go elsewhere. A trusted proxy is one address for many clients: its
//! connections count only in all. The table has an entry for each address that holds something, so the descriptors bound it.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Listener;
use crate::config::Limits;
use crate::descriptors::Room;
use crate::metrics::Limit;
use crate::proxy::headers::address_key;
use crate::state::Shared;
use crate::telemetry::say_full;
use crate::thread::Registered;

/// Locks the table is behind.
const SHARDS: usize = 32;

/// What one address holds.
#[derive(Default, Clone, Copy)]
struct Held {
    connections: u32,
    tunnels: u32,
}

/// The bounds, and who holds what.
pub struct Caps {
    /// Client connections at most.
    connections: AtomicUsize,
    per_address: AtomicU32,
    tunnels_per_address: AtomicU32,
    descriptors: Room,
    held: [Mutex<HashMap<u64, Held>>; SHARDS],
}

/// What is counted of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Connection,
    Tunnel,
}

/// A counted tunnel of an address.
pub struct TunnelOf {
    shared: Arc<Shared>,
    address: u64,
}

impl Drop for TunnelOf {
    fn drop(&mut self) {
        self.shared.caps.leave(self.address, Kind::Tunnel);
    }
}

impl Caps {
    /// From the config and the process's limit of descriptors.
    pub fn new(limits: &Limits, descriptors: u64) -> Self {
        let new = Self {
            connections: AtomicUsize::default(),
            per_address: AtomicU32::default(),
            tunnels_per_address: AtomicU32::default(),
            descriptors: Room::new(descriptors, limits.reserved_descriptors),
            held: std::array::from_fn(|_| Mutex::default()),
        };
        new.set(limits);
        new
    }

    /// The same bounds anew, but for the descriptors that are reserved: who is in stays, also where there are too many now.
    pub fn set(&self, limits: &Limits) {
        let or =
            |count: u32, default: usize| if count == 0 { u32::try_from(default).unwrap_or(u32::MAX) } else { count };
        let half = usize::try_from(self.descriptors.size() / 2).unwrap_or(usize::MAX);
        let connections = if limits.connections == 0 { half } else { limits.connections };
        self.connections.store(connections, Relaxed);
        self.per_address.store(or(limits.connections_per_address, connections.div_ceil(2)), Relaxed);
        self.tunnels_per_address.store(or(limits.tunnels_per_address, connections.div_ceil(2)), Relaxed);
    }

    /// Client connections at most.
    pub fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }

    fn shard(&self, address: u64) -> MutexGuard<'_, HashMap<u64, Held>> {
        // The key is a keyed hash: its low bits are as good as any. `SHARDS` divides, so the index is in the array.
        #[allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "a remainder of SHARDS")]
        self.held[address as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more, unless that is too many.
    fn enter(&self, address: u64, kind: Kind) -> bool {
        self.enter_some(address, kind, 1) > 0
    }

    /// At most so many more, as there is room for; how many.
    fn enter_some(&self, address: u64, kind: Kind, most: u32) -> u32 {
        let mut held = self.shard(address);
        let entry = held.entry(address).or_default();
        let (count, bound) = match kind {
            Kind::Connection => (&mut entry.connections, self.per_address.load(Relaxed)),
            Kind::Tunnel => (&mut entry.tunnels, self.tunnels_per_address.load(Relaxed)),
        };
        let room = bound.saturating_sub(*count).min(most);
        *count += room;
        if entry.connections == 0 && entry.tunnels == 0 {
            held.remove(&address);
        }
        room
    }

    fn leave(&self, address: u64, kind: Kind) {
        self.leave_some(address, kind, 1);
    }

    fn leave_some(&self, address: u64, kind: Kind, some: u32) {
        let mut held = self.shard(address);
        let Some(entry) = held.get_mut(&address) else { return };
        match kind {
            Kind::Connection => entry.connections = entry.connections.saturating_sub(some),
            Kind::Tunnel => entry.tunnels = entry.tunnels.saturating_sub(some),
        }
        if entry.connections == 0 && entry.tunnels == 0 {
            held.remove(&address);
        }
        // A flood's table is given back.
        if held.is_empty() && held.capacity() > 1_024 {
            held.shrink_to_fit();
        }
    }

    /// Whether a connection to a worker may have the descriptor of this number.
    pub fn has_descriptor_for_worker(&self, descriptor: i32) -> bool {
        self.descriptors.has_for_worker(descriptor)
    }

    /// A connection that was counted for an address is over.
    pub fn connection_over(&self, address: u64) {
        self.leave(address, Kind::Connection);
    }

    /// Whether an address may open one more tunnel.
    pub fn has_tunnel_room(&self, address: u64) -> bool {
        self.shard(address).get(&address).is_none_or(|held| held.tunnels < self.tunnels_per_address.load(Relaxed))
    }
}

/// The streams of one HTTP/2 connection, which count as connections of its address: each has one to a worker. The first is
/// the connection's own; the others are counted some at a time, and given back when none is open.
pub(super) struct StreamsOf {
    shared: Arc<Shared>,
    /// `None`: a trusted proxy's, which is many clients.
    address: Option<u64>,
    /// So many may be open.
    counted: Cell<u32>,
}

/// Streams counted at once: a page asks for several.
const SOME_STREAMS: u32 = 8;

impl StreamsOf {
    pub(super) fn new(shared: &Arc<Shared>, ip: IpAddr, trusted: bool) -> Self {
        let address = (!trusted).then(|| shared.keys.address(address_key(ip)));
        Self { shared: shared.clone(), address, counted: Cell::new(1) }
    }

    /// Whether as many may be open.
    pub(super) fn may_be(&self, open: u32) -> bool {
        let Some(address) = self.address else { return true };
        if open > self.counted.get() {
            let more = self.shared.caps.enter_some(address, Kind::Connection, SOME_STREAMS);
            self.counted.set(self.counted.get() + more);
        }
        let may = open <= self.counted.get();
        if !may {
            self.shared.metrics.limits.reached(Limit::ConnectionsPerAddress);
            say_full!("streams are turned away: an address has as many as it may (connections_per_address)");
        }
        may
    }

    /// None is open.
    pub(super) fn rest(&self) {
        let more = self.counted.replace(1) - 1;
        if let Some(address) = self.address.filter(|_| more > 0) {
            self.shared.caps.leave_some(address, Kind::Connection, more);
        }
    }
}

impl Drop for StreamsOf {
    fn drop(&mut self) {
        self.rest();
    }
}

/// Counts a tunnel for its client's address. Asked for before ([`may_tunnel`]), and not refused now.
pub fn tunnel_of(shared: &Arc<Shared>, ip: IpAddr) -> Option<TunnelOf> {
    let address = shared.keys.address(address_key(ip));
    shared.caps.enter(address, Kind::Tunnel).then(|| TunnelOf { shared: shared.clone(), address })
}

/// Whether a client may have one tunnel more.
pub fn may_tunnel(shared: &Shared, ip: IpAddr) -> bool {
    let may = shared.caps.has_tunnel_room(shared.keys.address(address_key(ip)));
    if !may {
        shared.metrics.limits.reached(Limit::TunnelsPerAddress);
        say_full!("an address has as many WebSockets as it may (tunnels_per_address), one is {ip}");
    }
    may
}

/// Whether a connection just accepted may stay. `live` counts it already, and stops doing so when it is dropped.
pub(super) fn admits(live: &Registered, listener: &Listener, descriptor: i32, peer: IpAddr) -> bool {
    let shared = &live.thread().shared;
    if !shared.caps.descriptors.has(descriptor) {
        shared.metrics.limits.reached(Limit::Descriptors);
        say_full!("clients are turned away: the descriptors that are left are reserved (reserved_descriptors)");
        return false;
    }
    // The new one is more likely to want something than who has been silent for longest: as nginx's reusable connections.
    if shared.clients.load(Relaxed) > shared.caps.connections() && !made_room(live) {
        shared.metrics.limits.reached(Limit::Connections);
        say_full!("clients are turned away: there are {} (connections)", shared.caps.connections());
        return false;
    }
    listener.trusts(peer) || admits_address(live, peer)
}

fn made_room(live: &Registered) -> bool {
    let made = live.thread().make_room();
    if made {
        live.thread().shared.metrics.limits.reached(Limit::IdleConnections);
        say_full!(
            "idle clients are closed to make room for new ones: there are {} (connections)",
            live.thread().shared.caps.connections()
        );
    }
    made
}

/// Whether a connection may stay as one of this address: its peer's, or the one that a PROXY header names.
pub(super) fn admits_address(live: &Registered, ip: IpAddr) -> bool {
    let shared = &live.thread().shared;
    let address = shared.keys.address(address_key(ip));
    let admitted = shared.caps.enter(address, Kind::Connection);
    if admitted {
        live.counted_for(address);
    } else {
        shared.metrics.limits.reached(Limit::ConnectionsPerAddress);
        say_full!("clients are turned away: an address has as many as it may (connections_per_address), one is {ip}");
    }
    admitted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caps(connections_per_address: u32) -> Caps {
        Caps::new(&Limits { connections_per_address, tunnels_per_address: 1, ..Limits::default() }, 1_000)
    }

    #[test]
    fn the_defaults_follow_the_descriptors() {
        let caps = Caps::new(&Limits::default(), 20_000);
        assert_eq!(
            (caps.connections(), caps.per_address.load(Relaxed), caps.tunnels_per_address.load(Relaxed)),
            (9_500, 4_750, 4_750)
        );
    }

    #[test]
    fn an_address_has_its_own_room_and_gets_it_back() {
        let caps = caps(2);
        assert!(caps.enter(1, Kind::Connection) && caps.enter(1, Kind::Connection));
        assert!(!caps.enter(1, Kind::Connection) && caps.enter(33, Kind::Connection), "same shard, other address");
        caps.leave(1, Kind::Connection);
        assert!(caps.enter(1, Kind::Connection));
        assert!(caps.has_tunnel_room(1) && caps.enter(1, Kind::Tunnel) && !caps.has_tunnel_room(1));
    }

    #[test]
    fn some_at_a_time_are_no_more_than_there_is_room_for() {
        let caps = caps(10);
        assert_eq!([8, 8, 8].map(|some| caps.enter_some(1, Kind::Connection, some)), [8, 2, 0]);
        caps.leave_some(1, Kind::Connection, 10);
        assert!(caps.shard(1).is_empty());
    }

    #[test]
    fn who_holds_nothing_is_forgotten() {
        let caps = caps(5_000);
        for address in 0..1_000 {
            caps.enter(address, Kind::Connection);
            caps.enter(address, Kind::Tunnel);
        }
        for address in 0..1_000 {
            caps.leave(address, Kind::Tunnel);
            caps.leave(address, Kind::Connection);
            caps.leave(address, Kind::Connection);
        }
        assert!((0..SHARDS as u64).all(|shard| caps.shard(shard).is_empty()));
    }
}
