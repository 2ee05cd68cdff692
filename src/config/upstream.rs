//! `[upstream.NAME]`: its workers, affinity, health checks, cookie, time-outs and bounds.
//!
//! Left out: checks that need other tables (routes to it, whether its cookie can be Secure); see `check`.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::check::Context;
use super::error::Span;
use super::file::{ConfigItem, ConfigText, Section};
use super::rules::{self, Customs};
use super::spawn::{self, ReadSpawn, Spawn};
use super::values::{duration, percent, size, word};
use super::workers::{self, WorkerEntry};
use super::{
    AdminState, Affinity, RemovedPolicy, Upstream, alarm, drain, eject, emit, guards, health, labels, offline_queue,
    tunnels, worker_tls,
};

/// `SameSite` attribute of the affinity cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SameSite {
    /// The attribute is `SameSite=Lax`; the default.
    #[default]
    Lax,
    /// The attribute is `SameSite=Strict`: the cookie is sent to first-party pages only.
    Strict,
    /// The attributes are `SameSite=None`, `Secure` and `Partitioned`, for cross-site pages.
    None,
}

/// An upstream with the places in the file that later checks point at.
pub(crate) struct ReadUpstream {
    pub(crate) upstream: Upstream,
    pub(crate) name: Span,
    /// Place of the value of `same_site`, if it is given.
    pub(crate) same_site: Option<Span>,
    /// The entries of `affinity` with their places; empty if it is left out.
    pub(crate) affinity: Vec<(Affinity, Span)>,
    /// Place of the key `follow`, if it is given.
    pub(crate) follow: Option<Span>,
    /// Place of the table `offline_queue`, if it is given.
    pub(crate) offline_queue: Option<Span>,
    /// Place of the entry of each worker, in the order of the upstream's workers.
    pub(crate) entries: Vec<Span>,
    /// The table `spawn`, if it is given.
    pub(crate) spawn: Option<ReadSpawn>,
}

const TIMES: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(24 * 3600);
const TUNNEL_TIMES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);
const DNS_TIMES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
const RETRY_TIMES: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(600);
const SLOW_STARTS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
/// Range of `max_body`, in bytes. Upper bound of 1 TB: above any real body, low enough to catch a typo.
const BODIES: RangeInclusive<u64> = 1..=1_000_000_000_000;
const SAME_SITES: [(&str, SameSite); 3] =
    [("lax", SameSite::Lax), ("strict", SameSite::Strict), ("none", SameSite::None)];
const ADMIN_STATES: [(&str, AdminState); 3] =
    [("ready", AdminState::Ready), ("drain", AdminState::Drain), ("maint", AdminState::Maint)];

/// Reads one `[upstream.NAME]` table.
pub(crate) fn read(
    context: &Context<'_>,
    customs: &Customs,
    name: ConfigText,
    item: ConfigItem<'_>,
) -> Option<ReadUpstream> {
    if !item.is_table() {
        let message = format!("`{}` must be in a named upstream, not in [upstream] itself", name.value);
        context.report.error_help(&name.span, message, "write [upstream.app] above it");
        return None;
    }
    check_name(context, &name);
    let mut section = item.section(&format!("[upstream.{}]", name.value), "a table")?;
    let table = "a table such as { command = [\"node\", \"server.js\"] }";
    let has_spawn = section.key("spawn").is_some();
    let spawn = section.section("spawn", table).and_then(|table| spawn::read(context, table));
    let written = if has_spawn { no_entries(&mut section) } else { entries(&mut section) };
    let (groups, found, entries) = workers::all(context, &written);
    let mut upstream = Upstream::new(name.value, groups, found);
    let affinity = section.take("affinity").and_then(|item| customs.affinity(item)).unwrap_or_default();
    if !affinity.is_empty() {
        upstream.affinity = affinity.iter().map(|(one, _)| one.clone()).collect();
    }
    let follow = section.key("follow");
    upstream.follow = rules::follow(&mut section);
    if let Some(table) = section.section("health", "a table such as { path = \"/health\" }") {
        upstream.health = health::read(table);
    }
    if let Some(table) = section.section("tls", "a table such as { ca = \"workers-ca.pem\" }") {
        upstream.tls = worker_tls::read(context, table, &upstream.groups);
    }
    if let Some(table) = section.section("drain", "a table such as { grace = \"60s\" }") {
        upstream.drain = drain::read(table);
    }
    let removed = drain::removed(&mut section);
    if let Some(read) = &spawn {
        upstream = with_spawn(context, upstream, read);
    }
    upstream.labels = labels::read(&mut section, &upstream.name);
    upstream.alarm = alarm::read(&mut section, &upstream.labels);
    let (offline_queue, queue_at) = offline_queue::read(&mut section, &upstream.labels).unzip();
    upstream.offline_queue = offline_queue;
    if let Some(policy) = removed {
        upstream.removed = policy;
    }
    for (key, on) in [("forwarded", &mut upstream.forwarded), ("debug_header", &mut upstream.debug_header)] {
        *on = section.take(key).and_then(ConfigItem::boolean).unwrap_or(*on);
    }
    let wants_bus = spawn.as_ref().is_none_or(|read| read.bus);
    upstream.bus = section.take("bus").is_none_or(bus) && wants_bus;
    upstream.emit = emit::read(context, &mut section, upstream.bus);
    let same_site = cookie(context, &mut section, &mut upstream);
    times(&mut section, &mut upstream);
    upstream.tunnels = tunnels::read(&mut section);
    bounds(&mut section, &mut upstream);
    section.finish();
    let name = name.span;
    Some(ReadUpstream { upstream, name, same_site, affinity, follow, offline_queue: queue_at, entries, spawn })
}

