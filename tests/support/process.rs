//! A process of the kit (`tests/clients`): it prints JSON lines and reads commands as lines.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;

use super::wait::wait_for_async;

/// A limit that is longer than any healthy process needs on two busy cores; a test that reaches it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A running process and the lines that it prints.
pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::UnboundedReceiver<Value>,
}

impl Process {
    /// Starts `program` in `tests/clients`.
    pub(crate) fn start<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = A>) -> Self {
        let mut child = Command::new(program.as_ref())
            .args(args)
            .current_dir(clients_dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; tests/run installs it", program.as_ref().display()));
        let (tell, lines) = mpsc::unbounded_channel();
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        // Reads all the time, so that a process whose test does not read never blocks on a full pipe.
        #[expect(clippy::disallowed_methods, reason = "a test's reader: ends with the process")]
        tokio::spawn(async move {
            while let Ok(Some(line)) = stdout.next_line().await {
                let Ok(value) = serde_json::from_str(&line) else { panic!("no JSON line: {line}") };
                if tell.send(value).is_err() {
                    break;
                }
            }
        });
        Self { stdin: child.stdin.take(), child, lines }
    }

    /// The next line, or `None` at the end of its output.
    pub(crate) async fn line(&mut self) -> Option<Value> {
        self.lines.recv().await
    }

    /// Writes one line to the stdin of the process.
    pub(crate) async fn command(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("stdin is open");
        stdin.write_all(format!("{line}\n").as_bytes()).await.expect("the process reads its stdin");
    }

    /// Sends the signal `name` (`STOP`, `CONT`, `TERM`, …).
    pub(crate) async fn signal(&self, name: &str) {
        let Some(pid) = self.child.id() else { return };
        // `kill` is built into the shell; a minimal machine has no other.
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().await;
        assert!(sent.is_ok_and(|status| status.success()), "kill -{name} {pid}");
        if name == "STOP" {
            // The signal is only under way when `kill` returns: wait until every thread has stopped.
            wait_for_async("the process is stopped", async || match state_of(pid) {
                Some('T') => Ok(()),
                state => Err(state),
            })
            .await;
        }
    }

    /// Kills the process and waits until it has ended.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.expect("the process can be killed");
    }

    /// Closes stdin and waits for the end of the process; its exit code, `None` for a signal.
    pub(crate) async fn end(&mut self) -> Option<i32> {
        self.stdin = None;
        let ended =
            tokio::time::timeout(super::wait::patience(), self.child.wait()).await.expect("ends with its stdin");
        ended.expect("the process can be awaited").code()
    }
}

/// The folder `tests/clients`, in which everything is installed.
pub(crate) fn clients_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// The state letter in `/proc/PID/stat`, which follows the name in parentheses.
fn state_of(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
