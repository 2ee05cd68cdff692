//! What a new user meets first: `run` without a file, the first lines of the log, signals.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::support::node::NodeServer;
use crate::support::proxy::{Binary, free_address};
use crate::support::raw::{Raw, RawWorker};
use crate::support::temp::TempDirectory;

/// Longest wait for a line of the log, on any machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A stickyd without a file, with the lines of its log.
struct Quick {
    child: Child,
    lines: Receiver<String>,
}

impl Quick {
    fn start(runtime: &TempDirectory, arguments: &[&str]) -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_stickyd")), runtime, arguments)
    }

    fn start_by(mut command: Command, runtime: &TempDirectory, arguments: &[&str]) -> Self {
        command.arg("run").args(arguments).env("XDG_RUNTIME_DIR", runtime.root()).env("RUST_LOG", "info");
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let log = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || log.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        Self { child, lines }
    }

    /// The next line with these words.
    fn says(&self, words: &str) -> String {
        let mut seen = String::new();
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line with {words}: {seen}"));
            if line.contains(words) {
                return line;
            }
            seen.push_str(&line);
        }
    }
}

impl Drop for Quick {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn stickyd(runtime: &TempDirectory, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stickyd"));
    command.args(arguments).env("XDG_RUNTIME_DIR", runtime.root()).output().unwrap()
}

#[test]
fn a_stickyd_without_a_file_names_its_status_command_first() {
    let (worker, runtime, address) = (RawWorker::named("a"), TempDirectory::new("quick"), free_address());
    let quick = Quick::start(
        &runtime,
        &["--listen", &address.to_string(), "--worker", &worker.address.to_string(), "--worker", "127.0.0.1:9"],
    );
    let first = quick.lines.recv_timeout(PATIENCE).unwrap();
    let (_, command) = first.split_once("stickyd status --admin ").unwrap_or_else(|| panic!("{first}"));
    let socket = command.split([' ', '"']).next().unwrap();
    let wanted = format!("unix:{}/stickyd/{}.sock", runtime.root().display(), address.port());
    assert_eq!(socket.trim_end_matches("\u{1b}[0m"), wanted, "{first}");
    quick.says(": ready ");
    let line = quick.says("first health checks done");
    for part in
        ["INFO", "upstream=app", "up=1", "of=2", "no Socket.IO at /socket.io/", "127.0.0.1:9: no process listens"]
    {
        assert!(line.contains(part), "{part}: {line}");
    }
    let mode = |path: &str| std::fs::metadata(runtime.path(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("stickyd"), mode(&format!("stickyd/{}.sock", address.port()))), (0o700, 0o600));
    let output = stickyd(&runtime, &["status", "--admin", &wanted]);
    assert!(output.status.success(), "{output:?}");
    // The commands find it by themselves where no file is.
    if !std::path::Path::new("/etc/stickyd/stickyd.toml").exists() {
        let output = stickyd(&runtime, &["workers"]);
        assert!(String::from_utf8(output.stdout).unwrap().contains(&worker.address.to_string()));
    }
}

#[test]
fn a_stickyd_without_a_file_warns_of_nothing() {
    let (worker, runtime) = (RawWorker::named("a"), TempDirectory::new("calm"));
    let quick = Quick::start(&runtime, &["--listen", "127.0.0.1:0", "--worker", &worker.address.to_string()]);
    let mut seen = Vec::new();
    while !seen.last().is_some_and(|line: &String| line.contains("first health checks done")) {
        seen.push(quick.lines.recv_timeout(PATIENCE).unwrap());
    }
    assert!(seen.iter().all(|line| !line.contains("WARN")), "{seen:#?}");
}

#[test]
fn the_first_process_of_a_container_is_told_what_127_0_0_1_is() {
    let runtime = TempDirectory::new("container");
    let start = |program: &[&str]| {
        let mut command = Command::new(program[0]);
        command.args(&program[1..]);
        Quick::start_by(command, &runtime, &["--listen", "127.0.0.1:0", "--worker", "127.0.0.1:9"])
    };
    let stickyd = env!("CARGO_BIN_EXE_stickyd");
    // The process is number 1 in a namespace of its own, as in a container; it ends with unshare.
    let contained = start(&["unshare", "--map-root-user", "--pid", "--fork", "--kill-child", stickyd]);
    let line = contained.says("first health checks done: no worker is up");
    assert!(
        line.contains("in a container, 127.0.0.1 reaches only programs of this container, or of those that share"),
        "{line}"
    );
    let line = start(&[stickyd]).says("first health checks done: no worker is up");
    assert!(!line.contains("container"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_io_application_is_recognised() {
    let (workers, runtime) = (NodeServer::start_many(1, &[]).await, TempDirectory::new("recognised"));
    let worker = format!("127.0.0.1:{}", workers[0].port);
    let quick = Quick::start(&runtime, &["--listen", "127.0.0.1:0", "--worker", &worker]);
    let line = quick.says("first health checks done");
    assert!(line.contains("up=1 of=1") && line.contains("Socket.IO 4 at /socket.io/"), "{line}");
    assert_eq!(workers[0].stats().await["handshakes"], 0, "the question made no session");
}

#[test]
fn the_workers_of_a_file_are_counted_after_the_first_checks() {
    let worker = RawWorker::named("a");
    let binary = Binary::with(&format!(
        "[upstream.app]\nworkers = [\"{}\", \"127.0.0.1:9\", {{ address = \"127.0.0.1:10\", name = \"w3\" }}]\n\
         [upstream.dead]\nworkers = [\"127.0.0.1:11\"]\n[[route]]\npath = \"/dead\"\nupstream = \"dead\"\n\
         [[route]]\nupstream = \"app\"",
        worker.address
    ));
    let line = binary.says(&["first health checks done", "upstream=app"]);
    for part in ["INFO", "up=1 of=3", "127.0.0.1:9: no process listens; w3: no process listens"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let line = binary.says(&["first health checks done", "upstream=dead"]);
    assert!(line.contains("WARN") && line.contains("no worker is up") && line.contains("up=0 of=1"), "{line}");
}

#[test]
fn run_alone_says_what_to_write() {
    let runtime = TempDirectory::new("alone");
    let said = |arguments: &[&str]| {
        let output = stickyd(&runtime, arguments);
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    if !std::path::Path::new("/etc/stickyd/stickyd.toml").exists() {
        let (code, text) = said(&["run"]);
        assert_eq!(code, 2, "{text}");
        for part in ["/etc/stickyd/stickyd.toml does not exist", "--listen 0.0.0.0:8080 --worker 127.0.0.1:3001-3004"] {
            assert!(text.contains(part), "{text}");
        }
        let (code, text) = said(&["status"]);
        assert!(code == 1 && text.contains("this user runs no stickyd without a file"), "{text}");
    }
    let (code, text) = said(&["run", "--listen", "127.0.0.1:0"]);
    assert!(code == 2 && text.contains("--worker <ADDRESS>"), "{text}");
}

#[test]
fn run_takes_its_file_as_check_does() {
    let worker = RawWorker::named("a");
    let toml = format!("[upstream.app]\nworkers = [\"{}\"]", worker.address);
    let binary = Binary::started_by(&toml, |_| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stickyd"));
        command.args(["run", "stickyd.toml"]);
        command
    });
    assert_eq!(Raw::connect(binary.address).get("/").text(), "a");
    let file = binary.directory.join("stickyd.toml");
    let output = Command::new(env!("CARGO_BIN_EXE_stickyd")).arg("run").arg(&file).arg("--config").arg(&file).output();
    let output = output.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("cannot be used with '--config <FILE>'"), "{said}");
}

#[test]
fn signals_without_a_meaning_are_ignored_and_logged() {
    let worker = RawWorker::named("a");
    let mut binary = Binary::with(&format!("[upstream.app]\nworkers = [\"{}\"]", worker.address));
    for signal in ["USR1", "USR2", "QUIT", "ALRM", "VTALRM", "PROF", "IO", "PWR", "XFSZ"] {
        binary.signal(signal);
        binary.says(&["signal ignored", &format!("SIG{signal}")]);
        assert_eq!(Raw::connect(binary.address).get("/").text(), "a");
    }
    assert_eq!(binary.terminate().0, Some(0));
}

#[test]
fn a_recovery_is_no_warning() {
    let address = free_address();
    let checks = "health = { kind = \"tcp\", interval = \"200ms\", fast_interval = \"100ms\", rise = 1 }";
    let binary = Binary::with(&format!("[upstream.app]\nworkers = [\"{address}\"]\n{checks}"));
    binary.says(&["first health checks done", "no worker is up"]);
    let listener = std::net::TcpListener::bind(address).unwrap();
    let line = binary.says(&["worker changed state", "to=\"up\""]);
    assert!(line.contains("INFO") && line.contains("check=\"passed\""), "{line}");
    drop(listener);
    binary.says(&["WARN", "worker refuses connections", "state=\"gone\""]);
}
