//! The metrics have the right values: each is scraped from a real stickyd after what it counts has happened.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::status_and_metrics::promtool;
use crate::support::admin::{metric, reload};
use crate::support::proxy::{Binary, Proxy, free_address};
use crate::support::raw::{Raw, RawWorker, ok};
use crate::support::wait::wait_for;

const QUIET: &str = "health = { kind = \"tcp\", interval = \"1h\" }\n";

/// All series of a scrape with their values; a series that is there twice fails the test.
fn scrape(proxy: &Proxy) -> BTreeMap<String, f64> {
    series_of(&String::from_utf8(stickyd::testing::admin::scrape(proxy.server().shared())).unwrap())
}

fn series_of(text: &str) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(all.insert(series.to_owned(), value.parse().unwrap()).is_none(), "twice: {series}");
    }
    all
}

fn responses(proxy: &Proxy, upstream: &str, class: &str, by: &str) -> f64 {
    proxy.metric(&format!("stickyd_responses_total{{by=\"{by}\",class=\"{class}\",upstream=\"{upstream}\"}}"))
}

#[test]
fn answers_are_counted_by_class_and_by_who_wrote_them() {
    let worker = RawWorker::answering(|request| match request.target() {
        "/503" => "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "/404" => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
        _ => ok("fine"),
    });
    let proxy = Proxy::with(&format!(
        "[upstream.app]\nmax_body = \"1KiB\"\nworkers = [\"{}\"]\n{QUIET}[upstream.down]\nworkers = [\"{}\"]\n{QUIET}\
         [[route]]\npath = \"/down\"\nupstream = \"down\"\n\
         [[route]]\npath = \"/closed\"\nupstream = \"app\"\ndeny = [\"127.0.0.1\"]\n\
         [[route]]\nhost = \"a\"\nupstream = \"app\"\n",
        worker.address,
        free_address()
    ));
    let ask = |request: &str| Raw::connect(proxy.address).ask(&format!("{request}\r\n\r\n")).status();
    let get = |path: &str| ask(&format!("GET {path} HTTP/1.1\r\nHost: a"));
    assert_eq!([get("/"), get("/x"), get("/404"), get("/503")], [200, 200, 404, 503]);
    for (class, count) in [("1xx", 0.0), ("2xx", 2.0), ("3xx", 0.0), ("4xx", 1.0), ("5xx", 1.0)] {
        assert_eq!(responses(&proxy, "app", class, "worker"), count, "{class}");
        assert_eq!(responses(&proxy, "app", class, "stickyd"), 0.0, "{class}");
    }
    // A guard and a limit of the upstream refuse; a worker is down.
    assert_eq!((get("/closed"), ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999")), (403, 413));
    assert_eq!(get("/down"), 503);
    assert_eq!(responses(&proxy, "app", "4xx", "stickyd"), 2.0);
    assert_eq!((responses(&proxy, "down", "5xx", "stickyd"), responses(&proxy, "down", "5xx", "worker")), (1.0, 0.0));
    // Refused before routing: no route, an ambiguous head, a method; and by hyper a head that is none.
    assert_eq!(ask("GET / HTTP/1.1\r\nHost: b"), 404);
    assert_eq!((ask("GET / HTTP/1.1\r\nHost: a\r\nHost: a"), ask("TRACE / HTTP/1.1\r\nHost: a")), (400, 501));
    assert_eq!((ask("rubbish"), ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(99_999)))), (400, 431));
    wait_for("the connections of bad heads are over", || {
        let n = responses(&proxy, "-", "4xx", "stickyd");
        if n == 4.0 { Ok(()) } else { Err(n) }
    });
    assert_eq!(responses(&proxy, "-", "5xx", "stickyd"), 1.0);
    assert_eq!(proxy.metric("stickyd_unrouted_total"), 1.0);
    // Requests that a guard refused have no duration.
    assert_eq!(proxy.metric("stickyd_request_duration_seconds_count{upstream=\"app\"}"), 4.0);
    assert_eq!(proxy.metric("stickyd_request_duration_seconds_count{upstream=\"down\"}"), 1.0);
}

