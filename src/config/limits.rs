//! `[limits]`: the bounds of the whole process, with their defaults and ranges.
//!
//! Left out: bounds per upstream (`upstream`), and what happens when a bound is reached, which is where each is
//! enforced.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::file::Section;
use super::values;

/// Bounds of the whole process; each shows in a metric and a log line when it is reached. A reload applies all of them
/// except `pins`, `sockets`, `handshakes` and `reserved_descriptors`, which are read once, at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of pins, 1,000..=100,000,000; default 1,000,000 (≤ 100 bytes each). A change needs a restart.
    pub pins: usize,
    /// Maximum number of live sockets on the list, 1,000..=100,000,000; default 250,000 (≤ 250 bytes each). Further
    /// sockets work but are not listed. A change needs a restart.
    pub sockets: usize,
    /// Maximum number of pins of one client address (IPv6 by /64) while the table is over half full; default 10,000.
    pub pins_per_address: usize,
    /// Maximum number of discoveries per second that find no owner, per client address; default 200.
    pub discoveries_per_address: u32,
    /// Maximum number of discoveries per second that find no owner, for all clients together; default 2,000.
    pub discoveries: u32,
    /// Total size of request bodies held for replay, in bytes; default 64 MB.
    pub replay_bytes: usize,
    /// Maximum number of TLS handshakes that are worked on per data thread, each from its complete ClientHello until
    /// our first flight is sent; default 64 (docs/reference/performance.md §0.6). A change needs a restart.
    pub handshakes: usize,
    /// Maximum number of open streams per HTTP/2 connection, 1..=10,000; default 128, the same as nginx.
    pub http2_streams: u32,
    /// Time limit from accept to the end of the TLS handshake, including a PROXY header before it; default 10 s.
    pub handshake_timeout: Duration,
    /// Maximum number of client connections, including tunnels. 0 (default): half of the descriptors that are not
    /// reserved, so that each connection can have one to its worker.
    pub connections: usize,
    /// Maximum number of connections per client address (IPv6 by /64), except trusted proxies; 0 (default): half of
    /// `connections`.
    pub connections_per_address: u32,
    /// Maximum number of tunnels per client address; 0 (default): half of `connections`.
    pub tunnels_per_address: u32,
    /// Maximum number of requests per client connection; default 10,000. The answer to the last one carries
    /// `Connection: close`.
    pub requests_per_connection: u32,
    /// Number of descriptors that are not used for clients; 0 (default): a twentieth of the limit, at least 64. A
    /// change needs a restart.
    pub reserved_descriptors: u64,
    /// Maximum size of a request's head, in bytes; default 32 KiB.
    pub head_bytes: usize,
    /// Maximum number of fields in a request's head; default 100.
    pub head_fields: usize,
    /// Maximum size of a request's target (the URI), in bytes; default 16 KiB.
    pub target_bytes: usize,
    /// Time limit from the first byte of a request's head to its last; default 30 s.
    pub head_timeout: Duration,
    /// Time after which an idle client connection is closed; default 75 s, the same as nginx's keep-alive.
    pub idle_timeout: Duration,
    /// Minimum rate at which a client must send its body or take its answer, in bytes per second; default 240, 0: none.
    pub min_rate: u32,
    /// Time at the beginning in which a client may be slower than `min_rate`; default 5 s.
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

/// Reads the `[limits]` table.
pub(crate) fn read(root: &mut Section<'_>) -> Limits {
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

/// Reads the bounds of connections: how many there may be, and how slow they may be.
fn connections(section: &mut Section<'_>, limits: &mut Limits) {
    const COUNT: RangeInclusive<u64> = 0..=100_000_000;
    // Slow links must work, and a grace shorter than TCP's first retransmissions would cut off honest clients.
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

/// Reads the bounds of request heads: their size, and the time-outs for a head and for the wait before it.
fn heads(section: &mut Section<'_>, limits: &mut Limits) {
    // hyper reads 8 KiB at once.
    const HEAD: RangeInclusive<u64> = 8_192..=1_048_576;
    // 65,534 bytes is hyper's own bound for a URI.
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