/// Reads `cookie`; returns the place of `same_site`, if it is given.
fn cookie(context: &Context<'_>, section: &mut Section<'_>, upstream: &mut Upstream) -> Option<Span> {
    let mut cookie = section.section("cookie", "a table such as { same_site = \"lax\" }")?;
    let same_site = cookie.text("same_site", "\"lax\", \"strict\" or \"none\"");
    cookie.finish();
    let text = same_site?;
    upstream.cookie_same_site = word(context.report, "same_site", &text, &SAME_SITES).unwrap_or_default();
    Some(text.span)
}

/// Reads the time limits and intervals of an upstream.
fn times(section: &mut Section<'_>, upstream: &mut Upstream) {
    let mut time = |key, range| section.take(key).and_then(|item| duration(item, range));
    upstream.connect_timeout = time("connect_timeout", TIMES).unwrap_or(upstream.connect_timeout);
    upstream.response_timeout = time("response_timeout", TIMES).unwrap_or(upstream.response_timeout);
    upstream.request_timeout = time("request_timeout", TUNNEL_TIMES);
    upstream.tunnel_idle = time("tunnel_idle", TUNNEL_TIMES);
    upstream.dns_interval = time("dns_interval", DNS_TIMES).unwrap_or(upstream.dns_interval);
}

/// Adds the table `spawn` to an upstream whose table `drain` has been read.
fn with_spawn(context: &Context<'_>, upstream: Upstream, read: &ReadSpawn) -> Upstream {
    if let (Some(_), Some(_)) = (read.grace, upstream.drain.grace) {
        let help = "remove one of the two";
        context.report.error_help(&read.at, "`grace` is given both in `spawn` and in `drain`", help);
    }
    spawned(upstream, read.spawn.clone(), read.grace)
}

/// Makes stickyd start the workers of an upstream. The sessions of a worker that is replaced end evenly over the grace.
pub(crate) fn spawned(mut upstream: Upstream, spawn: Spawn, grace: Option<Duration>) -> Upstream {
    upstream.drain.grace = grace.or(upstream.drain.grace).or(Some(spawn::DEFAULT_GRACE));
    upstream.removed = RemovedPolicy::Drain;
    // Its sessions move to a successor within the grace; a share that grows slowly would leave them unevenly placed.
    upstream.slow_start = Duration::ZERO;
    upstream.spawn = Some(Arc::new(spawn));
    upstream
}

/// Reports `workers` in an upstream whose workers stickyd starts.
fn no_entries(section: &mut Section<'_>) -> Vec<WorkerEntry> {
    let report = section.report;
    section.take("allow_empty").and_then(ConfigItem::boolean);
    if let Some(item) = section.take("workers") {
        let help = "remove one of the two: stickyd starts the workers of `spawn` and knows their addresses";
        report.error_help(&item.span, "`workers` and `spawn` cannot be used together", help);
    }
    Vec::new()
}

