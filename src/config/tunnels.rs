//! `round_trip`, `tunnel_ping`, `tunnel_ping_timeout` and `broadcast` of an upstream: how pings on its WebSockets are
//! measured, and what stickyd may send on them itself.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::file::{ConfigItem, Section};
use super::values::duration;
use crate::websocket::round_trip::Thresholds;

const THRESHOLDS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(6);
const PINGS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
const ANSWERS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// Settings of an upstream's WebSockets. A reload applies them to those that are opened later, and `broadcast` at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunnels {
    /// Round-trip times that separate the qualities of a connection.
    pub round_trip: Thresholds,
    /// Time of silence after which a client is sent a Ping; 1 s to 1 day. `None`, the default: no Pings are sent.
    pub ping: Option<Duration>,
    /// Time the client then has to send anything; 1 s to 1 h, default 10 s.
    pub ping_timeout: Duration,
    /// Whether operators may send texts and events to the clients, if the route does not decide; default: not allowed.
    pub broadcast: bool,
}

impl Default for Tunnels {
    fn default() -> Self {
        let round_trip = Thresholds::default();
        Self { round_trip, ping: None, ping_timeout: Duration::from_secs(10), broadcast: false }
    }
}

/// Reads the tunnel settings of an upstream.
pub(crate) fn read(section: &mut Section<'_>) -> Tunnels {
    let mut tunnels = Tunnels::default();
    if let Some(table) = section.section("round_trip", "a table such as { excellent = \"80ms\", good = \"250ms\" }") {
        tunnels.round_trip = thresholds(table);
    }
    tunnels.ping = section.take("tunnel_ping").and_then(|item| duration(item, PINGS));
    if let Some(item) = section.take("tunnel_ping_timeout") {
        let (report, at) = (item.report, item.span.clone());
        tunnels.ping_timeout = duration(item, ANSWERS).unwrap_or(tunnels.ping_timeout);
        if tunnels.ping.is_none() {
            let help = "add tunnel_ping = \"20s\", or remove this";
            report.error_help(&at, "`tunnel_ping_timeout` has no effect without `tunnel_ping`", help);
        }
    }
    tunnels.broadcast = section.take("broadcast").and_then(ConfigItem::boolean).unwrap_or(tunnels.broadcast);
    tunnels
}

fn thresholds(mut section: Section<'_>) -> Thresholds {
    let mut thresholds = Thresholds::default();
    let (report, at) = (section.report, section.span.clone());
    for (key, value) in [("excellent", &mut thresholds.excellent), ("good", &mut thresholds.good)] {
        *value = section.take(key).and_then(|item| duration(item, THRESHOLDS)).unwrap_or(*value);
    }
    if thresholds.excellent >= thresholds.good {
        let message = "`excellent` must be shorter than `good`";
        report.error_help(&at, message, "the defaults are { excellent = \"80ms\", good = \"250ms\" }");
    }
    section.finish();
    thresholds
}
