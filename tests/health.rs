//! Health checks against real workers: what each kind checks, and that no session remains.

mod states;

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::node::{NodeServer, PythonServer, Worker, WsEcho};
use crate::support::proxy::{Binary, Proxy, free_address};
use crate::support::raw::{Raw, RawWorker, ok};
use crate::support::wait::wait_for_async;

const SOCKET_IO: &str = "kind = \"socket.io\", interval = \"100ms\", timeout = \"5s\", rise = 2, fall = 3";
const WEBSOCKET: &str = "kind = \"websocket\", path = \"/\", interval = \"100ms\", timeout = \"5s\"";

fn config(address: &str, health: &str) -> String {
    format!("[upstream.app]\nworkers = [{{ address = {address:?}, name = \"w\" }}]\nhealth = {{ {health} }}\n")
}

fn proxy(worker: &Worker, health: &str) -> Proxy {
    Proxy::with(&config(&worker.address(), health))
}

async fn becomes(proxy: &Proxy, state: &str) {
    wait_for_async(state, async || proxy.worker("w").health().word() == state).await;
}

/// Stops the proxy after some checks: what the worker has counted, with no session left.
async fn after_checks(worker: &Worker, health: &str) -> Value {
    let proxy = proxy(worker, health);
    let checked = worker.stats_when(|stats| {
        assert!(stats["live"].as_u64().unwrap() <= 1, "at most one session at a time: {stats}");
        stats["handshakes"].as_u64().unwrap() >= 6
    });
    checked.await;
    assert_eq!(proxy.worker("w").health().word(), "up");
    proxy.stop();
    worker.stats_when(|stats| stats["live"] == 0).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_io_check_leaves_no_session_on_a_worker_of_today() {
    // Pings are so slow that only the check itself can have ended the sessions.
    for version in ["4", "4.5", "3"] {
        let worker = NodeServer::start(&["--version", version]).await;
        let stats = after_checks(&worker, SOCKET_IO).await;
        assert_eq!(stats["connections"], 0, "the application saw no connection: {stats}");
        assert_eq!(
            (&stats["errors"], &stats["broken_polls"], &stats["broken_posts"]),
            (&json!({}), &json!(0), &json!(0))
        );
        assert_eq!(stats["requests"]["GET"], stats["requests"]["POST"], "{stats}");
        assert_eq!(stats["requests"]["POST"], stats["with_sid"]["POST"], "{stats}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_io_check_leaves_no_session_on_an_old_worker() {
    for version in ["2", "1.7"] {
        let worker = NodeServer::start(&["--version", version]).await;
        let stats = after_checks(&worker, SOCKET_IO).await;
        assert_eq!(stats["errors"], json!({}), "{stats}");
        // Old workers connect at the handshake; each connection has ended, and the check has closed it.
        assert_eq!(stats["disconnects"], json!({"transport close": stats["connections"]}), "{stats}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_io_check_leaves_no_session_on_foreign_workers() {
    let python = PythonServer::start(&[]).await;
    assert_eq!(after_checks(&python, SOCKET_IO).await["connections"], 0);
    let strange = NodeServer::start(&["--path", "/chat/", "--generate-id", "unicode", "--handshake", "bytes"]).await;
    let stats = after_checks(&strange, &format!("{SOCKET_IO}, path = \"/chat/\"")).await;
    assert_eq!(stats["errors"], json!({}), "{stats}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_older_version_is_tried_once_and_remembered() {
    let mut worker = RawWorker::answering(|request| {
        if request.target().contains("EIO=4") {
            let no = "{\"code\":5,\"message\":\"Unsupported protocol version\"}";
            return format!("HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\n\r\n{no}", no.len());
        }
        if request.target().contains("&sid=") {
            return ok("ok");
        }
        ok("52:0{\"sid\":\"a b\",\"pingInterval\":25000,\"pingTimeout\":5000}")
    });
    let proxy = Proxy::with(&config(&worker.address.to_string(), SOCKET_IO));
    let mut asked = Vec::new();
    while asked.len() < 5 {
        let (_, request) = worker.request();
        asked.push((request.target().to_owned(), request.text().to_owned()));
    }
    let three = |sid: &str| format!("/socket.io/?EIO=3&transport=polling&b64=1{sid}");
    let (open, close) = ((three(""), String::new()), (three("&sid=a%20b"), "1:1".to_owned()));
    let first = ("/socket.io/?EIO=4&transport=polling&b64=1".to_owned(), String::new());
    assert_eq!(asked, [first, open.clone(), close.clone(), open, close]);
    becomes(&proxy, "up").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_check_closes_properly() {
    for args in [&[][..], &["--permessage-deflate", "--first", "hello"][..]] {
        let worker = WsEcho::start(args).await;
        let proxy = proxy(&worker, WEBSOCKET);
        worker.stats_when(|stats| stats["opened"].as_u64().unwrap() >= 5).await;
        assert_eq!(proxy.worker("w").health().word(), "up");
        proxy.stop();
        let stats = worker.stats_when(|stats| stats["open"] == 0).await;
        // Except perhaps for the last check, which ended with the proxy.
        assert!(stats["closes"]["1000"].as_u64().unwrap() + 1 >= stats["opened"].as_u64().unwrap(), "{stats}");
        assert_eq!(stats["messages"], 0, "{stats}");
    }
    // The same check at an application that allows no polling.
    let worker = NodeServer::start(&[]).await;
    let path = "kind = \"websocket\", path = \"/socket.io/?EIO=4&transport=websocket\", interval = \"100ms\", timeout = \"5s\"";
    assert_eq!(after_checks(&worker, path).await["connections"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_upgrade_fails_the_check() {
    for answer in [
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ] {
        let worker = RawWorker::answering(move |_| answer.to_owned());
        let proxy = Proxy::with(&config(&worker.address.to_string(), WEBSOCKET));
        becomes(&proxy, "starting").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_checks_a_unix_socket() {
    let path = |what: &str| std::env::temp_dir().join(format!("stickyd-{what}-{}.sock", std::process::id()));
    let (io, ws) = (path("check-io"), path("check-ws"));
    let _ = (std::fs::remove_file(&io), std::fs::remove_file(&ws));
    let (io, ws) = (io.to_str().unwrap(), ws.to_str().unwrap());
    let worker = NodeServer::start(&["--port", io]).await;
    assert_eq!(after_checks(&worker, SOCKET_IO).await["errors"], json!({}));
    for health in [
        "path = \"/health\", body = \"ok\", status = 200, interval = \"100ms\", rise = 1",
        "kind = \"tcp\", interval = \"100ms\", rise = 1",
    ] {
        let proxy = proxy(&worker, health);
        becomes(&proxy, "up").await;
        // Several more checks pass.
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(proxy.worker("w").health().word(), "up", "{health}");
    }
    let worker = WsEcho::start(&["--port", ws]).await;
    let proxy = proxy(&worker, WEBSOCKET);
    worker.stats_when(|stats| stats["closes"]["1000"].as_u64().unwrap_or(0) >= 3).await;
    assert_eq!(proxy.worker("w").health().word(), "up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http_check_looks_at_host_status_and_body() {
    let worker = RawWorker::answering(|request| {
        let status =
            if request.header("host") == Some("app.test:80") { "201 Created" } else { "421 Misdirected Request" };
        format!("HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nall\r\n8\r\n is well\r\n0\r\n\r\n")
    });
    let address = worker.address.to_string();
    for (health, state) in [
        ("host = \"app.test:80\", body = \"all is\"", "up"),
        ("host = \"app.test:80\", status = [200, 201]", "up"),
        ("status = [\"200-299\", 421]", "up"),
        ("host = \"app.test:80\", body = \"all was\"", "starting"),
        ("host = \"app.test:80\", status = \"202-599\"", "starting"),
        ("body = \"all is well\"", "starting"),
    ] {
        let proxy = Proxy::with(&config(&address, &format!("path = \"/\", interval = \"100ms\", fall = 2, {health}")));
        let before = worker.connections();
        wait_for_async("four more checks have come", async || worker.connections() >= before + 4).await;
        assert_eq!(proxy.worker("w").health().word(), state, "{health}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_answers_end_with_the_check() {
    for head in
        ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 200 OK\r\nA: "]
    {
        let worker = RawWorker::scripted(move |leg| {
            if leg.request().is_some() {
                leg.send(head);
                while leg.send(format!("1000\r\n{}\r\n", "x".repeat(0x1000))) {}
            }
        });
        for kind in
            ["path = \"/\", body = \"never there\"", "kind = \"socket.io\"", "kind = \"websocket\", path = \"/\""]
        {
            let health = format!("{kind}, interval = \"100ms\", timeout = \"2s\", fall = 2");
            let proxy = Proxy::with(&config(&worker.address.to_string(), &health));
            becomes(&proxy, "starting").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_in_the_middle_of_checks_leave_no_session() {
    // Handshakes take 300 ms, so that most stops come between opening and closing.
    let worker = NodeServer::start(&["--handshake", "late"]).await;
    let binary =
        Binary::with(&config(&worker.address(), "kind = \"socket.io\", interval = \"100ms\", timeout = \"5s\""));
    for i in 1..=10 {
        worker.stats_when(|stats| stats["handshakes"].as_u64().unwrap() >= i).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        binary.signal("HUP");
        wait_for_async("the configuration is reloaded", async || binary.log().matches("reloaded").count() as u64 >= i)
            .await;
    }
    drop(binary);
    let stats = worker.stats_when(|stats| stats["handshakes"].as_u64().unwrap() >= 10).await;
    assert!(stats["live"].as_u64().unwrap() <= 1, "at most the last session was killed with stickyd: {stats}");
}

/// The answer to one poll on a connection of its own.
fn polled(proxy: &Proxy, query: &str) -> (u16, String) {
    let answer = Raw::connect(proxy.address).get(&format!("/socket.io/?EIO=4&transport=polling{query}"));
    (answer.status(), answer.text().to_owned())
}

fn sid_of(handshake: &str) -> String {
    let open: Value = serde_json::from_str(handshake.strip_prefix('0').unwrap()).unwrap();
    open["sid"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_worker_is_hung_and_wakes_without_extra_sessions() {
    let worker = NodeServer::start(&[]).await;
    // A time-out that a busy machine does not reach, because a check that times out on a live worker leaves a session.
    let health = "kind = \"socket.io\", interval = \"100ms\", timeout = \"1s\", rise = 2, fall = 2";
    let proxy = proxy(&worker, health);
    becomes(&proxy, "up").await;
    let (status, handshake) = polled(&proxy, "");
    assert_eq!(status, 200);
    worker.stop().await;
    becomes(&proxy, "hung").await;
    assert!(!proxy.worker("w").takes_new() && proxy.worker("w").serves(), "it keeps its sessions");
    // As long as five more checks take: each of them would leave a session that is never closed.
    tokio::time::sleep(Duration::from_secs(5)).await;
    worker.cont().await;
    becomes(&proxy, "up").await;
    let sid = sid_of(&handshake);
    let mut client = Raw::connect(proxy.address);
    let target = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
    let sent = client.ask(&format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n40"));
    assert_eq!((sent.status(), sent.text()), (200, "ok"), "the session goes on");
    proxy.stop();
    // The client's session, and those of one or two checks from before the worker was known to hang. Pings end them.
    let stats = worker.stats_when(|stats| stats["live"].as_u64().unwrap() <= 3).await;
    assert!(stats["handshakes"].as_u64().unwrap() > 2, "{stats}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_failing_socket_io_checks_serves_only_its_sessions() {
    let worker = RawWorker::answering(|request| {
        let check = request.header("user-agent") == Some("stickyd-health");
        let json = "{\"code\":4,\"message\":\"no\"}";
        match check {
            true => format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\n\r\n{json}", json.len()),
            false if request.target().contains("sid=") => ok("6"),
            false => ok("0{\"sid\":\"bad\",\"upgrades\":[],\"pingInterval\":25000,\"pingTimeout\":20000}"),
        }
    });
    let good = NodeServer::start(&[]).await;
    let workers = format!("{{ address = \"{}\", name = \"w\" }}, {:?}", worker.address, good.address());
    // The interval is long enough for a session to be placed there before the check fails.
    let proxy = Proxy::with(&format!(
        "[upstream.app]\nworkers = [{workers}]\naffinity = [\"socket.io\"]\n\
         health = {{ {SOCKET_IO}, start_grace = \"3s\" }}\n"
    ));
    wait_for_async("the bad worker gets a session", async || polled(&proxy, "").1.contains("\"bad\"")).await;
    becomes(&proxy, "starting").await;
    for _ in 0..20 {
        let (status, handshake) = polled(&proxy, "");
        assert!(status == 200 && !handshake.contains("\"bad\""), "{handshake}");
    }
    assert_eq!(polled(&proxy, "&sid=bad"), (200, "6".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unsure_worker_is_checked_at_the_usual_interval() {
    let worker = RawWorker::answering(|_| "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_owned());
    let health = "path = \"/\", interval = \"10m\", fast_interval = \"100ms\", fall = 5";
    let proxy = Proxy::with(&config(&worker.address.to_string(), health));
    becomes(&proxy, "starting").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_starting_worker_has_a_grace_before_failures_count() {
    let worker = RawWorker::answering(|_| "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_owned());
    let health = "path = \"/\", interval = \"100ms\", fall = 1, start_grace = \"3s\"";
    let binary = Binary::with(&config(&worker.address.to_string(), health));
    wait_for_async("six checks have come", async || worker.connections() >= 6).await;
    let early = binary.log();
    assert!(!early.contains("changed state") && !early.contains("never passed"), "{early}");
    binary.says(&["changed state", "from=\"up\"", "to=\"starting\""]);
    binary.says(&["never passed", "503"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_back_from_gone_has_the_grace_again() {
    let address = free_address();
    let health = "path = \"/\", interval = \"100ms\", timeout = \"50ms\", fall = 1, start_grace = \"2s\"";
    let proxy = Proxy::with(&config(&address.to_string(), health));
    becomes(&proxy, "gone").await;
    // Longer than the grace that began with the proxy.
    tokio::time::sleep(Duration::from_millis(2_200)).await;
    let back = RawWorker::scripted_at(address, |leg| {
        leg.request();
        leg.until_closed();
    });
    wait_for_async("five checks have come", async || back.connections() >= 5).await;
    assert_eq!(proxy.worker("w").health().word(), "starting", "a silent worker is starting during its grace");
    becomes(&proxy, "hung").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_can_never_pass_is_explained_once() {
    let node = NodeServer::start(&[]).await;
    let closed = RawWorker::scripted(|leg| drop(leg.request()));
    let unknown = RawWorker::answering(|_| {
        let no = "{\"code\":0,\"message\":\"Transport unknown\"}";
        format!("HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\n\r\n{no}", no.len())
    });
    let (node, closed, unknown) = (node.address(), closed.address.to_string(), unknown.address.to_string());
    let fast = "interval = \"100ms\", timeout = \"5s\", fall = 1";
    for (address, health, words) in [
        (&node, "path = \"/nope\"", ["status 200-399 of GET /nope", "came=\"status 404", "set `path`"]),
        (&node, "path = \"/health\", body = \"fine\"", ["\\\"fine\\\" in the body", "another body", "set `body`"]),
        (&node, "kind = \"socket.io\", path = \"/io/\"", ["handshake at /io/", "status 404", "no Socket.IO at /io/"]),
        (&unknown, "kind = \"socket.io\"", ["handshake at /socket.io/", "Transport unknown", "kind = \"websocket\""]),
        (&closed, "kind = \"websocket\", path = \"/\"", ["101", "no HTTP/1.1 response", "kind = \"tcp\""]),
    ] {
        let binary = Binary::with(&config(address, &format!("{health}, {fast}")));
        let line = binary.says(&["has never passed its health check"]);
        assert!(words.iter().all(|word| line.contains(word)), "{line}");
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(binary.log().matches("has never passed").count(), 1);
    }
}
