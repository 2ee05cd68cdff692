//! One process of the kit (`tests/clients`): JSON lines come out, command lines go in.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;

use super::wait::wait_for_async;

/// Longer than anything a healthy process needs on two busy cores; a test that waits for it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A running process and what it prints.
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
        // Reads at once, so that a process whose test looks away never blocks on a full pipe.
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

    /// Writes one line to its stdin.
    pub(crate) async fn command(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("stdin is open");
        stdin.write_all(format!("{line}\n").as_bytes()).await.expect("the process reads its stdin");
    }

    /// Sends the signal `name` (`STOP`, `CONT`, `TERM`, …).
    pub(crate) async fn signal(&self, name: &str) {
        let Some(pid) = self.child.id() else { return };
        // The shell's own `kill`: a minimal machine has no other.
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().await;
        assert!(sent.is_ok_and(|status| status.success()), "kill -{name} {pid}");
        if name == "STOP" {
            // The signal is on its way when `kill` returns: wait until every thread stands.
            wait_for_async("the process is stopped", async || match state_of(pid) {
                Some('T') => Ok(()),
                state => Err(state),
            })
            .await;
        }
    }

    /// Kills it and waits until it is gone.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.expect("the process can be killed");
    }

    /// Closes its stdin and waits for its end; → its exit code, `None` for a signal.
    pub(crate) async fn end(&mut self) -> Option<i32> {
        self.stdin = None;
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("ends with its stdin");
        ended.expect("the process can be awaited").code()
    }
}

/// `tests/clients`, with everything installed.
pub(crate) fn clients_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// The state letter of `/proc/PID/stat`; it follows the parenthesised name.
fn state_of(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
