//! `[limits]`: the bounds of the whole process, read and with their defaults.
//!
//! Leaves out what is bounded per upstream (`upstream`), and what reaching a bound leads to: that is where each is kept.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::file::Section;
use super::values;

/// Bounds; each says so in a metric and a log line when it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Pins at most, 1,000..=100,000,000; default 1,000,000 (≤ 100 bytes each).
    pub pins: usize,
    /// Live sockets listed at most, 1,000..=100,000,000; default 250,000 (≤ 250 bytes each). Others live unlisted.
    pub sockets: usize,
    /// Pins of one client address (IPv6 by /64) while the table is over half full; default 10,000.
    pub pins_per_address: usize,
    /// Discoveries a second that may end in "nobody knows it", per client address; default 200.
    pub discoveries_per_address: u32,
    /// The same for all clients together; default 2,000.
    pub discoveries: u32,
    /// Bytes of request bodies held for replay, all together; default 64 MB.
    pub replay_bytes: usize,
    /// TLS handshakes in flight per data thread; default 64 (data-plane study §0.6).
    pub handshakes: usize,
    /// Streams a client may have open on one HTTP/2 connection, 1..=10,000; default 128, as nginx.
    pub http2_streams: u32,
    /// From accept to the end of the TLS handshake, a PROXY header before it included; default 10 s.
    pub handshake_timeout: Duration,
    /// Client connections at most, tunnels included; 0 (default): half of the descriptors that are not reserved, so that
    /// each has one for its worker.
    pub connections: usize,
    /// The same of one client address (IPv6 by /64), trusted proxies excepted; 0 (default): half of `connections`.
    pub connections_per_address: u32,
    /// Tunnels of one client address; 0 (default): half of `connections`.
    pub tunnels_per_address: u32,
    /// Requests on one client connection; default 10,000. The last one's answer says `Connection: close`.
    pub requests_per_connection: u32,
    /// Descriptors no client gets; 0 (default): a twentieth of the limit, at least 64.
    pub reserved_descriptors: u64,
    /// Bytes of a request's head at most; default 32 KiB.
    pub head_bytes: usize,
    /// Its fields at most; default 100.
    pub head_fields: usize,
    /// Bytes of its target (the URI) at most; default 16 KiB.
    pub target_bytes: usize,
    /// From the first byte of a head to its last; default 30 s.
    pub head_timeout: Duration,
    /// How long a client connection may be idle; default 75 s, as nginx's keep-alive.
    pub idle_timeout: Duration,
    /// Bytes a second a client must send of its body, or take of its answer, at least; default 240, 0: none.
    pub min_rate: u32,
    /// How long it may be slower at the beginning; default 5 s.
    pub min_rate_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pins: 1_000_000,
            sockets: 250_000,
            pins_per_address: 10_000,
            discoveries_per_address: 200,
            discoveries: 2_000,
            replay_bytes: 64_000_000,
            handshakes: 64,
            http2_streams: 128,
            handshake_timeout: Duration::from_secs(10),
            connections: 0,
            connections_per_address: 0,
            tunnels_per_address: 0,
            requests_per_connection: 10_000,
            reserved_descriptors: 0,
            head_bytes: 32 * 1024,
            head_fields: 100,
            target_bytes: 16 * 1024,
            head_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            min_rate: 240,
            min_rate_grace: Duration::from_secs(5),
        }
    }
}

