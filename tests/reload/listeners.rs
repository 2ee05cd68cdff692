//! Listeners that are added, changed and removed by reload: other listeners are not touched, and no waiting client is
//! lost.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Mutex, mpsc};

use serde_json::Value;

use crate::support::admin::post_reload;
use crate::support::proxy::{Binary, free_address};
use crate::support::raw::{Raw, RawWorker, ok};

/// Writes the file with these listeners (address, and the lines below it) and one worker.
fn write(binary: &Binary, worker: &RawWorker, listeners: &[(SocketAddr, &str)]) {
    let tables: String =
        listeners.iter().map(|(at, more)| format!("[[listener]]\naddress = \"{at}\"\n{more}\n")).collect();
    let keys = "state_dir = \".\"\nwatch = false\nthreads = 2\n";
    let text = format!("{keys}{tables}[upstream.app]\nworkers = [\"{}\"]\n", worker.address);
    std::fs::write(binary.directory.join("stickyd.toml"), text).unwrap();
}

fn before(worker: &RawWorker) -> Binary {
    Binary::with(&format!("state_dir = \".\"\nwatch = false\n[upstream.app]\nworkers = [\"{}\"]", worker.address))
}

/// A reload that succeeds and needs no restart.
fn reloads(binary: &Binary) {
    let (status, said) = post_reload(binary);
    assert_eq!((status, &said["needs_restart"]), (200, &serde_json::json!([])), "{said}");
}

fn listening(binary: &Binary) -> Value {
    let status = Raw::connect_unix(&binary.admin()).get("/api/v1/status");
    serde_json::from_slice::<Value>(&status.body).unwrap()["listeners"].clone()
}

/// Inodes of the process's listening TCP sockets at an address, which identify the sockets themselves.
fn sockets(at: SocketAddr) -> Vec<String> {
    let std::net::IpAddr::V4(ip) = at.ip() else { panic!("{at}") };
    let wanted = format!("{:08X}:{:04X}", u32::from_le_bytes(ip.octets()), at.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut inodes: Vec<_> = fields.filter(|f| f[1] == wanted && f[3] == "0A").map(|f| f[9].to_owned()).collect();
    inodes.sort();
    inodes
}

#[test]
fn one_is_added_one_removed_and_the_other_keeps_its_sockets() {
    let (worker, second) = (RawWorker::named("a"), free_address());
    let binary = before(&worker);
    let kept = sockets(binary.address);
    assert_eq!(kept.len(), 2, "one socket per thread");
    write(&binary, &worker, &[(binary.address, ""), (second, "")]);
    reloads(&binary);
    let mut client = Raw::connect(second);
    assert_eq!(client.get("/").text(), "a");
    assert_eq!(sockets(second).len(), 2);
    assert_eq!(listening(&binary), serde_json::json!([binary.address, second]));

    write(&binary, &worker, &[(binary.address, "")]);
    reloads(&binary);
    // When the reload is answered, the listener is gone.
    assert!(TcpStream::connect(second).is_err());
    assert_eq!(sockets(binary.address), kept, "the sockets are the same");
    // A connection that was idle there is served once more at most.
    client.closed();
    // The listener may come back at once.
    write(&binary, &worker, &[(binary.address, ""), (second, "")]);
    reloads(&binary);
    assert_eq!(Raw::connect(second).get("/").text(), "a");
}

#[test]
fn requests_at_a_removed_listener_finish() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let mut worker = RawWorker::scripted(move |leg| {
        while let Some(request) = leg.request() {
            if request.target() == "/slow" {
                gate.lock().unwrap().recv().unwrap();
            }
            if request.header("upgrade").is_some() {
                gate.lock().unwrap().recv().unwrap();
                let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
                leg.send(format!(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{accept}\r\n\r\n"
                ));
                // The worker sends frames as they come.
                loop {
                    let bytes = leg.raw.exactly(7);
                    leg.send([&[0x81, 1], &bytes[6..]].concat());
                }
            }
            leg.send(ok("done"));
        }
    });
    let second = free_address();
    let binary = before(&worker);
    write(&binary, &worker, &[(binary.address, ""), (second, "")]);
    reloads(&binary);
    let upgrade = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let masked = |byte: u8| [0x81, 0x81, 0, 0, 0, 0, byte];
    let (mut tunnel, mut slow) = (Raw::connect(second), Raw::connect(second));
    tunnel.send(upgrade);
    worker.request();
    go.send(()).unwrap();
    assert_eq!(tunnel.answer().status(), 101);
    tunnel.send(masked(b'x'));
    assert_eq!(tunnel.exactly(3), [0x81, 1, b'x']);
    slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    worker.request();
    // An upgrade that is granted only after the reload is a tunnel like any other.
    let mut late = Raw::connect(second);
    late.send(upgrade);
    worker.request();
    // A connection without a byte so far: its first request is still served.
    let mut fresh = Raw::connect(second);
    // Wait until a thread has accepted it: as connections are spread over two threads, ask both.
    for _ in 0..20 {
        assert_eq!(Raw::connect(second).get("/").text(), "done");
    }

    write(&binary, &worker, &[(binary.address, "")]);
    reloads(&binary);
    assert!(TcpStream::connect(second).is_err());
    let answer = fresh.get("/");
    assert_eq!((answer.text(), answer.header("connection")), ("done", Some("close")));
    fresh.closed();
    go.send(()).unwrap();
    go.send(()).unwrap();
    let answer = slow.answer();
    assert_eq!((answer.text(), answer.header("connection")), ("done", Some("close")));
    slow.closed();
    assert_eq!(late.answer().status(), 101);
    for client in [&mut tunnel, &mut late] {
        client.send(masked(b'y'));
        assert_eq!(client.exactly(3), [0x81, 1, b'y']);
    }
}