#[test]
fn health_and_admin_state_are_state_sets() {
    let worker = RawWorker::named("a");
    let dead = free_address();
    let proxy = Proxy::with(&format!("[upstream.app]\nworkers = [\"{}\", \"{dead}\"]", worker.address));
    let shown = |family: &str, address: &str| {
        let ours = |series: &&String| series.starts_with(family) && series.contains(&format!("worker=\"{address}\""));
        let all = scrape(&proxy);
        all.iter()
            .filter(|(series, _)| ours(series))
            .map(|(series, value)| (series.clone(), *value))
            .collect::<Vec<_>>()
    };
    let present = |family: &str, address: &str, count: usize| {
        let shown = shown(family, address);
        assert_eq!(shown.len(), count, "every state has a series: {shown:?}");
        assert_eq!(shown.iter().map(|(_, value)| value).sum::<f64>(), 1.0, "one is present: {shown:?}");
        let (series, _) = shown.into_iter().find(|(_, value)| *value == 1.0).unwrap();
        series.split('"').nth(1).unwrap().to_owned()
    };
    let dead = dead.to_string();
    wait_for("the dead worker is gone", || present("stickyd_worker_health{", &dead, 5) == "gone");
    assert_eq!(present("stickyd_worker_health{", &worker.address.to_string(), 5), "up");
    assert_eq!(present("stickyd_worker_admin{", &dead, 4), "ready");
    let up = |address: &str| proxy.metric(&format!("stickyd_worker_up{{upstream=\"app\",worker=\"{address}\"}}"));
    assert_eq!((up(&worker.address.to_string()), up(&dead)), (1.0, 0.0));
    let workers = |health: &str| proxy.metric(&format!("stickyd_workers{{health=\"{health}\",upstream=\"app\"}}"));
    assert_eq!((workers("up"), workers("gone"), workers("unused")), (1.0, 1.0, 0.0));
}

/// A worker that is named singly has all its series from the start, even if it never lived.
#[test]
fn ports_of_a_range_that_never_lived_have_no_series() {
    let address = free_address();
    let worker = RawWorker::scripted_at(address, |leg| {
        while leg.request().is_some() {
            leg.send(ok("a"));
        }
    });
    let last = address.port() + 1_022;
    let proxy = Proxy::with(&format!(
        "[upstream.app]\nworkers = [\"{}:{}-{last}\", {{ address = \"127.0.0.1:1\", name = \"single\" }}]",
        address.ip(),
        address.port() - 1
    ));
    let unused = "stickyd_workers{health=\"unused\",upstream=\"app\"}";
    wait_for("the worker of the range is found", || proxy.metric(unused) == 1_023.0);
    let up = "stickyd_worker_up{upstream=\"app\",worker=\"single\"}";
    wait_for("the single worker is found missing", || proxy.metric(up) == 0.0);
    assert_eq!(Raw::connect(proxy.address).get("/").text(), "a");
    let all = scrape(&proxy);
    let worker_of = |series: &String| Some(series.split_once("worker=\"")?.1.split_once('"')?.0.to_owned());
    let shown: BTreeSet<String> = all.keys().filter_map(worker_of).collect();
    assert_eq!(shown, BTreeSet::from([worker.address.to_string(), "single".to_owned()]));
    assert!(all.len() < 600, "{} series", all.len());
    let single = |series: &str| all.get(&format!("{series},upstream=\"app\",worker=\"single\"}}")).copied();
    assert_eq!(single("stickyd_requests_total{class=\"2xx\""), Some(0.0));
    assert_eq!(single("stickyd_worker_failures_total{kind=\"connect\""), Some(0.0));
    assert_eq!(single("stickyd_ejections_total{reason=\"errors\""), Some(0.0));
    assert_eq!(single("stickyd_queued_total{result=\"full\""), Some(0.0));
    assert_eq!(all.get("stickyd_worker_restarts_total{upstream=\"app\",worker=\"single\"}"), Some(&0.0));
    assert_eq!(all.get("stickyd_worker_response_seconds_count{upstream=\"app\",worker=\"single\"}"), Some(&0.0));
    assert_eq!(all.get("stickyd_worker_up{upstream=\"app\",worker=\"single\"}"), Some(&0.0));
}

