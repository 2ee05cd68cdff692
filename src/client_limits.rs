//! Limits on client connections: in total, per address, and tunnels per address; and the file descriptors kept in
//! reserve.
//!
//! Connections are counted at accept, before TLS, and closed at once when a limit is reached: a client that waits in a
//! backlog cannot tell stickyd from a dead server, and a balancer in front would not try another one. A trusted proxy
//! is one address for many clients, so its connections count only towards the total. The table has one entry per
//! address that holds a connection or a tunnel, so the descriptor limit bounds its size.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::client::address_key;
use crate::config::Limits;
use crate::descriptors::DescriptorRoom;
use crate::keys::AddressHash;
use crate::keys::Keys;
use crate::locks::lock;
use crate::metrics::LimitLabel;
use crate::metrics::Metrics;
use crate::telemetry::say_full;

/// Number of shards of the table, each with a lock of its own.
const SHARDS: usize = 32;

/// Numbers of connections and tunnels that one address holds now.
#[derive(Default, Clone, Copy)]
struct AddressCounts {
    connections: u32,
    tunnels: u32,
}

/// The limits in force, and the numbers of connections and tunnels that each address holds.
pub struct ClientLimits {
    /// Maximum number of client connections in total.
    connections: AtomicUsize,
    per_address: AtomicU32,
    tunnels_per_address: AtomicU32,
    descriptors: Arc<DescriptorRoom>,
    keys: Keys,
    metrics: Arc<Metrics>,
    held: [Mutex<HashMap<AddressHash, AddressCounts>>; SHARDS],
}

/// The two things that are counted per address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CountedKind {
    Connection,
    Tunnel,
}

/// A tunnel that is counted for its client's address, until this is dropped.
pub struct TunnelCount {
    caps: Arc<ClientLimits>,
    address: AddressHash,
}

impl Drop for TunnelCount {
    fn drop(&mut self) {
        self.caps.leave(self.address, CountedKind::Tunnel);
    }
}

impl ClientLimits {
    /// Creates the limits from the configuration and the process's descriptor limit.
    pub fn new(limits: &Limits, descriptors: u64, keys: Keys, metrics: Arc<Metrics>) -> Arc<Self> {
        let new = Self {
            connections: AtomicUsize::default(),
            per_address: AtomicU32::default(),
            tunnels_per_address: AtomicU32::default(),
            descriptors: Arc::new(DescriptorRoom::new(descriptors, limits.reserved_descriptors)),
            keys,
            metrics,
            held: std::array::from_fn(|_| Mutex::default()),
        };
        new.set(limits);
        Arc::new(new)
    }

    /// Replaces the limits, except for the number of reserved descriptors. Existing connections stay, even if there are
    /// now more of them than allowed.
    pub fn set(&self, limits: &Limits) {
        let or =
            |count: u32, default: usize| if count == 0 { u32::try_from(default).unwrap_or(u32::MAX) } else { count };
        let half = usize::try_from(self.descriptors.size() / 2).unwrap_or(usize::MAX);
        let connections = if limits.connections == 0 { half } else { limits.connections };
        self.connections.store(connections, Relaxed);
        self.per_address.store(or(limits.connections_per_address, connections.div_ceil(2)), Relaxed);
        self.tunnels_per_address.store(or(limits.tunnels_per_address, connections.div_ceil(2)), Relaxed);
    }

    /// The descriptors that clients, and connections to workers, may have.
    pub fn descriptors(&self) -> Arc<DescriptorRoom> {
        self.descriptors.clone()
    }

