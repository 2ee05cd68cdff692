//! `stickyd events`: what has happened lately, and what happens from now on.

use clap::Args;
use hyper::Method;

use super::follow;
use super::remote::{AdminClient, NO_BODY, RemoteArgs, RemoteError};
use crate::admin::api::{EventView, EventsAnswer, paths};
use crate::printable::{printable, printable_json};

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
        follow::exit_code(self.asking.remote.find().and_then(|admin| self.print(&admin)))
    }

    fn print(&self, admin: &AdminClient) -> Result<(), RemoteError> {
        let page = self.page(admin, self.since.as_deref(), self.lines.clamp(1, MOST))?;
        let earlier = page.events.get(page.events.len().saturating_sub(self.lines)..).unwrap_or_default();
        if !self.write(earlier) || !self.follow {
            return Ok(());
        }
        // Ids grow over restarts, so that the events of a new stickyd follow.
        follow::follow(page.next, None, |next| {
            let page = self.page(admin, Some(&next.to_string()), MOST)?;
            Ok(self.write(&page.events).then_some(page.next))
        })
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
        follow::write(events.iter().map(|event| match self.asking.json {
            true => printable_json(&serde_json::to_string(event).unwrap_or_default()).into_owned(),
            false => printable(&text(event)).into_owned(),
        }))
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
