//! `alarm = { … }` of an upstream: values that count as a problem.
//!
//! Left out: the looks at sockets and processes, and the decisions (`crate::notify::alarms`).

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::error::Report;
use super::file::{ConfigItem, ConfigText, Section};
use super::labels::LabelRules;
use super::values::{duration, percent, size, suggest};

/// Values of an upstream that count as a problem. A reload applies them at once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Alarm {
    /// Bounds on the sockets of the whole upstream.
    pub sockets: SocketBounds,
    /// Maximum number of restarts of one worker.
    pub restarts: Option<AlarmRate>,
    /// Maximum CPU usage of one worker, in percent of one core.
    pub cpu: Option<u32>,
    /// Maximum resident memory of one worker, in bytes.
    pub memory: Option<u64>,
    /// Maximum number of refused requests of sessions (a session is unknown to the worker) that clients see.
    pub refusals: Option<AlarmRate>,
    /// Time that a value must be out of its bounds; default 5 min. Restarts and refusals count in their own spans.
    pub lasting: Lasting,
    /// Bounds on the sockets with one value of a label.
    pub labels: Vec<LabelAlarm>,
}

/// Bounds on a number of sockets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SocketBounds {
    /// Fewer sockets than this are a problem.
    pub below: Option<u32>,
    /// A drop by this many percent, from the highest number of the last 15 minutes, is a problem.
    pub drop: Option<u32>,
}

/// Bounds on the sockets that have one value of a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelAlarm {
    /// Name of the label.
    pub label: String,
    /// Value that the label has.
    pub value: String,
    /// Bounds on the number of these sockets.
    pub sockets: SocketBounds,
}

/// A number of events in a span of time, such as `2/h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AlarmRate {
    /// More events than this are a problem.
    pub count: u32,
    /// Span of time in which events are counted.
    pub per: Duration,
}

/// Time that a value must be out of its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lasting(pub Duration);

impl Default for Lasting {
    fn default() -> Self {
        Self(Duration::from_secs(300))
    }
}

const LASTING: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(24 * 3600);

/// Maximum number of values of labels with bounds: each is counted among all sockets, every ten seconds.
const LABELS: usize = 64;

/// Longest value of a label in bytes, as `sockets::labels` keeps them.
const LONGEST_VALUE: usize = 128;

/// Reads the `alarm` table of an upstream with these labels.
pub(crate) fn read(section: &mut Section<'_>, labels: &LabelRules) -> Option<Arc<Alarm>> {
    let mut table = section.section("alarm", "a table such as { sockets_below = 50, for = \"5m\" }")?;
    let (report, at) = (table.report, table.span.clone());
    let mut alarm = Alarm { sockets: bounds(&mut table), ..Alarm::default() };
    alarm.restarts = table.take("restarts").and_then(rate);
    alarm.cpu = table.take("cpu").and_then(|item| percent(item, 1..=6400));
    alarm.memory = table.take("memory").and_then(|item| size(item, 1 << 20..=1 << 44));
    alarm.refusals = table.take("refusals").and_then(rate);
    if let Some(lasting) = table.take("for").and_then(|item| duration(item, LASTING)) {
        alarm.lasting = Lasting(lasting);
    }
    let expected = "a table such as { \"store=7\" = { sockets_below = 1 } }";
    if let Some(all) = table.section("labels", expected) {
        let one = "a table such as { sockets_below = 1 }";
        let named = all.named().into_iter();
        alarm.labels =
            named.filter_map(|(name, item)| label(report, labels, &name, item.section("a label", one)?)).collect();
    }
    if alarm.labels.len() > LABELS {
        report.error(&at, format!("there are {} labels with alarms; the maximum is {LABELS}", alarm.labels.len()));
    }
    table.finish();
    Some(Arc::new(alarm))
}

fn bounds(table: &mut Section<'_>) -> SocketBounds {
    let below = table.integer("sockets_below", 1..=100_000_000);
    let drop = table.take("sockets_drop").and_then(|item| percent(item, 1..=100));
    SocketBounds { below, drop }
}

fn label(report: &Report<'_>, labels: &LabelRules, name: &ConfigText, mut table: Section<'_>) -> Option<LabelAlarm> {
    let sockets = bounds(&mut table);
    let at = table.span.clone();
    table.finish();
    if sockets == SocketBounds::default() {
        report.error_help(&at, format!("`{}` has no bounds", name.value), "write { sockets_below = 1 }");
    }
    let Some((label, value)) =
        name.value.split_once('=').filter(|(label, value)| !label.is_empty() && !value.is_empty())
    else {
        let message = format!("`{}` is not a label with its value", name.value);
        report.error_help(&name.span, message, "write \"store=7\" = { sockets_below = 1 }");
        return None;
    };
    let known: Vec<_> = labels.iter().map(|rule| rule.name.as_str()).collect();
    if !known.contains(&label) {
        let help = match known.is_empty() {
            true => format!("write labels = {{ {label} = \"query:{label}\" }} in the upstream"),
            false => suggest(label, &known),
        };
        report.error_help(&name.span, format!("the upstream has no label `{label}`"), help);
    }
    if value.len() > LONGEST_VALUE {
        report.error(&name.span, format!("the value of a label has at most {LONGEST_VALUE} bytes"));
    }
    Some(LabelAlarm { label: label.to_owned(), value: value.to_owned(), sockets })
}

/// Reads a rate such as `"2/h"` or `"10/m"`.
fn rate(item: ConfigItem<'_>) -> Option<AlarmRate> {
    let (report, label) = (item.report, item.label.clone());
    let text = item.text("a rate such as \"2/h\"")?;
    let units = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)];
    let parts = text.value.trim().split_once('/');
    let read = parts.and_then(|(count, unit)| {
        let count = count.trim().parse::<u32>().ok().filter(|count| *count <= 1_000_000)?;
        let (_, seconds) = units.iter().find(|(word, _)| *word == unit.trim())?;
        Some(AlarmRate { count, per: Duration::from_secs(*seconds) })
    });
    if read.is_none() {
        report.error_help(
            &text.span,
            format!("{label} is not a valid rate"),
            "write a count per s, m, h or d: \"2/h\"",
        );
    }
    read
}
