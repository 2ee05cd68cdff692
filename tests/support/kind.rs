//! Real clients of other protocols than Socket.IO: one run of `tests/clients/kinds/KIND_client.js`.

use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;

use super::process::Process;

/// Longer than the clients' own patience, so that they say what failed.
const PATIENCE: Duration = Duration::from_secs(40);

/// Sessions of one kind, opened and asked when the test says so. Drop ends them.
pub(crate) struct Kind {
    process: Process,
}

impl Kind {
    /// Options: `tests/clients/README.md`.
    pub(crate) fn start(kind: &str, options: &Value) -> Self {
        let script = format!("kinds/{kind}_client.js");
        Self { process: Process::start("node", [script, options.to_string()]) }
    }

    /// Opens so many more; the state after it.
    pub(crate) async fn open(&mut self, count: usize) -> Value {
        self.tell(&format!("open {count}"), "opened").await
    }

    /// Every session that is not lost asks who serves it, all at once; the state after it.
    pub(crate) async fn ask(&mut self) -> Value {
        self.tell("ask", "asked").await
    }

    /// Holds all requests back, and waits until none is under way.
    pub(crate) async fn hold(&mut self) -> Value {
        self.tell("hold", "held").await
    }

    /// Lets them go on.
    pub(crate) async fn go(&mut self) {
        self.process.command("go").await;
    }

    /// The state as it is.
    pub(crate) async fn status(&mut self) -> Value {
        self.tell("status", "status").await
    }

    /// Closes all sessions in their protocol's own way; the state before it, with the answers to that.
    pub(crate) async fn stop(mut self) -> Value {
        self.tell("stop", "result").await
    }

    async fn tell(&mut self, command: &str, event: &str) -> Value {
        self.process.command(command).await;
        let line = timeout(PATIENCE, self.process.line()).await;
        let line = line.unwrap_or_else(|_| panic!("no {event} within {PATIENCE:?}")).expect("the clients live");
        assert_eq!(line["event"], event, "{line}");
        line
    }
}
