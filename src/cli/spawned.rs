//! `stickyd workers restart`, `stickyd scale`, `stickyd stop`, `stickyd start`: orders for the workers that stickyd
//! starts itself.

use std::time::Duration;

use clap::Args;
use hyper::Method;

use super::progress::Progress;
use super::remote::{AdminClient, NO_BODY, RemoteArgs, RemoteError};
use crate::admin::api::{PoolView, RollView, SpawnAnswer, SpawnOrderBody, paths};

/// Interval between two looks at a roll.
const ROLL_POLL: Duration = Duration::from_millis(200);

/// An upstream, or one of its workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpawnTarget {
    upstream: String,
    worker: Option<String>,
}

fn target(text: &str) -> Result<SpawnTarget, String> {
    let (upstream, worker) = text.split_once('/').map_or((text, None), |(upstream, worker)| (upstream, Some(worker)));
    if upstream.is_empty() || worker.is_some_and(|worker| worker.parse::<u32>().is_err()) {
        return Err("expected UPSTREAM or UPSTREAM/NUMBER, such as app or app/1".to_owned());
    }
    Ok(SpawnTarget { upstream: upstream.to_owned(), worker: worker.map(str::to_owned) })
}

fn send(
    admin: &AdminClient,
    target: &SpawnTarget,
    word: &str,
    instances: Option<u32>,
) -> Result<PoolView, RemoteError> {
    let body = SpawnOrderBody { instances, worker: target.worker.clone() };
    admin.done(Method::POST, &paths::spawn_wish(&target.upstream, word), Some(&body))
}

fn pools(admin: &AdminClient) -> Result<Vec<PoolView>, RemoteError> {
    admin.done::<SpawnAnswer>(Method::GET, paths::SPAWN, NO_BODY).map(|said| said.upstreams)
}

/// Arguments of `stickyd workers restart`.
#[derive(Debug, Args)]
pub struct RestartCommand {
    /// Upstream or worker, such as app or app/1 [default: all workers that stickyd starts]
    #[arg(value_name = "UPSTREAM[/WORKER]", value_parser = target)]
    pub target: Option<SpawnTarget>,
    /// Return at once; the replacement goes on
    #[arg(long)]
    pub no_wait: bool,
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

impl RestartCommand {
    /// Replaces the workers, waits until that is over, and returns the exit code: 1 if it has stopped half-way.
    pub fn run(&self) -> u8 {
        let done = self.asking.remote.find().and_then(|admin| self.restart(&admin));
        self.asking.finish(done, |pools| pools.iter().map(|pool| told(pool, self.no_wait)).collect())
    }

    fn restart(&self, admin: &AdminClient) -> Result<Vec<PoolView>, RemoteError> {
        let targets = match &self.target {
            Some(target) => vec![target.clone()],
            None => {
                let all = pools(admin)?;
                all.into_iter().map(|pool| SpawnTarget { upstream: pool.upstream, worker: None }).collect()
            }
        };
        if targets.is_empty() {
            return Err(RemoteError::new("stickyd starts no workers: no upstream has `spawn`"));
        }
        let ordered: Result<Vec<_>, _> = targets.iter().map(|target| send(admin, target, "restart", None)).collect();
        let ordered = ordered?;
        if self.no_wait {
            return Ok(ordered);
        }
        ordered.into_iter().map(|pool| follow(admin, pool)).collect()
    }
}

/// Waits until the roll of an upstream is over.
fn follow(admin: &AdminClient, mut pool: PoolView) -> Result<PoolView, RemoteError> {
    let wanted = pool.roll.as_ref().map(|roll| roll.id);
    let mut out = Progress::new();
    loop {
        let roll = pool.roll.as_ref().filter(|roll| Some(roll.id) == wanted);
        let Some(roll) = roll else {
            out.end();
            return Err(RemoteError::new("another replacement has begun meanwhile"));
        };
        let state = roll.state.as_str();
        if state != "running" {
            out.end();
            return if state == "done" { Ok(pool) } else { Err(failed(&pool.upstream, roll)) };
        }
        let text = format!("{}: {} of {} workers replaced", pool.upstream, roll.replaced, roll.total);
        out.show(roll.replaced.into(), roll.total.into(), text);
        // Nothing else runs on this thread, so it may block.
        std::thread::park_timeout(ROLL_POLL);
        let found = pools(admin)?.into_iter().find(|one| one.upstream == pool.upstream);
        pool = found.ok_or_else(|| RemoteError::new("the upstream is no longer configured"))?;
    }
}

fn failed(upstream: &str, roll: &RollView) -> RemoteError {
    let why = roll.why.as_deref().unwrap_or("unknown");
    let mut text = format!("{upstream}: {} of {} workers were replaced, then {why}", roll.replaced, roll.total);
    text.push_str("; the others stay");
    for line in &roll.last_lines {
        text.push_str(&format!("\n  {line}"));
    }
    RemoteError::new(&text)
}

fn told(pool: &PoolView, no_wait: bool) -> String {
    let (replaced, total) = pool.roll.as_ref().map_or((0, 0), |roll| (roll.replaced, roll.total));
    match no_wait {
        true => format!("{}: {total} workers are replaced one after the other\n", pool.upstream),
        false => format!("{}: {replaced} of {total} workers replaced\n", pool.upstream),
    }
}

/// Arguments of `stickyd scale`.
#[derive(Debug, Args)]
pub struct ScaleCommand {
    /// Upstream whose workers stickyd starts
    #[arg(value_name = "UPSTREAM")]
    pub upstream: String,
    /// Number of workers, until stickyd restarts or the number in its file changes
    #[arg(value_name = "N|max", value_parser = crate::config::spawn::parse_instances)]
    pub instances: u32,
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

impl ScaleCommand {
    /// Sets the number of workers, and returns the exit code.
    pub fn run(&self) -> u8 {
        let target = SpawnTarget { upstream: self.upstream.clone(), worker: None };
        let said = self.asking.remote.find().and_then(|admin| send(&admin, &target, "scale", Some(self.instances)));
        self.asking.finish(said, |pool| format!("{}: {} workers are wanted\n", pool.upstream, pool.instances))
    }
}

/// Arguments of `stickyd stop` and `stickyd start`.
#[derive(Debug, Args)]
pub struct StopStartCommand {
    /// Upstream or worker, such as app or app/1
    #[arg(value_name = "UPSTREAM[/WORKER]", value_parser = target)]
    pub target: SpawnTarget,
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

impl StopStartCommand {
    /// Stops the workers, and returns the exit code.
    pub fn stop(&self) -> u8 {
        self.send("stop", "stopping")
    }

    /// Starts the workers, and returns the exit code.
    pub fn start(&self) -> u8 {
        self.send("start", "starting")
    }

    fn send(&self, word: &str, said: &str) -> u8 {
        let answer = self.asking.remote.find().and_then(|admin| send(&admin, &self.target, word, None));
        let worker = self.target.worker.as_ref().map_or(String::new(), |worker| format!("/{worker}"));
        self.asking.finish(answer, |pool| format!("{}{worker}: {said}\n", pool.upstream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_an_upstream_or_a_numbered_worker() {
        let read = |text| target(text).ok().map(|target| (target.upstream, target.worker));
        assert_eq!(read("app"), Some(("app".to_owned(), None)));
        assert_eq!(read("app/1"), Some(("app".to_owned(), Some("1".to_owned()))));
        for wrong in ["", "/1", "app/", "app/w1", "app/1/2"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
