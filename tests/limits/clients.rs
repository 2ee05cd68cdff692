//! `[limits]` of clients: number, rate and duration; and that waiting for a worker counts against none of them.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::support::proxy::{Binary, Proxy};
use crate::support::raw::{Raw, RawWorker, ok, patient};
use crate::support::wait::wait_for;

fn with(worker: &RawWorker, limits: &str) -> Proxy {
    Proxy::with(&format!("[upstream.app]\nworkers = [\"{}\"]\n[limits]\n{limits}", worker.address))
}

fn limited(proxy: &Proxy, limit: &str) -> f64 {
    proxy.metric(&format!("stickyd_limited_total{{limit=\"{limit}\"}}"))
}

/// A connection from another address of this machine.
fn connect_from(from: [u8; 4], to: SocketAddr) -> Raw {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    Raw::on(patient(TcpStream::from(socket)))
}

#[test]
fn past_all_connections_a_client_is_closed_until_one_leaves() {
    let worker = RawWorker::named("a");
    let proxy = with(&worker, "connections = 2\nconnections_per_address = 9");
    assert_eq!(proxy.metric("stickyd_client_connections_limit"), 2.0);
    let (mut first, mut second) = (Raw::connect(proxy.address), Raw::connect(proxy.address));
    assert_eq!((first.get("/").status(), second.get("/").status()), (200, 200));
    Raw::connect(proxy.address).closed();
    assert_eq!(limited(&proxy, "connections"), 1.0);
    drop(first);
    wait_for("there is room for a connection", || proxy.metric("stickyd_client_connections") < 1.5);
    assert_eq!(Raw::connect(proxy.address).get("/").status(), 200);
    assert_eq!(second.get("/").status(), 200);
}

/// An idle keep-alive connection is worth less than a client that has just come.
#[test]
fn past_all_connections_the_longest_idle_one_makes_room() {
    let worker = RawWorker::scripted(|leg| {
        while let Some(request) = leg.request() {
            if request.target() == "/wait" {
                return leg.until_closed();
            }
            leg.send(ok("a"));
        }
    });
    let proxy = with(&worker, "connections = 4\nconnections_per_address = 9");
    let (mut waiting, mut half) = (Raw::connect(proxy.address), Raw::connect(proxy.address));
    waiting.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    half.send("GET / HTTP/1.1\r\nHo");
    let (mut older, mut younger) = (Raw::connect(proxy.address), Raw::connect(proxy.address));
    assert_eq!(older.get("/").status(), 200);
    std::thread::park_timeout(Duration::from_secs(2));
    assert_eq!(younger.get("/").status(), 200);
    // Connections count as idle only after a second or two; the others are busy.
    let come = |mut client: Raw| {
        let served = client.try_send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").is_ok() && client.head().is_some();
        served.then_some(client)
    };
    let mut first = None;
    wait_for("the idle connection has made room", || {
        first = come(Raw::connect(proxy.address));
        first.is_some()
    });
    older.closed();
    let mut second = None;
    wait_for("the next idle connection has made room", || {
        second = come(Raw::connect(proxy.address));
        second.is_some()
    });
    younger.closed();
    assert_eq!(limited(&proxy, "idle_connections"), 2.0);
    assert_eq!(half.ask("st: a\r\n\r\n").text(), "a");
    assert!(waiting.try_send("").is_ok() && proxy.metric("stickyd_client_connections") < 4.5);
}

#[test]
fn an_address_has_its_share_and_takes_no_others() {
    let worker = RawWorker::named("a");
    let proxy = with(&worker, "connections_per_address = 2");
    let mut open: Vec<_> = (0..2).map(|_| connect_from([127, 0, 0, 2], proxy.address)).collect();
    assert!(open.iter_mut().all(|client| client.get("/").status() == 200));
    connect_from([127, 0, 0, 2], proxy.address).closed();
    assert_eq!(connect_from([127, 0, 0, 3], proxy.address).get("/").status(), 200);
    assert_eq!(limited(&proxy, "connections_per_address"), 1.0);
    open.pop();
    wait_for("there is room for the address", || {
        let mut client = connect_from([127, 0, 0, 2], proxy.address);
        client.try_send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").is_ok() && client.head().is_some()
    });
}

