//! `stickyd drain`, `stickyd maint` and `stickyd ready`: set the admin state of one worker.

use std::time::{Duration, Instant};

use clap::Args;
use hyper::Method;
use serde::Serialize;

use super::fleet_wide::{self, FleetArgs};
use super::progress::Progress;
use super::remote::{AdminClient, NO_BODY, RemoteArgs, RemoteError};
use super::table::{counted, span};
use crate::admin::api::{DrainView, GraceOrder, WorkerView, WorkersAnswer, paths};

/// Interval between two queries of a drain's progress.
pub(crate) const DRAIN_POLL: Duration = Duration::from_millis(500);

/// The worker that a command applies to.
#[derive(Debug, Args)]
pub struct WorkerTarget {
    /// Worker as shown by `stickyd workers`, such as app/w7 or app/127.0.0.1:3001
    #[arg(value_name = "UPSTREAM/WORKER", value_parser = worker)]
    pub worker: (String, String),
    /// The worker at every stickyd of the fleet.
    #[command(flatten)]
    pub everywhere: FleetArgs,
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

/// Parses UPSTREAM/WORKER; only the worker's part can contain a further `/`.
fn worker(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((upstream, worker)) if !upstream.is_empty() && !worker.is_empty() => {
            Ok((upstream.to_owned(), worker.to_owned()))
        }
        _ => Err("expected UPSTREAM/WORKER, such as app/127.0.0.1:3001; `stickyd workers` lists them".to_owned()),
    }
}

impl WorkerTarget {
    fn say(&self, admin: &AdminClient, word: &str, body: Option<&impl Serialize>) -> Result<WorkerView, RemoteError> {
        admin.done(Method::POST, &paths::worker_state(&self.worker.0, &self.worker.1, word), body)
    }

    fn tell(&self, word: &str) -> u8 {
        if self.everywhere.fleet {
            return self.asking.finish_fleet(fleet_wide::drain::say(self, word));
        }
        let said = self.asking.remote.find().and_then(|admin| self.say(&admin, word, NO_BODY));
        self.asking.finish(said, told)
    }

    /// Whether this is the worker that the command applies to.
    pub(crate) fn is(&self, one: &WorkerView) -> bool {
        let (upstream, worker) = &self.worker;
        one.upstream == *upstream && (one.worker == *worker || one.address == *worker)
    }
}

pub(crate) fn told(said: &WorkerView) -> String {
    let name = format!("{}/{}", said.upstream, said.worker);
    let Some(DrainView { sessions_left, ends_in_s, .. }) = said.drain else {
        return format!("{name} is {}\n", said.admin);
    };
    let at = format!("{name} is in {}: {}", said.admin, counted(sessions_left, "session"));
    let one = sessions_left == 1;
    match ends_in_s {
        Some(0) => format!("{at} {} at once\n", if one { "ends" } else { "end" }),
        None if one => format!("{at} stays until it ends on its own\n"),
        None => format!("{at} stay until they end on their own\n"),
        Some(_) => format!("{at} {} within {}\n", if one { "ends" } else { "end" }, span(ends_in_s)),
    }
}

/// Arguments of `stickyd ready`.
#[derive(Debug, Args)]
pub struct ReadyCommand {
    /// The worker to take back into service.
    #[command(flatten)]
    pub target: WorkerTarget,
}

impl ReadyCommand {
    /// Sets the admin state, prints it, and returns the exit code.
    pub fn run(&self) -> u8 {
        self.target.tell("ready")
    }
}

/// Arguments of `stickyd maint`.
#[derive(Debug, Args)]
pub struct MaintCommand {
    /// The worker to put into maint.
    #[command(flatten)]
    pub target: WorkerTarget,
}

impl MaintCommand {
    /// Sets the admin state, prints it, and returns the exit code.
    pub fn run(&self) -> u8 {
        self.target.tell("maint")
    }
}

/// Arguments of `stickyd drain`.
#[derive(Debug, Args)]
pub struct DrainCommand {
    /// The worker to drain.
    #[command(flatten)]
    pub target: WorkerTarget,
    /// End its sessions evenly over this time, such as 60s or 5m, at most 24h [default: as configured, or until they
    /// end on their own]
    #[arg(short, long, value_name = "TIME")]
    pub grace: Option<String>,
    /// Wait until no session is left, and show the progress
    #[arg(short, long)]
    pub wait: bool,
    /// Stop waiting after this time, with exit code 1; the drain continues
    #[arg(short, long, value_name = "TIME", requires = "wait", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
}

impl DrainCommand {
    /// Starts the drain, waits if requested, and returns the exit code.
    pub fn run(&self) -> u8 {
        let asking = &self.target.asking;
        let order = self.grace.clone().map(|grace| GraceOrder { grace: Some(grace) });
        if self.target.everywhere.fleet {
            return asking.finish_fleet(fleet_wide::drain::drain(self, order.as_ref()));
        }
        let said = asking.remote.find().and_then(|admin| {
            let said = self.target.say(&admin, "drain", order.as_ref())?;
            if self.wait { self.follow(&admin, said) } else { Ok(said) }
        });
        asking.finish(said, |said| if self.wait { "drained: no session is left\n".to_owned() } else { told(said) })
    }

    /// Waits until nothing is left; returns the last description of the worker.
    fn follow(&self, admin: &AdminClient, mut said: WorkerView) -> Result<WorkerView, RemoteError> {
        let (began, mut out) = (Instant::now(), Progress::new());
        loop {
            let Some(drain) = &said.drain else {
                return Err(RemoteError::new("the drain was cancelled: the worker is ready again"));
            };
            show(&mut out, drain);
            if drain.sessions_left == 0 && drain.tunnels_left == 0 {
                out.end();
                return Ok(said);
            }
            if self.timeout.is_some_and(|timeout| began.elapsed() > timeout) {
                out.end();
                return Err(RemoteError::new("timed out with sessions left; the drain continues"));
            }
            // Nothing else runs on this thread, so it may block.
            std::thread::park_timeout(DRAIN_POLL);
            let all: WorkersAnswer = admin.done(Method::GET, paths::WORKERS, NO_BODY)?;
            match all.workers.into_iter().find(|one| self.target.is(one)) {
                Some(found) => said = found,
                // A worker that the file no longer names disappears with its last session.
                None => {
                    out.end();
                    return Ok(said);
                }
            }
        }
    }
}

pub(crate) fn show(out: &mut Progress, drain: &DrainView) {
    let left = drain.sessions_left;
    let start = drain.sessions_at_start.max(left);
    let ends = drain.ends_in_s.filter(|_| out.is_terminal());
    let ends = ends.map_or(String::new(), |ends| format!(", all end within {}", span(ends)));
    let (all, tunnels) = (counted(start, "session"), counted(drain.tunnels_left, "tunnel"));
    let text = format!("{left} of {all} left, {tunnels}{ends}");
    out.show((start - left).into(), start.into(), text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_given_as_upstream_and_name() {
        assert_eq!(worker("app/w7"), Ok(("app".to_owned(), "w7".to_owned())));
        assert_eq!(worker("app/unix:/run/5.sock").unwrap().1, "unix:/run/5.sock");
        assert!(worker("w7").is_err() && worker("/w7").is_err() && worker("app/").is_err());
    }
}
