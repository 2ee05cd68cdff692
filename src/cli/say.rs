//! Commands that change a running stickyd: drain, maint, ready, log.

#![allow(clippy::indexing_slicing, reason = "a field that a JSON value lacks is null: nothing panics")]

use std::time::{Duration, Instant};

use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use super::progress::Progress;
use super::remote::{AdminClient, RemoteArgs, RemoteError, encoded};
use super::table::{cell, list, span};

/// Interval between two queries of a drain's progress.
const DRAIN_POLL: Duration = Duration::from_millis(500);

/// The worker that a command applies to.
#[derive(Debug, Args)]
pub struct WorkerTarget {
    /// Worker as shown by `stickyd workers`, such as app/w7 or app/127.0.0.1:3001
    #[arg(value_name = "UPSTREAM/WORKER", value_parser = worker)]
    pub worker: (String, String),
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
    fn say(&self, admin: &AdminClient, word: &str, body: Option<&Value>) -> Result<Value, RemoteError> {
        let (upstream, worker) = (encoded(&self.worker.0), encoded(&self.worker.1));
        admin.done(Method::POST, &format!("/api/v1/workers/{upstream}/{worker}/{word}"), body)
    }

    fn tell(&self, word: &str) -> u8 {
        let said = self.asking.remote.find().and_then(|admin| self.say(&admin, word, None));
        self.asking.finish(said, told)
    }
}

fn told(said: &Value) -> String {
    let drain = &said["drain"];
    let name = format!("{}/{}", cell(&said["upstream"]), cell(&said["worker"]));
    let at = format!("{name} is in {}", cell(&said["admin"]));
    match drain["ends_in_s"].as_u64() {
        _ if drain.is_null() => format!("{name} is {}\n", cell(&said["admin"])),
        Some(0) => format!("{at}: {} sessions end at once\n", cell(&drain["sessions_left"])),
        None => format!("{at}: {} sessions stay until they end on their own\n", cell(&drain["sessions_left"])),
        Some(_) => {
            format!("{at}: {} sessions end within {}\n", cell(&drain["sessions_left"]), span(&drain["ends_in_s"]))
        }
    }
}

/// Arguments of `stickyd ready`.
#[derive(Debug, Args)]
pub struct Ready {
    /// The worker to take back into service.
    #[command(flatten)]
    pub target: WorkerTarget,
}

impl Ready {
    /// Sets the admin state, prints it, and returns the exit code.
    pub fn run(&self) -> u8 {
        self.target.tell("ready")
    }
}

/// Arguments of `stickyd maint`.
#[derive(Debug, Args)]
pub struct Maint {
    /// The worker to put into maint.
    #[command(flatten)]
    pub target: WorkerTarget,
}

impl Maint {
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
        let body = self.grace.as_ref().map(|grace| json!({ "grace": grace }));
        let said = asking.remote.find().and_then(|admin| {
            let said = self.target.say(&admin, "drain", body.as_ref())?;
            if self.wait { self.follow(&admin, said) } else { Ok(said) }
        });
        asking.finish(said, |said| if self.wait { "drained: no session is left\n".to_owned() } else { told(said) })
    }

    /// Waits until nothing is left; returns the last description of the worker.
    fn follow(&self, admin: &AdminClient, mut said: Value) -> Result<Value, RemoteError> {
        let (began, mut out) = (Instant::now(), Progress::new());
        loop {
            let drain = &said["drain"];
            if drain.is_null() {
                return Err(RemoteError::new("the drain was cancelled: the worker is ready again"));
            }
            show(&mut out, drain);
            if drain["sessions_left"] == 0 && drain["tunnels_left"] == 0 {
                out.end();
                return Ok(said);
            }
            if self.timeout.is_some_and(|timeout| began.elapsed() > timeout) {
                out.end();
                return Err(RemoteError::new("timed out with sessions left; the drain continues"));
            }
            // Nothing else runs on this thread, so it may block.
            std::thread::park_timeout(DRAIN_POLL);
            let all = admin.done(Method::GET, "/api/v1/workers", None)?;
            let (upstream, worker) = &self.target.worker;
            let is_it =
                |one: &&Value| one["upstream"] == *upstream && (one["worker"] == *worker || one["address"] == *worker);
            match all["workers"].as_array().into_iter().flatten().find(is_it) {
                Some(found) => said = found.clone(),
                // A worker that the file no longer names disappears with its last session.
                None => {
                    out.end();
                    return Ok(said);
                }
            }
        }
    }
}

fn show(out: &mut Progress, drain: &Value) {
    let left = drain["sessions_left"].as_u64().unwrap_or(0);
    let start = drain["sessions_at_start"].as_u64().unwrap_or(0).max(left);
    let ends = drain["ends_in_s"].as_u64().filter(|_| out.is_terminal());
    let ends = ends.map_or(String::new(), |_| format!(", all end within {}", span(&drain["ends_in_s"])));
    let text = format!("{left} of {start} sessions left, {} tunnels{ends}", cell(&drain["tunnels_left"]));
    out.show(start - left, start, text);
}

/// Arguments of `stickyd log`.
#[derive(Debug, Args)]
pub struct LogCommand {
    /// New level: error, warn, info, debug, trace, off, or directives such as info,stickyd::affinity=debug
    #[arg(value_name = "LEVEL", conflicts_with = "reset")]
    pub level: Option<String>,
    /// Return to the level in the file or in RUST_LOG
    #[arg(long)]
    pub reset: bool,
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

impl LogCommand {
    /// Shows or sets the level, and returns the exit code.
    pub fn run(&self) -> u8 {
        let said = self.asking.remote.find().and_then(|admin| match (&self.level, self.reset) {
            (None, false) => admin.done(Method::GET, "/api/v1/log", None),
            (level, _) => admin.done(Method::PUT, "/api/v1/log", Some(&json!({ "level": level }))),
        });
        self.asking.finish(said, |said| {
            list(&[
                ("level", format!("{} (from {})", cell(&said["level"]), cell(&said["from"]))),
                ("file", cell(&said["file"])),
            ])
        })
    }
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
