//! Messages across workers, as docs/messages.md promises them: the JavaScript of that page runs as it is printed there,
//! in three workers with stickyd in front, and twelve real Socket.IO clients count what reaches them.
//!
//! Left out: PM2 (its recipes are tried by hand), hanging workers, and connection state recovery.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::docs;
use super::support::process::{PATIENCE, Process, clients_dir};
use super::support::proxy::Proxy;

const WORKERS: u16 = 3;
const CLIENTS: u64 = 12;

/// A command that gets SIGTERM when this value is dropped, or when the test's process ends in any other way.
struct Tethered {
    shell: Child,
    stdin: Option<ChildStdin>,
}

impl Tethered {
    fn start(command: &Command) -> Self {
        // The shell reads its stdin, which ends with this process.
        let mut shell = Command::new("sh");
        shell.args(["-c", "\"$@\" & read _; kill $!; wait", "sh"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            shell.env(key, value.unwrap());
        }
        shell.current_dir(command.get_current_dir().unwrap()).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut shell = shell.spawn().unwrap();
        Self { stdin: shell.stdin.take(), shell }
    }
}

impl Drop for Tethered {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.shell.wait();
    }
}

/// A folder with the JavaScript of docs/messages.md, and the processes that run it. Fields are dropped in this order:
/// workers end before Redis.
struct Recipe {
    workers: Vec<Tethered>,
    redis: Option<Tethered>,
    folder: PathBuf,
    /// The first of five free ports: three for workers, one for Redis.
    base: u16,
}

impl Recipe {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("stickyd-messages-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::os::unix::fs::symlink(clients_dir().join("node_modules"), folder.join("node_modules")).unwrap();
        // The scripts also run in a project whose own files are ES modules.
        std::fs::write(folder.join("package.json"), "{\"type\":\"module\"}").unwrap();
        for (name, text) in scripts_of_page() {
            std::fs::write(folder.join(name), text).unwrap();
        }
        Self { workers: Vec::new(), redis: None, folder, base: free_ports() }
    }

    /// Starts `node SCRIPT …` in the folder, with the environment that the page describes.
    fn node(&mut self, arguments: &[&str], port: u16) {
        let mut command = Command::new("node");
        command.args(arguments).current_dir(&self.folder).env("PORT", port.to_string());
        command
            .env("WORKERS", WORKERS.to_string())
            .env("REDIS_URL", format!("redis://127.0.0.1:{}", self.redis_port()));
        self.workers.push(Tethered::start(&command));
    }

    /// Starts three separate processes of the same script.
    fn separate_processes(&mut self, script: &str) {
        for port in self.ports() {
            self.node(&[script], port);
        }
    }

    fn start_redis(&mut self) {
        // The program decides by its name whether it is the server.
        let server = self.folder.join("redis-server");
        std::os::unix::fs::symlink(redis_program(), &server).unwrap();
        let mut command = Command::new(server);
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"]);
        command.arg(self.redis_port().to_string()).current_dir(&self.folder);
        self.redis = Some(Tethered::start(&command));
        listening(self.redis_port());
    }

    fn ports(&self) -> std::ops::Range<u16> {
        self.base..self.base + WORKERS
    }

    fn redis_port(&self) -> u16 {
        self.base + WORKERS
    }

    /// Connects the clients through stickyd and returns what they have counted.
    async fn measure(&self, wanted: &str) -> Value {
        self.ports().for_each(listening);
        let addresses: Vec<SocketAddr> = self.ports().map(|port| ([127, 0, 0, 1], port).into()).collect();
        let proxy = Proxy::before(&addresses);
        let mut clients = Process::start("node", ["messages.js", &proxy.url(""), &CLIENTS.to_string(), wanted]);
        let counted = tokio::time::timeout(PATIENCE * 3, clients.line()).await.expect("the clients end in time");
        let counted = counted.expect("the clients print what they counted");
        assert_eq!((&counted["clients"], &counted["workers"]), (&CLIENTS.into(), &WORKERS.into()), "{counted}");
        counted
    }

    /// Asserts that messages reach the clients of all workers.
    async fn assert_messages_reach_all(&self) {
        let counted = self.measure("all").await;
        for key in ["texts", "buffers"] {
            assert_eq!(counted[key], CLIENTS, "io.emit, {key}: {counted}");
        }
        assert_eq!(counted["room"], counted["members"], "rooms: {counted}");
        assert_eq!(counted["room_of_members"], counted["members"], "rooms: {counted}");
        assert_eq!(counted["listed"]["count"], CLIENTS, "fetchSockets: {counted}");
    }

