//! Ejection by live traffic: which failures count, which do not, when a worker is spared, and how it comes back.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::SeqCst};

use crate::support::proxy::Proxy;
use crate::support::raw::{Leg, Message, Raw, RawWorker, ok};
use crate::support::wait::wait_for;

/// Requests without a cookie are spread by chance, and no health check interferes.
const CHANCE: &str = "affinity = [\"socket.io\", \"cookie\"]\nhealth = { kind = \"tcp\", interval = \"1h\" }\n";

/// A proxy with the workers `bad` and `good` in one upstream; no client has a cookie.
fn proxy(bad: &RawWorker, good: &RawWorker, keys: &str) -> Proxy {
    let named = |worker: &RawWorker, name| format!("{{ address = \"{}\", name = \"{name}\" }}", worker.address);
    let workers = format!("{}, {}", named(bad, "bad"), named(good, "good"));
    Proxy::with(&format!("threads = 1\n[upstream.app]\nworkers = [{workers}]\n{CHANCE}{keys}\n"))
}

/// A request of another client than the last ones: failures that only one client sees do not count.
fn get(proxy: &Proxy) -> Message {
    static CLIENT: AtomicU8 = AtomicU8::new(0);
    let client = Ipv4Addr::new(127, 0, 1, 1 + CLIENT.fetch_add(1, SeqCst) % 200);
    Raw::connect_from(client.into(), proxy.address).get("/")
}

/// Sends requests until the bad worker is ejected.
fn until_ejected(proxy: &Proxy) {
    wait_for("the bad worker is ejected", || {
        get(proxy);
        proxy.worker("bad").is_ejected()
    });
}

fn ejections(proxy: &Proxy, reason: &str) -> f64 {
    proxy.metric(&format!("stickyd_ejections_total{{reason=\"{reason}\",upstream=\"app\",worker=\"bad\"}}"))
}

#[test]
fn every_kind_of_failure_ejects_and_all_requests_go_elsewhere() {
    let accepts_and_is_silent: fn(&mut Leg) = |leg| {
        leg.request();
        leg.until_closed();
    };
    let breaks: fn(&mut Leg) = |leg| drop(leg.request());
    let resets: fn(&mut Leg) = |leg| {
        leg.request();
        leg.reset();
    };
    let rubbish: fn(&mut Leg) = |leg| {
        leg.request();
        leg.send("no answer at all\r\n\r\n");
    };
    for (script, reason) in
        [(accepts_and_is_silent, "timeout"), (breaks, "broken"), (resets, "broken"), (rubbish, "broken")]
    {
        let (bad, good) = (RawWorker::scripted(script), RawWorker::named("good"));
        let proxy = proxy(
            &bad,
            &good,
            "response_timeout = \"150ms\"\neject = { failures = 3, time = \"1h\", max_time = \"1h\" }",
        );
        until_ejected(&proxy);
        assert_eq!(ejections(&proxy, reason), 1.0);
        assert_eq!(proxy.metric("stickyd_worker_ejected{upstream=\"app\",worker=\"bad\"}"), 1.0);
        let before = bad.connections();
        for _ in 0..20 {
            assert_eq!(get(&proxy).text(), "good", "{reason}");
        }
        assert_eq!(bad.connections(), before);
        assert!(proxy.worker("bad").serves(), "its sessions stay with it");
    }
}

#[test]
fn server_errors_eject_by_their_share_and_cookies_stay() {
    let error = "HTTP/1.1 503 Busy\r\nContent-Length: 3\r\n\r\nbad";
    let (bad, good) = (RawWorker::answering(move |_| error.to_owned()), RawWorker::named("good"));
    let proxy = proxy(&bad, &good, "eject = { errors = \"50%\", volume = 10, time = \"1h\", max_time = \"1h\" }");
    let mut cookie = None;
    wait_for("the worker is ejected by its errors", || {
        let answer = get(&proxy);
        if answer.text() == "bad" {
            cookie = answer.cookie("stickyd_app").or_else(|| cookie.take());
        }
        proxy.worker("bad").is_ejected()
    });
    assert_eq!(ejections(&proxy, "errors"), 1.0);
    for _ in 0..20 {
        assert_eq!(get(&proxy).text(), "good");
    }
    if let Some(cookie) = cookie {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n");
        assert_eq!(Raw::connect(proxy.address).ask(&request).text(), "bad", "clients with its cookie stay");
    }
}

#[test]
fn the_last_worker_is_never_ejected() {
    let script = |leg: &mut Leg| drop(leg.request());
    let (one, two) = (RawWorker::scripted(script), RawWorker::scripted(script));
    let proxy = proxy(&one, &two, "eject = { failures = 2, time = \"1h\", max_time = \"1h\" }");
    let spared = |name| proxy.metric(&format!("stickyd_ejections_spared_total{{upstream=\"app\",worker=\"{name}\"}}"));
    wait_for("the last worker is spared", || {
        assert_eq!(get(&proxy).status(), 502);
        spared("bad") + spared("good") >= 1.0
    });
    assert_ne!(proxy.worker("bad").is_ejected(), proxy.worker("good").is_ejected());
    // A worker that is alone in its pool.
    let alone =
        Proxy::with(&format!("[upstream.app]\nworkers = [\"{}\"]\neject = {{ failures = 1 }}\n{CHANCE}", one.address));
    for _ in 0..5 {
        assert_eq!(get(&alone).status(), 502);
    }
    assert!(!alone.worker(&one.address.to_string()).is_ejected());
}

