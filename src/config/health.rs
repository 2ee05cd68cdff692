//! `health` of an upstream: the kind of health check, its times, and the answer it expects.
//!
//! Left out: the checks themselves (`upstream::health`).

use std::ops::RangeInclusive;
use std::time::Duration;

use hyper::header::HeaderValue;

use super::file::{ConfigItem, ConfigText, Section};
use super::values::{duration, word};

/// The shortest time between two checks of a worker.
const SHORTEST: Duration = Duration::from_millis(100);
const INTERVALS: RangeInclusive<Duration> = SHORTEST..=Duration::from_secs(3600);
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3600);
const GRACES: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
const STATUS: RangeInclusive<u16> = 200..=599;
const KINDS: [(&str, CheckKind); 4] = [
    ("http", CheckKind::Http),
    ("tcp", CheckKind::Tcp),
    ("socket.io", CheckKind::SocketIo),
    ("websocket", CheckKind::WebSocket),
];

/// How workers are checked. A reload applies it.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    /// Kind of the health check, with the request it sends and the answer it expects.
    pub kind: HealthKind,
    /// Interval between two checks; default 2 s, at least 100 ms.
    pub interval: Duration,
    /// Interval between two checks while the worker's state is uncertain; default a quarter of `interval`, at least
    /// 100 ms.
    pub fast_interval: Duration,
    /// Time limit for one check; default: the interval, at most 5 s.
    pub timeout: Duration,
    /// Number of passed checks in a row that make a worker up; default 2.
    pub rise: u32,
    /// Number of failed checks in a row that make a worker not up; default 3.
    pub fall: u32,
    /// Time after a worker was first seen, or came back from *gone*, in which its failed checks do not count; 0 by
    /// default.
    pub start_grace: Duration,
}

impl Health {
    /// The time-out if the file sets none.
    pub fn default_timeout(interval: Duration) -> Duration {
        interval.min(Duration::from_secs(5))
    }

    /// The fast interval if the file sets none.
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

/// The kind of a health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthKind {
    /// Connects by TCP or to the unix socket; the default for an upstream without `health`.
    Tcp,
    /// Sends `GET path` and compares the answer with the expected one.
    Http(CheckTarget, Expected),
    /// Opens an Engine.IO session by polling and closes it again; the path is `/socket.io/` by default.
    SocketIo(CheckTarget),
    /// Upgrades to WebSocket and sends a Close frame.
    WebSocket(CheckTarget),
}

/// The target of a health check's request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckTarget {
    /// Path and query in origin form, beginning with `/`.
    pub path: String,
    /// Value of the Host header; `None`: the worker's address.
    pub host: Option<String>,
}

/// The answer that an HTTP check expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Statuses that pass, as ranges; default 200..=399.
    pub status: Vec<RangeInclusive<u16>>,
    /// Text that must be in the first 64 KiB of the body; `None`: any body passes.
    pub body: Option<String>,
}

impl Default for Expected {
    fn default() -> Self {
        Self { status: vec![200..=399], body: None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CheckKind {
    Tcp,
    Http,
    SocketIo,
    WebSocket,
}

/// Reads the `health` table of an upstream.
pub(crate) fn read(mut section: Section<'_>) -> Health {
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

/// Reads the kind with its own keys; keys of other kinds are errors.
fn kind(section: &mut Section<'_>) -> HealthKind {
    let report = section.report;
    let named = section.text("kind", "\"http\", \"tcp\", \"socket.io\" or \"websocket\"");
    let known = named.as_ref().map(|text| word(report, "kind of health check", text, &KINDS));
    let kind = known.unwrap_or(Some(CheckKind::Http));
    let target = "\"http\", \"socket.io\" or \"websocket\"";
    let asks = kind != Some(CheckKind::Tcp);
    let has_path = section.key("path").is_some();
    let path = belonging(section, "path", asks, target).and_then(|item| item.text("a path such as \"/health\""));
    let host = belonging(section, "host", asks, target).and_then(|item| item.text("a host such as \"example.com\""));
    // An unknown kind was already reported; its keys cannot be checked.
    let is_http = kind.is_none_or(|kind| kind == CheckKind::Http);
    let status = belonging(section, "status", is_http, "\"http\"").and_then(status);
    let body = belonging(section, "body", is_http, "\"http\"").and_then(body);
    if let Some(path) = &path {
        check_path(section, path);
    }
    if let Some(host) = &host {
        check_host(section, host);
    }
    let target = |default: &str| CheckTarget {
        path: path.map_or_else(|| default.to_owned(), |path| path.value),
        host: host.map(|host| host.value),
    };
    match kind {
        None | Some(CheckKind::Tcp) => HealthKind::Tcp,
        Some(CheckKind::SocketIo) => HealthKind::SocketIo(target("/socket.io/")),
        Some(CheckKind::WebSocket) => {
            needs_path(section, has_path, "websocket", "write path = \"/ws\": a path the application upgrades");
            HealthKind::WebSocket(target("/"))
        }
        Some(CheckKind::Http) => {
            needs_path(section, has_path, "http", "write path = \"/health\", or kind = \"tcp\" to only connect");
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

/// Takes a key that only some kinds have; for the other kinds it is an error.
fn belonging<'a>(section: &mut Section<'a>, key: &'static str, belongs: bool, kinds: &str) -> Option<ConfigItem<'a>> {
    let item = section.take(key)?;
    if belongs {
        return Some(item);
    }
    item.report.error(&item.span, format!("`{key}` is only for checks of kind {kinds}"));
    None
}

/// Reads `status`: `204`, `"200-399"`, or a list of such values.
fn status(item: ConfigItem<'_>) -> Option<Vec<RangeInclusive<u16>>> {
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

fn one_status(item: ConfigItem<'_>) -> Option<RangeInclusive<u16>> {
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
        let help = "write 200, \"200-399\" or [200, 204]; statuses are from 200 to 599";
        report.error_help(&text.span, format!("`{}` is not a valid range of statuses", text.value), help);
    }
    range.map(|(from, to)| from..=to)
}

fn body(item: ConfigItem<'_>) -> Option<String> {
    let report = item.report;
    let text = item.text("a text that the body contains")?;
    if !(1..=1024).contains(&text.value.len()) {
        report.error(&text.span, "`body` must have from 1 to 1024 bytes");
    }
    Some(text.value)
}

/// Checks a path, which is written into the request line as it is.
fn check_path(section: &Section<'_>, path: &ConfigText) {
    let visible = path.value.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    let parses = path.value.parse::<hyper::Uri>().is_ok_and(|uri| uri.authority().is_none());
    if !path.value.starts_with('/') || !visible || !parses || path.value.len() > 1024 {
        let help = "write a path such as \"/health\": it begins with / and is percent-encoded";
        section.report.error_help(&path.span, "the path of the health check is not valid", help);
    }
}

fn check_host(section: &Section<'_>, host: &ConfigText) {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    let whole = (1..=255).contains(&host.value.len()) && host.value.bytes().all(fits);
    if !whole || HeaderValue::from_str(&host.value).is_err() {
        let help = "write \"example.com\" or \"example.com:8080\", without http://";
        section.report.error_help(&host.span, format!("`{}` is not a valid host", host.value), help);
    }
}
