//! `stickyd top`: workers and the busiest sockets, refreshed every few seconds.
//!
//! On a terminal it is a tool ([`screen`]): rows can be sorted, filtered, selected and looked into, workers drained,
//! sockets closed. It fits 24 lines of 80 columns, and gives the terminal back however it ends. Other outputs get one
//! plain report after another, until the command is interrupted, or a single one with `--once`.

mod grid;
mod link;
mod model;
mod screen;
#[cfg(test)]
mod tests;
mod view;

use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::Args;

use super::remote::{Remote, RemoteError};
use super::sockets::{Filters, rows};
use super::table::TableArgs;
use super::workers::{WorkersText, texts};
use crate::printable::printable_lines;
use link::{TopLink, TopSnapshot};

/// Number of sockets shown if nothing else limits it.
const SOCKETS: usize = 15;

/// Arguments of `stickyd top`.
#[derive(Debug, Args)]
pub struct TopCommand {
    /// Filters that select the sockets.
    #[command(flatten)]
    pub filters: Filters,
    /// Print one report and exit
    #[arg(long)]
    pub once: bool,
    /// Time between two refreshes, at least 200ms
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = interval)]
    pub every: Duration,
    /// Number of sockets in a report that is not for a terminal
    #[arg(long, value_name = "NUMBER", default_value_t = SOCKETS)]
    pub rows: usize,
    /// Form of the tables of a report.
    #[command(flatten)]
    pub tables: TableArgs,
    /// The stickyd to connect to.
    #[command(flatten)]
    pub remote: Remote,
}

fn interval(text: &str) -> Result<Duration, String> {
    let every = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if every < Duration::from_millis(200) { Err("must be at least 200ms".to_owned()) } else { Ok(every) }
}

impl TopCommand {
    /// Runs the command until it is ended, and returns the exit code.
    pub fn run(&self) -> u8 {
        let link = match self.remote.find() {
            Ok(admin) => TopLink::new(admin, self.filters.clone()),
            Err(refusal) => return refused(&refusal),
        };
        let is_tool = !self.once && std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
        if is_tool { screen::run(link, self.every) } else { self.report(link) }
    }

    /// Prints one plain report after another.
    fn report(&self, mut link: TopLink) -> u8 {
        loop {
            let look = match link.look() {
                Ok(look) => look,
                Err(refusal) => return refused(&refusal),
            };
            let mut out = std::io::stdout();
            let text = printable_lines(&self.text(&look)).into_owned();
            // The reader of the output may have gone away.
            if write!(out, "{text}").and_then(|()| out.flush()).is_err() || self.once {
                return 0;
            }
            // Nothing else runs on this thread, so it may block.
            std::thread::park_timeout(self.every);
        }
    }

    fn text(&self, look: &TopSnapshot) -> String {
        let width = self.tables.width();
        let WorkersText { table, notes } = texts(&look.workers, None, width, self.tables.wide);
        let notes = if notes.is_empty() { String::new() } else { format!("\n{}\n", notes.join("\n")) };
        let live = format!("{} live sockets, {} matching; the busiest of them:", look.live, look.matching);
        let sockets = look.sockets.iter().map(|one| &one.view);
        format!("{table}{notes}\n{live}\n\n{}", rows(sockets.take(self.rows), width))
    }
}

fn refused(refusal: &RemoteError) -> u8 {
    // A closed output does not change the result.
    let _ = writeln!(std::io::stderr(), "{refusal}");
    1
}
