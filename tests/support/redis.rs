//! Real Redis servers, each a process on an address of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::proxy::free_address;
use super::wait::wait_for;

/// A Redis server with its folder; both go when this is dropped, or when the test's process ends in any other way.
pub(crate) struct Redis {
    pub(crate) address: SocketAddr,
    pub(crate) folder: PathBuf,
    /// Arguments of its command line.
    arguments: Vec<String>,
    running: Option<Running>,
}

struct Running {
    shell: Child,
    stdin: Option<ChildStdin>,
    pid: String,
}

impl Redis {
    /// Starts a server that keeps nothing on the disk.
    pub(crate) fn start() -> Self {
        Self::with(&["--save", "", "--appendonly", "no"])
    }

    /// Starts a server with these arguments; `HOST` in them stands for its address.
    pub(crate) fn with(arguments: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("stickyd-redis-{}-{number}", std::process::id()));
        // A killed process with the same number may have left it.
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        // The program decides by its name whether it is the server, redis-cli or a Sentinel.
        std::os::unix::fs::symlink(program(), folder.join("redis-server")).unwrap();
        let address = free_address();
        let own = |argument: &&str| argument.replace("HOST", &address.ip().to_string());
        let arguments = arguments.iter().map(own).collect();
        let mut redis = Self { address, folder, arguments, running: None };
        redis.start_again();
        redis
    }

    /// The URL of the server.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Starts the server, on the same address as before, and waits until it answers.
    pub(crate) fn start_again(&mut self) {
        let mut command = Command::new("sh");
        // The shell reads its stdin, which ends with this process.
        command.args(["-c", "\"$@\" >log 2>&1 & echo $! >pid; read _; kill -9 $!; wait", "sh"]);
        command.arg(self.folder.join("redis-server")).args(&self.arguments).current_dir(&self.folder);
        command.args(["--bind", &self.address.ip().to_string(), "--port", &self.address.port().to_string()]);
        command.args(["--protected-mode", "no", "--daemonize", "no", "--dir"]).arg(&self.folder);
        let _ = std::fs::remove_file(self.folder.join("pid"));
        let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let stdin = shell.stdin.take();
        wait_for("redis answers", || {
            let said = self.cli(&["ping"]);
            if ["PONG", "NOAUTH", "LOADING"].iter().any(|word| said.contains(word)) { Ok(()) } else { Err(said) }
        });
        // The shell writes the number only after the start, and the server may answer before that.
        let pid = wait_for("the shell has written the number of the process", || {
            let pid = std::fs::read_to_string(self.folder.join("pid")).unwrap_or_default();
            if pid.ends_with('\n') { Ok(pid.trim().to_owned()) } else { Err(pid) }
        });
        self.running = Some(Running { shell, stdin, pid });
    }

    /// Kills the running server.
    pub(crate) fn stop(&mut self) {
        self.running = None;
    }

    /// Sends a signal by name to the server: STOP freezes it, CONT lets it go on.
    pub(crate) fn signal(&self, name: &str) {
        let pid = &self.running.as_ref().unwrap().pid;
        assert!(Command::new("kill").args([&format!("-{name}"), pid]).status().unwrap().success());
    }

    /// Runs one command; what Redis answered.
    pub(crate) fn cli(&self, command: &[&str]) -> String {
        let (host, port) = (self.address.ip().to_string(), self.address.port().to_string());
        let mut cli = Command::new("redis-cli");
        let said = cli.args(["-h", &host, "-p", &port]).args(command).output().unwrap();
        String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).trim().to_owned()
    }

    /// Names of all keys that begin with this text.
    pub(crate) fn keys(&self, beginning: &str) -> Vec<String> {
        let all = self.cli(&["keys", &format!("{beginning}*")]);
        all.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// Prints every command that the server executes, into its `monitor` file, until this value is dropped.
    pub(crate) fn monitor(&self) -> Monitor {
        let file = self.folder.join("monitor");
        let out = std::fs::File::create(&file).unwrap();
        let (host, port) = (self.address.ip().to_string(), self.address.port().to_string());
        let child = Command::new("redis-cli").args(["-h", &host, "-p", &port, "monitor"]).stdout(out).spawn().unwrap();
        wait_for("the monitor has begun", || std::fs::read_to_string(&file).unwrap().starts_with("OK"));
        Monitor { child, file }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.running = None;
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.shell.wait();
    }
}

/// Every command that a server executes.
pub(crate) struct Monitor {
    child: Child,
    file: PathBuf,
}

impl Monitor {
    /// The commands so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.file).unwrap()).into_owned()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Debian's redis-tools has the server under the name of a tool.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let mut places =
        ["redis-server", "redis-check-rdb"].iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    let found = places.find(|place| place.exists()).expect("redis-server or redis-check-rdb; tests/run installs it");
    Path::new(&found).canonicalize().unwrap()
}
