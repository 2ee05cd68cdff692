//! `stickyd status`: the version and configuration of a running stickyd, and how close it is to its limits.

use clap::Args;

use super::remote::RemoteArgs;
use super::table::{amount, bytes, cell, list, span};
use crate::admin::api::{StatusAnswer, paths};

/// What a shared address means, and what to do about it.
const SHARED: &str = "refuses sessions of its own, so several processes share its address; give each its own port";

/// Arguments of `stickyd status`.
#[derive(Debug, Args)]
pub struct StatusCommand {
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

impl StatusCommand {
    /// Runs the command and returns the exit code.
    pub fn run(&self) -> u8 {
        self.asking.show(paths::STATUS, status)
    }
}

fn status(said: &StatusAnswer) -> String {
    let (config, process) = (&said.config, said.process.as_ref());
    let stopping = if said.stopping { ", stopping" } else { "" };
    let mut rows = vec![
        ("version", format!("{}, pid {}, up {}{stopping}", said.version, said.pid, span(said.uptime_s))),
        ("listeners", said.listeners.join(", ")),
        (
            "configuration",
            format!("{}, loaded {} (number {})", cell(config.file.as_ref()), config.loaded_at, config.generation),
        ),
        ("clients", said.client_connections.to_string()),
        ("pins", format!("{} of {}", said.pins.held, said.pins.limit)),
        ("sockets", format!("{} of {}", said.sockets.held, said.sockets.limit)),
        ("descriptors", format!("{} of {}", cell(said.descriptors.held), cell(said.descriptors.limit))),
        ("replay", format!("{} of {}", bytes(said.replay_bytes.held as u64), bytes(said.replay_bytes.limit as u64))),
        (
            "memory, CPU",
            format!(
                "{}, {} s",
                bytes(process.map(|process| process.memory_bytes)),
                amount(process.map(|process| process.cpu_s))
            ),
        ),
    ];
    if !config.needs_restart.is_empty() {
        rows.push(("needs a restart", config.needs_restart.join(", ")));
    }
    if !said.shared_addresses.is_empty() {
        rows.push(("SHARED ADDRESS", format!("{}: {SHARED}", said.shared_addresses.join(", "))));
    }
    if config.error.is_some() {
        rows.push(("NOT LOADED", "the file is not in use: see below".to_owned()));
    }
    if said.log_lines_dropped > 0 {
        rows.push(("log lines dropped", said.log_lines_dropped.to_string()));
    }
    let text = list(&rows);
    // The error has lines of its own.
    match &config.error {
        Some(error) => format!("{text}\n{error}\n"),
        None => text,
    }
}
