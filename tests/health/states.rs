//! The states that health checks give a worker, and that every thread serves requests.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use crate::support::proxy::Proxy;
use crate::support::raw::{Raw, RawWorker, ok};
use crate::support::wait::wait_for;

/// Health checks that do not interfere, and no ejection.
const QUIET: &str = "health = { kind = \"tcp\", interval = \"1h\" }\neject = false\n";

/// A worker that answers with its name, and whose health checks pass while the switch is on.
fn switched(name: &'static str) -> (RawWorker, Arc<AtomicBool>, Arc<AtomicUsize>) {
    let (healthy, checks) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let (state, count) = (healthy.clone(), checks.clone());
    let worker = RawWorker::answering(move |request| {
        if request.target() != "/check?deep=1" {
            return ok(name);
        }
        assert_eq!(request.header("user-agent"), Some("stickyd-health"));
        assert!(request.header("host").is_some());
        count.fetch_add(1, Ordering::SeqCst);
        let status = if state.load(Ordering::SeqCst) { "204 No Content" } else { "503 Service Unavailable" };
        format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .replace("204 No Content\r\nContent-Length: 0\r\n", "204 No Content\r\n")
    });
    (worker, healthy, checks)
}

#[test]
fn a_worker_failing_its_checks_serves_only_its_clients() {
    let ((one, first, checks), (two, ..)) = (switched("one"), switched("two"));
    let proxy = Proxy::with(&format!(
        "[upstream.app]\nworkers = [\"{}\", \"{}\"]\n\
         health = {{ path = \"/check?deep=1\", interval = \"100ms\", timeout = \"5s\", rise = 2, fall = 3 }}\naffinity = [\"cookie\"]",
        one.address, two.address
    ));
    let state = || proxy.worker(&one.address.to_string()).health().word();
    let mut client = Raw::connect(proxy.address);
    let own = loop {
        let answer = client.get("/");
        if answer.text() == "one" {
            break answer.cookie("stickyd_app").unwrap();
        }
    };
    first.store(false, Ordering::SeqCst);
    let before = checks.load(Ordering::SeqCst);
    wait_for("the worker is not up", || state() != "up");
    assert_eq!(state(), "starting", "it answers, so it is not hung");
    assert!(checks.load(Ordering::SeqCst) >= before + 3, "fall = 3");
    for _ in 0..20 {
        assert_eq!(client.get("/").text(), "two");
    }
    let answer = client.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {own}\r\n\r\n"));
    assert_eq!((answer.text(), answer.header("set-cookie")), ("one", None));
    first.store(true, Ordering::SeqCst);
    let before = checks.load(Ordering::SeqCst);
    wait_for("the worker is up again", || state() == "up");
    assert!(checks.load(Ordering::SeqCst) >= before + 2, "rise = 2");
    wait_for("the worker gets new clients", || client.get("/").text() == "one");
}

#[test]
fn a_check_without_an_answer_makes_a_worker_hung() {
    let worker = RawWorker::scripted(|leg| {
        while let Some(request) = leg.request() {
            if request.target() == "/check" {
                return leg.until_closed();
            }
            leg.send(ok("own"));
        }
    });
    let proxy = Proxy::with(&format!(
        "[upstream.app]\nworkers = [\"{}\"]\nhealth = {{ path = \"/check\", interval = \"100ms\", timeout = \"50ms\", fall = 2 }}",
        worker.address
    ));
    wait_for("the worker is hung", || proxy.worker(&worker.address.to_string()).health().word() == "hung");
    // The last worker still serves, because a slow worker is better than none.
    assert_eq!(Raw::connect(proxy.address).get("/").text(), "own");
}

/// A page that is slow for one client does not make its worker hung for all others.
#[test]
fn slow_requests_of_one_client_do_not_make_a_worker_hung() {
    let worker = RawWorker::scripted(|leg| {
        leg.request();
        leg.until_closed();
    });
    let name = worker.address.to_string();
    let proxy = Proxy::with(&format!("threads = 1\n[upstream.app]\nworkers = [\"{name}\"]\n{QUIET}"));
    let live = proxy.worker(&name);
    let slow = |client: [u8; 4]| {
        let mut client = Raw::connect_from(client.into(), proxy.address);
        client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
        client
    };
    let mut waiting: Vec<_> = (0..8).map(|_| slow([127, 0, 3, 1])).collect();
    waiting.push(slow([127, 0, 3, 2]));
    wait_for("the requests are slow", || live.has_slow());
    let since = Instant::now();
    wait_for("a further second has passed", || {
        assert_eq!((live.health().word(), live.takes_new()), ("up", true));
        since.elapsed() > Duration::from_secs(1)
    });
    assert_eq!(live.in_flight(), 9);
    waiting.push(slow([127, 0, 3, 3]));
    wait_for("requests of three clients are slow", || live.health().word() == "hung");
    drop(waiting);
    wait_for("no request waits", || live.health().word() == "up");
}

