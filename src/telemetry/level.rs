//! What is logged: the file's word, `RUST_LOG`, which beats it, and what an operator says at run time, which beats both.
//!
//! An operator's word holds over reloads until the file says another level than before, as with what he says of workers.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::config;

type Set = Box<dyn Fn(EnvFilter) + Send>;

/// What has been said of the level, and how it is set.
#[derive(Default)]
struct Said {
    file: String,
    environment: Option<String>,
    operator: Option<String>,
    /// The one subscriber's own handle, whose type names all of its layers; `None` before there is one.
    set: Option<Set>,
}

static SAID: Mutex<Option<Said>> = Mutex::new(None);

/// The level, and whose word it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level {
    /// What holds.
    pub level: String,
    /// `file`, `environment` or `run time`.
    pub from: &'static str,
    /// What the file says.
    pub file: String,
}

impl Said {
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

/// Whether a panic came between does not matter: each word is whole.
fn said() -> MutexGuard<'static, Option<Said>> {
    SAID.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The filter a text means. h2 and rustls warn of what clients do, a line a frame (a PONG nobody asked for): a log is not
/// theirs to fill, and the metrics count them. A text that names these two has its way.
fn filter(text: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::try_new(format!("h2=off,rustls=off,{text}"))
}

/// The file says `level`; `RUST_LOG` may say another. The filter to begin with.
pub(super) fn begin(level: &str) -> EnvFilter {
    let environment = std::env::var(EnvFilter::DEFAULT_ENV).ok();
    let environment = environment.filter(|text| !text.is_empty() && filter(text).is_ok());
    let mut said = said();
    let said = said.insert(Said { file: level.to_owned(), environment, ..Said::default() });
    filter(&said.now().level).unwrap_or_else(|_| EnvFilter::new("info"))
}

/// How the level is changed from now on.
pub(super) fn changes_by(set: impl Fn(EnvFilter) + Send + 'static) {
    if let Some(said) = &mut *said() {
        said.set = Some(Box::new(set));
    }
}

/// What holds now.
pub fn level() -> Level {
    said().get_or_insert_default().now()
}

/// A reload: the file says this. A level it said before changes nothing.
pub fn set_level(level: &str) {
    let mut said = said();
    let said = said.get_or_insert_default();
    if said.file != level {
        (said.file, said.operator) = (level.to_owned(), None);
        said.apply();
    }
}

/// An operator says this, now; `None`: he takes his word back.
///
/// # Errors
/// It is no level, in words.
pub fn say_level(level: Option<&str>) -> Result<Level, String> {
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
    fn clients_cannot_make_libraries_talk() {
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
    fn the_last_word_is_the_operators_until_the_file_says_a_new_one() {
        let mut said = Said { file: "info".to_owned(), ..Said::default() };
        assert_eq!((said.now().level.as_str(), said.now().from), ("info", "file"));
        said.environment = Some("warn".to_owned());
        assert_eq!((said.now().level.as_str(), said.now().from), ("warn", "environment"));
        said.operator = Some("debug".to_owned());
        assert_eq!((said.now().level.as_str(), said.now().from), ("debug", "run time"));
        set_level("info");
        say_level(Some("debug")).unwrap();
        set_level("info");
        assert_eq!(level().level, "debug", "nothing new");
        set_level("warn");
        assert_eq!((level().level.as_str(), level().from), ("warn", "file"));
        assert!(say_level(Some("inof")).unwrap_err().contains("no log level"));
    }
}
