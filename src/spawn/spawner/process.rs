//! One process of a worker: how it is started, stopped, and found to have ended.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio_util::task::TaskTracker;

use super::super::environment;
use super::super::protocol::{StartRequest, Tag};
use super::groups::ProcessGroup;
use super::logs::{Logs, Output};

/// The file that this process was made from, also after an upgrade has replaced it on disk.
pub(crate) const OWN_FILE: &str = "/proc/self/exe";

/// One process that was started.
pub(super) struct SpawnedProcess {
    pub(super) tag: Tag,
    pub(super) group: ProcessGroup,
    pub(super) started: Instant,
    /// Time from SIGTERM to SIGKILL when the spawner is stopped.
    pub(super) patience: Duration,
    pub(super) output: Rc<Output>,
    child: Child,
    /// When the group is killed.
    kill_at: Option<Instant>,
    ended: Option<(ExitStatus, Instant)>,
}

impl SpawnedProcess {
    /// Starts the process. Must be called on the main thread, see [`super::super::shim`].
    pub(super) fn start(start: StartRequest, folder: &Path, logs: &Rc<Logs>, tasks: &TaskTracker) -> io::Result<Self> {
        let mut command = Command::new(OWN_FILE);
        command.arg("__worker").arg(std::process::id().to_string()).arg("--").args(&start.command);
        environment::apply(&mut command, &start.environment, &start.preloads, folder)?;
        command.current_dir(&start.directory).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let missing = |error: io::Error| {
            let directory = start.directory.display();
            io::Error::new(error.kind(), format!("cannot start a process in {directory}: {error}"))
        };
        let mut child = command.spawn().map_err(missing)?;
        let group = ProcessGroup::of(child.id()).ok_or(io::ErrorKind::InvalidData)?;
        let output = Output::new(&start.tag, start.json);
        let (out, err) = (child.stdout.take(), child.stderr.take());
        if let Err(error) = output.follow(out.map(Into::into), err.map(Into::into), logs, tasks) {
            group.kill();
            let _ = child.wait();
            return Err(error);
        }
        Ok(Self {
            tag: start.tag,
            group,
            started: Instant::now(),
            patience: Duration::from_millis(start.stop_ms),
            output,
            child,
            kill_at: None,
            ended: None,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.group.leader()
    }

    /// Sends SIGTERM, and SIGKILL after `patience`. An earlier order with less patience stays.
    pub(super) fn stop(&mut self, patience: Duration) {
        if self.ended.is_some() {
            return;
        }
        if self.kill_at.is_none() {
            self.group.terminate();
        }
        let kill_at = Instant::now() + patience;
        self.kill_at = Some(self.kill_at.map_or(kill_at, |before| before.min(kill_at)));
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.kill_at.is_some()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Sees whether the process has ended, and kills it if its time is over.
    pub(super) fn look(&mut self, now: Instant) {
        if self.ended.is_none()
            && let Ok(Some(status)) = self.child.try_wait()
        {
            self.ended = Some((status, now));
        }
        if self.ended.is_none() && self.kill_at.is_some_and(|at| at <= now) {
            self.group.kill();
        }
    }

    /// Whether the process has ended and its output was read; a grandchild may hold its pipes open for longer than
    /// `patience`.
    pub(super) fn is_over(&self, now: Instant, patience: Duration) -> bool {
        let over = |(_, at): &(ExitStatus, Instant)| self.output.is_closed() || now.duration_since(*at) >= patience;
        self.ended.as_ref().is_some_and(over)
    }

    /// The exit code, or the signal that ended the process.
    pub(super) fn outcome(&self) -> (Option<i32>, Option<i32>) {
        let status = self.ended.as_ref().map(|(status, _)| *status);
        (status.and_then(|status| status.code()), status.and_then(|status| status.signal()))
    }
}
