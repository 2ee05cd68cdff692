//! `stickyd bus`: what links workers that stickyd does not start to the bus.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::{FILE, help_if_missing};
use crate::bus::environment;
use crate::config::{self, Config};
use crate::printable::printable_lines;

/// Help if no file is named, and the one of the package is missing.
const NAME_IT: &str = "name it: stickyd bus env --config stickyd.toml";

/// Arguments of `stickyd bus`.
#[derive(Debug, Args)]
pub struct BusCommand {
    /// What to do with the bus.
    #[command(subcommand)]
    pub action: BusAction,
}

/// The commands about the bus.
#[derive(Debug, Subcommand)]
pub enum BusAction {
    /// Print the environment variables that link a Node.js worker to the bus, as one line for a shell
    ///
    /// For workers that PM2, systemd or Node's cluster start. Workers of `spawn` get these variables by themselves.
    ///
    /// Example: eval "export $(stickyd bus env)" && pm2 start ecosystem.config.cjs
    Env(BusEnvCommand),
}

/// Arguments of `stickyd bus env`.
#[derive(Debug, Args)]
pub struct BusEnvCommand {
    /// Upstream that the workers belong to; may be left out if there is only one
    #[arg(value_name = "UPSTREAM")]
    pub upstream: Option<String>,
    /// Configuration file of the running stickyd [default: /etc/stickyd/stickyd.toml]
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl BusCommand {
    /// Runs the command and returns the exit code.
    pub fn run(&self) -> u8 {
        let BusAction::Env(env) = &self.action;
        match env.line() {
            Ok(line) => u8::from(writeln!(io::stdout(), "{line}").is_err()),
            Err(error) => {
                let _ = writeln!(io::stderr(), "error: {}", printable_lines(&error));
                1
            }
        }
    }
}

impl BusEnvCommand {
    fn line(&self) -> Result<String, String> {
        let config = load(self.config.as_deref(), Path::new(FILE))?;
        let state_dir = config.state_dir.as_deref();
        let state_dir = state_dir.ok_or("the bus needs `state_dir` in the file, for its socket")?;
        let upstream = self.choose(&config)?;
        // A running stickyd has written it; one that starts later than the workers will find the same text.
        environment::write_preload(state_dir).map_err(|error| unwritten(state_dir, &error))?;
        let options = std::env::var("NODE_OPTIONS").unwrap_or_default();
        let variables = environment::variables(state_dir, &upstream, &options);
        Ok(variables.map(|(name, value)| format!("{name}={}", quoted(&value))).join(" "))
    }

    fn choose(&self, config: &Config) -> Result<String, String> {
        let names: Vec<_> = config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
        let found = match (&self.upstream, config.upstreams.as_slice()) {
            (Some(name), all) => all.iter().find(|upstream| upstream.name == *name),
            (None, [only]) => Some(only),
            (None, _) => return Err(format!("name one of the upstreams: {}", names.join(", "))),
        };
        let upstream = found.ok_or_else(|| format!("there is no such upstream; there are: {}", names.join(", ")))?;
        if !upstream.bus {
            return Err(format!("upstream {} has bus = false", upstream.name));
        }
        Ok(upstream.name.clone())
    }
}

/// Loads the named file, or the one of the package. The error is without the word "error" before it.
fn load(named: Option<&Path>, package: &Path) -> Result<Config, String> {
    let file = named.unwrap_or(package);
    let loaded = help_if_missing(config::load_with_warnings(file), named.is_none(), file, NAME_IT);
    loaded.map(|(config, _)| config).map_err(|errors| {
        let text = errors.to_string();
        text.strip_prefix("error: ").unwrap_or(&text).to_owned()
    })
}

/// Why the preload cannot be written, with what helps in the common cases.
fn unwritten(state_dir: &Path, error: &io::Error) -> String {
    let why = format!("cannot write the preload to {}: {error}", state_dir.display());
    let help = match error.kind() {
        io::ErrorKind::NotFound => "start stickyd first, which makes this folder",
        io::ErrorKind::PermissionDenied => "run it as the user of stickyd; the bus is for one user",
        _ => return why,
    };
    format!("{why}\n  = help: {help}")
}

/// A value as a word of a POSIX shell.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=:@%+,".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_one_error_and_the_default_one_has_help() {
        let missing = Path::new("/nonexistent/s.toml");
        let why = "cannot read /nonexistent/s.toml: No such file or directory (os error 2)";
        assert_eq!(load(Some(missing), Path::new("/nonexistent/default.toml")).unwrap_err(), why);
        let help = "name it: stickyd bus env --config stickyd.toml";
        assert_eq!(load(None, missing).unwrap_err(), format!("{why}\n  = help: {help}"));
    }

    #[test]
    fn a_preload_that_cannot_be_written_has_help() {
        let missing = environment::write_preload(Path::new("/nonexistent/state")).unwrap_err();
        let said = unwritten(Path::new("/nonexistent/state"), &missing);
        assert!(said.starts_with("cannot write the preload to /nonexistent/state: No such file"), "{said}");
        assert!(said.ends_with("\n  = help: start stickyd first, which makes this folder"), "{said}");
        let said = |kind: io::ErrorKind| unwritten(Path::new("/state"), &kind.into());
        assert!(
            said(io::ErrorKind::PermissionDenied)
                .ends_with("help: run it as the user of stickyd; the bus is for one user")
        );
        assert!(!said(io::ErrorKind::StorageFull).contains("help"));
    }
}
