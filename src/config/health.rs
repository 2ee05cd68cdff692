//! `health` of an upstream: what is done to a worker to see whether it lives, how often, and what is to come of it.
//!
//! Leaves out the checks themselves (`upstream::health`).

use std::ops::RangeInclusive;
use std::time::Duration;

use hyper::header::HeaderValue;

use super::file::{Item, Section, Text};
use super::values::{duration, word};

/// The shortest time between two checks of a worker.
const SHORTEST: Duration = Duration::from_millis(100);
const INTERVALS: RangeInclusive<Duration> = SHORTEST..=Duration::from_secs(3600);
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3600);
const GRACES: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
const STATUS: RangeInclusive<u16> = 200..=599;
const KINDS: [(&str, Kind); 4] =
    [("http", Kind::Http), ("tcp", Kind::Tcp), ("socket.io", Kind::SocketIo), ("websocket", Kind::WebSocket)];

/// How workers are checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    /// What is done to a worker to see whether it lives.
    pub kind: HealthKind,
    /// Between two checks; default 2 s, at least 100 ms.
    pub interval: Duration,
    /// The same while the worker's state is unsure; default a quarter of the interval, at least 100 ms.
    pub fast_interval: Duration,
    /// For one check; default: the interval, at most 5 s.
    pub timeout: Duration,
    /// Passed checks in a row that make a worker up; default 2.
    pub rise: u32,
    /// Failed checks in a row that make it not up; default 3.
    pub fall: u32,
    /// How long failed checks of a worker do not count after it was first seen, or came back from *gone*; default 0.
    pub start_grace: Duration,
}

impl Health {
    /// The time-out of a check nobody gave one.
    pub fn default_timeout(interval: Duration) -> Duration {
        interval.min(Duration::from_secs(5))
    }

    /// The fast interval of a check nobody gave one.
    pub fn default_fast_interval(interval: Duration) -> Duration {
        (interval / 4).max(SHORTEST)
    }
}

impl Default for Health {
    fn default() -> Self {
        let interval = Duration::from_secs(2);
        Self {
            kind: HealthKind::Tcp,
            interval,
            fast_interval: Self::default_fast_interval(interval),
            timeout: Self::default_timeout(interval),
            rise: 2,
            fall: 3,
            start_grace: Duration::ZERO,
        }
    }
}

/// The kind of check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthKind {
    /// A TCP or unix connect; what an upstream without `health` gets.
    Tcp,
    /// `GET path`, answered as expected.
    Http(Target, Expected),
    /// An Engine.IO session, opened by polling and closed again; the path is `/socket.io/` by default.
    SocketIo(Target),
    /// An upgrade to WebSocket, and a close frame.
    WebSocket(Target),
}

/// What a check asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Origin form, begins with `/`.
    pub path: String,
    /// The Host header; `None`: the worker's address.
    pub host: Option<String>,
}

/// What an HTTP check is to be answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// One of these; default 200..=399.
    pub status: Vec<RangeInclusive<u16>>,
    /// Stands in the first 64 KiB of the body.
    pub body: Option<String>,
}

