//! `eject` of an upstream: when failing live requests set a worker aside, for how long, and for which part of the pool
//! at most.
//!
//! Left out: the decision itself (`upstream::eject`).

use std::ops::RangeInclusive;
use std::time::Duration;

use super::file::ConfigItem;
use super::values::{duration, percent};

const WINDOWS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);
const TIMES: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(24 * 3600);

/// When live failures eject a worker. A reload applies it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eject {
    /// Whether workers are ejected at all; `eject = false` in the file switches it off.
    pub on: bool,
    /// Number of failures in a row (no connect, a broken connection, no answer in time) that ejects a worker, default
    /// 5; 0 switches this rule off.
    pub failures: u32,
    /// Percentage of server errors (500, 502, 503, 504) and failures among the requests of the window that ejects a
    /// worker, default 50; 0 switches this rule off.
    pub errors: u32,
    /// Minimum number of requests in the window for `errors` to apply; default 20.
    pub volume: u32,
    /// Length of the sliding window; default 10 s.
    pub window: Duration,
    /// Duration of the first ejection; default 10 s. Each further ejection lasts twice as long.
    pub time: Duration,
    /// Maximum duration of an ejection; default 5 min.
    pub max_time: Duration,
    /// Maximum percentage of the pool that may be ejected at the same time; default 50.
    pub max_share: u32,
}

impl Default for Eject {
    fn default() -> Self {
        Self {
            on: true,
            failures: 5,
            errors: 50,
            volume: 20,
            window: Duration::from_secs(10),
            time: Duration::from_secs(10),
            max_time: Duration::from_secs(300),
            max_share: 50,
        }
    }
}

/// Reads the `eject` key of an upstream: a table, or `false`.
pub(crate) fn read(item: ConfigItem<'_>) -> Eject {
    let mut eject = Eject::default();
    let expected = "false or a table such as { failures = 5, errors = \"50%\" }";
    if item.is_boolean() {
        eject.on = item.boolean().unwrap_or(eject.on);
        return eject;
    }
    let Some(mut section) = item.section("`eject`", expected) else { return eject };
    eject.failures = section.integer("failures", 0..=1_000).unwrap_or(eject.failures);
    eject.errors = section.take("errors").and_then(|item| percent(item, 0..=100)).unwrap_or(eject.errors);
    eject.volume = section.integer("volume", 1..=1_000_000).unwrap_or(eject.volume);
    let mut time = |key, range| section.take(key).and_then(|item| duration(item, range));
    eject.window = time("window", WINDOWS).unwrap_or(eject.window);
    eject.time = time("time", TIMES).unwrap_or(eject.time);
    let max_time = section.take("max_time").and_then(|item| {
        let (report, at) = (item.report, item.span.clone());
        let max_time = duration(item, TIMES)?;
        if max_time < eject.time {
            let time = humantime::format_duration(eject.time);
            report.error(&at, format!("`max_time` must not be shorter than `time` ({time})"));
        }
        Some(max_time)
    });
    eject.max_time = max_time.unwrap_or_else(|| eject.max_time.max(eject.time));
    let max_share = section.take("max_share").and_then(|item| percent(item, 1..=100));
    eject.max_share = max_share.unwrap_or(eject.max_share);
    section.finish();
    eject
}
