//! `stickyd logs`: the last lines that the workers wrote which stickyd starts, and those that follow.

use std::time::{Duration, SystemTime};

use clap::Args;
use hyper::Method;

use super::follow;
use super::remote::{AdminClient, NO_BODY, RemoteArgs, RemoteError};
use crate::admin::api::{LogLineView, LogsAnswer, paths};

/// Arguments of `stickyd logs`.
#[derive(Debug, Args)]
pub struct LogsCommand {
    /// Only workers of this upstream, or one worker, such as app or app/1
    #[arg(value_name = "UPSTREAM[/WORKER]")]
    pub target: Option<String>,
    /// Print new lines as they are written, until interrupted
    #[arg(short, long)]
    pub follow: bool,
    /// Only this worker, such as 1
    #[arg(short, long, value_name = "NUMBER")]
    pub worker: Option<String>,
    /// Number of earlier lines to print
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 100)]
    pub lines: usize,
    /// Connection to stickyd, and output format: with --json one object per line.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

impl LogsCommand {
    /// Prints lines, and returns the exit code.
    pub fn run(&self) -> u8 {
        follow::exit_code(self.asking.remote.find().and_then(|admin| self.print(&admin)))
    }

    fn print(&self, admin: &AdminClient) -> Result<(), RemoteError> {
        let (mut from, mut earlier) = (0, Vec::new());
        loop {
            let page = self.page(admin, from)?;
            let is_end = page.next == from || page.lines.is_empty();
            from = page.next;
            earlier.extend(page.lines);
            earlier.drain(..earlier.len().saturating_sub(self.lines));
            if is_end {
                break;
            }
        }
        if !self.write(&earlier) || !self.follow {
            return Ok(());
        }
        // A new spawner counts anew.
        follow::follow(from, Some(0), |from| {
            let page = self.page(admin, from)?;
            Ok(self.write(&page.lines).then_some(page.next))
        })
    }

    fn page(&self, admin: &AdminClient, from: u64) -> Result<LogsAnswer, RemoteError> {
        let (upstream, worker) = match self.target.as_deref().map(|target| (target, target.split_once('/'))) {
            Some((_, Some((upstream, worker)))) => (Some(upstream), Some(worker)),
            Some((upstream, None)) => (Some(upstream), None),
            None => (None, None),
        };
        let from = from.to_string();
        let worker = self.worker.as_deref().or(worker);
        let given = [("from", Some(from.as_str())), ("upstream", upstream), ("worker", worker)];
        let given = given.into_iter().filter_map(|(name, value)| Some((name, value?)));
        admin.done(Method::GET, &paths::with_query(paths::LOGS, given), NO_BODY)
    }

    /// Writes lines; `false` once the output is closed.
    fn write(&self, lines: &[LogLineView]) -> bool {
        follow::write(lines.iter().map(|line| match self.asking.json {
            true => serde_json::to_string(line).unwrap_or_default(),
            false => text(line),
        }))
    }
}

fn text(line: &LogLineView) -> String {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(line.at_ms);
    let at = humantime::format_rfc3339_millis(at);
    format!("{at} {}/{} | {}", line.upstream, line.worker, line.text)
}