impl Default for Expected {
    fn default() -> Self {
        Self { status: vec![200..=399], body: None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Http,
    SocketIo,
    WebSocket,
}

/// Reads the table.
pub(super) fn read(mut section: Section<'_>) -> Health {
    let mut health = Health { kind: kind(&mut section), ..Health::default() };
    if let Some(interval) = section.take("interval").and_then(|item| duration(item, INTERVALS)) {
        health.interval = interval;
    }
    let fast = section.take("fast_interval").and_then(|item| {
        let (report, at) = (item.report, item.span.clone());
        let fast = duration(item, INTERVALS)?;
        if fast > health.interval {
            let interval = humantime::format_duration(health.interval);
            report.error(&at, format!("`fast_interval` must not be longer than `interval` ({interval})"));
        }
        Some(fast)
    });
    health.fast_interval = fast.unwrap_or_else(|| Health::default_fast_interval(health.interval));
    let timeout = section.take("timeout").and_then(|item| duration(item, TIMEOUTS));
    health.timeout = timeout.unwrap_or_else(|| Health::default_timeout(health.interval));
    health.rise = section.integer("rise", 1..=100).unwrap_or(health.rise);
    health.fall = section.integer("fall", 1..=100).unwrap_or(health.fall);
    let grace = section.take("start_grace").and_then(|item| duration(item, GRACES));
    health.start_grace = grace.unwrap_or(health.start_grace);
    section.finish();
    health
}

/// The kind with its own keys; those of other kinds are refused.
fn kind(section: &mut Section<'_>) -> HealthKind {
    let report = section.report;
    let named = section.text("kind", "\"http\", \"tcp\", \"socket.io\" or \"websocket\"");
    let known = named.as_ref().map(|text| word(report, "kind of health check", text, &KINDS));
    let kind = known.unwrap_or(Some(Kind::Http));
    let target = "\"http\", \"socket.io\" or \"websocket\"";
    let asks = kind != Some(Kind::Tcp);
    let has_path = section.key("path").is_some();
    let path = belonging(section, "path", asks, target).and_then(|item| item.text("a path such as \"/health\""));
    let host = belonging(section, "host", asks, target).and_then(|item| item.text("a host such as \"example.com\""));
    // Of an unknown kind (reported already) nothing can be said of its keys.
    let is_http = kind.is_none_or(|kind| kind == Kind::Http);
    let status = belonging(section, "status", is_http, "\"http\"").and_then(status);
    let body = belonging(section, "body", is_http, "\"http\"").and_then(body);
    if let Some(path) = &path {
        check_path(section, path);
    }
    if let Some(host) = &host {
        check_host(section, host);
    }
    let target = |default: &str| Target {
        path: path.map_or_else(|| default.to_owned(), |path| path.value),
        host: host.map(|host| host.value),
    };
    match kind {
        None | Some(Kind::Tcp) => HealthKind::Tcp,
        Some(Kind::SocketIo) => HealthKind::SocketIo(target("/socket.io/")),
        Some(Kind::WebSocket) => {
            needs_path(section, has_path, "websocket", "write path = \"/ws\": one the application upgrades");
            HealthKind::WebSocket(target("/"))
        }
        Some(Kind::Http) => {
            needs_path(section, has_path, "http", "write path = \"/health\", or kind = \"tcp\" for a connect only");
            let default = Expected::default();
            HealthKind::Http(target("/"), Expected { status: status.unwrap_or(default.status), body })
        }
    }
}

fn needs_path(section: &Section<'_>, has: bool, kind: &str, help: &str) {
    if !has {
        let message = format!("a health check of kind \"{kind}\" needs `path`");
        section.report.error_help(&section.span, message, help);
    }
}

/// A key that only some kinds have; where it does not belong, that is an error.
fn belonging<'a>(section: &mut Section<'a>, key: &'static str, belongs: bool, kinds: &str) -> Option<Item<'a>> {
    let item = section.take(key)?;
    if belongs {
        return Some(item);
    }
    item.report.error(&item.span, format!("`{key}` belongs to a check of kind {kinds}"));
    None
}

/// `204`, `"200-399"`, or a list of such.
fn status(item: Item<'_>) -> Option<Vec<RangeInclusive<u16>>> {
    if !item.is_list() {
        return one_status(item).map(|range| vec![range]);
    }
    let (report, at) = (item.report, item.span.clone());
    let items = item.list("a list such as [200, 204]", "a status")?;
    if items.is_empty() {
        report.error_help(&at, "`status` is empty: no answer would pass", "write \"200-399\", the default");
    }
    Some(items.into_iter().filter_map(one_status).collect())
}

fn one_status(item: Item<'_>) -> Option<RangeInclusive<u16>> {
    if item.is_integer() {
        let one = item.integer(u64::from(*STATUS.start())..=u64::from(*STATUS.end()))?;
        return Some(one..=one);
    }
    let report = item.report;
    let text = item.text("an integer such as 200 or a range such as \"200-399\"")?;
    let number = |part: &str| part.trim().parse::<u16>().ok().filter(|status| STATUS.contains(status));
    let (from, to) = text.value.split_once('-').unwrap_or((&text.value, &text.value));
    let range = number(from).zip(number(to)).filter(|(from, to)| from <= to);
    if range.is_none() {
        let help = "write 200, \"200-399\" or [200, 204]: from 200 to 599";
        report.error_help(&text.span, format!("`{}` is no range of statuses", text.value), help);
    }
    range.map(|(from, to)| from..=to)
}

fn body(item: Item<'_>) -> Option<String> {
    let report = item.report;
    let text = item.text("a text that the body contains")?;
    if !(1..=1024).contains(&text.value.len()) {
        report.error(&text.span, "the text a body must contain has 1 to 1024 bytes");
    }
    Some(text.value)
}

/// The path goes into a request line as it is.
fn check_path(section: &Section<'_>, path: &Text) {
    let visible = path.value.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    let parses = path.value.parse::<hyper::Uri>().is_ok_and(|uri| uri.authority().is_none());
    if !path.value.starts_with('/') || !visible || !parses || path.value.len() > 1024 {
        let help = "write \"/health\": it begins with / and is percent-encoded";
        section.report.error_help(&path.span, "the path of a health check is not one", help);
    }
}

fn check_host(section: &Section<'_>, host: &Text) {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    let whole = (1..=255).contains(&host.value.len()) && host.value.bytes().all(fits);
    if !whole || HeaderValue::from_str(&host.value).is_err() {
        let help = "write \"example.com\" or \"example.com:8080\", without http://";
        section.report.error_help(&host.span, format!("`{}` is no host", host.value), help);
    }
}
