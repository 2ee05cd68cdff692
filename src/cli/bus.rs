//! `stickyd bus`: what links workers that stickyd does not start to the bus.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::FILE;
use crate::bus::environment;
use crate::config::{self, Config};

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
    /// Example: eval "export $(stickyd bus env)" && pm2 start server.js -i 4
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
                let _ = writeln!(io::stderr(), "error: {error}");
                1
            }
        }
    }
}

impl BusEnvCommand {
    fn line(&self) -> Result<String, String> {
        let file = self.config.clone().unwrap_or_else(|| FILE.into());
        let config =
            config::load_with_warnings(&file).map(|(config, _)| config).map_err(|errors| errors.to_string())?;
        let state_dir = config.state_dir.as_deref();
        let state_dir = state_dir.ok_or("the bus needs `state_dir` in the file, for its socket")?;
        let upstream = self.choose(&config)?;
        // A running stickyd has written it; one that starts later than the workers will find the same text.
        environment::write_preload(state_dir)
            .map_err(|error| format!("cannot write the preload to {}: {error}", state_dir.display()))?;
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

/// A value as a word of a POSIX shell.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=:@%+,".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', r"'\''"))
}
