//! `[log]`: which messages are logged, and the format of a line.

use tracing_subscriber::EnvFilter;

use super::file::{ConfigItem, Section};
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
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".to_owned(), access: false }
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
pub(crate) fn read(root: &mut Section<'_>) -> Log {
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
    log.access = section.take("access").and_then(ConfigItem::boolean).unwrap_or(log.access);
    section.finish();
    log
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
