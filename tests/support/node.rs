//! Real workers: Socket.IO from npm, `ws`, python-socketio, socketioxide.

use std::ops::RangeInclusive;
use std::path::Path;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::process::{PATIENCE, Process, clients_dir};
use super::wait::wait_for_async;

/// One worker process, listening.
pub(crate) struct Worker {
    /// On 127.0.0.1; 0 for a unix socket.
    pub(crate) port: u16,
    /// Of the unix socket, if it was told to listen on one.
    pub(crate) path: Option<String>,
    pub(crate) pid: u32,
    /// What its echoes and `/who` say; `--name`.
    pub(crate) name: String,
    process: Process,
}

/// `tests/clients/server.js`: an unmodified Socket.IO application; `--version 4|4.5|3|2|1.7` and more.
pub(crate) struct NodeServer;
/// `tests/clients/ws-echo.js`: a WebSocket echo; `--first TEXT`, `--permessage-deflate`.
pub(crate) struct WsEcho;
/// `tests/clients/python_server.py`: python-socketio on aiohttp.
pub(crate) struct PythonServer;
/// `examples/test_worker_oxide.rs`: socketioxide.
pub(crate) struct OxideServer;

impl NodeServer {
    pub(crate) async fn start(args: &[&str]) -> Worker {
        Worker::start(Path::new("node"), &[&["server.js"], args].concat()).await
    }

    /// `count` workers of the same arguments, named w1, w2, …; started together, for node needs its time.
    pub(crate) async fn start_many(count: usize, args: &[&str]) -> Vec<Worker> {
        start_many("server.js", 1..=count, args).await
    }
}

/// `tests/clients/kinds/KIND_server.js`: a worker of another protocol.
pub(crate) struct KindServer;

impl KindServer {
    /// Named by their numbers: w1, w2, …
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
    /// Cargo builds examples beside the binary, whenever it builds all targets.
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
        let line = timeout(PATIENCE, process.line()).await.expect("listens in time").expect("says where it listens");
        Self {
            port: line["port"].as_u64().map_or(0, |port| u16::try_from(port).unwrap()),
            path: line["path"].as_str().map(str::to_owned),
            pid: u32::try_from(line["pid"].as_u64().unwrap()).unwrap(),
            name: line["name"].as_str().unwrap().to_owned(),
            process,
        }
    }

    /// `http://127.0.0.1:PORT`, for clients that go to it directly.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// `127.0.0.1:PORT` or `unix:PATH`, as a configuration names a worker.
    pub(crate) fn address(&self) -> String {
        self.path.as_ref().map_or_else(|| format!("127.0.0.1:{}", self.port), |path| format!("unix:{path}"))
    }

    /// SIGSTOP, and it stands when this returns: its kernel still accepts, nobody answers.
    pub(crate) async fn stop(&self) {
        self.process.signal("STOP").await;
    }

    /// SIGCONT.
    pub(crate) async fn cont(&self) {
        self.process.signal("CONT").await;
    }

    /// SIGKILL; gone when this returns.
    pub(crate) async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// A graceful `server.close()`: refuses connects, keeps its sockets. Done when a connect has been refused.
    pub(crate) async fn close(&mut self) {
        self.process.command("close").await;
        let port = self.port;
        wait_for_async("the worker refuses connections", async || {
            TcpStream::connect(("127.0.0.1", port)).await.is_err()
        })
        .await;
    }

    /// Any other command of the worker: `busy MS`, `disconnect-all`, `close-all CODE`, `exit`.
    pub(crate) async fn command(&mut self, line: &str) {
        self.process.command(line).await;
    }

    /// Its counters, asked directly: what really reached it.
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

    /// The body of a GET, asked directly. HTTP/1.0: the answer is the rest of the connection, never chunked.
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
        timeout(PATIENCE, exchange).await.expect("answers in time").expect("answers");
        answer.split_once("\r\n\r\n").expect("a whole head").1.to_owned()
    }
}