#[test]
fn clients_connected_before_a_removal_are_served() {
    let (worker, second) = (RawWorker::named("a"), free_address());
    let binary = before(&worker);
    for _ in 0..5 {
        write(&binary, &worker, &[(binary.address, ""), (second, "")]);
        reloads(&binary);
        write(&binary, &worker, &[(binary.address, "")]);
        // Connected means that the kernel has queued it; no thread need have accepted it yet.
        let mut waiting: Vec<_> = (0..40).map(|_| Raw::connect(second)).collect();
        reloads(&binary);
        for client in &mut waiting {
            assert_eq!(client.get("/").text(), "a");
            client.closed();
        }
    }
}

#[test]
fn a_listener_that_cannot_bind_fails_the_whole_reload() {
    let (worker, other) = (RawWorker::named("a"), RawWorker::named("b"));
    let binary = before(&worker);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (at, free) = (taken.local_addr().unwrap(), free_address());
    write(&binary, &other, &[(free, ""), (at, "")]);
    let (status, said) = post_reload(&binary);
    let error = said["error"].as_str().unwrap();
    assert!(status == 422 && error.contains(&format!("cannot listen on {at}: Address already in use")), "{said}");
    binary.says(&["not reloaded, the old configuration stays in use"]);
    assert_eq!(Raw::connect(binary.address).get("/").text(), "a", "neither the listener nor the worker changed");
    assert!(TcpStream::connect(free).is_err());
    drop(taken);
    reloads(&binary);
    assert_eq!(Raw::connect(at).get("/").text(), "b");
    assert!(TcpStream::connect(binary.address).is_err());
}

/// The `X-Forwarded-For` that the worker gets.
fn forwarded(worker: &mut RawWorker, client: &mut Raw) -> String {
    client.ask("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n");
    worker.request().1.header("x-forwarded-for").unwrap().to_owned()
}

#[test]
fn trusted_proxies_change_under_the_same_sockets() {
    let mut worker = RawWorker::named("a");
    let binary = before(&worker);
    let (address, kept) = (binary.address, sockets(binary.address));
    // The kernel chooses the address of a client that connects to this one.
    let mut old = Raw::connect(address);
    let own = forwarded(&mut worker, &mut old);
    assert!(!own.contains("6.6.6.6"), "{own}");
    write(&binary, &worker, &[(address, "trusted_proxies = [\"127.0.0.0/8\"]")]);
    reloads(&binary);
    for _ in 0..10 {
        assert_eq!(forwarded(&mut worker, &mut Raw::connect(address)), format!("6.6.6.6, {own}"));
    }
    assert_eq!(forwarded(&mut worker, &mut old), own, "an existing connection keeps its trust");
    assert_eq!(sockets(address), kept);
}