/// A worker that has lived keeps its series when it is gone, and its return is counted as a restart.
#[test]
fn a_worker_that_was_seen_keeps_its_series_and_counts_restarts() {
    let port = free_address();
    let start = || {
        let listener = std::net::TcpListener::bind(port).unwrap();
        std::thread::spawn(move || {
            // Health checks send nothing; the first request ends this life.
            loop {
                let mut leg = Raw::on(listener.accept().unwrap().0);
                if leg.request().is_some() {
                    leg.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
                    return;
                }
            }
        })
    };
    let proxy =
        Proxy::with(&format!("[upstream.app]\nworkers = [\"{}:{}-{}\"]", port.ip(), port.port(), port.port() + 9));
    let at = format!("{{upstream=\"app\",worker=\"{port}\"}}");
    let (up, restarts) = (format!("stickyd_worker_up{at}"), format!("stickyd_worker_restarts_total{at}"));
    for life in 0..3_u32 {
        let thread = start();
        wait_for("the worker is up", || proxy.metric(&up) == 1.0);
        wait_for("the restart is counted", || proxy.metric(&restarts) == f64::from(life));
        assert_eq!(Raw::connect(proxy.address).get("/").status(), 200);
        thread.join().unwrap();
        wait_for("the worker is gone", || proxy.metric(&up) == 0.0);
        assert_eq!(scrape(&proxy).get(&up), Some(&0.0), "its series stays");
    }
    assert_eq!(proxy.metric("stickyd_workers{health=\"unused\",upstream=\"app\"}"), 9.0);
    assert_eq!(proxy.metric("stickyd_workers{health=\"gone\",upstream=\"app\"}"), 1.0);
}

#[test]
fn the_response_time_of_each_worker_is_measured_without_polls() {
    let (slow, fast) = (
        RawWorker::answering(|_| {
            #[allow(clippy::disallowed_methods, reason = "a worker that takes its time")]
            std::thread::sleep(Duration::from_millis(60));
            ok("slow")
        }),
        RawWorker::named("fast"),
    );
    let proxy = Proxy::with(&format!(
        "[upstream.slow]\nworkers = [\"{}\"]\n{QUIET}[upstream.fast]\nworkers = [\"{}\"]\n{QUIET}\
         [[route]]\npath = \"/slow\"\nupstream = \"slow\"\n[[route]]\nupstream = \"fast\"\n",
        slow.address, fast.address
    ));
    let mut client = Raw::connect(proxy.address);
    for _ in 0..3 {
        assert_eq!((client.get("/slow").text(), client.get("/").text()), ("slow", "fast"));
    }
    client.get("/slow/socket.io/?EIO=4&transport=polling&sid=abc");
    let of = |part: &str, upstream: &str, worker: &RawWorker| {
        let at = format!("{{upstream=\"{upstream}\",worker=\"{}\"}}", worker.address);
        proxy.metric(&format!("stickyd_worker_response_seconds_{part}{at}"))
    };
    assert_eq!((of("count", "slow", &slow), of("count", "fast", &fast)), (3.0, 3.0));
    assert!(of("sum", "slow", &slow) >= 0.18 && of("sum", "fast", &fast) > 0.0);
    // The histogram of requests has the same, in its buckets.
    let bucket = |le: &str| format!("stickyd_request_duration_seconds_bucket{{upstream=\"slow\",le=\"{le}\"}}");
    assert_eq!((proxy.metric(&bucket("0.05")), proxy.metric(&bucket("+Inf"))), (0.0, 3.0));
    assert_eq!(proxy.metric("stickyd_poll_duration_seconds_count{upstream=\"slow\"}"), 1.0);
}