#[test]
fn what_the_client_breaks_is_not_the_workers_fault() {
    let script = |leg: &mut Leg| {
        while let Some(request) = leg.request() {
            if request.target() == "/" {
                leg.send(ok("fine"));
            }
        }
    };
    let (bad, good) = (RawWorker::scripted(script), RawWorker::scripted(script));
    let proxy = proxy(&bad, &good, "response_timeout = \"150ms\"\neject = { failures = 1 }");
    for _ in 0..6 {
        // A body that is never sent, a body with a broken chunk, and a client that leaves during its body.
        let post = "POST /upload HTTP/1.1\r\nHost: a\r\n";
        assert_eq!(Raw::connect(proxy.address).ask(&format!("{post}Content-Length: 10\r\n\r\nhalf")).status(), 504);
        Raw::connect(proxy.address).send(format!("{post}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n")).rest();
        Raw::connect(proxy.address).send(format!("{post}Content-Length: 10\r\n\r\nhalf"));
    }
    assert_eq!(get(&proxy).text(), "fine");
    for worker in ["bad", "good"] {
        assert!(!proxy.worker(worker).is_ejected(), "{worker}");
        for reason in ["connect", "broken", "timeout", "errors"] {
            let series = format!("stickyd_ejections_total{{reason=\"{reason}\",upstream=\"app\",worker=\"{worker}\"}}");
            assert_eq!(proxy.metric(&series), 0.0, "{series}");
        }
    }
}

#[test]
fn an_ejected_worker_returns_gradually_and_later_each_time() {
    let ill = Arc::new(AtomicBool::new(true));
    let state = ill.clone();
    let bad = RawWorker::scripted(move |leg| {
        while leg.request().is_some() && !state.load(SeqCst) {
            leg.send(ok("bad"));
        }
    });
    let good = RawWorker::named("good");
    let proxy = proxy(&bad, &good, "slow_start = \"1s\"\neject = { failures = 2, time = \"200ms\" }");
    until_ejected(&proxy);
    ill.store(false, SeqCst);
    let worker = proxy.worker("bad");
    wait_for("the worker is back", || !worker.is_ejected());
    // It gets some requests at once, and its whole share in the end.
    wait_for("the worker has its share again", || {
        let there = (0..40).filter(|_| get(&proxy).text() == "bad").count();
        (12..=28).contains(&there)
    });
    ill.store(true, SeqCst);
    // Kept connections from before would hide failures, because their requests are retried.
    wait_for("the worker is ejected again", || {
        get(&proxy);
        ejections(&proxy, "broken") >= 2.0
    });
    assert!(
        worker.eject.left_ms(stickyd::testing::clock::Millis::START).unwrap() > 200,
        "until: {:?}",
        worker.eject.left_ms(stickyd::testing::clock::Millis::START)
    );
}

#[test]
fn slow_start_gives_a_part_and_moves_every_key_once() {
    let (bad, good) = (RawWorker::named("bad"), RawWorker::named("good"));
    let named = |worker: &RawWorker, name| format!("{{ address = \"{}\", name = \"{name}\" }}", worker.address);
    let workers = format!("{}, {}", named(&bad, "bad"), named(&good, "good"));
    let proxy = Proxy::with(&format!(
        "threads = 1\n[[listener]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.1\"]\n\
         [upstream.app]\nworkers = [{workers}]\naffinity = [\"address\"]\nslow_start = \"3s\"\n\
         health = {{ kind = \"tcp\", interval = \"1h\" }}\n"
    ));
    let of = |client: usize| {
        let request =
            format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.1.{}.{}\r\n\r\n", client / 200, client % 200);
        Raw::connect(proxy.address).ask(&request).text() == "bad"
    };
    let whole: Vec<_> = (0..60).map(of).collect();
    proxy.worker("bad").eject.ease_in(stickyd::testing::clock::now_ms());
    let first: Vec<_> = (0..60).map(of).collect();
    let there = |all: &[bool]| all.iter().filter(|there| **there).count();
    assert!(there(&first) < there(&whole), "a part only: {} of {}", there(&first), there(&whole));
    let mut last = first;
    wait_for("the worker has all its keys", || {
        let now: Vec<_> = (0..60).map(of).collect();
        assert!(last.iter().zip(&now).all(|(before, now)| *now || !*before), "a moved key stays");
        last = now;
        last == whole
    });
}

