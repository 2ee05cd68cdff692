//! `stickyd page`: the bridge from a port of this machine to the admin listener, and the key that it asks for.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use crate::support::proxy::Binary;
use crate::support::raw::{Raw, RawWorker};

/// A running `stickyd page`, killed when it is dropped.
pub(crate) struct Bridge {
    /// What it printed until the line about the key.
    pub(crate) said: String,
    child: Child,
}

impl Bridge {
    /// Starts the command for a running stickyd, with these variables of the environment.
    pub(crate) fn start(binary: &Binary, environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_stickyd"))
            .args(["page", "--admin", &format!("unix:{}", binary.admin().display())])
            .env_remove("SSH_CONNECTION")
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        while !said.contains("holds a key") {
            assert!(lines.read_line(&mut said).unwrap() > 0, "it ended: {said}");
        }
        Self { said, child }
    }

    /// The address that it printed, with the key.
    pub(crate) fn url(&self) -> &str {
        self.said.lines().map(str::trim).find(|line| line.starts_with("http://127.0.0.1:")).unwrap()
    }

    fn address(&self) -> SocketAddr {
        self.url().strip_prefix("http://").unwrap().split('/').next().unwrap().parse().unwrap()
    }

    fn key(&self) -> &str {
        self.url().split_once("/#key=").unwrap().1
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn stickyd() -> (RawWorker, Binary) {
    let worker = RawWorker::named("a");
    let workers = format!("workers = [{{ address = \"{}\", name = \"w\" }}]", worker.address);
    let binary = Binary::with(&format!("state_dir = \".\"\n[upstream.app]\n{workers}"));
    (worker, binary)
}

#[test]
fn the_bridge_asks_every_request_for_its_key() {
    let (_worker, binary) = stickyd();
    let bridge = Bridge::start(&binary, &[]);
    let ask = |request: &str, fields: &str| {
        let head = format!("{request} HTTP/1.1\r\nHost: {}\r\n{fields}\r\n", bridge.address());
        Raw::connect(bridge.address()).ask(&head)
    };
    let key = format!("X-Stickyd-Key: {}\r\n", bridge.key());
    let wrong = format!("X-Stickyd-Key: {}\r\n", "0".repeat(32));
    for fields in ["", &wrong, "X-Stickyd-Key: \r\n"] {
        for path in ["/api/v1/status", "/api/v1/health", "/metrics", "/api/v1/live", "/no/such/path"] {
            assert_eq!(ask(&format!("GET {path}"), fields).status(), 401, "{path} with {fields:?}");
        }
        assert_eq!(ask("POST /api/v1/reload", fields).status(), 401, "{fields:?}");
        assert_eq!(ask("POST /", fields).status(), 401, "{fields:?}");
    }
    assert_eq!(ask("GET /api/v1/status", &key).status(), 200);
    assert_eq!(ask("GET /api/v1/status", &key).header("x-stickyd-access"), Some("operate"));
    for path in ["/", "/page/main.js"] {
        assert_eq!(ask(&format!("GET {path}"), "").status(), 200, "{path} holds no data");
    }
    // All rules of the admin listener apply after the bridge.
    let order = |fields: &str| ask("POST /api/v1/workers/app/w/drain", &format!("{key}Content-Length: 0\r\n{fields}"));
    assert_eq!(order("").status(), 403, "an order needs X-Stickyd");
    assert_eq!(order("X-Stickyd: 1\r\nOrigin: http://evil.example\r\n").status(), 403);
    assert_eq!(order("X-Stickyd: 1\r\n").status(), 200);
}

#[test]
fn the_bridge_accepts_no_foreign_host() {
    let (_worker, binary) = stickyd();
    let bridge = Bridge::start(&binary, &[]);
    for (host, status) in
        [("evil.example", 403), ("localhost:1", 200), ("127.0.0.1", 200), ("127.0.0.1.evil.example", 403)]
    {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(Raw::connect(bridge.address()).ask(&request).status(), status, "{host}");
    }
}

#[test]
fn the_bridge_tells_when_stickyd_has_stopped() {
    let (_worker, mut binary) = stickyd();
    let bridge = Bridge::start(&binary, &[]);
    binary.terminate();
    let request = format!("GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nX-Stickyd-Key: {}\r\n\r\n", bridge.key());
    let answer = Raw::connect(bridge.address()).ask(&request);
    assert_eq!(answer.status(), 502);
    assert!(answer.text().contains("no stickyd answers at unix:"), "{}", answer.text());
    binary.start_again();
    assert_eq!(Raw::connect(bridge.address()).ask(&request).status(), 200, "the bridge goes on");
}

#[test]
fn over_ssh_the_bridge_prints_the_ssh_command() {
    let (_worker, binary) = stickyd();
    let environment = [("SSH_CONNECTION", "198.51.100.7 50312 203.0.113.9 2222"), ("USER", "ops")];
    let bridge = Bridge::start(&binary, &environment);
    let port = bridge.address().port();
    let command = format!("ssh -p 2222 -N -L {port}:127.0.0.1:{port} ops@203.0.113.9");
    assert!(bridge.said.lines().any(|line| line.trim() == command), "{}", bridge.said);
    assert!(!Bridge::start(&binary, &[]).said.contains("ssh "));
}

#[test]
fn without_a_stickyd_the_command_fails_with_the_reason() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stickyd"));
    let mut child =
        command.args(["page", "--admin", "unix:/nonexistent/admin.sock"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(said.contains("no stickyd answers at unix:/nonexistent/admin.sock"), "{said}");
}
