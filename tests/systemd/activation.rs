//! Inherited sockets that systemd has bound: matched by name and by address, and errors for those that cannot be used.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use crate::support::proxy::{Binary, free_address};
use crate::support::raw::{Raw, RawWorker};
use crate::support::wait::wait_for;

/// The command that starts stickyd with these sockets (`NAME=KIND:ADDRESS`, or `--pid N` before them).
fn given(sockets: &[String]) -> Command {
    let mut command = Command::new("python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/systemd/activate.py")).args(sockets);
    let stickyd = Binary::command();
    command.arg("--").arg(stickyd.get_program()).args(stickyd.get_args());
    command
}

fn listener(address: SocketAddr, more: &str) -> String {
    format!("[[listener]]\naddress = \"{address}\"\n{more}\n")
}

fn upstream(worker: &RawWorker) -> String {
    format!("[upstream.app]\nworkers = [\"{}\"]\n", worker.address)
}

/// Makes new connections, so many that both threads accept some.
fn serves(address: SocketAddr) {
    for _ in 0..20 {
        serves_once(address);
    }
}

fn serves_once(address: SocketAddr) {
    assert_eq!(Raw::connect(address).get("/").text(), "a", "{address}");
}

/// Whether stickyd bound the socket itself: with SO_REUSEPORT, another socket can bind the same port.
fn shares_its_port(address: SocketAddr) -> bool {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&address.into()).is_ok()
}

#[test]
fn sockets_are_matched_by_name_and_the_rest_is_bound_as_usual() {
    let worker = RawWorker::named("a");
    let (elsewhere, own) = (free_address(), free_address());
    let toml = listener(elsewhere, "name = \"web\"") + &listener(own, "name = \"own\"") + &upstream(&worker);
    let mut binary = Binary::started_by(&toml, |address| given(&[format!("web=tcp:{address}")]));
    serves(binary.address);
    serves(own);
    assert!(!shares_its_port(binary.address) && shares_its_port(own));
    assert!(std::net::TcpStream::connect(elsewhere).is_err(), "the address of the socket unit counts");
    assert_eq!(binary.terminate().0, Some(0));
}

#[test]
fn sockets_are_matched_by_address_whatever_their_name() {
    let worker = RawWorker::named("a");
    let other = free_address();
    let toml = listener(([127, 0, 0, 1], 0).into(), "") + &listener(other, "") + &upstream(&worker);
    let sockets =
        move |address| given(&[format!("stickyd.socket=tcp:{other}"), format!("stickyd.socket=tcp:{address}")]);
    let binary = Binary::started_by(&toml, sockets);
    serves(binary.address);
    serves(other);
    assert!(!shares_its_port(binary.address) && !shares_its_port(other));
}

/// Writes the file with these listeners and reloads; the warning of the reload.
fn reloaded(binary: &Binary, listeners: &str, worker: &RawWorker) -> String {
    let text = format!("state_dir = \".\"\nwatch = false\n{listeners}{}", upstream(worker));
    std::fs::write(binary.directory.join("stickyd.toml"), text).unwrap();
    let ask = "POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nX-Stickyd: 1\r\nContent-Length: 0\r\n\r\n";
    let answer = Raw::connect_unix(&binary.admin()).ask(ask);
    assert_eq!(answer.status(), 200, "{}", answer.text());
    answer.text().to_owned()
}

#[test]
fn a_listener_that_comes_back_finds_its_socket_and_clients() {
    let worker = RawWorker::named("a");
    let (web, own) = (listener(free_address(), "name = \"web\""), listener(free_address(), ""));
    let toml = format!("state_dir = \".\"\nwatch = false\n{web}{}", upstream(&worker));
    let binary = Binary::started_by(&toml, |address| given(&[format!("web=tcp:{address}")]));
    serves(binary.address);
    let warned = reloaded(&binary, &own, &worker);
    assert!(warned.contains(&format!("{} has no listener any more", binary.address)), "{warned}");
    // The socket is systemd's, so the kernel still accepts clients on it.
    let mut waiting = Raw::connect(binary.address);
    waiting.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(reloaded(&binary, &format!("{web}{own}"), &worker).contains("\"warnings\":[]"));
    assert_eq!(waiting.answer().text(), "a");
    serves(binary.address);
    assert!(!shares_its_port(binary.address), "the same socket");
}

