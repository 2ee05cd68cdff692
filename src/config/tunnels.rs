//! `round_trip`, `tunnel_ping`, `tunnel_ping_timeout` and `broadcast` of an upstream: what is made of its WebSockets' pings,
//! and what stickyd may say on them itself.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::file::{Item, Section};
use super::values::duration;
use crate::tunnel::round_trip::Thresholds;

const THRESHOLDS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(6);
const PINGS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
const ANSWERS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// What is made of an upstream's WebSockets. Applies to those that are opened later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunnels {
    /// Where one quality of a connection ends and the next begins.
    pub round_trip: Thresholds,
    /// A client that was silent for this long is sent a Ping; 1 s to 1 day. `None`, the default: none is.
    pub ping: Option<Duration>,
    /// How long it has then to say anything; 1 s to 1 h, default 10 s.
    pub ping_timeout: Duration,
    /// Operators may send texts and events to its clients, where the route says nothing else; default: they may not.
    pub broadcast: bool,
}

impl Default for Tunnels {
    fn default() -> Self {
        let round_trip = Thresholds::default();
        Self { round_trip, ping: None, ping_timeout: Duration::from_secs(10), broadcast: false }
    }
}

/// Reads them.
pub(super) fn read(section: &mut Section<'_>) -> Tunnels {
    let mut tunnels = Tunnels::default();
    if let Some(table) = section.section("round_trip", "a table such as { excellent = \"80ms\", good = \"250ms\" }") {
        tunnels.round_trip = thresholds(table);
    }
    tunnels.ping = section.take("tunnel_ping").and_then(|item| duration(item, PINGS));
    if let Some(item) = section.take("tunnel_ping_timeout") {
        let (report, at) = (item.report, item.span.clone());
        tunnels.ping_timeout = duration(item, ANSWERS).unwrap_or(tunnels.ping_timeout);
        if tunnels.ping.is_none() {
            let help = "write tunnel_ping = \"20s\", too, or leave this out";
            report.error_help(&at, "`tunnel_ping_timeout` without `tunnel_ping`: nobody is pinged", help);
        }
    }
    tunnels.broadcast = section.take("broadcast").and_then(Item::boolean).unwrap_or(tunnels.broadcast);
    tunnels
}

fn thresholds(mut section: Section<'_>) -> Thresholds {
    let mut thresholds = Thresholds::default();
    let (report, at) = (section.report, section.span.clone());
    for (key, value) in [("excellent", &mut thresholds.excellent), ("good", &mut thresholds.good)] {
        *value = section.take(key).and_then(|item| duration(item, THRESHOLDS)).unwrap_or(*value);
    }
    if thresholds.excellent >= thresholds.good {
        let message = "an excellent round-trip is shorter than one that is only good";
        report.error_help(&at, message, "the defaults are { excellent = \"80ms\", good = \"250ms\" }");
    }
    section.finish();
    thresholds
}
