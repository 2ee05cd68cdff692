//! `stickyd top`: workers and the busiest sockets, refreshed every few seconds.
//!
//! A terminal is cleared before each refresh; other outputs get one plain report after another. The command ends when
//! it is interrupted, or after one report with `--once`.

#![allow(clippy::indexing_slicing, reason = "a field that a JSON value lacks is null: nothing panics")]

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use hyper::Method;
use serde_json::Value;

use super::remote::{AdminClient, Remote, RemoteError};
use super::show::workers;
use super::sockets::{Filters, path, rows};
use super::table::cell;

/// Number of most recently active sockets that the busiest are selected from.
const RECENT: u32 = 1_000;

/// Arguments of `stickyd top`.
#[derive(Debug, Args)]
pub struct Top {
    /// Filters that select the sockets.
    #[command(flatten)]
    pub filters: Filters,
    /// Print one report and exit
    #[arg(long)]
    pub once: bool,
    /// Time between two refreshes, at least 200ms
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = interval)]
    pub every: Duration,
    /// Number of sockets to show
    #[arg(long, value_name = "NUMBER", default_value_t = 15)]
    pub rows: usize,
    /// The stickyd to connect to.
    #[command(flatten)]
    pub remote: Remote,
}

fn interval(text: &str) -> Result<Duration, String> {
    let every = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if every < Duration::from_millis(200) { Err("must be at least 200ms".to_owned()) } else { Ok(every) }
}

/// Number of messages of each socket at the last refresh, by id.
type Before = HashMap<String, u64>;

impl Top {
    /// Runs the command until it is interrupted, and returns the exit code.
    pub fn run(&self) -> u8 {
        let mut before = Before::new();
        loop {
            let drawn = self.remote.find().and_then(|admin| self.draw(&admin, &mut before));
            let clear = if std::io::stdout().is_terminal() && !self.once { "\x1b[H\x1b[2J" } else { "" };
            let mut out = std::io::stdout();
            match drawn {
                Ok(text) if write!(out, "{clear}{text}").and_then(|()| out.flush()).is_ok() => {}
                // The reader of the output has gone away.
                Ok(_) => return 0,
                Err(refusal) => {
                    let _ = writeln!(std::io::stderr(), "{refusal}");
                    return 1;
                }
            }
            if self.once {
                return 0;
            }
            // Nothing else runs on this thread, so it may block.
            std::thread::park_timeout(self.every);
        }
    }

    fn draw(&self, admin: &AdminClient, before: &mut Before) -> Result<String, RemoteError> {
        let all = admin.done(Method::GET, "/api/v1/workers", None)?;
        let recent = [("sort", "idle".to_owned()), ("limit", RECENT.to_string())];
        let recent = recent.map(|(name, value)| (name.to_owned(), value));
        let said = admin.done(Method::GET, &path(self.filters.given().into_iter().chain(recent)), None)?;
        let mut sockets: Vec<&Value> = said["sockets"].as_array().into_iter().flatten().collect();
        let known = std::mem::take(before);
        // Sorted by the messages since the last refresh; at the first one, by all messages so far.
        sockets.sort_by_key(|one| {
            Reverse((
                messages(one) - known.get(&cell(&one["id"])).copied().unwrap_or(0).min(messages(one)),
                messages(one),
            ))
        });
        *before = sockets.iter().map(|one| (cell(&one["id"]), messages(one))).collect();
        sockets.truncate(self.rows);
        let live =
            format!("{} live sockets, {} matching; the busiest of them:", cell(&said["live"]), cell(&said["total"]));
        Ok(format!("{}\n{live}\n\n{}", workers(&all, self.filters.upstream.as_deref()), rows(&sockets)))
    }
}

fn messages(one: &Value) -> u64 {
    ["up", "down"].iter().filter_map(|way| one[*way]["messages"].as_u64()).sum()
}
