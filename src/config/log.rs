//! `[log]`: which messages are logged, and the format of a line.

use std::path::{Path, PathBuf};

use tracing_subscriber::EnvFilter;

use super::check::Context;
use super::file::{ConfigItem, ConfigText, Section};
use super::values;

/// Settings of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Format of a line. A change needs a restart.
    pub format: LogFormat,
    /// `error`, `warn`, `info` (default), `debug`, `trace`, `off`, or tracing filter directives. A reload applies a
    /// changed level; otherwise a level set at run time stays.
    pub level: String,
    /// Logs one line per request; default off. A reload applies it.
    pub access: bool,
    /// Form of the lines of the access log; default text. A reload applies it.
    pub access_format: AccessFormat,
    /// File for the lines of the access log, opened again by each reload; `None`: they go where the log goes.
    pub access_file: Option<PathBuf>,
    /// Leaves out polls that succeed; default off. A reload applies it.
    pub skip_polls: bool,
    /// Share of the requests answered below 400 that are logged, in percent; default 100. A reload applies it.
    pub sample: u32,
}

/// Form of a line of the access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessFormat {
    /// That of the log, or `key=value` in a file of its own.
    Text,
    /// Apache's combined log format.
    Combined,
    /// One JSON object per line, with Caddy's names.
    Json,
    /// One JSON object per line, with the names of the Elastic Common Schema.
    Ecs,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: "info".to_owned(),
            access: false,
            access_format: AccessFormat::Text,
            access_file: None,
            skip_polls: false,
            sample: 100,
        }
    }
}

/// Format of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Plain text, for people and the journal; the default.
    Text,
    /// One JSON object per line, for log collectors.
    Json,
}

/// Reads the `[log]` table.
pub(crate) fn read(context: &Context<'_>, root: &mut Section<'_>) -> Log {
    let mut log = Log::default();
    let Some(mut section) = root.section("log", "a table") else { return log };
    if let Some(text) = section.text("level", "a string such as \"info\"") {
        if let Err((message, help)) = level_fault(&text.value) {
            section.report.error_help(&text.span, message, help);
        }
        log.level = text.value;
    }
    if let Some(text) = section.text("format", "\"text\" or \"json\"") {
        log.format = values::word(section.report, "log format", &text, &LOG_FORMATS).unwrap_or(log.format);
    }
    access(context, &mut section, &mut log);
    section.finish();
    log
}

/// Reads the keys of the access log.
fn access(context: &Context<'_>, section: &mut Section<'_>, log: &mut Log) {
    if let Some(item) = section.take("access") {
        (log.access, log.access_format) = access_form(item).unwrap_or((log.access, log.access_format));
    }
    let file = section.text("access_file", "a path");
    let skip = section.take("skip");
    let sample = section.take("sample");
    let sample_at = sample.as_ref().map(|item| item.span.clone());
    log.sample = sample.and_then(|item| values::percent(item, 1..=100)).unwrap_or(log.sample);
    let given = [file.as_ref().map(|file| file.span.clone()), skip.as_ref().map(|item| item.span.clone())];
    let given = given.into_iter().chain([sample_at.filter(|_| log.sample < 100)]).flatten().next();
    if let (Some(at), false) = (given, log.access) {
        let help = "write access = true, or \"combined\", \"json\", \"ecs\"";
        context.report.error_help(&at, "the access log is off, so this has no effect", help);
    }
    log.access_file = file.map(|file| access_file(context, &file));
    let words = skip.and_then(|item| item.list("a list such as [\"polls\"]", "an entry")).unwrap_or_default();
    for text in words.into_iter().filter_map(|item| item.text("\"polls\"")) {
        log.skip_polls |= values::word(context.report, "kind of request", &text, &[("polls", true)]).unwrap_or(false);
    }
}

const ACCESS_FORMATS: [(&str, AccessFormat); 4] = [
    ("text", AccessFormat::Text),
    ("combined", AccessFormat::Combined),
    ("json", AccessFormat::Json),
    ("ecs", AccessFormat::Ecs),
];

/// Reads `access`: a boolean, or the form of a line.
fn access_form(item: ConfigItem<'_>) -> Option<(bool, AccessFormat)> {
    if let Some(on) = item.as_boolean() {
        return Some((on, AccessFormat::Text));
    }
    let report = item.report;
    let text = item.text("true, false, \"text\", \"combined\", \"json\" or \"ecs\"")?;
    values::word(report, "form of the access log", &text, &ACCESS_FORMATS).map(|format| (true, format))
}

/// Checks a path: whether the file can be opened shows only when it is.
fn access_file(context: &Context<'_>, path: &ConfigText) -> PathBuf {
    let full = context.base.join(&path.value);
    let folder = full.parent().is_some_and(Path::is_dir);
    if full.is_dir() || !folder {
        let message = match folder {
            true => format!("{} is a folder", full.display()),
            false => format!("the folder of {} does not exist", full.display()),
        };
        let help = "write access_file = \"/var/log/stickyd/access.log\", and make its folder";
        context.report.error_help(&path.span, message, help);
    }
    full
}

const LOG_FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];

/// Checks a level set at run time; the same values as in the file are allowed.
///
/// # Errors
/// Describes what is wrong with the level, and what to write instead.
pub fn check_level(level: &str) -> Result<(), String> {
    level_fault(level).map_err(|(message, help)| format!("{message}: {help}"))
}

/// Checks a level; the error is a message and a hint. To tracing, any bare word is a valid directive (the target of
/// that name, at every level), so `inof` would silence everything; therefore bare words must be levels here.
fn level_fault(level: &str) -> Result<(), (String, String)> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    let bare = level.split(',').map(str::trim).find(|part| !part.contains(['=', '[']) && !LEVELS.contains(part));
    let directives = level.contains('[');
    if let Some(word) = bare.filter(|_| !directives) {
        return Err((format!("`{word}` is not a log level"), values::suggest(word, &LEVELS)));
    }
    EnvFilter::builder().parse(level).map(|_| ()).map_err(|error| {
        let help = "write \"info\", or directives such as \"info,stickyd::affinity=debug\"";
        (format!("`level` is not a valid log filter: {error}"), help.to_owned())
    })
}
