//! The test kit without stickyd: every kind of client against the workers directly. A failure here is not the proxy's
//! fault.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};

use crate::support::load::Load;
use crate::support::node::{NodeServer, OxideServer, PythonServer, Worker, WsEcho};

/// All `n` clients connected, every message came back once and in order, and no request was refused.
fn assert_whole(result: &Value, n: u64) {
    assert_eq!(result["connected"], n, "{result}");
    assert_eq!(
        result["echoes"],
        json!({"sent": n * 5, "ok": n * 5, "lost": 0, "duplicated": 0, "reordered": 0}),
        "{result}"
    );
    assert_eq!(result["refusals"]["total"], 0, "{result}");
    assert_eq!(result["connect_errors"], json!({}), "{result}");
}

async fn run(worker: &Worker, n: u64, more: Value) -> Value {
    let mut options = json!({"urls": [worker.url()], "n": n, "messages": 5, "timeout": 20_000});
    options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let result = Load::run(options).await;
    assert_whole(&result, n);
    result
}

async fn every_kind_of_client(worker: &Worker, version: u8) {
    let result = run(worker, 10, json!({"version": version})).await;
    assert_eq!(result["transports"], json!({"websocket": 10}), "{result}");
    assert_eq!(result["workers"][&worker.name], 10, "{result}");
    let result = run(worker, 10, json!({"version": version, "transports": ["polling"]})).await;
    assert_eq!(result["transports"], json!({"polling": 10}), "{result}");
    let result = run(worker, 10, json!({"version": version, "transports": ["websocket"]})).await;
    assert_eq!(result["answers"], json!({"WS 101": 10}), "{result}");
    for raw in [
        json!({"kind": "raw"}),
        json!({"transports": "jsonp"}),
        json!({"sharedAgent": true}),
        json!({"kind": "raw", "mode": "step"}),
    ] {
        let mut raw = raw;
        raw["version"] = json!(version);
        let result = run(worker, 10, raw).await;
        assert_eq!(result["transports"], json!({"polling": 10}), "{result}");
    }
    let stats = worker.stats().await;
    assert_eq!(stats["errors"], json!({}), "{stats}");
    assert_eq!(stats["handshakes"], 70, "{stats}");
}

#[tokio::test]
async fn socket_io_4_serves_every_kind_of_client() {
    every_kind_of_client(&NodeServer::start(&["--version", "4"]).await, 4).await;
}

#[tokio::test]
async fn socket_io_2_serves_every_kind_of_client() {
    every_kind_of_client(&NodeServer::start(&["--version", "2"]).await, 2).await;
}

#[tokio::test]
async fn older_and_odd_servers_serve_their_clients() {
    for (args, client) in [
        (&["--version", "3"][..], json!({})),
        (&["--version", "4.5", "--permessage-deflate"], json!({})),
        (&["--version", "1.7"], json!({"version": 2})),
        (&["--version", "1.7"], json!({"version": 2, "kind": "raw", "binary": true})),
        (&["--allow-eio3"], json!({"version": 2})),
        (&["--compress-handshake"], json!({"kind": "raw", "extraHeaders": {"accept-encoding": "gzip"}})),
        (&["--path", "/deep/io/"], json!({"path": "/deep/io/"})),
        (&["--generate-id", "custom"], json!({})),
        (&["--generate-id", "long"], json!({})),
        (&["--generate-id", "unicode"], json!({})),
        (&["--version", "2", "--generate-id", "unicode"], json!({"version": 2})),
        (&["--handshake", "bytes"], json!({})),
        (&["--version", "2", "--handshake", "late"], json!({"version": 2})),
    ] {
        let worker = NodeServer::start(args).await;
        let result = run(&worker, 3, client).await;
        let raw = result["transports"]["polling"] == 3;
        assert!(raw || result["upgraded"] == 3, "{args:?}: {result}");
    }
}

#[tokio::test]
async fn foreign_servers_serve_clients_and_refuse_in_their_own_words() {
    let python = PythonServer::start(&[]).await;
    let oxide = OxideServer::start(&[]).await;
    for (worker, words) in
        [(python, "\"Invalid session AAAA\""), (oxide, "{\"code\":\"1\",\"message\":\"Session ID unknown\"}")]
    {
        assert_eq!(run(&worker, 5, json!({})).await["upgraded"], 5);
        run(&worker, 5, json!({"kind": "raw"})).await;
        assert_eq!(worker.get("/socket.io/?EIO=4&transport=polling&sid=AAAA").await, words);
        worker.stats_when(|stats| stats["connections"] == 10 && stats["live"] == 0).await;
    }
}

#[tokio::test]
async fn a_client_holds_still_between_two_polls_and_goes_on() {
    let worker = NodeServer::start(&[]).await;
    for mode in ["flow", "step"] {
        let mut load = Load::start(json!({"urls": [worker.url()], "n": 5, "kind": "raw", "mode": mode, "keep": true}));
        load.event("all-echoed").await;
        load.hold().await;
        assert_eq!(worker.stats().await["open_polls"], 0);
        load.command("go").await;
        load.echo(3).await;
        let result = load.stop().await;
        assert_eq!(result["echoes"]["ok"], 65, "{result}");
        assert_eq!((&result["reconnects"], &result["disconnects"]), (&json!(0), &json!({})), "{result}");
    }
}