#[test]
fn accepted_connections_are_counted_by_listener() {
    let worker = RawWorker::named("a");
    let proxy = Proxy::with(&format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nname = \"public\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
         name = \"other\"\n[upstream.app]\nworkers = [\"{}\"]",
        worker.address
    ));
    for _ in 0..3 {
        Raw::connect(proxy.address).get("/");
    }
    let all = scrape(&proxy);
    assert_eq!(all.get("stickyd_connections_accepted_total{listener=\"public\"}"), Some(&3.0));
    assert_eq!(all.get("stickyd_connections_accepted_total{listener=\"other\"}"), Some(&0.0));
}

/// A pool keeps 128 idle connections per thread and worker.
#[test]
fn idle_connections_that_a_full_pool_closes_are_counted() {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let opened = gate.clone();
    let worker = RawWorker::answering(move |_| {
        drop(opened.1.wait_while(opened.0.lock().unwrap(), |open| !*open).unwrap());
        ok("a")
    });
    let proxy = Proxy::with(&format!(
        "threads = 1\n[upstream.app]\nworkers = [\"{}\"]\naffinity = [\"cookie\"]\n{QUIET}",
        worker.address
    ));
    let mut clients: Vec<_> = (0..131).map(|_| Raw::connect(proxy.address)).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    wait_for("every request is at the worker", || worker.connections() == 131);
    assert_eq!(proxy.metric("stickyd_worker_pool_full_total"), 0.0);
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    assert!(clients.iter_mut().all(|client| client.answer().text() == "a"));
    wait_for("all connections were given back", || proxy.metric("stickyd_worker_pool_full_total") == 3.0);
}

/// Sockets beyond the limit of the list live without being listed, and are counted all the same.
#[test]
fn sockets_are_counted_beyond_the_limit_of_their_list() {
    const LIMIT: usize = 1_000;
    let (number, all) = (AtomicUsize::new(0), LIMIT + 3);
    let worker = RawWorker::answering(move |request| {
        if request.target().contains("sid=") {
            return ok("6");
        }
        let number = number.fetch_add(1, Ordering::Relaxed);
        ok(&format!(
            "0{{\"sid\":\"session-{number:012}\",\"upgrades\":[],\"pingInterval\":25000,\"pingTimeout\":20000}}"
        ))
    });
    let proxy = Proxy::with(&format!(
        "[upstream.app]\nworkers = [{{ address = \"{}\", name = \"w\" }}]\n{QUIET}[limits]\nsockets = {LIMIT}",
        worker.address
    ));
    let mut client = Raw::connect(proxy.address);
    for number in 0..all {
        client.get("/socket.io/?EIO=4&transport=polling");
        client.get(&format!("/socket.io/?EIO=4&transport=polling&sid=session-{number:012}"));
    }
    let (all, limit) = (all as f64, LIMIT as f64);
    for (series, value) in [
        ("stickyd_sockets{transport=\"polling\",upstream=\"app\",worker=\"w\"}", all),
        ("stickyd_sockets{transport=\"websocket\",upstream=\"app\",worker=\"w\"}", 0.0),
        ("stickyd_sockets_listed", limit),
        ("stickyd_sockets_limit", limit),
        ("stickyd_sockets_unlisted_total{upstream=\"app\"}", 3.0),
        ("stickyd_sockets_opened_total{transport=\"polling\",upstream=\"app\"}", all),
        ("stickyd_socket_bytes_total{direction=\"down\",upstream=\"app\"}", all),
        ("stickyd_socket_messages_total{direction=\"down\",upstream=\"app\"}", all),
    ] {
        // The last answer is counted when it is over, a moment after it was received.
        wait_for(series, || if proxy.metric(series) == value { Ok(()) } else { Err(proxy.metric(series)) });
    }
}

