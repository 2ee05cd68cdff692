//! Loads a configuration file: the whole configuration, or only the address at which its stickyd can be reached.

use std::path::Path;

#[cfg(any(test, feature = "testing"))]
use super::check::log_warnings;
use super::check::{Context, admin, base, parse_noting, state_dir};
use super::error::{Diagnostic, Errors, Report};
use super::resolve::patient;
use super::sources::{Noted, Sources};
use super::{AdminAddress, AdminListener, Config, file};

/// A configuration with its warnings, or all of its errors.
pub(crate) type Loaded = Result<(Config, Vec<Diagnostic>), Errors>;

/// Reads and checks a file. Warnings go to the log.
#[cfg(any(test, feature = "testing"))]
pub fn load(path: &Path) -> Result<Config, Errors> {
    load_with_warnings(path).map(log_warnings)
}

/// Reads and checks a file; for callers that print warnings themselves, or have no log yet.
pub fn load_with_warnings(path: &Path) -> Loaded {
    load_noting(path).1
}

/// Reads and checks a file; also returns every file that was read for it, good or bad, so that they can be watched.
pub(crate) fn load_noting(path: &Path) -> (Sources, Loaded) {
    let noted = Noted::default();
    let loaded = text_of(path, &noted).and_then(|text| parse_noting(&text, path, &patient(), &noted));
    (noted.into_sources(path), loaded)
}

/// Reads the address of a running stickyd's admin listener, and its token, from its file. The rest of the file may be
/// wrong, and the other files it names may be unreadable to the caller.
pub(crate) fn load_admin(path: &Path) -> Result<AdminListener, Errors> {
    let noted = Noted::default();
    let text = text_of(path, &noted)?;
    let report = Report::new(path.display().to_string(), &text);
    let context = Context { report: &report, base: base(path.parent()), resolve: &patient(), noted: &noted };
    let found = file::root(&report).map(|mut root| {
        let state_dir = state_dir(&context, &mut root);
        admin(&context, &mut root, state_dir.as_deref())
    });
    report.finish()?;
    Ok(found.unwrap_or(AdminListener { address: AdminAddress::None, token: None }))
}

fn text_of(path: &Path, noted: &Noted) -> Result<String, Errors> {
    let unread = |reason: String| Errors::of_file(format!("cannot read {}: {reason}", path.display()));
    let bytes = noted.read(path).map_err(unread)?;
    String::from_utf8(bytes)
        .map_err(|error| unread(format!("it is not UTF-8 at byte {}", error.utf8_error().valid_up_to())))
}
