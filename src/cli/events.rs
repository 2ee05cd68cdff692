//! `stickyd events`: what has happened lately, and what happens from now on.

use std::io::Write as _;
use std::time::Duration;

use clap::Args;
use hyper::Method;

use super::remote::{AdminClient, NO_BODY, RemoteArgs, RemoteError};
use crate::admin::api::{EventView, EventsAnswer, paths};
use crate::printable::{printable, printable_json};

/// Interval between two questions for new events.
const EVENT_POLL: Duration = Duration::from_millis(300);

/// Number of tries while stickyd restarts.
const EVENT_TRIES: u32 = 20;

/// Maximum number of events in one answer.
const MOST: usize = 1_024;

/// Arguments of `stickyd events`.
#[derive(Debug, Args)]
pub struct EventsCommand {
    /// Print new events as they happen, until interrupted
    #[arg(short, long)]
    pub follow: bool,
    /// Only events since then: a time span such as 10m, a time such as 2026-11-28T20:15:00Z, or the id of an event
    #[arg(long, value_name = "WHEN")]
    pub since: Option<String>,
    /// Only events of this kind, or of several, separated by commas
    #[arg(short, long, value_name = "KIND")]
    pub kind: Option<String>,
    /// Only events about this upstream
    #[arg(short, long, value_name = "NAME")]
    pub upstream: Option<String>,
    /// Only events about a worker of this name
    #[arg(short, long, value_name = "NAME")]
    pub worker: Option<String>,
    /// Number of earlier events to print, at most
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 100)]
    pub lines: usize,
    /// Connection to stickyd, and output format: with --json one object per line.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

impl EventsCommand {
    /// Prints events, and returns the exit code.
    pub fn run(&self) -> u8 {
        match self.asking.remote.find().and_then(|admin| self.print(&admin)) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("{error}");
                1
            }
        }
    }

    fn print(&self, admin: &AdminClient) -> Result<(), RemoteError> {
        let page = self.page(admin, self.since.as_deref(), self.lines.clamp(1, MOST))?;
        let earlier = page.events.get(page.events.len().saturating_sub(self.lines)..).unwrap_or_default();
        if !self.write(earlier) || !self.follow {
            return Ok(());
        }
        self.go_on(admin, page.next)
    }

    /// Prints events as they happen, until the output is closed or stickyd is gone.
    fn go_on(&self, admin: &AdminClient, mut next: u64) -> Result<(), RemoteError> {
        let mut failures = 0;
        loop {
            // Nothing else runs on this thread, so it may block.
            std::thread::park_timeout(EVENT_POLL);
            match self.page(admin, Some(&next.to_string()), MOST) {
                Ok(page) => {
                    // Ids grow over restarts, so that the events of a new stickyd follow.
                    (failures, next) = (0, page.next);
                    if !self.write(&page.events) {
                        return Ok(());
                    }
                }
                Err(error) => {
                    failures += 1;
                    if failures > EVENT_TRIES {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn page(&self, admin: &AdminClient, since: Option<&str>, limit: usize) -> Result<EventsAnswer, RemoteError> {
        let limit = limit.to_string();
        let given = [
            ("kind", self.kind.as_deref()),
            ("limit", Some(limit.as_str())),
            ("since", since),
            ("upstream", self.upstream.as_deref()),
            ("worker", self.worker.as_deref()),
        ];
        let given = given.into_iter().filter_map(|(name, value)| Some((name, value?)));
        admin.done(Method::GET, &paths::with_query(paths::EVENTS, given), NO_BODY)
    }

    /// Writes events; `false` once the output is closed.
    fn write(&self, events: &[EventView]) -> bool {
        let mut out = std::io::stdout().lock();
        for event in events {
            let written = match self.asking.json {
                true => {
                    let json = serde_json::to_string(event).unwrap_or_default();
                    writeln!(out, "{}", printable_json(&json))
                }
                false => writeln!(out, "{}", printable(&text(event))),
            };
            if written.is_err() {
                return false;
            }
        }
        out.flush().is_ok()
    }
}

/// Returns an event as one line.
fn text(event: &EventView) -> String {
    let EventView { at, kind, severity, text, .. } = event;
    let subject = match (&event.upstream, &event.worker, &event.listener) {
        (Some(upstream), Some(worker), _) => format!(" {upstream}/{worker}"),
        (Some(upstream), None, _) => format!(" {upstream}"),
        (None, _, Some(listener)) => format!(" {listener}"),
        (None, ..) => String::new(),
    };
    format!("{at} {severity:7} {kind}{subject}: {text}")
}