/// Reads the table.
pub(super) fn read(root: &mut Section<'_>) -> Limits {
    const PINS: RangeInclusive<u64> = 1_000..=100_000_000;
    // One body may be 1 MB (the usual maxPayload); more than 64 GB is a typing mistake.
    const REPLAY: RangeInclusive<u64> = 1_000_000..=64_000_000_000;
    const HANDSHAKE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(120);
    let mut limits = Limits::default();
    let Some(mut section) = root.section("limits", "a table") else { return limits };
    limits.pins = section.integer("pins", PINS).unwrap_or(limits.pins);
    limits.sockets = section.integer("sockets", PINS).unwrap_or(limits.sockets);
    limits.pins_per_address = section.integer("pins_per_address", 1..=100_000_000).unwrap_or(limits.pins_per_address);
    let per_address = section.integer("discoveries_per_address", 1..=1_000_000);
    limits.discoveries_per_address = per_address.unwrap_or(limits.discoveries_per_address);
    limits.discoveries = section.integer("discoveries", 1..=1_000_000).unwrap_or(limits.discoveries);
    let replay = section.take("replay_bytes").and_then(|item| values::size(item, REPLAY));
    limits.replay_bytes = replay.and_then(|bytes| bytes.try_into().ok()).unwrap_or(limits.replay_bytes);
    limits.handshakes = section.integer("handshakes", 1..=100_000).unwrap_or(limits.handshakes);
    limits.http2_streams = section.integer("http2_streams", 1..=10_000).unwrap_or(limits.http2_streams);
    let handshake = section.take("handshake_timeout").and_then(|item| values::duration(item, HANDSHAKE));
    limits.handshake_timeout = handshake.unwrap_or(limits.handshake_timeout);
    connections(&mut section, &mut limits);
    heads(&mut section, &mut limits);
    section.finish();
    limits
}

/// How many, and how slow.
fn connections(section: &mut Section<'_>, limits: &mut Limits) {
    const COUNT: RangeInclusive<u64> = 0..=100_000_000;
    // A slow link must get through, and a grace of less than TCP's first repetitions would cut honest clients.
    const RATE: RangeInclusive<u64> = 0..=1_000_000;
    const GRACE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);
    limits.connections = section.integer("connections", COUNT).unwrap_or(limits.connections);
    let per_address = section.integer("connections_per_address", COUNT);
    limits.connections_per_address = per_address.unwrap_or(limits.connections_per_address);
    limits.tunnels_per_address = section.integer("tunnels_per_address", COUNT).unwrap_or(limits.tunnels_per_address);
    let requests = section.integer("requests_per_connection", 1..=4_000_000_000);
    limits.requests_per_connection = requests.unwrap_or(limits.requests_per_connection);
    limits.reserved_descriptors = section.integer("reserved_descriptors", COUNT).unwrap_or(limits.reserved_descriptors);
    limits.min_rate = section.integer("min_rate", RATE).unwrap_or(limits.min_rate);
    let grace = section.take("min_rate_grace").and_then(|item| values::duration(item, GRACE));
    limits.min_rate_grace = grace.unwrap_or(limits.min_rate_grace);
}

/// What a request may open with, and how long that and the wait for it may take.
fn heads(section: &mut Section<'_>, limits: &mut Limits) {
    // hyper reads 8 KiB at once.
    const HEAD: RangeInclusive<u64> = 8_192..=1_048_576;
    // hyper's own bound of a URI is 65,534.
    const TARGET: RangeInclusive<u64> = 256..=65_534;
    const HEAD_TIME: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);
    const IDLE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);
    let size = |bytes: Option<u64>, default: usize| bytes.and_then(|bytes| bytes.try_into().ok()).unwrap_or(default);
    let head = section.take("head_bytes").and_then(|item| values::size(item, HEAD));
    limits.head_bytes = size(head, limits.head_bytes);
    limits.head_fields = section.integer("head_fields", 10..=10_000).unwrap_or(limits.head_fields);
    let target = section.take("target_bytes").and_then(|item| values::size(item, TARGET));
    limits.target_bytes = size(target, limits.target_bytes);
    let head_time = section.take("head_timeout").and_then(|item| values::duration(item, HEAD_TIME));
    limits.head_timeout = head_time.unwrap_or(limits.head_timeout);
    let idle = section.take("idle_timeout").and_then(|item| values::duration(item, IDLE));
    limits.idle_timeout = idle.unwrap_or(limits.idle_timeout);
}