#[tokio::test]
async fn refusals_are_counted_on_both_sides() {
    let workers = NodeServer::start_many(3, &[]).await;
    // Every request goes to another worker: no session can work, and every refusal must be counted.
    let urls: Vec<_> = workers.iter().map(Worker::url).collect();
    let result = Load::run(json!({"urls": urls, "n": 4, "alternate": "request", "duration": 1500})).await;
    let mut refused = 0;
    for worker in &workers {
        refused += worker.stats().await["errors"]["1"].as_u64().unwrap();
    }
    let seen = result["refusals"]["total"].as_u64().unwrap();
    assert!(result["refusals"]["websocket"].as_u64().unwrap() > 0, "{result}");
    // A client drops its other requests when one is refused, so only the worker sees those refusals.
    assert!(seen > 0 && refused >= seen, "{refused} refused, {result}");
}

#[tokio::test]
async fn a_mobile_client_comes_from_many_addresses() {
    let worker = NodeServer::start(&[]).await;
    let addresses = ["127.0.0.2", "127.0.0.3", "127.0.0.4"];
    run(&worker, 3, json!({"localAddresses": addresses, "addressPer": "request"})).await;
    let result = run(&worker, 3, json!({"localAddresses": addresses, "transports": ["websocket"]})).await;
    assert_eq!(result["answers"], json!({"WS 101": 3}));
    let stats = worker.stats().await;
    for address in addresses {
        assert!(stats["addresses"][address].as_u64().unwrap() > 3, "{stats}");
    }
}

#[tokio::test]
async fn a_worker_can_hang_wake_die_and_come_back() {
    let mut worker = NodeServer::start(&[]).await;
    let mut load = Load::start(json!({"urls": [worker.url()], "n": 5, "messages": 5, "keep": true}));
    load.event("all-upgraded").await;
    worker.stop().await;
    load.command("send 1").await;
    assert_eq!(load.status().await["connected"], 5);
    worker.cont().await;
    load.event("all-echoed").await;

    worker.kill().await;
    load.event("all-disconnected").await;
    let again = NodeServer::start(&["--port", &worker.port.to_string()]).await;
    load.event("all-connected").await;
    load.echo(2).await;
    let result = load.stop().await;
    assert_eq!(result["reconnects"], 5, "{result}");
    assert_eq!(result["disconnects"], json!({"transport close": 5}), "{result}");
    assert_eq!(again.stats().await["connections"], 5);
}

#[tokio::test]
async fn a_closing_worker_keeps_its_sockets() {
    let mut worker = NodeServer::start(&[]).await;
    let mut load = Load::start(json!({"urls": [worker.url()], "n": 3, "messages": 5, "keep": true}));
    load.event("all-upgraded").await;
    worker.close().await;
    load.echo(2).await;
    let result = load.stop().await;
    assert_eq!((&result["connected"], &result["reconnects"]), (&json!(3), &json!(0)), "{result}");
}

#[tokio::test]
async fn a_worker_listens_on_a_unix_socket() {
    let path = std::env::temp_dir().join(format!("stickyd-kit-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let worker = NodeServer::start(&["--port", path.to_str().unwrap()]).await;
    assert_eq!(worker.address(), format!("unix:{}", path.display()));
    let who: Value = serde_json::from_str(&worker.get("/who").await).unwrap();
    assert_eq!(who["pid"], worker.pid);
    drop(worker);
    let _ = std::fs::remove_file(&path);
}

#[tokio::test]
async fn clients_speak_tls() {
    let dir = std::env::temp_dir().join(format!("stickyd-kit-tls-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let worker = NodeServer::start(&["--tls", &format!("{},{}", cert.display(), key.display())]).await;
    let url = format!("https://127.0.0.1:{}", worker.port);
    for more in [
        json!({}),
        json!({"localAddresses": ["127.0.0.5"], "addressPer": "request"}),
        json!({"kind": "raw"}),
        json!({"sharedAgent": true}),
    ] {
        let mut options = json!({"urls": [url], "n": 3, "messages": 5, "ca": cert, "timeout": 20_000});
        options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_whole(&Load::run(options).await, 3);
    }
    let _ = std::fs::remove_dir_all(&dir);
}

#[tokio::test]
async fn ws_echo_greets_with_its_101_and_counts_close_codes() {
    let mut worker = WsEcho::start(&["--first", "hello"]).await;
    let (mut ws, _) = tokio_tungstenite::connect_async(format!("ws://127.0.0.1:{}/", worker.port)).await.unwrap();
    assert_eq!(ws.next().await.unwrap().unwrap(), Message::text("hello"));
    for message in [Message::text("ä"), Message::binary(vec![7; 200_000]), Message::text("")] {
        ws.send(message.clone()).await.unwrap();
        assert_eq!(ws.next().await.unwrap().unwrap(), message);
    }
    ws.close(Some(CloseFrame { code: 4321.into(), reason: "bye".into() })).await.unwrap();
    while tokio::time::timeout(Duration::from_secs(5), ws.next()).await.unwrap().is_some() {}
    drop(ws); // our FIN: `ws` waits for it up to 30 s before it counts the socket as closed
    worker.stats_when(|stats| stats["open"] == 0 && stats["closes"] == json!({"4321": 1})).await;

    let (mut ws, _) = tokio_tungstenite::connect_async(format!("ws://127.0.0.1:{}/", worker.port)).await.unwrap();
    assert_eq!(ws.next().await.unwrap().unwrap(), Message::text("hello"));
    worker.command("close-all 1012 restarting").await;
    assert!(matches!(ws.next().await.unwrap().unwrap(), Message::Close(Some(frame)) if frame.code == 1012.into()));
}
