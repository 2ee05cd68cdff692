//! Real clients: one run of `tests/clients/load.js`.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use super::process::Process;
use super::wait::patience;

/// Clients in a process of their own; dropping this ends them.
pub(crate) struct Load {
    process: Process,
    /// All lines so far, for the message of a failed wait.
    said: Vec<Value>,
}

impl Load {
    /// Starts clients; the options are in `tests/clients/README.md`. Events are always on.
    pub(crate) fn start(mut options: Value) -> Self {
        options["events"] = json!(true);
        Self { process: Process::start("node", ["load.js", &options.to_string()]), said: Vec::new() }
    }

    /// Runs clients to their own end; the result.
    pub(crate) async fn run(options: Value) -> Value {
        Self::start(options).finish().await
    }

    /// Waits for the next event of this name: `all-connected`, `all-upgraded`, `all-echoed`, `all-held`, `disconnect`,
    /// …
    pub(crate) async fn event(&mut self, name: &str) -> Value {
        self.event_within(name, patience()).await
    }

    /// Waits for an event with another limit; panics with the last lines if it does not come.
    pub(crate) async fn event_within(&mut self, name: &str, limit: Duration) -> Value {
        let found = timeout(limit, async {
            while let Some(line) = self.process.line().await {
                self.said.push(line.clone());
                if line["event"] == name {
                    return Some(line);
                }
            }
            None
        });
        match found.await {
            Ok(Some(event)) => event,
            Ok(None) => panic!("the run ended without {name}; it said {}", self.last_words()),
            Err(_) => panic!("no {name} within {limit:?}; it said {}", self.last_words()),
        }
    }

    /// Makes every client send `count` more messages, and waits until all have come back.
    pub(crate) async fn echo(&mut self, count: usize) {
        self.command(&format!("send {count}")).await;
        self.event("all-echoed").await;
    }

    /// Makes every client pause with no request open (kind `raw` only); `command("go")` ends the pause.
    pub(crate) async fn hold(&mut self) {
        self.command("hold").await;
        self.event("all-held").await;
    }

    /// Sends a command: `send N`, `send endless`, `hold`, `go`, `stop` or `status`.
    pub(crate) async fn command(&mut self, line: &str) {
        self.process.command(line).await;
    }

    /// The result as it would be now.
    pub(crate) async fn status(&mut self) -> Value {
        self.command("status").await;
        self.event("status").await
    }

    /// Waits until the run has ended by itself; the result.
    pub(crate) async fn finish(mut self) -> Value {
        // The `timeout` option of the run bounds it; this limit is for a process that hangs.
        let result = self.event_within("result", Duration::from_secs(150)).await;
        assert_eq!(self.process.end().await, Some(0), "load.js failed");
        result
    }

    /// Ends a run that would go on; the result.
    pub(crate) async fn stop(mut self) -> Value {
        self.command("stop").await;
        self.finish().await
    }

    /// All events of this name so far.
    pub(crate) fn said(&self, name: &str) -> Vec<&Value> {
        self.said.iter().filter(|line| line["event"] == name).collect()
    }

    fn last_words(&self) -> String {
        let words: Vec<_> = self.said.iter().rev().take(12).rev().map(Value::to_string).collect();
        words.join("\n  ")
    }
}