/// Reads `bus = "auto" | false`; true after an error.
pub(crate) fn bus(item: ConfigItem<'_>) -> bool {
    if let Some(on) = item.as_boolean() {
        return on;
    }
    let report = item.report;
    item.text("\"auto\" or false")
        .is_none_or(|text| word(report, "value of `bus`", &text, &[("auto", true)]).unwrap_or(true))
}

/// Reads the settings for failing workers, and the bounds of an upstream.
fn bounds(section: &mut Section<'_>, upstream: &mut Upstream) {
    if let Some(item) = section.take("eject") {
        upstream.eject = eject::read(item);
    }
    if let Some(time) = section.take("slow_start").and_then(|item| duration(item, SLOW_STARTS)) {
        upstream.slow_start = time;
    }
    if let Some(budget) = section.take("retry_budget").and_then(|item| percent(item, 0..=100)) {
        upstream.retry_budget = budget;
    }
    if let Some(time) = section.take("retry_after").and_then(|item| duration(item, RETRY_TIMES)) {
        upstream.retry_after = time;
    }
    upstream.rate = guards::rates(section);
    upstream.max_connections = section.integer("max_connections", 1..=1_000_000);
    upstream.max_tunnels = section.integer("max_tunnels", 1..=10_000_000);
    upstream.max_body = section.take("max_body").and_then(|item| size(item, BODIES));
    upstream.queue = section.integer("queue", 0..=1_000_000).unwrap_or(upstream.queue);
    if let Some(time) = section.take("queue_timeout").and_then(|item| duration(item, TIMES)) {
        upstream.queue_timeout = time;
    }
}

/// Checks the name of an upstream, which becomes part of a cookie's name and of every metric.
fn check_name(context: &Context<'_>, name: &ConfigText) {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    if !(1..=32).contains(&name.value.len()) || !name.value.bytes().all(fits) {
        let help = "use 1 to 32 characters of a-z, 0-9, `_` and `-`: it becomes part of the cookie's name";
        context.report.error_help(&name.span, format!("`{}` is not a valid upstream name", name.value), help);
    }
}

fn entries(section: &mut Section<'_>) -> Vec<WorkerEntry> {
    let (report, at, label) = (section.report, section.span.clone(), section.label.clone());
    let example = "write workers = [\"127.0.0.1:3001-3004\"]";
    // Without this key, a faulty template that leaves the list empty would take the whole application offline.
    let allow_empty = section.take("allow_empty").and_then(ConfigItem::boolean).unwrap_or(false);
    let Some(item) = section.take("workers") else {
        report.error_help(&at, format!("{label} needs `workers`"), example);
        return Vec::new();
    };
    let at = item.span.clone();
    let Some(items) = item.list("a list such as [\"127.0.0.1:3001-3004\"]", "a worker") else { return Vec::new() };
    if items.is_empty() && !allow_empty {
        let help = "if this is intended, write allow_empty = true: all its requests are answered with 503";
        report.error_help(&at, format!("{label} has no workers"), help);
    }
    items.into_iter().filter_map(entry).collect()
}

/// Reads an entry of `workers`: an address, or a table with an address.
fn entry(item: ConfigItem<'_>) -> Option<WorkerEntry> {
    let expected = "an address or a table such as { address = \"10.0.0.7:3000\", weight = 2 }";
    if !item.is_table() {
        return item.text(expected).map(WorkerEntry::plain);
    }
    let mut section = item.section("a worker", expected)?;
    let address = section.required("address", "an address", "\"10.0.0.7:3000\"");
    let name = section.text("name", "a string");
    let weight = section.integer("weight", 1..=256);
    let admin = section.text("admin", "\"ready\", \"drain\" or \"maint\"");
    let admin = admin.and_then(|text| word(section.report, "admin state", &text, &ADMIN_STATES));
    if let Some(name) = &name
        && (!(1..=128).contains(&name.value.len()) || name.value.contains(char::is_control))
    {
        section.report.error(&name.span, "a worker's name must have 1 to 128 bytes and no control characters");
    }
    section.finish();
    Some(WorkerEntry { address: address?, name, weight: weight.unwrap_or(1), admin: admin.unwrap_or_default() })
}
