//! `stickyd run`: where its configuration comes from. Left out: starting the server, which `main` does.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{FILE, quick};
use crate::config::{self, AdminAddress, Config, Diagnostic, Loaded, Severity, Sources};
use crate::systemd::service_unit::check_confined;

/// Arguments of `stickyd run`.
#[derive(Debug, Args)]
pub struct RunCommand {
    /// Configuration file; conf/stickyd.toml documents every key [default: /etc/stickyd/stickyd.toml, if it exists]
    #[arg(value_name = "FILE", conflicts_with_all = ["config", "listen", "worker", "spawn", "command"])]
    pub file: Option<PathBuf>,
    /// Configuration file, as the other commands take it
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["listen", "worker", "spawn", "command"])]
    pub config: Option<PathBuf>,
    /// Address to accept clients on, with --spawn also :PORT; may be given several times [default with --spawn: PORT of
    /// the environment, else 3000]
    #[arg(short, long, value_name = "IP:PORT", requires = "workers")]
    pub listen: Vec<String>,
    /// Address of an application process: 127.0.0.1:3000, a range 127.0.0.1:3001-3004, or unix:/run/app/1.sock; may be
    /// given several times
    #[arg(short, long, value_name = "ADDRESS", group = "workers", requires = "listen", conflicts_with = "spawn")]
    pub worker: Vec<String>,
    /// Start this many workers of the command after --, or one per core with max. Each is given a port of its own in
    /// PORT, is restarted when it ends, and is replaced by a new one on SIGHUP
    #[arg(short, long, value_name = "N|max", group = "workers", value_parser = config::spawn::parse_instances, requires = "command")]
    pub spawn: Option<u32>,
    /// Let workers keep their messages to their own clients, instead of sharing them over the bus
    #[arg(long, requires = "spawn")]
    pub no_bus: bool,
    /// The command that --spawn starts, with its arguments
    #[arg(last = true, value_name = "COMMAND", requires = "spawn")]
    pub command: Vec<String>,
}

impl RunCommand {
    /// Returns why the command line is incomplete, if it is: it names no file, and there is none at the default path.
    pub fn usage_error(&self) -> Option<String> {
        self.usage_error_without(Path::new(FILE))
    }

    pub(super) fn config_file(&self) -> Option<&Path> {
        self.file.as_deref().or(self.config.as_deref())
    }

    pub(super) fn usage_error_without(&self, default: &Path) -> Option<String> {
        let given = self.config_file().is_some() || !self.listen.is_empty() || self.spawn.is_some();
        (!given && !default.exists()).then(|| {
            format!(
                "error: there is no configuration: {} does not exist\n\n\
                 Start without a file, with one listener and the application's processes:\n    \
                 stickyd run --listen 0.0.0.0:8080 --worker 127.0.0.1:3001-3004\n\
                 or let stickyd start them:\n    \
                 stickyd run --spawn max -- node server.js\n\
                 or with a file of your own:\n    \
                 stickyd run --config stickyd.toml\n\n\
                 For more information, try 'stickyd run --help'.",
                default.display()
            )
        })
    }

    /// Loads the configuration, and returns it with its warnings and the files it was read from. The caller logs the
    /// warnings, since the log is set up only afterwards (its level is in the configuration).
    pub fn load(&self) -> (Option<Sources>, Loaded) {
        if let (None, Some(instances)) = (self.config_file(), self.spawn) {
            let config = config::for_spawn(&self.listen, instances, &self.command);
            let config = config.map(|config| self.with_bus(config));
            return (None, config.map(|config| with_admin_socket(Config { introduces: false, ..config })));
        }
        if self.config_file().is_none() && !self.listen.is_empty() {
            return (None, config::for_command_line(&self.listen, &self.worker).map(with_admin_socket));
        }
        let (sources, loaded) = config::load_noting(self.config_file().unwrap_or_else(|| Path::new(FILE)));
        (Some(sources), loaded)
    }

    /// Checks that the service manager lets this process start workers, if it has any to start.
    ///
    /// # Errors
    /// The message for the operator.
    pub fn check_unit(&self, config: &Config) -> Result<(), String> {
        let is_hardened = std::env::var_os("STICKYD_UNIT").is_some_and(|unit| unit == "hardened");
        if is_hardened { check_confined(config).map_err(|why| format!("error: {why}")) } else { Ok(()) }
    }

    fn with_bus(&self, mut config: Config) -> Config {
        config.upstreams.iter_mut().for_each(|upstream| upstream.bus = !self.no_bus);
        config
    }
}

/// Adds what a configuration without a file has: an admin socket (that there can be none is a warning), and a look for
/// Socket.IO.
fn with_admin_socket(mut config: Config) -> (Config, Vec<Diagnostic>) {
    config.introduces = true;
    let port = config.listeners.first().map_or(0, |listener| listener.address.port());
    match quick::socket(port) {
        Ok(path) => {
            config.admin.address = AdminAddress::Unix(path);
            (config, Vec::new())
        }
        Err(error) => {
            let message = format!("there is no admin socket, so `stickyd status` and others do not work: {error}");
            (config, vec![Diagnostic { severity: Severity::Warning, message, place: None, help: None }])
        }
    }
}
