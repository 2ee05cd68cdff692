//! Users that are known by the certificates of their clients.

use serde_json::{Value, json};

use super::{Mail, ask, counts, is_empty, is_ready};
use crate::support::cluster::{SECRET, upstream};
use crate::support::node::{NodeServer, Worker, WsEcho};
use crate::support::process::Process;
use crate::support::proxy::Binary;
use crate::support::raw::Raw;
use crate::support::redis::Redis;
use crate::support::tls::Certificates;
use crate::support::wait::wait_for;

/// A stickyd with a queue for the subjects of certificates, which a client may also lack.
fn start(workers: &[Worker], redis: &Redis, files: &Certificates, more: &str) -> Binary {
    let folder = files.directory.display();
    let binary = Binary::with(&format!(
        "state_dir = \".\"\n{SECRET}[[listener]]\naddress = \"127.0.0.1:0\"\n[listener.tls]\n\
         certificate = \"{folder}/site.pem\"\nkey = \"{folder}/site.key\"\n\
         client_auth = {{ mode = \"optional\", ca = \"{folder}/ca.pem\" }}\n{}\
         labels = {{ device = \"certificate:subject\", print = \"certificate:fingerprint\" }}\n\
         offline_queue = {{ label = \"device\" }}\n{more}[fleet]\nredis = {:?}\nname = \"edge-1\"\nlookup_timeout = \"1s\"\n",
        upstream(workers),
        redis.url(),
    ));
    is_ready(&binary);
    binary
}

fn files() -> Certificates {
    let files = Certificates::new();
    files.issue("site", &["127.0.0.1"]);
    files.issue_client("one", "device-1");
    files.issue_client("two", "device-2");
    // Its subject begins with that of the first one.
    files.issue_client("long", &format!("device-1{}", "0".repeat(80)));
    files
}

/// A client with this certificate.
fn client(binary: &Binary, files: &Certificates, name: &str, more: Value) -> Mail {
    let scheme = if more["kind"] == "ws" { "wss" } else { "https" };
    let mut options = json!({"url": format!("{scheme}://{}/", binary.address)});
    options["tls"] = json!({"folder": files.directory, "name": name});
    options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let process = Process::start("node", ["mail.js", &options.to_string()]);
    Mail { process, got: Vec::new(), said: Vec::new(), admin: binary.admin() }
}

/// The subject of a certificate, as workers and labels have it.
fn subject(name: &str) -> String {
    format!("CN={name},O=Example\\, Ltd.")
}

fn to(binary: &Binary, user: &str, number: usize) {
    let body = json!({"upstream": "app", "label": {"device": user}, "event": "order", "args": [number]});
    let (status, answer) = ask(binary, "POST", "/api/v1/queue", &body);
    assert_eq!((status, &answer["result"]), (200, &json!("stored")), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_wait_for_the_client_with_the_certificate() {
    let (redis, workers, files) = (Redis::start(), NodeServer::start_many(2, &[]).await, files());
    let binary = start(&workers, &redis, &files, "");
    let longest = subject(&format!("device-1{}", "0".repeat(80)));
    // Clients that poll come last: that they have gone is noticed late.
    for transports in [json!(["websocket"]), json!(["polling", "websocket"]), json!(["polling"])] {
        for number in 0..10 {
            to(&binary, &subject("device-1"), number);
        }
        to(&binary, &subject("device-2"), 20);
        to(&binary, &longest, 30);
        assert_eq!(counts(&binary), (12, 3));
        let options = json!({"transports": transports, "pings": 50});
        let mut all = ["one", "two", "long"].map(|name| client(&binary, &files, name, options.clone()));
        for (mail, numbers) in all.iter_mut().zip([(0..10).collect(), vec![20], vec![30]]) {
            mail.has(numbers.len()).await;
            assert_eq!(mail.numbers(), numbers, "{transports}");
        }
        is_empty(&binary).await;
        for mail in &mut all {
            mail.process.kill().await;
        }
        if transports != json!(["polling"]) {
            wait_for("the sockets are gone", || sockets(&binary).is_empty());
        }
    }
}

/// The live sockets, as the API lists them.
fn sockets(binary: &Binary) -> Vec<Value> {
    let listed = Raw::connect_unix(&binary.admin()).get("/api/v1/sockets");
    let listed: Value = serde_json::from_slice(&listed.body).unwrap();
    listed["sockets"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_certificate_of_the_connection_counts() {
    let (redis, workers, files) = (Redis::start(), [WsEcho::start(&[]).await], files());
    // Guards know it, too.
    let route = "[[route]]\nupstream = \"app\"\nusers = { by = \"print\", sockets = 1 }\n";
    let binary = start(&workers, &redis, &files, route);
    let text = json!({"upstream": "app", "label": {"device": subject("device-1")}, "text": "1"});
    assert_eq!(ask(&binary, "POST", "/api/v1/queue", &text).0, 200);
    // A client without a certificate that names itself in a header.
    let mut none = files.client().connect(binary.address, "127.0.0.1");
    let head = format!(
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Client-Subject: {}\r\n\
         X-Client-Verify: SUCCESS\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        subject("device-1")
    );
    assert_eq!(none.raw.ask(&head).status(), 101);
    let labels: Vec<_> = sockets(&binary).into_iter().map(|one| one["labels"].clone()).collect();
    assert_eq!(labels, [json!({})]);
    assert_eq!(counts(&binary), (1, 1));
    let mut mail = client(&binary, &files, "one", json!({"kind": "ws"}));
    mail.has(1).await;
    assert_eq!(mail.got[0]["text"], "1");
    let labels: Vec<_> = sockets(&binary).into_iter().map(|one| one["labels"]["device"].clone()).collect();
    assert!(labels.contains(&json!(subject("device-1"))), "{labels:?}");
    // The limit of its route has one socket per certificate: the older one goes.
    let mut again = client(&binary, &files, "one", json!({"kind": "ws"}));
    again.event("connect").await;
    mail.event("disconnect").await;
    let mut other = client(&binary, &files, "two", json!({"kind": "ws"}));
    other.event("connect").await;
    assert_eq!(ask(&binary, "POST", "/api/v1/queue", &text).1["result"], "delivered");
    again.has(1).await;
    is_empty(&binary).await;
}
