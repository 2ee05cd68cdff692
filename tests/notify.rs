//! Notifications: real HTTP receivers and a real mail server get messages about workers that die and come back.

mod alarms;
mod mail;
mod prometheus;
mod receivers;
mod secrets;

use std::net::TcpListener;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::process::Process;
use crate::support::proxy::{Binary, free_address};
use crate::support::raw::Raw;

/// A receiver (`tests/clients/receiver.js`), and the requests that it got.
struct Receiver {
    process: Process,
    port: u64,
}

impl Receiver {
    async fn start() -> Self {
        Self::of(Process::start("node", ["receiver.js"])).await
    }

    /// A mail server (`tests/clients/smtp.js`).
    async fn smtp(options: &Value) -> Self {
        Self::of(Process::start("node", ["smtp.js", &options.to_string()])).await
    }

    async fn of(mut process: Process) -> Self {
        let first = process.line().await.expect("the receiver starts");
        Self { process, port: first["port"].as_u64().unwrap() }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    /// The next request; it must be one that the real receiver takes.
    async fn next(&mut self) -> Value {
        let limit = crate::support::process::PATIENCE;
        let request = tokio::time::timeout(limit, self.process.line()).await.expect("a request in time");
        let request = request.expect("the receiver lives");
        assert!(request["wrong"].is_null(), "the real receiver would refuse this: {request:#}");
        request
    }

    /// The next request for a path.
    async fn next_for(&mut self, path: &str) -> Value {
        loop {
            let request = self.next().await;
            if request["path"] == format!("/{path}") {
                return request;
            }
        }
    }

    /// Plans the next answers.
    async fn plan(&mut self, plan: &Value) {
        self.process.command(&plan.to_string()).await;
    }
}

/// A worker that accepts connections, and can die and come back at its address.
struct Target {
    address: std::net::SocketAddr,
    listener: Option<TcpListener>,
}

impl Target {
    fn start() -> Self {
        let address = free_address();
        Self { address, listener: Some(TcpListener::bind(address).unwrap()) }
    }

    fn die(&mut self) {
        self.listener = None;
    }

    fn rise(&mut self) {
        self.listener = Some(TcpListener::bind(self.address).unwrap());
    }
}

/// A stickyd in front of these workers, fast to notice their ends, with these lines of configuration.
fn stickyd(targets: &[&Target], upstream: &str, rest: &str) -> Binary {
    Binary::with(&config(targets, upstream, rest))
}

fn config(targets: &[&Target], upstream: &str, rest: &str) -> String {
    let workers: Vec<_> = targets.iter().map(|target| target.address.to_string()).collect();
    let health = "health = { kind = \"tcp\", interval = \"200ms\", fast_interval = \"200ms\", rise = 1 }";
    format!("state_dir = \".\"\n[upstream.app]\nworkers = {workers:?}\n{health}\n{upstream}\n{rest}\n")
}

/// Runs a command of stickyd against a running one; the exit code, standard output and standard error.
fn run(binary: &Binary, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_stickyd"));
    let done = command.current_dir(&binary.directory).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (done.status.code(), text(done.stdout), text(done.stderr))
}

/// The answer of `GET /api/v1/notify`.
fn state(binary: &Binary) -> Value {
    serde_json::from_slice(&Raw::connect_unix(&binary.admin()).get("/api/v1/notify").body).unwrap()
}

fn write(binary: &Binary, name: &str, text: &str) {
    std::fs::write(Path::new(&binary.directory).join(name), text).unwrap();
}

fn body(request: &Value) -> Value {
    serde_json::from_str(request["body"].as_str().unwrap()).unwrap_or_else(|_| json!(request["body"]))
}
