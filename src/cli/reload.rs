//! `stickyd reload`: does what SIGHUP does, and reports the result.

use std::io::Write;

use clap::Args;
use hyper::Method;

use super::remote::{NO_BODY, Remote, RemoteError};
use crate::admin::api::{ReloadAnswer, ReloadFailure, paths};
use crate::printable::printable_lines;

/// Arguments of `stickyd reload`.
#[derive(Debug, Args)]
pub struct ReloadCommand {
    /// The stickyd to reload.
    #[command(flatten)]
    pub remote: Remote,
}

impl ReloadCommand {
    /// Requests a reload, prints the result, and returns the exit code: 0, or 1 if nothing was reloaded.
    pub fn run(&self) -> u8 {
        match self.reload() {
            Ok(Ok(said)) => {
                print(&said, &mut std::io::stdout(), &mut std::io::stderr());
                0
            }
            Ok(Err(failure)) => {
                let error = printable_lines(&failure.error);
                eprintln!("{error}\n\nnot reloaded, the old configuration stays in use");
                1
            }
            Err(refusal) => {
                eprintln!("{refusal}");
                1
            }
        }
    }

    fn reload(&self) -> Result<Result<ReloadAnswer, ReloadFailure>, RemoteError> {
        let admin = self.remote.find()?;
        let answer = admin.ask(Method::POST, paths::RELOAD, NO_BODY)?;
        if answer.status.is_success() { admin.read(&answer).map(Ok) } else { admin.read(&answer).map(Err) }
    }
}

/// Prints the result of a reload; a closed output is ignored.
fn print(said: &ReloadAnswer, out: &mut dyn Write, err: &mut dyn Write) {
    for warning in &said.warnings {
        let _ = writeln!(err, "warning: {}", printable_lines(warning));
    }
    let _ = writeln!(out, "reloaded");
    for what in &said.needs_restart {
        let _ = writeln!(out, "{what} has changed in the file but needs a restart");
    }
}