/// stickyd is a process of its own here; the process that listens as its worker is the test's.
#[test]
fn processes_of_stickyd_and_its_workers_are_shown() {
    let worker = RawWorker::named("a");
    let far = free_address();
    let binary = Binary::with(&format!(
        "state_dir = \".\"\n[upstream.app]\nworkers = [{{ address = \"{}\", name = \"w\" }}, \"{far}\"]",
        worker.address
    ));
    Raw::connect(binary.address).get("/");
    let text = Raw::connect_unix(&binary.admin()).get("/metrics").text().to_owned();
    promtool(text.as_bytes());
    let all = series_of(&text);
    let value = |series: &str| *all.get(series).unwrap_or_else(|| panic!("{series} is not in {text}"));
    let status = |pid: u32, key: &str| -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let near = |one: f64, other: f64| (one / other - 1.0).abs() < 0.2;
    let (ours, theirs) = (std::process::id(), binary.pid());
    assert!(near(value("process_resident_memory_bytes"), status(theirs, "VmRSS:") * 1024.0));
    assert!(near(value("process_virtual_memory_bytes"), status(theirs, "VmSize:") * 1024.0));
    // The thread that reads /proc has just ended, or not quite.
    assert!((value("process_threads") - status(theirs, "Threads:")).abs() <= 1.0);
    let open = std::fs::read_dir(format!("/proc/{theirs}/fd")).unwrap().count() as f64;
    assert!((value("process_open_fds") - open).abs() <= 3.0 && value("process_max_fds") >= open);
    assert_eq!(value("process_open_fds"), value("stickyd_descriptors"));
    assert!((0.0..60.0).contains(&value("process_cpu_seconds_total")));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let at = "{upstream=\"app\",worker=\"w\"}";
    for started in ["process_start_time_seconds".to_owned(), format!("stickyd_worker_start_time_seconds{at}")] {
        assert!((now - 600.0..=now + 2.0).contains(&value(&started)), "{started}");
    }
    assert!(near(value(&format!("stickyd_worker_resident_memory_bytes{at}")), status(ours, "VmRSS:") * 1024.0));
    assert!((0.0..600.0).contains(&value(&format!("stickyd_worker_cpu_seconds_total{at}"))));
    let other = format!("stickyd_worker_cpu_seconds_total{{upstream=\"app\",worker=\"{far}\"}}");
    assert_eq!(all.get(&other), None, "nothing listens there");
}

/// A removed worker with a session and the worker that has its name now are one worker in the metrics.
#[test]
fn a_name_that_moves_to_another_address_goes_on_counting() {
    const OPEN: &str = "0{\"sid\":\"abc\",\"upgrades\":[],\"pingInterval\":25000,\"pingTimeout\":20000}";
    let (one, two) = (RawWorker::answering(|_| ok(OPEN)), RawWorker::named("two"));
    let text = |worker: &RawWorker| {
        format!(
            "state_dir = \".\"\n[upstream.app]\nremoved = \"keep\"\n\
             workers = [{{ address = \"{}\", name = \"w\" }}]\n{QUIET}",
            worker.address
        )
    };
    let binary = Binary::with(&text(&one));
    let mut client = Raw::connect(binary.address);
    client.get("/socket.io/?EIO=4&transport=polling");
    reload(&binary, &text(&two));
    assert_eq!(client.get("/").text(), "two");
    let at = "upstream=\"app\",worker=\"w\"}";
    let text = Raw::connect_unix(&binary.admin()).get("/metrics").text().to_owned();
    let all = series_of(&text);
    assert_eq!(all.get(&format!("stickyd_requests_total{{class=\"2xx\",{at}")), Some(&2.0));
    assert_eq!(all.get(&format!("stickyd_sessions{{{at}")), Some(&1.0), "of the removed worker");
    assert_eq!(all.get(&format!("stickyd_drain_sessions_left{{{at}")), Some(&1.0));
    assert_eq!(all.get(&format!("stickyd_worker_admin{{admin=\"ready\",{at}")), Some(&1.0));
    assert_eq!(metric(&binary, "stickyd_workers{health=\"up\",upstream=\"app\"}"), 2.0);
}
