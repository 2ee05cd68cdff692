//! stickyd itself, in this process or as the real binary, in front of the workers of a test.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use stickyd::testing::config;
use stickyd::testing::server::Server;
use stickyd::testing::server::StopOutcome;
use stickyd::testing::systemd::Parent;
use stickyd::testing::upstream::Worker;

use super::wait::{wait_for, wait_for_async};

/// A stickyd in the process of the test; it is stopped and waited for when it is dropped.
pub(crate) struct Proxy {
    /// The address of its first listener.
    pub(crate) address: SocketAddr,
    server: Option<Server>,
}

impl Proxy {
    /// A proxy of these workers with default settings and two threads.
    pub(crate) fn before(workers: &[SocketAddr]) -> Self {
        Self::with(&format!("[upstream.app]\nworkers = {:?}", texts(workers)))
    }

    /// A proxy with this configuration; a listener on a free port of 127.0.0.1 is added if the text has none.
    pub(crate) fn with(toml: &str) -> Self {
        let directory = std::env::temp_dir();
        Self::with_files(toml, &directory)
    }

    /// A proxy with this configuration, whose relative paths start at `directory`.
    pub(crate) fn with_files(toml: &str, directory: &Path) -> Self {
        let config = config::parse(&complete(toml), &directory.join("stickyd.toml")).unwrap_or_else(|e| panic!("{e}"));
        let server = Server::start(config, None, Parent::default()).unwrap();
        Self { address: server.addresses[0], server: Some(server) }
    }

    /// The URL of `path` at the first listener.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The server, which has to be running.
    pub(crate) fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    /// The value of one series as `/metrics` shows it now; 0 if it is not there. `series` has its labels in
    /// alphabetical order.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let shared = self.server().shared();
        let text = String::from_utf8(stickyd::testing::admin::scrape(shared)).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    /// A live worker by name.
    pub(crate) fn worker(&self, name: &str) -> Arc<Worker> {
        let snapshot = self.server().shared().snapshot.load();
        let members = snapshot.upstreams.iter().flat_map(|upstream| &upstream.members);
        members.map(|member| &member.worker).find(|worker| worker.name == name).unwrap().clone()
    }

    /// Waits until every worker has passed a health check and takes new sessions.
    pub(crate) async fn all_take_new(&self) {
        wait_for_async("every worker takes new sessions", async || {
            let snapshot = self.server().shared().snapshot.load();
            let workers = snapshot.upstreams.iter().flat_map(|upstream| &upstream.members).map(|member| &member.worker);
            let is_late = |worker: &&Arc<Worker>| !worker.takes_new() || worker.notes.check().is_none();
            let late: Vec<_> = workers.filter(is_late).map(|worker| worker.name.clone()).collect();
            if late.is_empty() { Ok(()) } else { Err(late) }
        })
        .await;
    }

    /// Stops the proxy as SIGTERM does; how it ended.
    pub(crate) fn stop(mut self) -> StopOutcome {
        let server = self.server.take().unwrap();
        server.stop().gently.cancel();
        server.wait()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop().now.cancel();
            server.stop().gently.cancel();
            server.wait();
        }
    }
}

/// The real binary as a process of its own, which is killed when this is dropped.
pub(crate) struct Binary {
    /// The address of its first listener.
    pub(crate) address: SocketAddr,
    /// The directory with its `stickyd.toml`.
    pub(crate) directory: PathBuf,
    child: Child,
    /// Its log, of all its processes so far.
    log: Arc<Mutex<String>>,
    start: Start,
}

/// How to start a [`Binary`], given the address of its first listener.
type Start = Box<dyn Fn(SocketAddr) -> Command + Send + Sync>;

impl Binary {
    /// Starts the binary with this configuration in a directory of its own, which is also its `state_dir` if the text
    /// has `state_dir = "."`. The listener is on a free port, and keeps it after [`Binary::start_again`].
    pub(crate) fn with(toml: &str) -> Self {
        Self::started_by(toml, |_| Self::command())
    }

