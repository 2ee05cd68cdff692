//! `state_dir`: whether stickyd could keep its secret and its admin socket there.
//!
//! What a start would refuse is an error here, so that `check` and `run` agree. What another user may not look at (the
//! directory of the service, checked by a person) is left to the start, and so is making the directory.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::admin::SOCKET;
use super::check::Context;
use super::error::Span;
use super::file::{ConfigText, Section};
use super::{files, workers};

/// Name of the secret in the state directory.
pub(crate) const SECRET: &str = "secret";

/// Reads `state_dir`; with `keeps_secret`, the secret is in it.
pub(crate) fn read(context: &Context<'_>, root: &mut Section<'_>, keeps_secret: bool) -> Option<PathBuf> {
    let text = root.text("state_dir", "a path")?;
    let directory = context.base.join(&text.value);
    check(context, &text, &directory, keeps_secret);
    Some(directory)
}

fn check(context: &Context<'_>, text: &ConfigText, directory: &Path, keeps_secret: bool) {
    let wrong = |message: String, help: &str| context.report.error_help(&text.span, message, help);
    let socket = directory.join(SOCKET);
    if text.value.is_empty() {
        return wrong("`state_dir` is empty".to_owned(), "write state_dir = \"/var/lib/stickyd\"");
    }
    if text.value.contains('\0') {
        return wrong("a path cannot contain a NUL".to_owned(), "write state_dir = \"/var/lib/stickyd\"");
    }
    if socket.as_os_str().len() > workers::MAX_UNIX {
        let long =
            format!("`state_dir` is too long: {} would have {} bytes", socket.display(), socket.as_os_str().len());
        return wrong(long, "the path of a unix socket may have 107 bytes: use a shorter directory");
    }
    if can_be_directory(context, &text.span, directory) {
        check_socket(context, &text.span, &socket);
    }
    if keeps_secret {
        check_secret(context, text, &directory.join(SECRET));
    }
}

/// Reports a directory that neither exists nor can be made, because something else is in its place.
pub(crate) fn can_be_directory(context: &Context<'_>, at: &Span, directory: &Path) -> bool {
    const HELP: &str = "stickyd needs a directory there: for its secret, or for its admin socket";
    // The nearest part of the path that exists decides: below a file there can be no directory.
    for part in directory.ancestors() {
        match (fs::metadata(part), fs::symlink_metadata(part)) {
            (Ok(found), _) if found.is_dir() => return true,
            (Ok(_), _) => context.report.error_help(at, format!("{} is not a directory", part.display()), HELP),
            (Err(error), Ok(_)) if error.kind() == io::ErrorKind::NotFound => {
                context.report.error_help(at, format!("{} is a link to nothing", part.display()), HELP);
            }
            (Err(_), _) => continue,
        }
        return false;
    }
    true
}

/// Reports a path at which no unix socket can be bound, because another kind of file is there.
pub(crate) fn check_socket(context: &Context<'_>, at: &Span, socket: &Path) {
    if fs::symlink_metadata(socket).is_ok_and(|found| !found.file_type().is_socket()) {
        let message = format!("{} exists and is not a socket", socket.display());
        context.report.error_help(at, message, "remove it, or use another path");
    }
}

/// Checks the secret that an earlier start has kept.
fn check_secret(context: &Context<'_>, text: &ConfigText, file: &Path) {
    let help = "restore it from a backup, or remove it: a new one ends all affinity cookies";
    match fs::read(file) {
        Ok(secret) if secret.len() < files::MIN_SECRET => {
            let message = format!("{} is shorter than {} bytes", file.display(), files::MIN_SECRET);
            context.report.error_help(&text.span, message, help);
        }
        Ok(_) => files::warn_if_public(context, &text.span, file),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {}
        Err(error) => {
            context.report.error(&text.span, format!("cannot read {}: {error}", file.display()));
        }
    }
}