#[test]
fn probes_and_health_checks_do_not_count() {
    let script = |leg: &mut Leg| {
        while let Some(request) = leg.request() {
            if request.target() == "/health" {
                leg.send("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
            } else {
                leg.send(ok("fine"));
            }
        }
    };
    let (bad, good) = (RawWorker::scripted(script), RawWorker::scripted(script));
    let workers = format!("\"{}\", \"{}\"", bad.address, good.address);
    let proxy = Proxy::with(&format!(
        "[upstream.app]\nworkers = [{workers}]\neject = {{ failures = 1, volume = 1, errors = \"1%\" }}\n\
         health = {{ path = \"/health\", interval = \"100ms\", fall = 1 }}\n"
    ));
    let worker = proxy.worker(&bad.address.to_string());
    wait_for("checked", || bad.connections() >= 5);
    assert!(!worker.is_ejected() && worker.eject.left_ms(stickyd::testing::clock::Millis::START).is_none());
}

#[test]
fn an_open_poll_without_an_answer_is_not_a_failure() {
    let open = "0{\"sid\":\"abc\",\"upgrades\":[],\"pingInterval\":10,\"pingTimeout\":10,\"maxPayload\":1000}";
    let script = move |leg: &mut Leg| {
        while let Some(request) = leg.request() {
            if !request.target().contains("sid=") {
                leg.send(ok(open));
            }
        }
    };
    let (bad, good) = (RawWorker::scripted(script), RawWorker::scripted(script));
    let proxy = proxy(&bad, &good, "response_timeout = \"100ms\"\neject = { failures = 1 }");
    let polling = "/socket.io/?EIO=4&transport=polling";
    let mut client = Raw::connect(proxy.address);
    assert_eq!(client.get(polling).text(), open);
    // For as long as a session lives, which is five seconds more than its pings.
    assert_eq!(client.get(&format!("{polling}&sid=abc")).status(), 504);
    assert!(!proxy.worker("bad").is_ejected() && !proxy.worker("good").is_ejected());
}

/// A 101 without the right `Sec-WebSocket-Accept` is a broken answer (RFC 6455 §4.1), not a good one.
#[test]
fn a_101_that_is_not_valid_counts_as_broken() {
    let bad = RawWorker::scripted(|leg: &mut Leg| {
        while let Some(request) = leg.request() {
            if request.header("upgrade").is_some() {
                leg.send(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n",
                );
                return;
            }
            leg.send(ok("bad"));
        }
    });
    let good = RawWorker::named("good");
    let proxy = proxy(&bad, &good, "eject = { failures = 3, time = \"1h\", max_time = \"1h\" }");
    let mut clients = (1..=250).cycle().map(|last| IpAddr::from([127, 0, 0, last]));
    wait_for("the bad worker is ejected", || {
        Raw::connect_from(clients.next().unwrap(), proxy.address).ask(
            "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        );
        proxy.worker("bad").is_ejected()
    });
    assert_eq!(ejections(&proxy, "broken"), 1.0);
}

/// A page that always fails, and one client that asks for nothing else: by its IPv4 address, and by the many addresses
/// of its IPv6 network (/64).
#[test]
fn one_client_cannot_eject_a_worker() {
    let fails: fn(&mut Leg) = |leg| {
        while let Some(request) = leg.request() {
            match request.target() {
                "/error" => leg.send("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"),
                "/break" => return,
                "/silence" => return leg.until_closed(),
                _ => leg.send(ok("fine")),
            };
        }
    };
    let workers = [RawWorker::scripted(fails), RawWorker::scripted(fails)];
    let [one, two] = workers.each_ref().map(|worker| worker.address.to_string());
    let proxy = Proxy::with(&format!(
        "threads = 1\n[[listener]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.1\"]\n\
         [upstream.app]\nworkers = [\"{one}\", \"{two}\"]\n{CHANCE}response_timeout = \"100ms\"\n\
         eject = {{ failures = 3, volume = 4, time = \"1h\", max_time = \"1h\" }}\nretry_budget = \"0%\"\n"
    ));
    let ask = |target: &str, client: &str| {
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {client}\r\n\r\n");
        Raw::connect(proxy.address).ask(&request).status()
    };
    let ejected = || [&one, &two].iter().filter(|name| proxy.worker(name).is_ejected()).count();
    for number in 0..40 {
        for client in ["192.0.2.1".to_owned(), format!("2001:db8:0:1::{number:x}")] {
            assert_eq!(ask("/error", &client), 500);
            assert_eq!(ask("/break", &client), 502);
        }
    }
    for _ in 0..6 {
        assert_eq!(ask("/silence", "192.0.2.1"), 504);
    }
    assert_eq!(ejected(), 0);
    wait_for("what several clients see does eject", || {
        for client in 1..=9 {
            ask("/error", &format!("198.51.100.{client}"));
        }
        ejected() == 1
    });
}

/// No client makes a connect fail, so one that notices is enough.
#[test]
fn refused_connects_eject_for_any_client() {
    let good = RawWorker::named("good");
    let refuses = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = refuses.local_addr().unwrap();
    drop(refuses);
    let workers = format!("{{ address = \"{address}\", name = \"bad\" }}, \"{}\"", good.address);
    let proxy = Proxy::with(&format!("threads = 1\n[upstream.app]\nworkers = [{workers}]\naffinity = [\"cookie\"]\n"));
    for _ in 0..40 {
        assert_eq!(Raw::connect(proxy.address).get("/").text(), "good");
    }
    assert!(!proxy.worker("bad").takes_new());
}
