//! `stickyd top`: workers and the busiest sockets, refreshed every few seconds.
//!
//! A terminal is cleared before each refresh, and the report fits it: workers that need attention come first if not
//! all have room. Other outputs get one plain report after another. The command ends when it is interrupted, or
//! after one report with `--once`.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use hyper::Method;

use super::remote::{AdminClient, NO_BODY, Remote, RemoteError};
use super::sockets::{Filters, rows};
use super::table::{TableArgs, TerminalSize, terminal, text_width};
use super::workers::{WorkersText, texts};
use crate::admin::api::{SocketView, SocketsAnswer, WorkerView, WorkersAnswer, paths};
use crate::printable::printable_lines;

/// Number of most recently active sockets that the busiest are selected from.
const RECENT: u32 = 1_000;

/// Number of sockets shown if nothing else limits it.
const SOCKETS: usize = 15;

/// Lines of a report that are neither a worker, nor a note, nor a socket: the heads of the tables, the sentence between
/// them with an empty line on each side, and the lines of both tables about columns that do not fit.
const FIXED: usize = 7;

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
    /// Number of sockets to show, as far as the terminal has room
    #[arg(long, value_name = "NUMBER", default_value_t = SOCKETS)]
    pub rows: usize,
    /// Form of the tables.
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

/// Number of messages of each socket at the last refresh, by id.
type Before = HashMap<String, u64>;

