//! `stickyd check`: reads a configuration as `run` does, and prints what it finds. Nothing is started. With
//! `--as-service` the files are read as the user of the systemd unit, because root may read what the service may not.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use super::service::ServiceReader;
use super::{FILE, help_if_missing};
use crate::config::{self, Config, Loaded, Severity};
use crate::printable::printable_lines;
use crate::secret::NOT_KEPT;

/// Help if no file is named, and the one of the package is missing.
const NAME_A_FILE: &str = "name a file: stickyd check stickyd.toml";

/// Arguments of `stickyd check`.
#[derive(Debug, Args)]
pub struct CheckCommand {
    /// Configuration file to check [default: /etc/stickyd/stickyd.toml]
    #[arg(value_name = "FILE", conflicts_with = "config")]
    pub file: Option<PathBuf>,
    /// Configuration file to check, as the other commands take it
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Fail on warnings, too: an expired certificate, a secret that others may read
    #[arg(long)]
    pub strict: bool,
    /// Read the file, and every file that it names, as the service may: with the user, the groups and the credentials
    /// of this systemd unit, a name or the path of a unit file. For root only [default UNIT: stickyd.service]
    #[arg(long, value_name = "UNIT", num_args = 0..=1, require_equals = true, default_missing_value = "stickyd.service")]
    pub as_service: Option<String>,
}

impl CheckCommand {
    /// Prints the result (errors and warnings to stderr, the summary to stdout) and returns the exit code: 0 or 1.
    pub fn run(&self) -> u8 {
        let named = self.file.as_deref().or(self.config.as_deref());
        let file = named.unwrap_or_else(|| Path::new(FILE));
        let (out, err) = (&mut std::io::stdout(), &mut std::io::stderr());
        match &self.as_service {
            None => report(load(named, file), self.strict, out, err),
            Some(unit) => check_as(unit, file, self.strict, out, err),
        }
    }
}

/// Loads `file`, which is the named one or that of the package.
pub(super) fn load(named: Option<&Path>, file: &Path) -> Loaded {
    help_if_missing(config::load_with_warnings(file), named.is_none(), file, NAME_A_FILE)
}

/// Checks a file as the service of the unit would read it.
fn check_as(unit: &str, file: &Path, strict: bool, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let read = ServiceReader::find(unit).and_then(|reader| Ok((reader.load(file)?, reader)));
    let (read, reader) = match read {
        Ok(read) => read,
        Err(why) => {
            let _ = writeln!(err, "error: {}", printable_lines(&why));
            return 1;
        }
    };
    let mut code = report(read.loaded, strict, out, err);
    for why in read.hidden {
        let _ = writeln!(err, "error: {}", printable_lines(&why));
        code = 1;
    }
    if code == 0 {
        let _ = writeln!(out, "read as {reader}");
    } else {
        let _ = writeln!(err, "\nread as {reader}");
        if let Some(help) = reader.help() {
            let _ = writeln!(err, "  = help: {help}");
        }
    }
    code
}

/// Prints what was loaded, and returns the exit code. A closed output does not change the result.
pub(crate) fn report(loaded: Loaded, strict: bool, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    match loaded {
        Ok((_, warnings)) if strict && !warnings.is_empty() => {
            for mut warning in warnings {
                warning.severity = Severity::Error;
                let _ = writeln!(err, "{}\n", printable_lines(&warning.to_string()));
            }
            1
        }
        Ok((config, warnings)) => {
            for warning in warnings {
                let _ = writeln!(err, "{}\n", printable_lines(&warning.to_string()));
            }
            let _ = writeln!(out, "ok: {}", summary(&config));
            // Not a warning, which --strict makes an error: a small installation may do without.
            if config.secret.is_none() && config.state_dir.is_none() {
                let _ = writeln!(out, "note: {NOT_KEPT}");
            }
            0
        }
        Err(errors) => {
            let _ = writeln!(err, "{}", printable_lines(&errors.to_string()));
            1
        }
    }
}

/// Summary of a configuration, such as `1 listener, 2 upstreams, 9 workers`.
pub(crate) fn summary(config: &Config) -> String {
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let of = |upstream: &config::Upstream| match &upstream.spawn {
        Some(spawn) => usize::try_from(spawn.instances).unwrap_or(usize::MAX),
        None => upstream.workers.len(),
    };
    let workers = config.upstreams.iter().map(of).sum();
    let listeners = count(config.listeners.len(), "listener");
    format!("{listeners}, {}, {}", count(config.upstreams.len(), "upstream"), count(workers, "worker"))
}