/// A page that breaks the requests of one client does not count as a restart of its worker.
#[test]
fn broken_requests_of_one_client_are_not_a_restart() {
    let both = Arc::new(Barrier::new(2));
    let worker = RawWorker::scripted(move |leg| {
        while let Some(request) = leg.request() {
            if request.target() == "/break" {
                both.wait();
                return;
            }
            leg.send(ok("own"));
        }
    });
    let name = worker.address.to_string();
    let proxy = Proxy::with(&format!("threads = 1\n[upstream.app]\nworkers = [\"{name}\"]\n{QUIET}"));
    let live = proxy.worker(&name);
    let broken = |clients: [[u8; 4]; 2]| {
        let sent = clients.map(|client| {
            let mut client = Raw::connect_from(client.into(), proxy.address);
            client.send("POST /break HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
            client
        });
        assert_eq!(sent.map(|mut client| client.answer().status()), [502, 502]);
        // A restart is counted with the next connect.
        assert_eq!(Raw::connect(proxy.address).ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").text(), "own");
        live.generation()
    };
    assert_eq!(broken([[127, 0, 3, 1], [127, 0, 3, 1]]), 1);
    // The connection of the last request is idle, and is used by one of these.
    assert_eq!(broken([[127, 0, 3, 1], [127, 0, 3, 2]]), 2, "two clients have seen it");
}

#[test]
fn a_worker_without_a_listener_is_gone_until_it_listens() {
    let address = crate::support::proxy::free_address();
    let proxy = Proxy::with(&format!(
        "[upstream.app]\nworkers = [\"{address}\"]\nhealth = {{ kind = \"tcp\", interval = \"100ms\", rise = 1 }}"
    ));
    let worker = proxy.worker(&address.to_string());
    wait_for("the worker is gone", || worker.health().word() == "gone");
    assert_eq!(Raw::connect(proxy.address).get("/").status(), 503);
    let _back = RawWorker::scripted_at(address, |leg| {
        while leg.request().is_some() {
            leg.send(ok("back"));
        }
    });
    wait_for("the worker is up", || worker.health().word() == "up");
    assert_eq!(Raw::connect(proxy.address).get("/").text(), "back");
    assert_eq!(worker.generation(), 1, "its first life");
}

#[test]
fn every_thread_serves() {
    let worker = RawWorker::named("a");
    for threads in [1, 3] {
        let proxy = Proxy::with(&format!("threads = {threads}\n[upstream.app]\nworkers = [\"{}\"]", worker.address));
        let before = worker.connections();
        // The kernel spreads connections over the listening sockets; each thread has its own pool.
        let clients: Vec<_> = (0..60)
            .map(|_| {
                let mut client = Raw::connect(proxy.address);
                assert_eq!(client.get("/").text(), "a");
                client
            })
            .collect();
        assert_eq!(worker.connections() - before, threads);
        drop(clients);
    }
}

#[test]
fn a_unix_socket_with_a_full_queue_is_hung_a_missing_one_gone() {
    let path = std::env::temp_dir().join(format!("stickyd-full-{}.sock", std::process::id()));
    let socket = || socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    let at = socket2::SockAddr::unix(&path).unwrap();
    let listener = socket();
    listener.bind(&at).unwrap();
    listener.listen(0).unwrap();
    let mut held = Vec::new();
    loop {
        let filler = socket();
        filler.set_nonblocking(true).unwrap();
        if filler.connect(&at).is_err() {
            break;
        }
        held.push(filler);
    }
    let proxy = Proxy::with(&format!(
        "[upstream.app]\nworkers = [\"unix:{}\"]\nhealth = {{ kind = \"tcp\", interval = \"100ms\", fall = 2 }}",
        path.display()
    ));
    let worker = proxy.worker(&format!("unix:{}", path.display()));
    assert_eq!(Raw::connect(proxy.address).get("/").status(), 503);
    wait_for("the worker is hung", || worker.health().word() == "hung");
    drop(listener);
    std::fs::remove_file(&path).unwrap();
    wait_for("the worker is gone", || worker.health().word() == "gone");
}
