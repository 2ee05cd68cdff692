//! `stickyd check`: reads a configuration as `run` does, and prints what it finds. Nothing is started.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use super::FILE;
use crate::config::{self, Config, Severity};
use crate::printable::printable_lines;

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
}

impl CheckCommand {
    /// Prints the result (errors and warnings to stderr, the summary to stdout) and returns the exit code: 0 or 1.
    pub fn run(&self) -> u8 {
        let file = self.file.as_deref().or(self.config.as_deref()).unwrap_or_else(|| Path::new(FILE));
        check(file, self.strict, &mut std::io::stdout(), &mut std::io::stderr())
    }
}

/// Does what [`CheckCommand::run`] does, with the two outputs as arguments. A closed output does not change the result.
pub(crate) fn check(file: &Path, strict: bool, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    match config::load_with_warnings(file) {
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