    /// Asserts that messages reach the clients of the sender's worker, and no others.
    async fn assert_messages_reach_own_worker_only(&self) {
        let counted = self.measure("own").await;
        assert!(counted["clients_of_worker"].as_u64().unwrap() < CLIENTS, "{counted}");
        for key in ["texts", "buffers"] {
            assert_eq!(counted[key], counted["clients_of_worker"], "io.emit, {key}: {counted}");
        }
        assert_eq!(counted["room"], counted["members_of_worker"], "rooms: {counted}");
        assert_eq!(counted["listed"]["count"], counted["clients_of_worker"], "fetchSockets: {counted}");
    }
}

impl Drop for Recipe {
    fn drop(&mut self) {
        self.workers.clear();
        self.redis = None;
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Path of `redis-server`, or of the same program by the name that it has in Debian's redis-tools.
fn redis_program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let mut places =
        ["redis-server", "redis-check-rdb"].iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    places.find(|place| place.exists()).expect("redis-server or redis-check-rdb; tests/run installs it")
}

/// The scripts of docs/messages.md, by the names in their first lines: `// NAME.cjs`.
fn scripts_of_page() -> Vec<(String, String)> {
    let page = std::fs::read_to_string("docs/messages.md").unwrap();
    let blocks = docs::blocks(&page).0.into_iter().filter(|block| block.info == "js");
    let named = blocks.map(|block| {
        let name = block.text.lines().next().and_then(|line| line.strip_prefix("// ")).expect("the block has a name");
        assert!(name.ends_with(".cjs"), "the first line is not a name: {name}");
        (name.to_owned(), block.text)
    });
    named.collect()
}

/// Text of one script of the page.
fn script(name: &str) -> String {
    scripts_of_page().into_iter().find(|(own, _)| own == name).expect("the page has the script").1
}

/// The example that is shipped, with `change` before its first statement that does something.
fn shipped_primary(change: &str) -> String {
    let shipped = std::fs::read_to_string("conf/examples/cluster.cjs").unwrap();
    let changed = shipped.replace("let stopping", &format!("{change}\nlet stopping"));
    assert_ne!(changed, shipped);
    changed
}

/// Five free ports in a row, below 10,000: other tests and the kernel give out higher ones.
fn free_ports() -> u16 {
    let first = 5_000 + u16::try_from(std::process::id() % 1_000).unwrap() * 5;
    // All addresses, as node listens on.
    let are_free = |base: &u16| (*base..base + 5).all(|port| TcpListener::bind(("0.0.0.0", port)).is_ok());
    (first..10_000).chain(5_000..first).step_by(5).find(are_free).expect("five free ports")
}

/// Waits until a process accepts connections on this port.
fn listening(port: u16) {
    let end = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < end, "no process listens on port {port}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn without_an_adapter_messages_reach_the_own_worker_only() {
    let mut recipe = Recipe::new();
    let with = script("app-cluster.cjs");
    let without = with.replace(", { adapter: createAdapter() }", "");
    assert_ne!(with, without);
    std::fs::write(recipe.folder.join("app.cjs"), without).unwrap();
    recipe.separate_processes("app.cjs");
    recipe.assert_messages_reach_own_worker_only().await;
}

#[tokio::test]
async fn the_cluster_adapter_reaches_all_workers() {
    let mut recipe = Recipe::new();
    recipe.node(&["cluster.cjs", "./app-cluster.cjs"], recipe.base);
    recipe.assert_messages_reach_all().await;
}

#[tokio::test]
async fn the_shipped_primary_needs_only_the_adapters_set_up() {
    let mut recipe = Recipe::new();
    let primary = shipped_primary("require('@socket.io/cluster-adapter').setupPrimary();");
    std::fs::write(recipe.folder.join("cluster.cjs"), primary).unwrap();
    recipe.node(&["cluster.cjs", "./app-cluster.cjs"], recipe.base);
    recipe.assert_messages_reach_all().await;
}

#[tokio::test]
async fn the_cluster_adapter_without_set_up_is_silent() {
    let mut recipe = Recipe::new();
    std::fs::write(recipe.folder.join("cluster.cjs"), shipped_primary("")).unwrap();
    recipe.node(&["cluster.cjs", "./app-cluster.cjs"], recipe.base);
    recipe.assert_messages_reach_own_worker_only().await;
}

#[tokio::test]
async fn the_redis_adapter_reaches_separate_processes() {
    let mut recipe = Recipe::new();
    recipe.start_redis();
    recipe.separate_processes("app-redis.cjs");
    recipe.assert_messages_reach_all().await;
}

#[tokio::test]
async fn the_redis_streams_adapter_reaches_separate_processes() {
    let mut recipe = Recipe::new();
    recipe.start_redis();
    recipe.separate_processes("app-streams.cjs");
    recipe.assert_messages_reach_all().await;
}
