//! Start and stop of the real binary: errors that prevent a start, and how and how soon it ends.

mod check_and_run;
mod first_steps;

use std::net::TcpListener;
use std::process::{Command, Output};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use crate::support::proxy::{Binary, free_address};
use crate::support::raw::{Raw, RawWorker, ok};
use crate::support::wait::{at_most, wait_for};

fn stickyd(arguments: &[&str]) -> Output {
    let directory = std::env::temp_dir();
    Command::new(env!("CARGO_BIN_EXE_stickyd")).args(arguments).current_dir(directory).output().unwrap()
}

fn before(worker: &RawWorker) -> Binary {
    Binary::with(&format!("[upstream.app]\nworkers = [\"{}\"]", worker.address))
}

#[test]
fn an_idle_stickyd_ends_soon_and_logs_it() {
    let worker = RawWorker::named("a");
    let mut binary = before(&worker);
    let mut kept = Raw::connect(binary.address);
    assert_eq!(kept.get("/").text(), "a");
    let (code, took) = binary.terminate();
    assert_eq!(code, Some(0));
    assert!(took < at_most(Duration::from_millis(1_800)), "{took:?}");
    kept.closed();
    binary.says(&["stopped: everything ended before the deadline"]);
}

#[test]
fn open_requests_finish_while_new_clients_are_refused() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let mut worker = RawWorker::scripted(move |leg| {
        leg.request();
        gate.lock().unwrap().recv().unwrap();
        leg.send(ok("finished"));
        leg.until_closed();
    });
    let mut binary = before(&worker);
    let mut client = Raw::connect(binary.address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    worker.request();
    binary.signal("TERM");
    binary.says(&["stopping"]);
    wait_for("the port is closed", || std::net::TcpStream::connect(binary.address).is_err());
    go.send(()).unwrap();
    let answer = client.answer();
    assert_eq!((answer.text(), answer.header("connection")), ("finished", Some("close")));
    client.closed();
    assert_eq!(binary.wait(), Some(0));
    binary.says(&["stopped: everything ended before the deadline"]);
}

#[test]
fn a_request_that_never_ends_is_cut_at_the_deadline() {
    let mut worker = RawWorker::scripted(|leg| {
        leg.request();
        leg.until_closed();
    });
    let mut binary = before(&worker);
    let mut client = Raw::connect(binary.address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    worker.request();
    let (code, took) = binary.terminate();
    assert_eq!(code, Some(0));
    assert!(took > Duration::from_millis(1_900) && took < at_most(Duration::from_secs(5)), "{took:?}");
    client.closed();
    worker.closed(0);
    binary.says(&["connections still open at the deadline were cut", "cut=1"]);
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut worker = RawWorker::scripted(|leg| {
        leg.request();
        leg.until_closed();
    });
    let mut binary = before(&worker);
    let mut client = Raw::connect(binary.address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    worker.request();
    let began = Instant::now();
    binary.signal("INT");
    binary.says(&["stopping"]);
    binary.signal("TERM");
    assert_eq!(binary.wait(), Some(0));
    assert!(began.elapsed() < at_most(Duration::from_millis(1_800)), "{:?}", began.elapsed());
    client.closed();
}

#[test]
fn a_busy_stickyd_loses_no_answer_when_it_stops() {
    let worker = RawWorker::named("a");
    let mut binary = before(&worker);
    let address = binary.address;
    let clients: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(move || {
                let (mut asked, mut answered) = (0, 0);
                // Each request has a new connection, until none is accepted; an accepted one is answered.
                while let Ok(stream) = std::net::TcpStream::connect(address) {
                    let mut client = Raw::on(crate::support::raw::patient(stream));
                    asked += 1;
                    let _ = client.try_send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
                    answered += usize::from(client.rest().ends_with(b"\r\n\r\na"));
                }
                (asked, answered)
            })
        })
        .collect();
    wait_for("all clients have sent requests", || worker.bytes().len() > 20_000);
    assert_eq!(binary.terminate().0, Some(0));
    let (asked, answered) = clients.into_iter().map(|c| c.join().unwrap()).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    assert!(asked > 100);
    // What the kernel accepts between the last look at the queue and the close of the socket cannot be saved without
    // handing the socket over: one connection per client at most.
    assert!(asked - answered <= 4, "{} of {asked} lost", asked - answered);
}

#[test]
fn an_address_in_use_is_a_clear_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = stickyd(&["run", "--listen", &address, "--worker", "127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("cannot listen on {address}: Address already in use")), "{said}");
    assert!(!said.contains(": ready "), "{said}");
}

#[test]
fn a_second_stickyd_on_the_same_files_does_not_start() {
    let worker = RawWorker::named("a");
    let binary = Binary::with(&format!("state_dir = \".\"\n[upstream.app]\nworkers = [\"{}\"]", worker.address));
    let text = std::fs::read_to_string(binary.directory.join("stickyd.toml")).unwrap();
    let other = binary.directory.join("other.toml");
    std::fs::write(&other, text.replace(&binary.address.to_string(), &free_address().to_string())).unwrap();
    let output = stickyd(&["run", "--config", other.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("cannot listen on the admin address") && said.contains("admin.sock"), "{said}");
    assert!(!said.contains("Unix("), "the address is shown as text: {said}");
    // The first one is not affected.
    assert_eq!(Raw::connect_unix(&binary.admin()).get("/api/v1/health").text(), "ok\n");
    assert_eq!(Raw::connect(binary.address).get("/").text(), "a");
}

#[test]
fn a_bad_file_does_not_start() {
    let file = std::env::temp_dir().join(format!("stickyd-bad-{}.toml", std::process::id()));
    std::fs::write(&file, "[[listener]]\naddress = \"127.0.0.1\"\n").unwrap();
    let output = stickyd(&["run", "--config", file.to_str().unwrap()]);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(".toml:2:11"), "{said}");
}

#[test]
fn it_runs_without_a_file_and_without_a_warning() {
    let worker = RawWorker::named("a");
    let address = free_address();
    let child = Command::new(env!("CARGO_BIN_EXE_stickyd"))
        .args(["run", "--listen", &address.to_string(), "--worker", &worker.address.to_string()])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("stickyd listens", || std::net::TcpStream::connect(address).is_ok());
    let answer = Raw::connect(address).get("/");
    assert_eq!(answer.text(), "a");
    assert!(answer.cookie("stickyd_app").is_some(), "{answer:?}");
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("ready") && !said.contains("WARN"), "{said}");
}