/// The process id that the API reports; waits for one that is not `old`.
fn pid(binary: &Binary, old: u64) -> u64 {
    let mut now = old;
    wait_for("another process answers", || {
        // Between two processes there is no answer.
        let Ok(mut admin) = UnixStream::connect(binary.admin()) else { return false };
        let mut answer = String::new();
        let asked = admin
            .write_all(b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nX-Stickyd: 1\r\nConnection: close\r\n\r\n");
        let answered = asked.and_then(|()| admin.read_to_string(&mut answer));
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let status = serde_json::from_str::<serde_json::Value>(body).unwrap_or_default();
        now = status["pid"].as_u64().unwrap_or(old);
        answered.is_ok() && now != old
    });
    now
}

#[test]
fn no_connection_is_refused_during_restarts() {
    let worker = RawWorker::named("a");
    let toml = format!("state_dir = \".\"\n{}", upstream(&worker));
    let start = |address| given(&["--again".to_owned(), format!("web=tcp:{address}")]);
    let binary = Binary::started_by(&toml, start);
    let (address, done, served) = (binary.address, Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let clients = {
        let (done, served) = (done.clone(), served.clone());
        std::thread::spawn(move || {
            while !done.load(Relaxed) {
                serves_once(address);
                served.fetch_add(1, Relaxed);
            }
        })
    };
    let mut old = 0;
    for life in 1..=4 {
        old = pid(&binary, old);
        // Each process serves some clients, first those that waited for it.
        let before = served.load(Relaxed);
        wait_for("clients are served by each process", || served.load(Relaxed) >= before + 20 || clients.is_finished());
        if life < 4 {
            assert!(Command::new("kill").arg(old.to_string()).status().unwrap().success());
        }
    }
    done.store(true, Relaxed);
    clients.join().unwrap();
}

#[test]
fn sockets_meant_for_another_process_are_not_used() {
    let worker = RawWorker::named("a");
    let theirs = free_address();
    let sockets = move |_| given(&["--pid".to_owned(), "1".to_owned(), format!("web=tcp:{theirs}")]);
    let binary = Binary::started_by(&upstream(&worker), sockets);
    serves(binary.address);
    assert!(shares_its_port(binary.address));
}

/// The error of a start that fails.
fn refusal(sockets: &[String]) -> String {
    let directory =
        std::env::temp_dir().join(format!("stickyd-refusal-{}-{}", std::process::id(), free_address().port()));
    std::fs::create_dir_all(&directory).unwrap();
    let toml = listener(free_address(), "name = \"web\"") + "[upstream.app]\nworkers = [\"127.0.0.1:9\"]\n";
    std::fs::write(directory.join("stickyd.toml"), toml).unwrap();
    let output = given(sockets).current_dir(&directory).output().unwrap();
    std::fs::remove_dir_all(directory).unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn unusable_sockets_are_refused_with_an_explanation() {
    let at = free_address();
    let said = refusal(&[format!("wbe=tcp:{at}")]);
    assert!(said.contains(&format!("a socket on {at} named `wbe`")) && said.contains("name = \"wbe\""), "{said}");
    let said = refusal(&[format!("web=udp:{at}")]);
    assert!(said.contains("descriptor 3 (`web`)") && said.contains("ListenStream="), "{said}");
    let said = refusal(&[format!("web=bound:{at}")]);
    assert!(said.contains("it does not listen") && said.contains("Accept=no"), "{said}");
    let said = refusal(&[format!("web=tcp:{at}"), format!("web=tcp:{}", free_address())]);
    assert!(said.contains("2 sockets named `web`"), "{said}");
}
