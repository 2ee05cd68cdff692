//! `stickyd top`: workers and the busiest sockets, drawn anew every few seconds.
//!
//! A terminal is cleared before each drawing; anything else gets one plain drawing after the other. It ends with `--once`, or
//! when it is interrupted.

#![allow(clippy::indexing_slicing, reason = "a field that a JSON value lacks is null: nothing panics")]

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use hyper::Method;
use serde_json::Value;

use super::remote::{Admin, Refusal, Remote};
use super::show::workers;
use super::sockets::{Filters, path, rows};
use super::table::cell;

/// The sockets heard of last among which the busiest are looked for.
const RECENT: u32 = 1_000;

/// `stickyd top`.
#[derive(Debug, Args)]
pub struct Top {
    /// Which sockets.
    #[command(flatten)]
    pub filters: Filters,
    /// Draw once, and end
    #[arg(long)]
    pub once: bool,
    /// Between two drawings
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = interval)]
    pub every: Duration,
    /// Sockets shown
    #[arg(long, value_name = "NUMBER", default_value_t = 15)]
    pub rows: usize,
    /// Whom.
    #[command(flatten)]
    pub remote: Remote,
}

fn interval(text: &str) -> Result<Duration, String> {
    let every = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if every < Duration::from_millis(200) { Err("at least 200ms".to_owned()) } else { Ok(every) }
}

/// Messages of each socket, by id.
type Before = HashMap<String, u64>;

impl Top {
    /// Draws; the exit code.
    pub fn run(&self) -> u8 {
        let mut before = Before::new();
        loop {
            let drawn = self.remote.find().and_then(|admin| self.draw(&admin, &mut before));
            let clear = if std::io::stdout().is_terminal() && !self.once { "\x1b[H\x1b[2J" } else { "" };
            let mut out = std::io::stdout();
            match drawn {
                Ok(text) if write!(out, "{clear}{text}").and_then(|()| out.flush()).is_ok() => {}
                // Whoever read it has gone.
                Ok(_) => return 0,
                Err(refusal) => {
                    let _ = writeln!(std::io::stderr(), "{refusal}");
                    return 1;
                }
            }
            if self.once {
                return 0;
            }
            // Nothing else runs on this thread.
            std::thread::park_timeout(self.every);
        }
    }

    fn draw(&self, admin: &Admin, before: &mut Before) -> Result<String, Refusal> {
        let all = admin.done(Method::GET, "/api/v1/workers", None)?;
        let recent = [("sort", "idle".to_owned()), ("limit", RECENT.to_string())];
        let recent = recent.map(|(name, value)| (name.to_owned(), value));
        let said = admin.done(Method::GET, &path(self.filters.given().into_iter().chain(recent)), None)?;
        let mut sockets: Vec<&Value> = said["sockets"].as_array().into_iter().flatten().collect();
        let known = std::mem::take(before);
        // By what they said since the last drawing; at the first by all they ever said.
        sockets.sort_by_key(|one| {
            Reverse((
                messages(one) - known.get(&cell(&one["id"])).copied().unwrap_or(0).min(messages(one)),
                messages(one),
            ))
        });
        *before = sockets.iter().map(|one| (cell(&one["id"]), messages(one))).collect();
        sockets.truncate(self.rows);
        let live =
            format!("{} live sockets, {} that fit; the busiest of them:", cell(&said["live"]), cell(&said["total"]));
        Ok(format!("{}\n{live}\n\n{}", workers(&all, self.filters.upstream.as_deref()), rows(&sockets)))
    }
}

fn messages(one: &Value) -> u64 {
    ["up", "down"].iter().filter_map(|way| one[*way]["messages"].as_u64()).sum()
}
