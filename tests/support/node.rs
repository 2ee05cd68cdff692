//! Real workers: Socket.IO from npm, `ws`, python-socketio, socketioxide.

use std::ops::RangeInclusive;
use std::path::Path;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::process::{Process, clients_dir};
use super::wait::{patience, wait_for_async};

/// A worker process that listens.
pub(crate) struct Worker {
    /// The port on 127.0.0.1; 0 for a unix socket.
    pub(crate) port: u16,
    /// The path of the unix socket, if it listens on one.
    pub(crate) path: Option<String>,
    pub(crate) pid: u32,
    /// The name in its echoes and in `/who`, from `--name`.
    pub(crate) name: String,
    process: Process,
}

/// An unmodified Socket.IO application (`tests/clients/server.js`), with `--version 4|4.5|3|2|1.7` and more.
pub(crate) struct NodeServer;
/// A WebSocket echo (`tests/clients/ws-echo.js`), with `--first TEXT` and `--permessage-deflate`.
pub(crate) struct WsEcho;
/// python-socketio on aiohttp (`tests/clients/python_server.py`).
pub(crate) struct PythonServer;
/// Socket.IO in Rust: socketioxide (`examples/test_worker_oxide.rs`).
pub(crate) struct OxideServer;

impl NodeServer {
    pub(crate) async fn start(args: &[&str]) -> Worker {
        Worker::start(Path::new("node"), &[&["server.js"], args].concat()).await
    }

    /// `count` workers with the same arguments, named w1, w2, …; started together, because node starts slowly.
    pub(crate) async fn start_many(count: usize, args: &[&str]) -> Vec<Worker> {
        start_many("server.js", 1..=count, args).await
    }
}

/// A worker of another protocol (`tests/clients/kinds/KIND_server.js`).
pub(crate) struct KindServer;

impl KindServer {
    /// Workers named by their numbers: w1, w2, …
    pub(crate) async fn start_many(kind: &str, numbers: RangeInclusive<usize>, args: &[&str]) -> Vec<Worker> {
        start_many(&format!("kinds/{kind}_server.js"), numbers, args).await
    }
}

async fn start_many(script: &str, numbers: RangeInclusive<usize>, args: &[&str]) -> Vec<Worker> {
    let mut starting = Vec::new();
    for i in numbers {
        let name = format!("w{i}");
        starting.push(Process::start("node", [&[script, "--name", &name], args].concat()));
    }
    let mut workers = Vec::new();
    for process in starting {
        workers.push(Worker::listening(process).await);
    }
    workers
}

impl WsEcho {
    pub(crate) async fn start(args: &[&str]) -> Worker {
        Worker::start(Path::new("node"), &[&["ws-echo.js"], args].concat()).await
    }
}

impl PythonServer {
    pub(crate) async fn start(args: &[&str]) -> Worker {
        Worker::start(&clients_dir().join(".venv/bin/python"), &[&["python_server.py"], args].concat()).await
    }
}

impl OxideServer {
    /// Starts the example, which cargo builds next to the binary when it builds all targets.
    pub(crate) async fn start(args: &[&str]) -> Worker {
        let binary = Path::new(env!("CARGO_BIN_EXE_stickyd")).with_file_name("examples/test_worker_oxide");
        Worker::start(&binary, args).await
    }
}

impl Worker {
    async fn start(program: &Path, args: &[&str]) -> Self {
        Self::listening(Process::start(program, args)).await
    }

    async fn listening(mut process: Process) -> Self {
        let line =
            timeout(patience(), process.line()).await.expect("listens in time").expect("reports where it listens");
        Self {
            port: line["port"].as_u64().map_or(0, |port| u16::try_from(port).unwrap()),
            path: line["path"].as_str().map(str::to_owned),
            pid: u32::try_from(line["pid"].as_u64().unwrap()).unwrap(),
            name: line["name"].as_str().unwrap().to_owned(),
            process,
        }
    }

    /// `http://127.0.0.1:PORT`, for clients that connect to the worker directly.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// `127.0.0.1:PORT` or `unix:PATH`, the address of the worker in a configuration.
    pub(crate) fn address(&self) -> String {
        self.path.as_ref().map_or_else(|| format!("127.0.0.1:{}", self.port), |path| format!("unix:{path}"))
    }

    /// Sends SIGSTOP and waits until the process has stopped: its kernel still accepts, but it does not answer.
    pub(crate) async fn stop(&self) {
        self.process.signal("STOP").await;
    }

    /// Sends SIGCONT, so that a stopped process goes on.
    pub(crate) async fn cont(&self) {
        self.process.signal("CONT").await;
    }

    /// Sends SIGKILL and waits for the end of the process.
    pub(crate) async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// Starts a graceful `server.close()`, which refuses connects and keeps sockets; waits until a connect is refused.
    pub(crate) async fn close(&mut self) {
        self.process.command("close").await;
        let port = self.port;
        wait_for_async("the worker refuses connections", async || {
            TcpStream::connect(("127.0.0.1", port)).await.is_err()
        })
        .await;
    }

    /// Sends any other command of the worker: `busy MS`, `disconnect-all`, `close-all CODE` or `exit`.
    pub(crate) async fn command(&mut self, line: &str) {
        self.process.command(line).await;
    }

    /// The worker's counters, read directly: what really reached it.
    pub(crate) async fn stats(&self) -> Value {
        serde_json::from_str(&self.get("/stats").await).expect("stats are JSON")
    }

    /// Asks for the worker's counters until they are as wanted, because a worker may count after its client has seen.
    pub(crate) async fn stats_when(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        wait_for_async("the counters of a worker are as wanted", async || {
            let stats = self.stats().await;
            if wanted(&stats) { Ok(stats) } else { Err(stats) }
        })
        .await
    }

    /// The body of a GET, sent directly with HTTP/1.0, so that the answer is the rest of the connection and never
    /// chunked.
    pub(crate) async fn get(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.0\r\nHost: worker\r\n\r\n");
        let mut answer = String::new();
        let exchange = async {
            if let Some(path) = &self.path {
                let mut stream = UnixStream::connect(path).await?;
                stream.write_all(request.as_bytes()).await?;
                stream.read_to_string(&mut answer).await
            } else {
                let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
                stream.write_all(request.as_bytes()).await?;
                stream.read_to_string(&mut answer).await
            }
        };
        timeout(patience(), exchange).await.expect("answers in time").expect("answers");
        answer.split_once("\r\n\r\n").expect("a whole head").1.to_owned()
    }
}
