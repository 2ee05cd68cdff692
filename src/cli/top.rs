//! `stickyd top`: workers and the busiest sockets, refreshed every few seconds.
//!
//! A terminal is cleared before each refresh; other outputs get one plain report after another. The command ends when
//! it is interrupted, or after one report with `--once`.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use hyper::Method;

use super::remote::{AdminClient, NO_BODY, Remote, RemoteError};
use super::sockets::{Filters, rows};
use super::workers::workers;
use crate::admin::api::{SocketView, SocketsAnswer, WorkersAnswer, paths};

/// Number of most recently active sockets that the busiest are selected from.
const RECENT: u32 = 1_000;

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

impl TopCommand {
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
        let all: WorkersAnswer = admin.done(Method::GET, paths::WORKERS, NO_BODY)?;
        let recent = [("sort", "idle".to_owned()), ("limit", RECENT.to_string())];
        let recent = recent.map(|(name, value)| (name.to_owned(), value));
        let path = paths::with_query(paths::SOCKETS, self.filters.given().into_iter().chain(recent));
        let SocketsAnswer { mut sockets, live, total, .. } = admin.done(Method::GET, &path, NO_BODY)?;
        let known = std::mem::take(before);
        // Sorted by the messages since the last refresh; at the first one, by all messages so far.
        sockets.sort_by_key(|one| {
            let all = messages(one);
            Reverse((all - known.get(&one.id).copied().unwrap_or(0).min(all), all))
        });
        *before = sockets.iter().map(|one| (one.id.clone(), messages(one))).collect();
        let live = format!("{live} live sockets, {total} matching; the busiest of them:");
        let busiest = rows(sockets.iter().take(self.rows));
        Ok(format!("{}\n{live}\n\n{busiest}", workers(&all, self.filters.upstream.as_deref())))
    }
}

fn messages(one: &SocketView) -> u64 {
    one.up.messages + one.down.messages
}
