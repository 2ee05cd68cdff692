//! Notifications to systemd, read from a real datagram socket: ready, reloading, status, watchdog and stopping.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::support::admin::post_reload;
use crate::support::process::PATIENCE;
use crate::support::proxy::{Binary, free_address};
use crate::support::raw::{Raw, RawWorker, ok};
use crate::support::wait::at_most;

/// The socket of the service manager.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("stickyd-notify-{}-{number}", std::process::id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        Self { socket, path }
    }

    /// Starts stickyd as a service of this manager.
    fn start(&self, toml: &str, watchdog: Option<Duration>) -> Binary {
        let path = self.path.clone();
        Binary::started_by(toml, move |_| {
            let mut command = Binary::command();
            command.env("NOTIFY_SOCKET", &path);
            watchdog.map(|limit| command.env("WATCHDOG_USEC", limit.as_micros().to_string()));
            command
        })
    }

    /// The next message, if it comes in time.
    fn next_within(&self, time: Duration) -> Option<String> {
        let mut buffer = [0; 4096];
        self.socket.set_read_timeout(Some(time)).unwrap();
        let length = self.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
    }

    /// The lines of the next message other than a watchdog's.
    fn next(&self) -> Vec<String> {
        loop {
            let message = self.next_within(PATIENCE).expect("a notification in time");
            if message != "WATCHDOG=1\n" {
                return message.lines().map(str::to_owned).collect();
            }
        }
    }

    /// Skips status changes until a message with this line comes.
    fn until(&self, line: &str) -> Vec<String> {
        loop {
            let message = self.next();
            if message.iter().any(|one| one == line) {
                return message;
            }
            assert!(matches!(&*message, [one] if one.starts_with("STATUS=")), "{message:?} before {line}");
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The MONOTONIC_USEC of a message that contains only that and RELOADING=1.
fn reload_time(message: &[String]) -> Duration {
    let [reloading, time] = message else { panic!("{message:?}") };
    assert_eq!(reloading, "RELOADING=1");
    Duration::from_micros(time.strip_prefix("MONOTONIC_USEC=").unwrap().parse().unwrap())
}

#[test]
fn ready_reloading_and_stopping_are_reported() {
    let (manager, worker) = (Manager::new(), RawWorker::named("a"));
    let text = format!("state_dir = \".\"\nwatch = false\n[upstream.app]\nworkers = [\"{}\"]", worker.address);
    let mut binary = manager.start(&text, None);
    assert_eq!(manager.next(), ["READY=1", "STATUS=1 workers up of 1, 0 sessions"]);
    assert_eq!(Raw::connect(binary.address).get("/").text(), "a");

    binary.signal("HUP");
    let first = reload_time(&manager.until("RELOADING=1"));
    assert_eq!(manager.next(), ["READY=1"]);
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    assert!(first > Duration::ZERO && first.as_secs_f64() <= uptime + 0.1, "{first:?}, up for {uptime} s");

    // Over the admin listener, with a bad file: the status shows the error until a good file is loaded.
    let file = binary.directory.join("stickyd.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{good}\naffinty = 1\n")).unwrap();
    assert_eq!(post_reload(&binary).0, 422);
    assert!(reload_time(&manager.until("RELOADING=1")) > first);
    let message = manager.next();
    assert_eq!(message[0], "READY=1", "the old configuration stays in use");
    let status = "STATUS=not reloaded: unknown key `affinty` in [upstream.app] (stickyd.toml:";
    assert!(message[1].starts_with(status) && message[1].ends_with("; 1 workers up of 1, 0 sessions"), "{message:?}");
    std::fs::write(&file, good).unwrap();
    assert_eq!(post_reload(&binary).0, 200);
    reload_time(&manager.until("RELOADING=1"));
    assert_eq!(manager.next(), ["READY=1", "STATUS=1 workers up of 1, 0 sessions"]);

    assert_eq!(binary.terminate().0, Some(0));
    let stopping = manager.until("STOPPING=1");
    assert!(stopping[1].starts_with("STATUS=stopping"), "{stopping:?}");
    assert_eq!(manager.next_within(Duration::from_millis(10)), None);
}

#[test]
fn an_edit_is_a_reload_like_any_other() {
    let (manager, worker) = (Manager::new(), RawWorker::named("a"));
    let binary = manager.start(&format!("[upstream.app]\nworkers = [\"{}\"]", worker.address), None);
    manager.until("READY=1");
    let file = binary.directory.join("stickyd.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    for (text, status) in
        [(format!("{good}\naffinty = 1\n"), "STATUS=not reloaded: unknown key"), (good, "STATUS=1 workers")]
    {
        std::fs::write(&file, text).unwrap();
        reload_time(&manager.until("RELOADING=1"));
        let message = manager.next();
        assert!(message[0] == "READY=1" && message[1].starts_with(status), "{message:?}");
    }
}

#[test]
fn the_status_follows_workers_and_sessions() {
    let manager = Manager::new();
    let handshake = "0{\"sid\":\"AAAAAAAAAAAAAAAAAAAA\",\"upgrades\":[],\"pingInterval\":25000,\"pingTimeout\":20000}";
    let worker = RawWorker::answering(move |_| ok(handshake));
    let workers = [worker.address.to_string(), free_address().to_string()];
    let binary = manager.start(&format!("[upstream.app]\nworkers = {workers:?}"), None);
    // Workers count as up until the first check; it may come before or after READY.
    let first = manager.next();
    assert_eq!(first[0], "READY=1");
    if first[1] != "STATUS=1 workers up of 2, 0 sessions" {
        assert_eq!(manager.next(), ["STATUS=1 workers up of 2, 0 sessions"]);
    }
    let mut client = Raw::connect(binary.address);
    assert_eq!(client.get("/socket.io/?EIO=4&transport=polling").status(), 200);
    assert_eq!(manager.next(), ["STATUS=1 workers up of 2, 1 session"]);
}

#[test]
fn a_slow_reload_delays_neither_the_watchdog_nor_a_stop() {
    let (manager, worker) = (Manager::new(), RawWorker::named("a"));
    let limit = Some(Duration::from_millis(600));
    let mut binary =
        manager.start(&format!("watch = false\n[upstream.app]\nworkers = [\"{}\"]", worker.address), limit);
    manager.until("READY=1");
    // A pipe without a writer is as slow as a file can be, and so is a name server that does not answer.
    let file = binary.directory.join("stickyd.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    binary.signal("HUP");
    reload_time(&manager.until("RELOADING=1"));
    for _ in 0..3 {
        assert_eq!(manager.next_within(Duration::from_secs(3)).as_deref(), Some("WATCHDOG=1\n"));
    }
    std::fs::write(&file, good).unwrap();
    assert_eq!(manager.until("READY=1"), ["READY=1"]);
    binary.signal("HUP");
    reload_time(&manager.until("RELOADING=1"));
    let (code, took) = binary.terminate();
    assert_eq!(code, Some(0));
    assert!(took < at_most(Duration::from_secs(5)), "{took:?}");
}

/// A thread of a process, stopped until this is dropped.
struct Frozen(Child);

impl Frozen {
    /// Stops the thread of this name; `None` where processes cannot be traced.
    fn new(pid: u32, name: &str) -> Option<Self> {
        let named =
            |task: &std::path::Path| std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name);
        let mut tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap().path());
        let task = tasks.find(|task| named(task)).expect("a data thread");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/systemd/freeze.py");
        let mut command = Command::new("python3");
        command.arg(script).arg(task.file_name().unwrap()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        if said.trim() != "frozen" {
            eprintln!("no thread can be stopped here: {said}");
            child.wait().unwrap();
            return None;
        }
        Some(Self(child))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[test]
fn the_watchdog_is_fed_while_all_data_threads_answer() {
    const LIMIT: Duration = Duration::from_secs(1);
    let (manager, worker) = (Manager::new(), RawWorker::named("a"));
    let mut binary = manager.start(&format!("[upstream.app]\nworkers = [\"{}\"]", worker.address), Some(LIMIT));
    manager.until("READY=1");
    let began = Instant::now();
    for _ in 0..4 {
        assert_eq!(manager.next_within(3 * LIMIT).as_deref(), Some("WATCHDOG=1\n"));
    }
    assert!(began.elapsed() > LIMIT, "the watchdog is fed at half of its time: {:?}", began.elapsed());
    if let Some(frozen) = Frozen::new(binary.pid(), "data-1") {
        binary.says(&["a data thread does not answer", "thread=1"]);
        // Messages that were sent before the thread stopped.
        while manager.next_within(Duration::from_millis(1)).is_some() {}
        // The other data thread and the control thread go on, so the process as a whole still works.
        assert_eq!(manager.next_within(2 * LIMIT), None);
        drop(frozen);
        assert_eq!(manager.next_within(3 * LIMIT).as_deref(), Some("WATCHDOG=1\n"));
    }
    assert_eq!(binary.terminate().0, Some(0));
}
