//! The command line. Commands that talk to a running stickyd have files of their own, on top of `remote`.
//!
//! Every command takes its file by `--config`, and without it looks at the path of the package; `check` takes it as its
//! argument as well, and `run` works without one, with `--listen` and `--worker`. Left out: starting the server, which
//! `main` does with the [`Config`] from [`RunCommand::load`]. Commands return their exit code as a `u8`, because only
//! `main` ends the process.

mod admin_client;
mod broadcast;
mod bus;
mod check;
mod close;
mod drain;
mod emit;
mod events;
mod explain;
mod fleet;
mod fleet_wide;
mod follow;
mod import;
mod label;
mod log;
mod logs;
mod man;
mod notify;
mod page;
mod progress;
mod queue;
mod quick;
mod reference;
mod reload;
mod remote;
mod run;
mod service;
mod sockets;
mod spawned;
mod stats;
mod status;
mod table;
mod top;
mod unused;
mod workers;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::Loaded;
use crate::spawn::{ShimCommand, SpawnerCommand};

pub(crate) use broadcast::BroadcastCommand;
pub(crate) use bus::BusCommand;
pub(crate) use check::CheckCommand;
#[cfg(test)]
pub(crate) use check::{report, summary};
pub(crate) use close::CloseCommand;
pub(crate) use drain::{DrainCommand, MaintCommand, ReadyCommand};
pub(crate) use emit::EmitCommand;
pub(crate) use events::EventsCommand;
pub(crate) use explain::{ExplainCommand, PinCommand};
pub(crate) use fleet::FleetCommand;
pub(crate) use import::ImportCommand;
pub(crate) use label::LabelCommand;
pub(crate) use log::LogCommand;
pub(crate) use logs::LogsCommand;
pub(crate) use man::ManCommand;
pub(crate) use notify::NotifyCommand;
pub(crate) use page::PageCommand;
pub(crate) use queue::QueueCommand;
pub(crate) use reference::ReferenceCommand;
pub(crate) use reload::ReloadCommand;
pub use run::RunCommand;
pub(crate) use service::ServiceCommand;
pub(crate) use sockets::SocketsCommand;
pub(crate) use spawned::{ScaleCommand, StopStartCommand};
pub(crate) use stats::StatsCommand;
pub(crate) use status::StatusCommand;
pub(crate) use top::TopCommand;
pub(crate) use workers::WorkersCommand;

/// Configuration file of the package.
pub(crate) const FILE: &str = "/etc/stickyd/stickyd.toml";

/// Text shown below the help of the program.
const EXIT_CODES: &str = "Exit codes: 0 success; 1 failure, explained on standard error; 2 invalid command line.";

/// Reverse proxy that keeps every Socket.IO and WebSocket session on the worker that owns it.
#[derive(Debug, Parser)]
#[command(name = "stickyd", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Cli {
    /// The command to run, with its arguments.
    #[command(subcommand)]
    pub command: Command,
}