impl TopCommand {
    /// Runs the command until it is interrupted, and returns the exit code.
    pub fn run(&self) -> u8 {
        let mut before = Before::new();
        loop {
            let drawn = self.remote.find().and_then(|admin| self.draw(&admin, &mut before));
            let clear = if self.screen().is_some() { "\x1b[H\x1b[2J" } else { "" };
            let mut out = std::io::stdout();
            let drawn = drawn.map(|text| printable_lines(&text).into_owned());
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
        let WorkersAnswer { names, workers } = admin.done(Method::GET, paths::WORKERS, NO_BODY)?;
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
        let all =
            workers.into_iter().filter(|one| self.filters.upstream.as_ref().is_none_or(|name| one.upstream == *name));
        Ok(self.report(WorkersAnswer { names, workers: all.collect() }, &live, &sockets))
    }

    /// Returns the size of the terminal that the report has to fit; `None` if it may be of any length.
    fn screen(&self) -> Option<TerminalSize> {
        terminal().filter(|size| std::io::stdout().is_terminal() && !self.once && size.rows > 0)
    }

    fn report(&self, all: WorkersAnswer, live: &str, sockets: &[SocketView]) -> String {
        let width = self.tables.width();
        match self.screen() {
            None => {
                let WorkersText { table, notes } = texts(&all, None, width);
                let notes = if notes.is_empty() { String::new() } else { format!("\n{}\n", notes.join("\n")) };
                format!("{table}{notes}\n{live}\n\n{}", rows(sockets.iter().take(self.rows), width))
            }
            Some(size) => fitted(all, live, sockets.get(..self.rows).unwrap_or(sockets), size, width),
        }
    }
}

/// Formats a report that fits the terminal: lines that are too long are cut, and what has no room is counted.
fn fitted(
    mut all: WorkersAnswer,
    live: &str,
    sockets: &[SocketView],
    size: TerminalSize,
    width: Option<u16>,
) -> String {
    // The last line stays empty, because the cursor is there.
    let room = usize::from(size.rows).saturating_sub(FIXED + 1);
    let mut notes = texts(&all, None, width).notes;
    // An empty line comes before the notes.
    let for_notes = if notes.is_empty() { 0 } else { notes.len().min(room / 4).max(1) + 1 };
    let room = room.saturating_sub(for_notes);
    let for_workers = all.workers.len().min(room.saturating_sub(sockets.len()).max(room / 2)).max(1);
    let mut hidden = String::new();
    if all.workers.len() > for_workers {
        all.workers.sort_by_key(is_well);
        hidden = format!(" ({} of {} workers shown)", for_workers, all.workers.len());
        all.workers.truncate(for_workers);
    }
    let left_out = notes.len().saturating_sub(for_notes.saturating_sub(1));
    notes.truncate(notes.len() - left_out);
    if let (Some(last), 1..) = (notes.last_mut(), left_out) {
        *last = format!("… and {} more: see `stickyd workers`", left_out + 1);
    }
    if !notes.is_empty() {
        notes.insert(0, String::new());
    }
    let workers = texts(&all, None, width).table;
    let busiest = rows(sockets.iter().take(room.saturating_sub(for_workers)), width);
    let notes = notes.into_iter().map(|note| note + "\n").collect::<String>();
    let text = format!("{workers}{notes}\n{live}{hidden}\n\n{busiest}");
    text.lines().take(usize::from(size.rows).saturating_sub(1)).map(|line| cut(line, size.columns) + "\n").collect()
}

/// Whether nothing about a worker needs attention; such workers are the first to be left out.
fn is_well(one: &WorkerView) -> bool {
    one.health == "up" && one.admin == "ready" && !one.ejected && !one.shares_address
}

/// Cuts a line so that it does not wrap.
fn cut(line: &str, columns: u16) -> String {
    let columns = usize::from(columns);
    if text_width(line) <= columns {
        return line.to_owned();
    }
    let mut left = columns.saturating_sub(1);
    let fits = |c: &char| {
        let width = if c.is_ascii() { 1 } else { 2 };
        let fits = width <= left;
        left = left.saturating_sub(width);
        fits
    };
    line.chars().take_while(fits).chain(['…']).collect()
}

fn messages(one: &SocketView) -> u64 {
    one.up.messages + one.down.messages
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn worker(number: usize, health: &str) -> WorkerView {
        let described = json!({"address": "127.0.0.1:3001", "admin": "ready", "check": null, "drain": null, "ejected": false,
            "ejected_for_ms": null, "generation": 1, "health": health, "in_flight": 0, "last_ejection": null,
            "process": {"command": "node", "cpu_percent": 1.5, "cpu_s": 2.0, "memory_bytes": 80_000_000, "pid": 4242, "threads": 4},
            "restarts": 1, "said_at_run_time": false, "seen_for_s": 9, "serves": true, "sessions": 12, "takes_new": true,
            "tunnels": 3, "upstream": "app", "waiting": 0, "weight": 1, "worker": format!("127.0.0.1:{number}"),
            "why": {"admin": "-", "ejection": "-", "health": "3 checks in a row did not pass; ".repeat(5)}});
        serde_json::from_value(described).unwrap()
    }

    fn socket(number: usize) -> SocketView {
        let way = json!({"messages": number, "bytes": 1500, "idle_s": 4, "close_code": null});
        let described = json!({"id": format!("{number:012}"), "sid": "abc", "upstream": "app", "worker": "127.0.0.1:3001",
            "generation": 1, "route": null, "address": "203.0.113.177", "user_agent": "Test/1", "labels": {"store": "7"},
            "protocol": "engine.io", "transport": "websocket", "tls": true, "state": "open", "quality": null,
            "connected_at": "2026-11-20T11:00:00Z", "age_s": 65, "up": way, "down": way,
            "round_trip": {"client": null, "worker": null}});
        serde_json::from_value(described).unwrap()
    }

    #[test]
    fn a_report_fits_the_terminal_and_shows_ill_workers() {
        for (columns, lines) in [(80, 24), (80, 12), (132, 50), (60, 20)] {
            for (workers, sockets) in [(2, 3), (4, 15), (40, 15), (200, 0), (0, 0)] {
                let mut all: Vec<_> = (0..workers).map(|number| worker(3_000 + number, "up")).collect();
                if let Some(last) = all.last_mut() {
                    *last = worker(9_999, "hung");
                }
                let sockets: Vec<_> = (0..sockets).map(socket).collect();
                let size = TerminalSize { columns, rows: lines };
                let all = WorkersAnswer { names: Vec::new(), workers: all };
                let text = fitted(all, "9 live sockets", &sockets, size, Some(columns));
                assert!(text.lines().count() < usize::from(lines), "{columns}×{lines}:\n{text}");
                let widest = text.replace('…', ".").lines().map(text_width).max().unwrap();
                assert!(widest <= usize::from(columns), "{widest} of {columns}:\n{text}");
                assert_eq!(text.contains("hung"), workers > 0, "{text}");
                assert!(text.contains("9 live sockets"), "{text}");
                assert_eq!(sockets.is_empty(), !text.contains("203.0.113.177"), "{text}");
            }
        }
        let few = WorkersAnswer { names: Vec::new(), workers: vec![worker(1, "up"), worker(2, "hung")] };
        let size = TerminalSize { columns: 80, rows: 24 };
        let text = fitted(few, "x", &(0..5).map(socket).collect::<Vec<_>>(), size, Some(80));
        assert_eq!(text.matches("203.0.113.177").count(), 5, "there is room for all:\n{text}");
    }
}