    /// The command that starts it, for its directory.
    pub(crate) fn command() -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stickyd"));
        command.args(["run", "--config", "stickyd.toml"]);
        command
    }

    /// A binary like [`Binary::with`], started by another command.
    pub(crate) fn started_by(toml: &str, start: impl Fn(SocketAddr) -> Command + Send + Sync + 'static) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("stickyd-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let address = free_address();
        let toml = complete(toml).replace("127.0.0.1:0", &address.to_string());
        std::fs::write(directory.join("stickyd.toml"), toml).unwrap();
        let log = Arc::default();
        let child = Self::spawn(start(address), &directory, &log);
        Self { address, directory, child, log, start: Box::new(start) }
    }

    fn spawn(mut command: Command, directory: &Path, log: &Arc<Mutex<String>>) -> Child {
        let mut child = command
            .current_dir(directory)
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned()))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The line with `ready` ends the start; after that a thread reads the log until the process ends.
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = String::new();
        loop {
            let line = lines.next().unwrap_or_else(|| panic!("stickyd ended: {said}")).unwrap();
            said.push_str(&line);
            said.push('\n');
            if line.contains(": ready ") || line.contains("\"message\":\"ready\"") {
                break;
            }
        }
        let log = log.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                eprintln!("{line}");
                let mut log = log.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        child
    }

    /// Waits until the log has a line with all of these words; returns the line.
    pub(crate) fn says(&self, words: &[&str]) -> String {
        wait_for(&format!("a log line with {words:?}"), || {
            let log = self.log();
            let line = log.lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned);
            line.ok_or(log)
        })
    }

    /// The path of its admin socket, if the text has `state_dir = "."`.
    pub(crate) fn admin(&self) -> PathBuf {
        self.directory.join("admin.sock")
    }

    /// Waits for the end of the process; its exit code, `None` for a signal.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// The URL of `path` at the first listener.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sends SIGKILL and waits for the end of the process.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again, on the same address, after [`Binary::kill`] or [`Binary::terminate`].
    pub(crate) fn start_again(&mut self) {
        self.child = Self::spawn((self.start)(self.address), &self.directory, &self.log);
    }

    /// Its log since it was ready, of all its processes so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// The id of its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name (`TERM`, `HUP`, …).
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Sends SIGTERM; the exit code, and how long the stop took.
    pub(crate) fn terminate(&mut self) -> (Option<i32>, Duration) {
        let began = Instant::now();
        self.signal("TERM");
        (self.child.wait().unwrap().code(), began.elapsed())
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A loopback address that no other process uses, for what has to come back at the same address or must be missing. Its
/// IP belongs to this process: a port that the kernel gives and takes back would soon belong to another test.
pub(crate) fn free_address() -> SocketAddr {
    static PORTS: AtomicU32 = AtomicU32::new(20_000);
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let port = PORTS.fetch_add(1, Ordering::Relaxed);
    ([127, a | 0x40, b, c], u16::try_from(port).unwrap()).into()
}

/// Adds a listener and, for speed, two threads, if the text has none.
fn complete(toml: &str) -> String {
    let toml = &buffered(toml);
    let threads = if toml.contains("threads") { "" } else { "threads = 2\n" };
    let listener = if toml.contains("[[listener]]") { "" } else { "[[listener]]\naddress = \"127.0.0.1:0\"\n" };
    // Top-level keys first, because in TOML everything after a table's header belongs to that table.
    let is_table = |line: &&str| line.starts_with('[');
    let keys: Vec<&str> = toml.lines().take_while(|line| !is_table(line)).collect();
    let tables: Vec<&str> = toml.lines().skip_while(|line| !is_table(line)).collect();
    format!("{threads}{}\n{listener}{}\n", keys.join("\n"), tables.join("\n"))
}

/// With `STICKYD_TEST_TLS_BUFFERS=own` every TLS listener has buffers of its own, so that all tests can be run over the
/// other kind of connection by hand.
fn buffered(toml: &str) -> String {
    let Ok(kind) = std::env::var("STICKYD_TEST_TLS_BUFFERS") else { return toml.to_owned() };
    let mut table = "";
    let line = |line| {
        table = if str::starts_with(line, '[') { line } else { table };
        let is_tls = table == "[[listener]]" && line.starts_with("tls = {") && !line.contains("buffers");
        if is_tls { line.replacen('{', &format!("{{ buffers = {kind:?},"), 1) } else { line.to_owned() }
    };
    toml.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn texts(addresses: &[SocketAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}