    /// Returns the maximum number of client connections in total.
    pub fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }

    fn shard(&self, address: AddressHash) -> MutexGuard<'_, HashMap<AddressHash, AddressCounts>> {
        // The key is a keyed hash, so its low bits are as good as any. The array has `SHARDS` entries, so the remainder
        // is a valid index.
        #[allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "a remainder of SHARDS")]
        lock(&self.held[address.get() as usize % SHARDS])
    }

    /// Counts one more, unless the limit is reached; returns whether it was counted.
    fn enter(&self, address: AddressHash, kind: CountedKind) -> bool {
        self.enter_some(address, kind, 1) > 0
    }

    /// Counts up to `most` more, as far as the limit allows; returns how many were counted.
    fn enter_some(&self, address: AddressHash, kind: CountedKind, most: u32) -> u32 {
        let mut held = self.shard(address);
        let entry = held.entry(address).or_default();
        let (count, bound) = match kind {
            CountedKind::Connection => (&mut entry.connections, self.per_address.load(Relaxed)),
            CountedKind::Tunnel => (&mut entry.tunnels, self.tunnels_per_address.load(Relaxed)),
        };
        let room = bound.saturating_sub(*count).min(most);
        *count += room;
        if entry.connections == 0 && entry.tunnels == 0 {
            held.remove(&address);
        }
        room
    }

    fn leave(&self, address: AddressHash, kind: CountedKind) {
        self.leave_some(address, kind, 1);
    }

    fn leave_some(&self, address: AddressHash, kind: CountedKind, some: u32) {
        let mut held = self.shard(address);
        let Some(entry) = held.get_mut(&address) else { return };
        match kind {
            CountedKind::Connection => entry.connections = entry.connections.saturating_sub(some),
            CountedKind::Tunnel => entry.tunnels = entry.tunnels.saturating_sub(some),
        }
        if entry.connections == 0 && entry.tunnels == 0 {
            held.remove(&address);
        }
        // Return the memory of a table that a flood has made large.
        if held.is_empty() && held.capacity() > 1_024 {
            held.shrink_to_fit();
        }
    }

    /// Stops counting a closed connection for its address.
    pub fn connection_over(&self, address: AddressHash) {
        self.leave(address, CountedKind::Connection);
    }

    /// Counts a tunnel for its client's address. The limit was checked by [`ClientLimits::try_admit_tunnel`] before the
    /// request was forwarded; a tunnel that exceeds it by now is not counted, but not refused either.
    pub fn take_tunnel(self: &Arc<Self>, ip: IpAddr) -> Option<TunnelCount> {
        let address = self.hash(ip);
        self.enter(address, CountedKind::Tunnel).then(|| TunnelCount { caps: self.clone(), address })
    }

    /// Returns whether a client's address may open one more tunnel; a refusal is counted and logged.
    pub fn try_admit_tunnel(&self, ip: IpAddr) -> bool {
        let may = self.has_tunnel_room(self.hash(ip));
        if !may {
            self.metrics.limits.reached(LimitLabel::TunnelsPerAddress);
            say_full!(peer = %ip, "WebSocket rejected: the limit per address is reached (tunnels_per_address)");
        }
        may
    }

    /// The keyed hash that clients of this address are counted under.
    pub(crate) fn hash(&self, ip: IpAddr) -> AddressHash {
        self.keys.address(address_key(ip))
    }

    /// Takes room for one more connection of the client address with this hash, if there is any.
    pub(crate) fn try_enter_connection(&self, address: AddressHash) -> bool {
        self.enter(address, CountedKind::Connection)
    }

    /// Returns whether an address may open one more tunnel.
    pub fn has_tunnel_room(&self, address: AddressHash) -> bool {
        self.shard(address).get(&address).is_none_or(|held| held.tunnels < self.tunnels_per_address.load(Relaxed))
    }
}

/// Counts the streams of one HTTP/2 connection as connections of its address, because each stream uses a connection to
/// a worker. The first stream is covered by the count of the connection itself; the others are counted, and released,
/// several at a time.
pub(crate) struct StreamCount {
    caps: Arc<ClientLimits>,
    /// Key of the client's address; `None` for a trusted proxy, which stands for many clients.
    address: Option<AddressHash>,
    /// Number of streams that are counted, and so may be open; at least 1, for the connection itself.
    counted: Cell<u32>,
}

/// Number of streams counted at a time, because a page requests several at once. Fewer than twice as many are counted
/// beyond the open ones.
const SOME_STREAMS: u32 = 4;

impl StreamCount {
    pub(crate) fn new(caps: &Arc<ClientLimits>, ip: IpAddr, trusted: bool) -> Self {
        let address = (!trusted).then(|| caps.hash(ip));
        Self { caps: caps.clone(), address, counted: Cell::new(1) }
    }

    /// Returns whether `open` streams may be open at once, counting more for the address if necessary.
    pub(crate) fn try_grow_to(&self, open: u32) -> bool {
        let Some(address) = self.address else { return true };
        let missing = open.saturating_sub(self.counted.get());
        if missing > 0 {
            let most = missing.saturating_add(SOME_STREAMS - 1);
            self.counted.set(self.counted.get() + self.caps.enter_some(address, CountedKind::Connection, most));
        }
        let may = open <= self.counted.get();
        if !may {
            self.caps.metrics.limits.reached(LimitLabel::ConnectionsPerAddress);
            say_full!("HTTP/2 stream rejected: the limit per address is reached (connections_per_address)");
        }
        may
    }

