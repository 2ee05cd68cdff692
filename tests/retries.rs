//! Retries: what is sent again, how often and to which worker, and what never is.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};

use crate::support::node::NodeServer;
use crate::support::proxy::{Proxy, free_address};
use crate::support::raw::{Leg, Raw, RawWorker, ok};
use crate::support::wait::wait_for;

const RESENT: &str = "stickyd_retries_total{kind=\"resent\",upstream=\"app\"}";
const PASSED_ON: &str = "stickyd_retries_total{kind=\"passed_on\",upstream=\"app\"}";
const OVER_BUDGET: &str = "stickyd_retries_refused_total{upstream=\"app\"}";
const QUIET: &str = "health = { kind = \"tcp\", interval = \"1h\" }\n";

fn before(worker: &RawWorker, keys: &str) -> Proxy {
    Proxy::with(&format!("threads = 1\n[upstream.app]\nworkers = [\"{}\"]\n{QUIET}{keys}\n", worker.address))
}

/// A worker whose first connection answers once and breaks at its second request as `end` does; all others answer.
fn stale(end: impl Fn(&mut Leg) + Send + Sync + 'static) -> RawWorker {
    RawWorker::scripted(move |leg| {
        let mut answered = 0;
        while leg.request().is_some() {
            if leg.number == 0 && answered == 1 {
                end(leg);
                return;
            }
            leg.send(ok("fine"));
            answered += 1;
        }
    })
}

#[test]
fn a_safe_request_on_a_stale_connection_is_sent_once_more() {
    let ends: [fn(&mut Leg); 2] = [|_| {}, |leg| leg.reset()];
    for end in ends {
        for method in ["GET", "HEAD", "OPTIONS"] {
            let mut worker = stale(end);
            let proxy = before(&worker, "");
            let mut client = Raw::connect(proxy.address);
            assert_eq!(client.get("/").text(), "fine");
            let answer = client.ask(&format!(
                "{method} /again?x=1 HTTP/1.1\r\nHost: a\r\nX-Two: 1\r\nx-two: 2\r\nCookie: c=1\r\n\r\n"
            ));
            assert_eq!(answer.status(), 200, "{method}");
            assert_eq!(proxy.metric(RESENT), 1.0);
            let heard: Vec<_> = (0..3).map(|_| worker.request()).collect();
            assert_eq!((heard[1].0, heard[2].0), (0, 1), "the request is sent again on a new connection");
            let sorted = |at: usize| {
                let mut headers = heard[at].1.headers.clone();
                headers.sort();
                (heard[at].1.start.clone(), headers)
            };
            assert_eq!(sorted(1), sorted(2), "the same request is sent again");
        }
    }
}

