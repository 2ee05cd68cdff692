//! Real clients of other protocols than Socket.IO: one run of `tests/clients/kinds/KIND_client.js`.

use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;

use super::process::Process;

/// A limit that is longer than the clients' own, so that they can report what failed.
const PATIENCE: Duration = Duration::from_secs(40);

/// Sessions of one kind that the test opens and uses; they end when this is dropped.
pub(crate) struct Kind {
    process: Process,
}

impl Kind {
    /// Starts the clients; the options are in `tests/clients/README.md`.
    pub(crate) fn start(kind: &str, options: &Value) -> Self {
        let script = format!("kinds/{kind}_client.js");
        Self { process: Process::start("node", [script, options.to_string()]) }
    }

    /// Opens `count` more sessions; the state afterwards.
    pub(crate) async fn open(&mut self, count: usize) -> Value {
        self.tell(&format!("open {count}"), "opened").await
    }

    /// Sends a request of every session that is not lost, all at once; the state afterwards.
    pub(crate) async fn ask(&mut self) -> Value {
        self.tell("ask", "asked").await
    }

    /// Holds all requests back and waits until none is in flight.
    pub(crate) async fn hold(&mut self) -> Value {
        self.tell("hold", "held").await
    }

    /// Ends a hold, so that requests go on.
    pub(crate) async fn go(&mut self) {
        self.process.command("go").await;
    }

    /// The current state of the sessions.
    pub(crate) async fn status(&mut self) -> Value {
        self.tell("status", "status").await
    }

    /// Closes all sessions as their protocol does; the state before that, with the answers to the closes.
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