    /// Releases counted streams, now that only `open` are open.
    pub(crate) fn shrink_to(&self, open: u32) {
        let counted = self.counted.get();
        let kept = match open {
            0 => 1,
            some if counted < some.saturating_add(2 * SOME_STREAMS) => return,
            some => some + SOME_STREAMS,
        };
        if let Some(address) = self.address.filter(|_| kept < counted) {
            self.counted.set(kept);
            self.caps.leave_some(address, CountedKind::Connection, counted - kept);
        }
    }
}

impl Drop for StreamCount {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caps(connections_per_address: u32) -> Arc<ClientLimits> {
        let limits = Limits { connections_per_address, tunnels_per_address: 1, ..Limits::default() };
        ClientLimits::new(&limits, 1_000, Keys::random().unwrap(), Arc::new(Metrics::new()))
    }

    #[test]
    fn default_limits_follow_the_descriptor_limit() {
        let caps = ClientLimits::new(&Limits::default(), 20_000, Keys::random().unwrap(), Arc::new(Metrics::new()));
        assert_eq!(
            (caps.connections(), caps.per_address.load(Relaxed), caps.tunnels_per_address.load(Relaxed)),
            (9_500, 4_750, 4_750)
        );
    }

    #[test]
    fn each_address_has_its_own_limit_and_gets_its_slots_back() {
        let caps = caps(2);
        assert!(
            caps.enter(AddressHash::new(1), CountedKind::Connection)
                && caps.enter(AddressHash::new(1), CountedKind::Connection)
        );
        assert!(
            !caps.enter(AddressHash::new(1), CountedKind::Connection)
                && caps.enter(AddressHash::new(33), CountedKind::Connection),
            "same shard, other address"
        );
        caps.leave(AddressHash::new(1), CountedKind::Connection);
        assert!(caps.enter(AddressHash::new(1), CountedKind::Connection));
        assert!(
            caps.has_tunnel_room(AddressHash::new(1))
                && caps.enter(AddressHash::new(1), CountedKind::Tunnel)
                && !caps.has_tunnel_room(AddressHash::new(1))
        );
    }

    #[test]
    fn a_batch_is_cut_to_the_room_that_is_left() {
        let caps = caps(10);
        assert_eq!(
            [8, 8, 8].map(|some| caps.enter_some(AddressHash::new(1), CountedKind::Connection, some)),
            [8, 2, 0]
        );
        caps.leave_some(AddressHash::new(1), CountedKind::Connection, 10);
        assert!(caps.shard(AddressHash::new(1)).is_empty());
    }

    #[test]
    fn counted_streams_stay_close_to_open_streams() {
        let caps = caps(0);
        let streams = StreamCount::new(&caps, IpAddr::from([192, 0, 2, 1]), false);
        let address = streams.address.unwrap();
        let counted = || caps.shard(address).get(&address).map_or(0, |held| held.connections) + 1;
        for open in 1..=100 {
            assert!(
                streams.try_grow_to(open) && (open..open + SOME_STREAMS).contains(&counted()),
                "{open}: {}",
                counted()
            );
        }
        for open in (0..100).rev() {
            streams.shrink_to(open);
            assert!((open..open + 2 * SOME_STREAMS).contains(&counted()), "{open}: {}", counted());
        }
        assert_eq!(counted(), 1);
        assert!(streams.try_grow_to(9));
        drop(streams);
        assert_eq!(counted(), 1);
        let proxys = StreamCount::new(&caps, IpAddr::from([192, 0, 2, 1]), true);
        assert!(proxys.try_grow_to(u32::MAX) && counted() == 1, "a trusted proxy has no limit");
    }

    #[test]
    fn addresses_that_hold_nothing_are_removed() {
        let caps = caps(5_000);
        for address in 1..=1_000 {
            caps.enter(AddressHash::new(address), CountedKind::Connection);
            caps.enter(AddressHash::new(address), CountedKind::Tunnel);
        }
        for address in 1..=1_000 {
            caps.leave(AddressHash::new(address), CountedKind::Tunnel);
            caps.leave(AddressHash::new(address), CountedKind::Connection);
            caps.leave(AddressHash::new(address), CountedKind::Connection);
        }
        assert!((0..SHARDS as u64).all(|shard| caps.shard(AddressHash::new(shard + 1)).is_empty()));
    }
}
