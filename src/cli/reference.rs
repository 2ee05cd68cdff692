//! `stickyd reference`: every key of the configuration, metric and kind of event, from the code that has them.

use std::fmt::Write as _;
use std::io::Write as _;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::config::survey::{self, KeyFacts};
use crate::events::EventKind;
use crate::metrics::catalogue::{self, MetricFacts};

/// Arguments of `stickyd reference`.
#[derive(Debug, Args)]
pub struct ReferenceCommand {
    /// Part to print; all of them by default
    #[arg(value_name = "PART")]
    pub part: Option<ReferencePart>,
    /// Print the reference as JSON
    #[arg(long)]
    pub json: bool,
}

/// A part of the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReferencePart {
    /// Every key of the configuration
    Keys,
    /// Every family of metrics
    Metrics,
    /// Every kind of event
    Events,
}

/// The reference as JSON.
#[derive(Serialize)]
struct ReferenceJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<Vec<EventJson>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<Vec<KeyJson>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<Vec<MetricJson>>,
}

#[derive(Serialize)]
struct KeyJson {
    /// What applies a change: `reload` or `restart`.
    applied_by: &'static str,
    /// `null` for a required key.
    default: Option<String>,
    key: String,
    range: Option<String>,
    /// Empty for the top of the file.
    table: String,
    r#type: String,
}

#[derive(Serialize)]
struct EventJson {
    kind: &'static str,
    meaning: &'static str,
}

#[derive(Serialize)]
struct MetricJson {
    help: String,
    labels: Vec<String>,
    name: String,
    r#type: &'static str,
}

impl ReferenceCommand {
    /// Prints the reference and returns the exit code.
    pub fn run(&self) -> u8 {
        let wants = |part| self.part.is_none_or(|one| one == part);
        let keys = wants(ReferencePart::Keys).then(survey::keys);
        let metrics = wants(ReferencePart::Metrics).then(catalogue::metrics);
        let has_events = wants(ReferencePart::Events);
        let text = if self.json {
            json(keys, metrics, has_events)
        } else {
            markdown(keys.as_deref(), metrics.as_deref(), has_events)
        };
        u8::from(std::io::stdout().write_all(text.as_bytes()).is_err())
    }
}

fn json(keys: Option<Vec<KeyFacts>>, metrics: Option<Vec<MetricFacts>>, has_events: bool) -> String {
    let some = |text: String| (!text.is_empty()).then_some(text);
    let key = |key: KeyFacts| KeyJson {
        applied_by: applied_by(&key),
        default: some(key.default),
        key: key.key,
        range: some(key.range),
        table: key.table,
        r#type: key.kind,
    };
    let metric = |one: MetricFacts| MetricJson { help: one.help, labels: one.labels, name: one.name, r#type: one.kind };
    let event = |kind: &EventKind| EventJson { kind: kind.word(), meaning: kind.meaning().trim() };
    let all = ReferenceJson {
        events: has_events.then(|| EventKind::ALL.iter().map(event).collect()),
        keys: keys.map(|keys| keys.into_iter().map(key).collect()),
        metrics: metrics.map(|metrics| metrics.into_iter().map(metric).collect()),
    };
    serde_json::to_string_pretty(&all).unwrap_or_default() + "\n"
}

fn applied_by(key: &KeyFacts) -> &'static str {
    if key.restart { "restart" } else { "reload" }
}

fn markdown(keys: Option<&[KeyFacts]>, metrics: Option<&[MetricFacts]>, has_events: bool) -> String {
    let mut out = String::new();
    if let Some(keys) = keys {
        let version = env!("CARGO_PKG_VERSION");
        let _ = write!(
            out,
            "# Keys of the configuration\n\nPrinted by `stickyd reference keys` of version {version}. \
             `conf/stickyd.toml` says what each key is\nfor. `NAME` is a name of your choice, and `[]` stands for \
             each element of a list. \"reload\": an edit\nof the file applies a change; \"restart\": stickyd must be \
             restarted.\n"
        );
        for table in tables(keys) {
            let _ = write!(
                out,
                "\n## {}\n\n| key | type | range | default | a change needs |\n|---|---|---|---|---|\n",
                heading(table)
            );
            for key in keys.iter().filter(|key| key.table == table) {
                let default = if key.default.is_empty() { "required".to_owned() } else { shown(&key.default) };
                let cells =
                    [format!("`{}`", key.key), cell(&key.kind), cell(&key.range), default, applied_by(key).to_owned()];
                let _ = writeln!(out, "| {} |", cells.join(" | "));
            }
        }
    }
    if let Some(metrics) = metrics {
        let gap = if out.is_empty() { "" } else { "\n" };
        let _ = write!(out, "{gap}# Metrics\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n");
        for metric in metrics {
            let labels = metric.labels.join(", ");
            let _ = writeln!(out, "| `{}` | {} | {labels} | {} |", metric.name, metric.kind, cell(&metric.help));
        }
    }
    if has_events {
        let gap = if out.is_empty() { "" } else { "\n" };
        let _ = write!(out, "{gap}# Events\n\n| kind | meaning |\n|---|---|\n");
        for kind in EventKind::ALL {
            let _ = writeln!(out, "| `{}` | {} |", kind.word(), cell(kind.meaning().trim()));
        }
    }
    out
}

/// The tables of the keys, each once, in their order.
fn tables(keys: &[KeyFacts]) -> Vec<&str> {
    let mut all: Vec<&str> = Vec::new();
    for key in keys {
        if !all.contains(&key.table.as_str()) {
            all.push(&key.table);
        }
    }
    all
}

/// The header of a table as the file has it.
fn heading(table: &str) -> String {
    match table.strip_suffix("[]") {
        _ if table.is_empty() => "Top of the file".to_owned(),
        Some(list) => format!("`[[{list}]]`"),
        None => format!("`[{table}]`"),
    }
}

/// A default: a value as code, words as they are.
fn shown(default: &str) -> String {
    let is_value = default.starts_with(['"', '[', '{']) || default.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    let is_word = matches!(default, "true" | "false");
    if is_value || is_word { format!("`{default}`") } else { cell(default) }
}

/// A text in a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
