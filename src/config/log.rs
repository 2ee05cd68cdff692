//! `[log]`: what is logged, and how a line looks.

use tracing_subscriber::EnvFilter;

use super::file::{Item, Section};
use super::values;

/// Logging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// How a line looks. Needs a restart.
    pub format: LogFormat,
    /// `error`, `warn`, `info` (default), `debug`, `trace`, or a tracing filter directive.
    pub level: String,
    /// One line a request; default off.
    pub access: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".to_owned(), access: false }
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people and the journal; the default.
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// Reads `[log]`.
pub(super) fn read(root: &mut Section<'_>) -> Log {
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
    log.access = section.take("access").and_then(Item::boolean).unwrap_or(log.access);
    section.finish();
    log
}

const LOG_FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];

/// A level said at run time: the same words as in the file.
///
/// # Errors
/// What is wrong with it, and what to write instead.
pub fn check_level(level: &str) -> Result<(), String> {
    level_fault(level).map_err(|(message, help)| format!("{message}: {help}"))
}

/// A bare word that is no level is a valid directive to tracing (the target of that name, at every level): `inof` would
/// silence everything, so bare words must be levels here.
fn level_fault(level: &str) -> Result<(), (String, String)> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    let bare = level.split(',').map(str::trim).find(|part| !part.contains(['=', '[']) && !LEVELS.contains(part));
    let directives = level.contains('[');
    if let Some(word) = bare.filter(|_| !directives) {
        return Err((format!("`{word}` is no log level"), values::suggest(word, &LEVELS)));
    }
    EnvFilter::builder().parse(level).map(|_| ()).map_err(|error| {
        let help = "write \"info\", or directives such as \"info,stickyd::affinity=debug\"";
        (format!("`level` is no log filter: {error}"), help.to_owned())
    })
}
