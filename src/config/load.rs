//! Loads a configuration file: the whole configuration, or only the address at which its stickyd can be reached.

use std::path::Path;

#[cfg(any(test, feature = "testing"))]
use super::check::log_warnings;
use super::check::{Context, base, parse_noting};
use super::error::{Diagnostic, Errors, Report};
use super::resolve::patient;
use super::sources::{Noted, Sources, StandIn};
use super::{AdminListener, Config, admin, file, files};

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
    load_with(path, Vec::new())
}

/// Like [`load_noting`], with other bytes at some paths.
pub(crate) fn load_with(path: &Path, stand_ins: Vec<StandIn>) -> (Sources, Loaded) {
    let noted = Noted::with(stand_ins);
    let loaded = text_of(path, &noted).and_then(|text| parse_noting(&text, path, &patient(), &noted));
    (noted.into_sources(path), loaded)
}

/// Reads the address of a running stickyd's admin listener, and its token, from its file. The rest of the file may be
/// wrong, and the other files it names may be unreadable to the caller.
pub(crate) fn load_admin(path: &Path) -> Result<AdminListener, Errors> {
    let noted = Noted::default();
    let text = text_of(path, &noted)?;
    let report = Report::new(path.display().to_string(), &text);
    let resolve = patient();
    let context = Context::new(&report, base(path.parent()), &resolve, &noted);
    let found = file::root(&report).map(|mut root| {
        let state_dir = root.text("state_dir", "a path").map(|text| context.base.join(text.value));
        admin::read(&context, &mut root, state_dir.as_deref()).listener
    });
    report.finish()?;
    Ok(found.unwrap_or_else(AdminListener::none))
}

fn text_of(path: &Path, noted: &Noted) -> Result<String, Errors> {
    let unread = |reason: String| Errors::of_file(format!("cannot read {}: {reason}", path.display()));
    let help = || files::permission_help(path);
    let bytes = noted.read(path).map_err(|reason| unread(reason).with_help(help()))?;
    String::from_utf8(bytes)
        .map_err(|error| unread(format!("it is not UTF-8 at byte {}", error.utf8_error().valid_up_to())))
}