#[test]
fn what_may_have_been_processed_is_never_sent_again() {
    let session = "GET /socket.io/?EIO=4&transport=polling&sid=abc";
    for (what, request) in [
        ("a POST", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx".to_owned()),
        ("an empty POST", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("a PUT", "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("a DELETE", "DELETE / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        ("a GET with a body", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx".to_owned()),
        ("a request with a sid", format!("{session} HTTP/1.1\r\nHost: a\r\n\r\n")),
    ] {
        let worker = stale(|_| {});
        let proxy = before(&worker, "");
        let mut client = Raw::connect(proxy.address);
        assert_eq!(client.get("/").text(), "fine");
        assert_eq!(client.ask(&request).status(), 502, "{what}");
        assert_eq!((worker.connections(), proxy.metric(RESENT)), (1, 0.0), "{what}");
    }
}

#[test]
fn after_one_byte_of_an_answer_nothing_is_sent_again() {
    let worker = stale(|leg| {
        leg.send("H");
    });
    let proxy = before(&worker, "");
    let mut client = Raw::connect(proxy.address);
    assert_eq!(client.get("/").text(), "fine");
    assert_eq!(client.get("/").status(), 502);
    assert_eq!(worker.connections(), 1);
}

/// A new connection that breaks is not a race with its end: its worker is ill, and safe requests go to another one.
#[test]
fn a_new_connection_that_breaks_sends_a_safe_request_elsewhere() {
    let (ill, well) = (RawWorker::scripted(|leg| drop(leg.request())), RawWorker::named("well"));
    let proxy = Proxy::with(&format!(
        "threads = 1\n[upstream.app]\nworkers = [\"{}\", \"{}\"]\naffinity = [\"cookie\"]\neject = false\n{QUIET}",
        ill.address, well.address
    ));
    let statuses: Vec<_> = (0..20).map(|_| Raw::connect(proxy.address).get("/").status()).collect();
    assert_eq!(statuses, [200; 20]);
    assert!(ill.connections() > 0 && proxy.metric(RESENT) == ill.connections() as f64);
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx";
    let before = proxy.metric(RESENT);
    wait_for("a POST at the ill worker fails", || Raw::connect(proxy.address).ask(post).status() == 502);
    assert_eq!(proxy.metric(RESENT), before);
}

#[test]
fn a_resent_request_is_not_sent_a_third_time() {
    let worker = RawWorker::scripted(|leg| {
        if leg.number == 0 && leg.request().is_some() {
            leg.send(ok("fine"));
        }
        leg.request();
    });
    let proxy = before(&worker, "");
    let mut client = Raw::connect(proxy.address);
    assert_eq!(client.get("/").text(), "fine");
    assert_eq!(client.get("/").status(), 502);
    assert_eq!((worker.connections(), proxy.metric(RESENT)), (2, 1.0));
    assert_eq!(client.get("/").status(), 502);
    assert_eq!(worker.connections(), 3, "there is no other worker");
}

/// A worker that dies with requests in flight: its kept connection breaks, and its port refuses connects.
#[test]
fn a_dead_workers_requests_go_to_another_one() {
    let address = free_address();
    let listener = std::net::TcpListener::bind(address).unwrap();
    let (closed, gone) = mpsc::channel();
    let closed = Mutex::new(closed);
    std::thread::spawn(move || {
        // A health check sends no bytes.
        let mut leg = loop {
            let mut leg = Raw::on(listener.accept().unwrap().0);
            if leg.request().is_some() {
                break leg;
            }
        };
        leg.send(ok("dying"));
        leg.request();
        drop((listener, leg));
        closed.lock().unwrap().send(()).unwrap();
    });
    let alive = RawWorker::named("alive");
    let workers = format!("\"{address}\", \"{}\"", alive.address);
    let proxy =
        Proxy::with(&format!("threads = 1\n[upstream.app]\nworkers = [{workers}]\naffinity = [\"cookie\"]\n{QUIET}"));
    let mut answers = Vec::new();
    wait_for("the worker has died", || {
        answers.push(Raw::connect(proxy.address).get("/").text().to_owned());
        gone.try_recv().is_ok()
    });
    assert!(answers.iter().all(|answer| answer == "alive" || answer == "dying"), "{answers:?}");
}

/// A real worker is killed with requests in flight, on kept connections and on those that its kernel still accepts:
/// without a second try each of these requests is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_under_load_costs_no_safe_request() {
    let mut workers = NodeServer::start_many(2, &[]).await;
    let addresses: Vec<_> = workers.iter().map(|worker| format!("{:?}", worker.address())).collect();
    let proxy = Proxy::with(&format!(
        "threads = 1\n[upstream.app]\nworkers = [{}]\naffinity = [\"cookie\"]",
        addresses.join(", ")
    ));
    let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let (mut client, stop, answers) = (Raw::connect(proxy.address), stop.clone(), answers.clone());
            std::thread::spawn(move || {
                while !stop.load(SeqCst) {
                    let answer = client.get("/who");
                    assert_eq!(answer.status(), 200, "{answer:?}");
                    answers.fetch_add(1, SeqCst);
                }
            })
        })
        .collect();
    let more = |count| {
        let (end, what) = (answers.load(SeqCst) + count, "answers");
        wait_for(what, || answers.load(SeqCst) >= end || clients.iter().any(std::thread::JoinHandle::is_finished));
    };
    more(1_000);
    workers[0].kill().await;
    more(1_000);
    stop.store(true, SeqCst);
    for client in clients {
        client.join().unwrap();
    }
}

#[test]
fn a_failing_pool_gets_no_more_than_the_budget() {
    let calls = Arc::new(AtomicUsize::new(0));
    let seen = calls.clone();
    // Every connection answers once and breaks at its second request.
    let worker = RawWorker::scripted(move |leg| {
        if leg.request().is_some() {
            seen.fetch_add(1, SeqCst);
            leg.send(ok("fine"));
            if leg.request().is_some() {
                seen.fetch_add(1, SeqCst);
            }
        }
    });
    let proxy = before(&worker, "retry_budget = \"10%\"\neject = { window = \"10m\" }");
    // Above what is always allowed within this test: three per second, of ten minutes.
    let shared = proxy.server().shared();
    let upstream = shared.snapshot.load().upstreams[0].clone();
    let slot = upstream.eject.slot(stickyd::testing::clock::now_ms());
    (0..1_800).for_each(|_| upstream.carried.retries.note(slot));
    let mut client = Raw::connect(proxy.address);
    let statuses: Vec<_> = (0..100).map(|_| client.get("/").status()).collect();
    let lost = statuses.iter().filter(|status| **status == 502).count();
    assert!((35..=50).contains(&lost), "half of the requests break, and about a tenth may be sent again: {lost}");
    assert_eq!(proxy.metric(OVER_BUDGET), lost as f64);
    assert!(proxy.metric(RESENT) >= 1.0 && calls.load(SeqCst) <= 111, "{calls:?}");
}

#[test]
fn without_a_budget_nothing_is_resent() {
    let worker = stale(|_| {});
    let proxy = before(&worker, "retry_budget = \"0%\"");
    let mut client = Raw::connect(proxy.address);
    assert_eq!(client.get("/").text(), "fine");
    assert_eq!(client.get("/").status(), 502);
    assert_eq!((proxy.metric(RESENT), proxy.metric(OVER_BUDGET)), (0.0, 0.0));
}

/// A unix socket with a full backlog counts as full, not as gone: requests without a session go to the next worker, and
/// a request of a session waits for its worker.
#[test]
fn a_full_backlog_is_full_and_not_gone() {
    let path = std::env::temp_dir().join(format!("stickyd-backlog-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    socket.listen(0).unwrap();
    let fill = || {
        let filler = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        filler.set_nonblocking(true).unwrap();
        filler.connect(&socket2::SockAddr::unix(&path).unwrap()).map(|()| filler)
    };
    let mut held: Vec<_> = std::iter::from_fn(|| fill().ok()).collect();
    assert!(!held.is_empty());
    let alive = RawWorker::named("alive");
    let full = format!("unix:{}", path.display());
    let proxy = Proxy::with(&format!(
        "threads = 1\n[upstream.app]\nworkers = [\"{full}\", \"{}\"]\naffinity = [\"cookie\"]\n{QUIET}",
        alive.address
    ));
    for _ in 0..10 {
        assert_eq!(Raw::connect(proxy.address).get("/").text(), "alive");
    }
    assert!(proxy.metric(PASSED_ON) >= 1.0);
    assert!(!proxy.worker(&full).gone());

    // A session has no other worker, so it waits.
    let alone = Proxy::with(&format!(
        "threads = 1\n[upstream.app]\nworkers = [\"{full}\"]\nconnect_timeout = \"20s\"\n{QUIET}"
    ));
    assert_eq!(Raw::connect(alone.address).get("/").status(), 503);
    let mut client = Raw::connect(alone.address);
    client.send("POST /socket.io/?EIO=4&transport=polling&sid=abc HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n40");
    let worker = alone.worker(&full);
    let failures = format!("stickyd_worker_failures_total{{kind=\"connect\",upstream=\"app\",worker=\"{full}\"}}");
    assert_eq!((worker.gone(), alone.metric(&failures)), (false, 1.0));
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let accepting = std::thread::spawn(move || {
        // The worker accepts what waits in the backlog and answers it; the connections that filled it send nothing and
        // are closed.
        while !stopped.load(SeqCst) {
            let Ok((stream, _)) = socket.accept() else { return };
            let mut leg = Raw::on(std::os::unix::net::UnixStream::from(std::os::fd::OwnedFd::from(stream)));
            std::thread::spawn(move || {
                if leg.request().is_some() {
                    leg.send(ok("ok"));
                    leg.rest();
                }
            });
        }
    });
    held.clear();
    assert_eq!(client.answer().text(), "ok");
    stop.store(true, SeqCst);
    drop(alone);
    let _ = std::os::unix::net::UnixStream::connect(&path);
    accepting.join().unwrap();
    let _ = std::fs::remove_file(&path);
}

const HANDSHAKE: &str = "/socket.io/?EIO=4&transport=polling";

/// A worker that loses what comes over its new connections, as PM2's daemon can, and one that answers.
fn one_is_silent(keys: &str) -> (RawWorker, RawWorker, Proxy) {
    let open = "0{\"sid\":\"abc\",\"upgrades\":[],\"pingInterval\":10,\"pingTimeout\":10,\"maxPayload\":1000}";
    let silent = RawWorker::scripted(|leg| {
        leg.request();
        leg.until_closed();
    });
    let answers = RawWorker::answering(move |_| ok(open));
    let workers = format!("\"{}\", \"{}\"", silent.address, answers.address);
    let proxy = Proxy::with(&format!(
        "threads = 1\n[upstream.app]\nworkers = [{workers}]\naffinity = [\"socket.io\", \"cookie\"]\neject = false\n\
         {QUIET}{keys}\n"
    ));
    (silent, answers, proxy)
}

#[test]
fn an_unanswered_handshake_asks_another_worker_once() {
    let (silent, _answers, proxy) = one_is_silent("retry_after = \"100ms\"");
    wait_for("the silent worker got a handshake", || {
        assert_eq!(Raw::connect(proxy.address).get(HANDSHAKE).status(), 200);
        silent.connections() > 0
    });
    assert_eq!(proxy.metric(RESENT), silent.connections() as f64);
    // Both are silent: the second one is waited for until the time is over.
    let silent = [0, 1].map(|_| {
        RawWorker::scripted(|leg| {
            leg.request();
            leg.until_closed();
        })
    });
    let workers = format!("\"{}\", \"{}\"", silent[0].address, silent[1].address);
    let proxy = Proxy::with(&format!(
        "threads = 1\n[upstream.app]\nworkers = [{workers}]\nresponse_timeout = \"1s\"\nretry_after = \"100ms\"\n{QUIET}"
    ));
    assert_eq!(Raw::connect(proxy.address).get(HANDSHAKE).status(), 504);
    assert_eq!((silent[0].connections(), silent[1].connections()), (1, 1));
    assert_eq!(proxy.metric(RESENT), 1.0);
}

#[test]
fn what_may_act_twice_or_is_over_budget_asks_no_other_worker() {
    let post = "POST /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx";
    let upgrade = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
                   Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let get = "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: a\r\n\r\n";
    let plain = "GET /report HTTP/1.1\r\nHost: a\r\n\r\n";
    for (request, keys) in [
        (post, "retry_after = \"50ms\""),
        (upgrade, "retry_after = \"50ms\""),
        (plain, "retry_after = \"50ms\""),
        (get, "retry_after = \"0s\""),
        (get, "retry_after = \"50ms\"\nretry_budget = \"0%\""),
    ] {
        let (silent, _answers, proxy) = one_is_silent(&format!("response_timeout = \"300ms\"\n{keys}"));
        wait_for("a request at the silent worker times out", || {
            let status = Raw::connect(proxy.address).ask(request).status();
            assert!(status == 504 || silent.connections() == 0, "{status}: {request}");
            status == 504
        });
        assert_eq!(proxy.metric(RESENT), 0.0, "{request}");
    }
}