#[test]
fn a_trusted_proxys_connections_count_for_their_clients() {
    let worker = RawWorker::named("a");
    let config = |more: &str| {
        format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n{more}\n\
             [upstream.app]\nworkers = [\"{}\"]\n[limits]\nconnections_per_address = 1",
            worker.address
        )
    };
    let proxy = Proxy::with(&config(""));
    let open: Vec<_> = (0..5)
        .map(|_| {
            let mut client = Raw::connect(proxy.address);
            assert_eq!(client.get("/").status(), 200);
            client
        })
        .collect();
    assert_eq!((open.len(), limited(&proxy, "connections_per_address")), (5, 0.0));
    let proxy = Proxy::with(&config("proxy_protocol = \"required\""));
    let ask = |client: &str| {
        let mut raw = Raw::connect(proxy.address);
        let _ = raw.try_send(format!("PROXY TCP4 {client} 127.0.0.1 1 80\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        let served = raw.head().is_some();
        (raw, served)
    };
    let (_first, served) = ask("192.0.2.1");
    assert!(served && !ask("192.0.2.1").1 && ask("192.0.2.2").1);
    assert_eq!(limited(&proxy, "connections_per_address"), 1.0);
}

#[test]
fn the_last_request_of_a_connection_announces_its_end() {
    let worker = RawWorker::named("a");
    let proxy = with(&worker, "requests_per_connection = 3");
    let mut client = Raw::connect(proxy.address);
    for _ in 0..2 {
        assert_eq!(client.get("/").header("connection"), None);
    }
    assert_eq!(client.get("/").header("connection"), Some("close"));
    client.closed();
    assert_eq!(limited(&proxy, "requests_per_connection"), 1.0);
}

#[test]
fn heads_and_targets_are_bounded() {
    let worker = RawWorker::named("a");
    let proxy = with(&worker, "head_bytes = \"8KiB\"\nhead_fields = 10\ntarget_bytes = 300");
    let status = |request: String| Raw::connect(proxy.address).ask(&request).status();
    assert_eq!(status(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(299))), 200);
    assert_eq!(status(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(300))), 414);
    assert_eq!(status(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(8_300))), 431);
    assert_eq!(status(format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(10))), 431);
    assert_eq!(limited(&proxy, "target_bytes"), 1.0);
}

#[test]
fn a_body_that_trickles_is_a_408_and_frees_its_worker() {
    let mut worker = RawWorker::scripted(|leg| leg.until_closed());
    let proxy = with(&worker, "min_rate_grace = \"1s\"");
    let mut client = Raw::connect(proxy.address);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nx");
    let mut answer = client.head().unwrap();
    assert_eq!((answer.status(), answer.header("connection")), (408, Some("close")));
    client.body(&mut answer, true);
    client.closed();
    worker.closed(0);
    assert_eq!(limited(&proxy, "min_rate_body"), 1.0);
}