/// All commands; the doc comment of each variant is its help text.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the proxy, with a configuration file or just with --listen and --worker
    ///
    /// Stops on SIGTERM or SIGINT (a second one stops at once) and reloads its file on SIGHUP.
    ///
    /// With --spawn it starts the workers, too, and replaces them one after the other on SIGHUP.
    ///
    /// Example: stickyd run --listen 0.0.0.0:8080 --worker 127.0.0.1:3001-3004
    ///
    /// Example: stickyd run --listen :3000 --spawn max -- node server.js
    Run(RunCommand),
    /// Check a configuration file, and print a summary or every error in it
    ///
    /// Nothing is started. Warnings and errors go to standard error, with line and column.
    ///
    /// Example: sudo stickyd check --as-service
    Check(CheckCommand),
    /// Make a running stickyd reload its configuration file
    ///
    /// Prints what needs a restart, or every error in the file. After an error the old configuration stays in use.
    Reload(ReloadCommand),
    /// Show the version and configuration of a running stickyd, and how close it is to its limits
    Status(StatusCommand),
    /// Show every worker: its state and the reason for it, sessions, restarts, process; or replace workers
    ///
    /// `stickyd workers restart` replaces the workers that stickyd starts, one after the other: each successor starts
    /// beside the worker and must be healthy before the worker's sessions are ended.
    ///
    /// Ports of a range at which no process has ever listened are one line; with --wide each of them has a row.
    Workers(WorkersCommand),
    /// Show the stickyds that share a Redis with this one, and what differs among them
    ///
    /// With --check the exit code is 1 if something differs, or if Redis does not answer. With --acl the line of a
    /// user with the rights that stickyd needs in Redis is printed, and no stickyd has to run.
    ///
    /// Example: stickyd fleet --check --config stickyd.toml
    Fleet(FleetCommand),
    /// List live sockets, filtered and sorted, or show all details of one
    ///
    /// Example: stickyd sockets --upstream app --label store=7 --sort -bytes
    Sockets(SocketsCommand),
    /// Open the page of a running stickyd in a browser
    ///
    /// Prints an address of this machine that leads to the admin listener; over SSH also the `ssh -L` line that brings
    /// it to your own machine. The key in the address is valid until the command ends.
    ///
    /// Example: stickyd page --open
    Page(PageCommand),
    /// Show workers and the busiest sockets, refreshed every few seconds
    Top(TopCommand),
    /// Send a text or a Socket.IO event to the clients of WebSockets
    ///
    /// Recipients are selected by filters or --all, and their routes or upstreams need `broadcast = true`.
    ///
    /// Example: stickyd broadcast --label store=7 --event reload --arg '{"in": 5}'
    Broadcast(BroadcastCommand),
    /// Send a Socket.IO event of the backend to clients, by rooms, on the way that the upstream's `emit` names
    ///
    /// Over the bus to the workers that stickyd starts, over the Redis of the application's adapter, or as frames.
    ///
    /// Example: stickyd emit order '{"id": 5}' --room user:7
    Emit(EmitCommand),
    /// Set labels on a socket that no client can choose, such as the user's number, or remove them
    ///
    /// The application does the same over the API, once it knows who its client is.
    ///
    /// Example: stickyd label lYlUnAGv2BTTrsSgAAAA user=7
    Label(LabelCommand),
    /// Close sockets by id, or all that match a filter, at once or spread over a period
    ///
    /// Asks for confirmation before it closes the sockets that match a filter, unless --yes is given.
    ///
    /// Example: stickyd close --worker w7 --spread 5m
    Close(CloseCommand),
    /// Show counters, and rates over the last minute
    Stats(StatsCommand),
    /// Show what has happened to workers, upstreams and stickyd itself
    ///
    /// Example: stickyd events --follow --kind worker_down,worker_up
    Events(EventsCommand),
    /// Show which worker a session is pinned to
    Pin(PinCommand),
    /// Show which worker would get a request and why, and which one if that worker died
    ///
    /// The request is described by the options; it is not sent, and nothing changes.
    ///
    /// Example: stickyd explain --kind request --address 203.0.113.7
    Explain(ExplainCommand),
    /// Give a worker no new sessions, and optionally end those it has over a grace
    ///
    /// Existing sessions are still served. With a grace, given here or configured, they are ended evenly over that
    /// time; otherwise they stay until they end on their own. `stickyd ready` cancels the drain.
    ///
    /// Example: stickyd drain app/w7 --grace 60s --wait
    Drain(DrainCommand),
    /// End all sessions of a worker at once, and send it no requests
    ///
    /// `stickyd ready` takes the worker back into service.
    Maint(MaintCommand),
    /// Take a worker back into service after drain or maint
    Ready(ReadyCommand),
    /// Show or change the log level of a running stickyd
    ///
    /// A changed level lasts until stickyd restarts, or until the level in its file changes.
    ///
    /// Example: stickyd log info,stickyd::affinity=debug
    Log(LogCommand),
    /// Show the receivers of notifications and what became of the last messages, or send a test message
    ///
    /// Example: stickyd notify test discord
    Notify(NotifyCommand),
    /// Count, show or delete messages for users whose clients are away
    ///
    /// Example: stickyd queue list
    Queue(QueueCommand),
    /// Print what the workers wrote that stickyd starts
    ///
    /// Example: stickyd logs -f app/1
    Logs(LogsCommand),
    /// Set the number of workers that stickyd starts for an upstream
    ///
    /// Example: stickyd scale app 6
    Scale(ScaleCommand),
    /// Stop workers that stickyd starts: their sessions are ended, and no new process is started
    ///
    /// Stickyd itself goes on. `stickyd start` starts the workers again.
    Stop(StopStartCommand),
    /// Start workers that were stopped
    Start(StopStartCommand),
    /// Print the configuration of another program as one of stickyd
    Import(ImportCommand),
    /// Install the units of systemd for an application that starts with the machine, or remove them
    ///
    /// Example: sudo stickyd service install -- node server.js
    Service(ServiceCommand),
    /// Keep the processes of workers, apart from a stickyd that is restarted
    ///
    /// The workers are those of the upstreams with `spawn` of the stickyd that connects to the socket (`spawner` in its
    /// configuration).
    Spawn(SpawnerCommand),
    /// Become a worker; only the spawner runs this
    #[command(name = "__worker", hide = true)]
    Shim(ShimCommand),
    /// Link workers that stickyd does not start to the bus, so that their messages reach all clients
    Bus(BusCommand),
    /// Print a shell completion script
    ///
    /// Example: stickyd completions bash > /etc/bash_completion.d/stickyd
    Completions(CompletionsCommand),
    /// Print every key of the configuration, every metric and every kind of event, as Markdown
    ///
    /// Each key is shown with its type, range and default, and whether a reload applies a change of it.
    ///
    /// Example: stickyd reference keys
    Reference(ReferenceCommand),
    /// Write the manual pages of all commands into a folder
    #[command(hide = true)]
    Man(ManCommand),
}

/// The current folder as the shell names it: a link such as /srv/app/current stays one, because the next deployment
/// changes where it leads.
fn current_folder() -> std::io::Result<PathBuf> {
    let real = std::env::current_dir()?;
    let named = std::env::var_os("PWD").map(PathBuf::from).filter(|path| path.is_absolute());
    let is_same = |named: &PathBuf| named.canonicalize().is_ok_and(|path| path == real);
    Ok(named.filter(is_same).unwrap_or(real))
}

/// Adds `help` to the error of the package's file if that file does not exist and was not named.
fn help_if_missing(loaded: Loaded, is_default: bool, file: &Path, help: &str) -> Loaded {
    let is_missing = is_default && matches!(file.try_exists(), Ok(false));
    loaded.map_err(|errors| if is_missing { errors.with_help(Some(help.to_owned())) } else { errors })
}

/// Arguments of `stickyd completions`.
#[derive(Debug, Args)]
pub struct CompletionsCommand {
    /// Shell that the script is for
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

impl CompletionsCommand {
    /// Prints the script and returns the exit code.
    pub fn run(&self) -> u8 {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "stickyd", &mut script);
        u8::from(std::io::stdout().write_all(&script).is_err())
    }
}

#[cfg(test)]
mod tests;
