//! The command line: what may be typed. Commands that talk to a running stickyd have files of their own, over `remote`.
//!
//! `run` and `check` name their file differently on purpose: `--config` may be left out for `run` (then `--listen` and
//! `--worker` say it all), a check without a file is nothing. Leaves out starting anything: `main` does that with the
//! [`Config`] from [`Run::load`]. Commands end with a `u8`, because only `main` decides how the process ends.

mod broadcast;
mod close;
mod progress;
mod reload;
mod remote;
mod say;
mod show;
mod sockets;
mod table;
mod top;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::{self, Config, Loaded, Sources};

pub use broadcast::Broadcast;
pub use close::Close;
pub use reload::Reload;
pub use remote::{Admin, Asking, Refusal, Remote};
pub use say::{Drain, Log, Maint, Ready, Target};
pub use show::{Explain, Kind, Pin, Stats, Status, Workers};
pub use sockets::{Filters, Sockets};
pub use top::Top;

/// Below the help of everything.
const EXIT_CODES: &str = "Exit codes: 0 done; 1 not done, standard error says why; 2 wrong command line.";

/// Reverse proxy that keeps every Socket.IO and WebSocket session on the worker that owns it.
#[derive(Debug, Parser)]
#[command(name = "stickyd", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the proxy, with a configuration file or with --listen and --worker alone
    Run(Run),
    /// Check a configuration file: 0 and a summary, or 1 and every error in it
    Check(Check),
    /// Make a running stickyd read its file again: 0, or 1 and why not
    Reload(Reload),
    /// Show a running stickyd: version, configuration, and how near its limits it is
    Status(Status),
    /// Show every worker: state and why, sessions, restarts, its process
    Workers(Workers),
    /// Show live sockets, filtered and sorted; or all that is known of one
    Sockets(Sockets),
    /// Show workers and the busiest sockets, again and again
    Top(Top),
    /// Send a text, or a Socket.IO event, to WebSockets' clients
    Broadcast(Broadcast),
    /// Close sockets: by id, or all that fit a filter, at once or over a time
    Close(Close),
    /// Show counters, and rates over the last minute
    Stats(Stats),
    /// Show which worker a session is pinned to
    Pin(Pin),
    /// Say which worker would get a request, why, and who if that one died; changes nothing
    Explain(Explain),
    /// Give a worker no new sessions; end the ones it has over a grace, if one is given
    Drain(Drain),
    /// End all sessions of a worker at once, and give it nothing
    Maint(Maint),
    /// Take drain or maint back
    Ready(Ready),
    /// Show or change what is logged, until a restart or until the file says something new
    Log(Log),
    /// Print a completion script: stickyd completions bash > /etc/bash_completion.d/stickyd
    Completions(Completions),
}

/// `stickyd completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// For which shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

impl Completions {
    /// Prints it.
    pub fn run(&self) -> u8 {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "stickyd", &mut script);
        u8::from(std::io::stdout().write_all(&script).is_err())
    }
}

/// `stickyd run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Configuration file (every key: conf/stickyd.toml)
    #[arg(short, long, value_name = "FILE", required_unless_present_all = ["listen", "worker"], conflicts_with_all = ["listen", "worker"])]
    pub config: Option<PathBuf>,
    /// Address to accept clients on; may be given several times
    #[arg(short, long, value_name = "IP:PORT")]
    pub listen: Vec<String>,
    /// Application process: 127.0.0.1:3000, a range 127.0.0.1:3001-3004, or unix:/run/app/1.sock; may be given several times
    #[arg(short, long, value_name = "ADDRESS")]
    pub worker: Vec<String>,
}

impl Run {
    /// The configuration meant, with its warnings, and what it was read from. The log is not set up before it (its level
    /// is in there), so the caller logs them.
    pub fn load(&self) -> (Option<Sources>, Loaded) {
        let Some(file) = &self.config else {
            let config = config::for_command_line(&self.listen, &self.worker);
            return (None, config.map(|config| (config, Vec::new())));
        };
        let (sources, loaded) = config::load_noting(file);
        (Some(sources), loaded)
    }
}

/// `stickyd check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Configuration file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

impl Check {
    /// Prints what was found (errors and warnings to stderr, the summary to stdout) and returns the exit code: 0 or 1.
    pub fn run(&self) -> u8 {
        check(&self.file, &mut std::io::stdout(), &mut std::io::stderr())
    }
}

/// [`Check::run`] with the two outputs as arguments. A closed output changes nothing about the verdict.
pub fn check(file: &Path, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    match config::load_with_warnings(file) {
        Ok((config, warnings)) => {
            for warning in warnings {
                let _ = writeln!(err, "{warning}\n");
            }
            let _ = writeln!(out, "ok: {}", summary(&config));
            0
        }
        Err(errors) => {
            let _ = writeln!(err, "{errors}");
            1
        }
    }
}

/// `1 listener, 2 upstreams, 9 workers`.
pub fn summary(config: &Config) -> String {
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let workers = config.upstreams.iter().map(|upstream| upstream.workers.len()).sum();
    let listeners = count(config.listeners.len(), "listener");
    format!("{listeners}, {}, {}", count(config.upstreams.len(), "upstream"), count(workers, "worker"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(args: &[&str]) -> Result<Run, String> {
        let line = ["stickyd", "run"].iter().chain(args);
        match Cli::try_parse_from(line).map_err(|error| error.to_string())?.command {
            Command::Run(run) => Ok(run),
            _ => Err("no run".to_owned()),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        <Cli as CommandFactory>::command().debug_assert();
    }

    #[test]
    fn run_takes_a_file_or_addresses_but_not_both() {
        assert_eq!(run(&["--config", "a.toml"]).unwrap().config, Some("a.toml".into()));
        let quick =
            run(&["--listen", "127.0.0.1:0", "--worker", "127.0.0.1:3001-3002", "--worker", "unix:/run/a"]).unwrap();
        let (config, warnings) = quick.load().1.unwrap();
        assert_eq!(summary(&config), "1 listener, 1 upstream, 3 workers");
        assert!(warnings.is_empty());
        assert!(run(&[]).is_err());
        assert!(run(&["--listen", "127.0.0.1:0"]).is_err());
        assert!(run(&["--config", "a.toml", "--worker", "127.0.0.1:1"]).is_err());
    }

    #[test]
    fn a_check_of_no_file_fails_and_names_it() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        assert_eq!(check(Path::new("/nonexistent/s.toml"), &mut out, &mut err), 1);
        assert!(out.is_empty());
        insta::assert_snapshot!(
            String::from_utf8(err).unwrap(),
            @"error: cannot read /nonexistent/s.toml: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn a_check_prints_the_summary() {
        let file = std::env::temp_dir().join(format!("stickyd-check-{}.toml", std::process::id()));
        std::fs::write(&file, "listener = [{ address = \"0.0.0.0:80\" }]\nupstream.a.workers = [\"127.0.0.1:1-9\"]")
            .unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = check(&file, &mut out, &mut err);
        std::fs::remove_file(&file).unwrap();
        assert_eq!((code, out, err), (0, b"ok: 1 listener, 1 upstream, 9 workers\n".to_vec(), Vec::new()));
    }
}
