//! The log level: the one in the file, overridden by `RUST_LOG`, overridden by the level an operator sets at run time.
//!
//! A level set at run time survives reloads until the level in the file changes; admin states of workers work the same
//! way.

use std::sync::{Mutex, MutexGuard};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::config;
use crate::locks::lock;

type LevelSetter = Box<dyn Fn(EnvFilter) + Send>;

/// The levels set by each source, and how the subscriber's filter is replaced.
#[derive(Default)]
struct LevelSettings {
    file: String,
    environment: Option<String>,
    operator: Option<String>,
    /// Replaces the filter of the process's one subscriber, whose type names all its layers; `None` before it starts.
    set: Option<LevelSetter>,
}

static SAID: Mutex<Option<LevelSettings>> = Mutex::new(None);

/// The log level, and which source set it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Level {
    /// The level in force.
    pub level: String,
    /// Source of the level in force: `file`, `environment` or `run time`.
    pub from: &'static str,
    /// The level in the configuration file.
    pub file: String,
}

impl LevelSettings {
    fn now(&self) -> Level {
        let (level, from) = match (&self.operator, &self.environment) {
            (Some(level), _) => (level, "run time"),
            (None, Some(level)) => (level, "environment"),
            (None, None) => (&self.file, "file"),
        };
        Level { level: level.clone(), from, file: self.file.clone() }
    }

    fn apply(&self) {
        if let (Some(set), Ok(filter)) = (&self.set, filter(&self.now().level)) {
            set(filter);
        }
    }
}

/// Locks the levels. A poisoned lock is safe to use: every change of a level is complete in itself.
fn said() -> MutexGuard<'static, Option<LevelSettings>> {
    lock(&SAID)
}

/// Parses a level or a filter text. h2 and rustls warn about what clients send, one line per frame (such as an
/// unrequested PONG). Clients must not fill the log and the metrics count them, so both are off unless the text names
/// them.
fn filter(text: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::try_new(format!("h2=off,rustls=off,{text}"))
}

/// Records the level in the file and the one in `RUST_LOG`, and returns the filter to start with.
pub(crate) fn begin(level: &str) -> EnvFilter {
    let environment = std::env::var(EnvFilter::DEFAULT_ENV).ok();
    let environment = environment.filter(|text| !text.is_empty() && filter(text).is_ok());
    let mut said = said();
    let said = said.insert(LevelSettings { file: level.to_owned(), environment, ..LevelSettings::default() });
    filter(&said.now().level).unwrap_or_else(|_| EnvFilter::new("info"))
}

/// Sets the function that replaces the filter from now on.
pub(crate) fn changes_by(set: impl Fn(EnvFilter) + Send + 'static) {
    if let Some(said) = &mut *said() {
        said.set = Some(Box::new(set));
    }
}

/// Returns the level in force now.
pub(crate) fn level() -> Level {
    said().get_or_insert_default().now()
}

/// Applies the level of a reloaded file. If the file's level has not changed, a level set at run time stays in force.
pub(crate) fn set_level(level: &str) {
    let mut said = said();
    let said = said.get_or_insert_default();
    if said.file != level {
        (said.file, said.operator) = (level.to_owned(), None);
        said.apply();
    }
}

/// Sets the level at run time; `None` removes it, so that the environment or the file decides again.
///
/// # Errors
/// The text is not a valid log level; the error explains why.
pub(crate) fn say_level(level: Option<&str>) -> Result<Level, String> {
    if let Some(level) = level {
        config::check_level(level)?;
    }
    let mut said = said();
    let said = said.get_or_insert_default();
    said.operator = level.map(str::to_owned);
    said.apply();
    Ok(said.now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_cannot_make_libraries_log() {
        for (text, has) in [
            ("info", &["h2=off", "rustls=off", "info"][..]),
            ("h2=trace,info", &["h2=trace", "rustls=off", "info"]),
            ("stickyd::affinity=debug", &["h2=off", "stickyd::affinity=debug"]),
        ] {
            let filter = filter(text).unwrap().to_string();
            let said: Vec<_> = filter.split(',').collect();
            assert!(has.iter().all(|one| said.contains(one)), "{text}: {filter}");
            assert_eq!(said.iter().filter(|one| one.starts_with("h2=")).count(), 1, "{text}: {filter}");
        }
        assert!(filter("=nonsense=").is_err());
    }

    #[test]
    fn a_run_time_level_lasts_until_the_level_in_the_file_changes() {
        let mut said = LevelSettings { file: "info".to_owned(), ..LevelSettings::default() };
        assert_eq!((said.now().level.as_str(), said.now().from), ("info", "file"));
        said.environment = Some("warn".to_owned());
        assert_eq!((said.now().level.as_str(), said.now().from), ("warn", "environment"));
        said.operator = Some("debug".to_owned());
        assert_eq!((said.now().level.as_str(), said.now().from), ("debug", "run time"));
        set_level("info");
        say_level(Some("debug")).unwrap();
        set_level("info");
        assert_eq!(level().level, "debug", "the level in the file has not changed");
        set_level("warn");
        assert_eq!((level().level.as_str(), level().from), ("warn", "file"));
        assert!(say_level(Some("inof")).unwrap_err().contains("is not a log level"));
    }
}