#[test]
fn a_client_that_reads_nothing_is_cut() {
    let worker = RawWorker::scripted(|leg| {
        leg.request();
        leg.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        while leg.send(vec![0; 100_000]) {}
    });
    // Bytes in the kernel's buffers count at this rate as well, so that the test need not wait for a minute.
    let proxy = with(&worker, "min_rate = 1_000_000\nmin_rate_grace = \"1s\"");
    let mut client = Raw::connect(proxy.address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_for("the client is cut", || limited(&proxy, "min_rate_answer") > 0.5);
    assert!(client.rest().len() < 1_000_000_000);
    wait_for("the connection is gone", || proxy.metric("stickyd_client_connections") < 0.5);
}

/// Long polls, event streams, and uploads that the worker does not read are not slow clients.
#[test]
fn a_workers_silence_is_not_a_slow_client() {
    let silence = Duration::from_secs(4);
    let worker = RawWorker::scripted(move |leg| {
        while let Some(request) = leg.request() {
            std::thread::park_timeout(silence);
            if request.target() == "/events" {
                leg.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
                std::thread::park_timeout(silence);
                leg.send("1\r\nb\r\n0\r\n\r\n");
            } else {
                leg.send(ok("late"));
            }
        }
    });
    let proxy = with(&worker, "min_rate = 1_000_000\nmin_rate_grace = \"1s\"");
    let mut clients: Vec<_> = (0..3).map(|_| Raw::connect(proxy.address)).collect();
    clients[0].send("GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: a\r\n\r\n");
    clients[1].send("GET /events HTTP/1.1\r\nHost: a\r\n\r\n");
    clients[2].send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
    let texts: Vec<_> = clients.iter_mut().map(|client| client.answer().text().to_owned()).collect();
    assert_eq!(texts, ["late", "ab", "late"]);
}

#[test]
fn a_body_is_limited_with_and_without_a_length() {
    let worker = RawWorker::named("a");
    let proxy = Proxy::with(&format!("[upstream.app]\nworkers = [\"{}\"]\nmax_body = 10", worker.address));
    let post = |fields: &str, body: &str| {
        let mut client = Raw::connect(proxy.address);
        let answer = client.ask(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}"));
        answer.status()
    };
    assert_eq!(post("Content-Length: 10", "0123456789"), 200);
    assert_eq!(post("Transfer-Encoding: chunked", "a\r\n0123456789\r\n0\r\n\r\n"), 200);
    let before = worker.connections();
    assert_eq!(post("Content-Length: 11", "0123456789a"), 413);
    assert_eq!(worker.connections(), before);
    assert_eq!(post("Transfer-Encoding: chunked", "a\r\n0123456789\r\n1\r\na\r\n0\r\n\r\n"), 413);
    assert_eq!(limited(&proxy, "max_body"), 2.0);
}

/// Between requests hyper's state is given back, which must lose no bytes that have already come.
#[test]
fn a_connection_that_rested_goes_on() {
    let worker = RawWorker::answering(|request| ok(&format!("{} {}", request.target(), request.text())));
    // The body is slower than the default rate allows.
    let proxy = with(&worker, "min_rate = 0");
    let rest = || std::thread::park_timeout(Duration::from_millis(3_500));
    let mut client = Raw::connect(proxy.address);
    rest();
    assert_eq!(client.get("/1").text(), "/1 ");
    rest();
    client.send("POST /2 HTTP/1.1\r\nHost: a\r\nContent-Le");
    rest();
    client.send("ngth: 4\r\n\r\na");
    rest();
    client.send("bc");
    rest();
    client.send("dGET /3 HTTP/1.1\r\nHost: a\r\n\r\nGET /4");
    assert_eq!((client.answer().text(), client.answer().text()), ("/2 abcd", "/3 "));
    rest();
    assert_eq!(client.ask(" HTTP/1.1\r\nHost: a\r\n\r\n").text(), "/4 ");
}

#[test]
fn half_a_head_is_cut_in_time_however_it_trickles() {
    let worker = RawWorker::named("a");
    let proxy = with(&worker, "head_timeout = \"2s\"");
    let mut client = Raw::connect(proxy.address);
    let end = Instant::now() + Duration::from_secs(60);
    while client.try_send("G").is_ok() {
        assert!(Instant::now() < end, "half a head is never cut");
        std::thread::park_timeout(Duration::from_millis(300));
    }
    assert_eq!(limited(&proxy, "head_timeout"), 1.0);
    assert_eq!(worker.connections(), 0);
}

#[test]
fn an_idle_connection_is_closed_in_time() {
    let worker = RawWorker::named("a");
    let proxy = with(&worker, "idle_timeout = \"1s\"");
    let (mut silent, mut used) = (Raw::connect(proxy.address), Raw::connect(proxy.address));
    assert_eq!(used.get("/").status(), 200);
    used.closed();
    silent.closed();
}

/// Clients leave descriptors for the admin listener, health checks and workers.
#[test]
fn a_full_table_of_descriptors_refuses_only_new_clients() {
    let worker = RawWorker::named("a");
    let toml = format!(
        "state_dir = \".\"\n[upstream.app]\nworkers = [\"{}\"]\n[limits]\nconnections = 1000\n\
         reserved_descriptors = 60\n\
         connections_per_address = 1000",
        worker.address
    );
    let binary = Binary::started_by(&toml, |_| {
        let mut command = Command::new("sh");
        let stickyd = env!("CARGO_BIN_EXE_stickyd");
        command.args(["-c", &format!("ulimit -n 160; exec {stickyd} run --config stickyd.toml")]);
        command
    });
    let mut served = Raw::connect(binary.address);
    assert_eq!(served.get("/").status(), 200);
    let crowd: Vec<_> = (0..300).map(|_| Raw::connect(binary.address)).collect();
    let metrics = || {
        let answer = Raw::connect_unix(&binary.admin()).get("/metrics").text().to_owned();
        let value = |series: &str| -> f64 {
            answer.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')).unwrap().parse().unwrap()
        };
        let turned_away = value("stickyd_limited_total{limit=\"reserved_descriptors\"}");
        (turned_away, value("stickyd_descriptors"), value("stickyd_descriptors_limit"))
    };
    wait_for("some clients are refused", || metrics().0 > 100.0);
    let (_, open, limit) = metrics();
    assert!(limit == 160.0 && open < 160.0 && open > 90.0, "{open} of {limit}");
    binary.says(&["reserved"]);
    binary.says(&["descriptors run short"]);
    assert_eq!(served.get("/").status(), 200, "connected clients are served");
    drop(crowd);
    wait_for("new clients are served again", || {
        let mut client = Raw::connect(binary.address);
        client.try_send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").is_ok() && client.head().is_some()
    });
}
