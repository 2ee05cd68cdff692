//! The list of live sockets: every column, every filter, and pages.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::Watched;
use crate::support::h2::{Secured, connect};
use crate::support::load::Load;
use crate::support::node::{NodeServer, Worker, WsEcho};
use crate::support::raw::Raw;
use crate::support::wait::{wait_for, wait_for_async, within};

const LABELS: &str = "labels = { store = \"query:storeId\", user = \"cookie:uid\", tenant = \"header:x-tenant\" }\n";

fn upstream(workers: &[Worker]) -> String {
    let one = |worker: &Worker| format!("{{ address = {:?}, name = {:?} }}", worker.address(), worker.name);
    format!("[upstream.app]\nworkers = [{}]\n{LABELS}", workers.iter().map(one).collect::<Vec<_>>().join(", "))
}

/// Clients that stay connected, with their own labels; upgraded where their transports allow it.
async fn stay(url: &str, n: u64, store: &str, more: Value) -> Load {
    let mut options = json!({"urls": [url], "n": n, "messages": 3, "keep": true, "timeout": 120_000,
        "io": {"query": {"storeId": store}},
        "extraHeaders": {"x-tenant": "acme", "cookie": format!("uid=u-{store}; other=1"), "user-agent": "Test/1.0 (list)"}});
    options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut load = Load::start(options);
    load.event("all-echoed").await;
    load
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::too_many_lines, reason = "one set of clients is looked at from every side")]
async fn every_column_and_filter() {
    let workers = NodeServer::start_many(3, &[]).await;
    let watched = Watched::with(&upstream(&workers));
    let url = watched.proxy.url("");
    let upgrading = stay(&url, 6, "seven", json!({})).await;
    let polling = stay(&url, 4, "eight 8", json!({"transports": ["polling"], "keepAlive": true})).await;
    let first = stay(&url, 5, "nine", json!({"transports": ["websocket"]})).await;
    wait_for_async("all sockets have their final transport", async || {
        watched.count("transport=websocket") == 11 && watched.count("transport=polling") == 4
    })
    .await;
    let all = watched.sockets("");
    assert_eq!(all.len(), 15, "one entry per session, before and after its upgrade");

    // The columns of each entry.
    let ids: BTreeSet<_> = all.iter().map(|one| one["id"].as_str().unwrap()).collect();
    let sids: BTreeSet<_> = all.iter().map(|one| one["sid"].as_str().unwrap()).collect();
    assert_eq!((ids.len(), sids.len()), (15, 15));
    for one in &all {
        assert!(one["id"].as_str().unwrap().len() <= 9, "{one}");
        assert_eq!(
            (&one["upstream"], &one["protocol"], &one["tls"], &one["generation"], &one["route"]),
            (&json!("app"), &json!("engine.io"), &json!(false), &json!(1), &Value::Null),
            "{one}"
        );
        assert_eq!((&one["address"], &one["user_agent"]), (&json!("127.0.0.1"), &json!("Test/1.0 (list)")), "{one}");
        assert!(["open", "quiet"].contains(&one["state"].as_str().unwrap()), "{one}");
        let labels = &one["labels"];
        let store = labels["store"].as_str().unwrap();
        assert_eq!(
            (&labels["user"], &labels["tenant"]),
            (&json!(format!("u-{store}").split(';').next()), &json!("acme"))
        );
        let transport = if store == "eight 8" { "polling" } else { "websocket" };
        assert_eq!(one["transport"], transport, "{one}");
        for way in ["up", "down"] {
            // At least the connect of the namespace and three echoes.
            assert!(one[way]["messages"].as_u64().unwrap() >= 2, "{one}");
            assert!(one[way]["bytes"].as_u64().unwrap() > 20, "{one}");
            assert!(one[way]["idle_s"].as_u64().unwrap() <= one["age_s"].as_u64().unwrap(), "{one}");
            assert_eq!(one[way]["close_code"], Value::Null, "{one}");
        }
    }
    // Three echoes each and the connect of the namespace; a session that upgraded has its probe and its polls as well.
    for one in watched.sockets("label.store=nine") {
        assert!((4..=6).contains(&one["up"]["messages"].as_u64().unwrap()), "{one}");
        assert!((5..=7).contains(&one["down"]["messages"].as_u64().unwrap()), "{one}");
    }

    // The counts per worker equal those of the workers themselves.
    let mut by_worker = BTreeMap::new();
    for worker in &workers {
        let here = watched.sockets(&format!("worker={}", worker.name));
        assert!(here.iter().all(|one| one["worker"] == worker.name.as_str()));
        assert_eq!(worker.stats().await["live"], here.len());
        assert_eq!(watched.count(&format!("worker={}", worker.address())), here.len());
        by_worker.insert(worker.name.clone(), here.len());
    }
    assert_eq!(by_worker.values().sum::<usize>(), 15);

    // Filters, alone and combined.
    for (filter, count) in [
        ("upstream=app", 15),
        ("label.store=seven", 6),
        ("label.store=eight%208", 4),
        ("label.store=eight", 0),
        ("label.store=seven&label.tenant=acme&label.user=u-seven", 6),
        ("label.store=seven&transport=polling", 0),
        ("address=127.0.0.1", 15),
        ("address=127.0.0.0/8", 15),
        ("address=10.0.0.0/8", 0),
        ("protocol=engine.io", 15),
        ("protocol=plain", 0),
        ("transport=websocket-h2", 0),
        ("state=closing", 0),
        ("state=draining", 0),
        ("min_age=0", 15),
        ("min_age=1h", 0),
        ("sid=nobodys", 0),
    ] {
        assert_eq!(watched.count(filter), count, "{filter}");
    }
    let one = &all[3];
    assert_eq!(watched.sockets(&format!("sid={}", one["sid"].as_str().unwrap()))[0]["id"], one["id"]);
    let (status, again) = watched.ask("GET", &format!("/api/v1/sockets/{}", one["id"].as_str().unwrap()), "");
    assert_eq!((status, &again["sid"]), (200, &one["sid"]));

    // Pages: every entry once, in order.
    for sort in ["connected", "-bytes", "idle", "worker", "-worker", "id", "-messages_up", "bytes_down"] {
        let (mut seen, mut offset) = (Vec::new(), Some(0));
        while let Some(from) = offset {
            let page = watched.ask("GET", &format!("/api/v1/sockets?sort={sort}&limit=4&offset={from}"), "").1;
            assert_eq!((&page["total"], &page["live"]), (&json!(15), &json!(15)));
            seen.extend(page["sockets"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()));
            offset = page["next_offset"].as_u64();
        }
        assert_eq!(seen.len(), 15, "{sort}");
        assert_eq!(seen.iter().map(String::as_str).collect::<BTreeSet<_>>(), ids, "{sort}");
    }
    let bytes = |one: &Value| one["up"]["bytes"].as_u64().unwrap() + one["down"]["bytes"].as_u64().unwrap();
    for (sort, limit) in [("-bytes", 15), ("bytes", 15)] {
        let page = watched.ask("GET", &format!("/api/v1/sockets?sort={sort}&limit={limit}&transport=websocket"), "").1;
        let sizes: Vec<_> = page["sockets"].as_array().unwrap().iter().map(bytes).collect();
        let sorted = if sort == "bytes" { sizes.is_sorted() } else { sizes.iter().rev().is_sorted() };
        assert!(sorted, "{sort}: {sizes:?}");
    }

    // The metrics have the same numbers.
    let metric = |series: &str| watched.proxy.metric(series);
    for (worker, count) in &by_worker {
        let of = |transport| {
            metric(&format!("stickyd_sockets{{transport=\"{transport}\",upstream=\"app\",worker=\"{worker}\"}}"))
        };
        assert_eq!(of("polling") + of("websocket"), f64::from(u32::try_from(*count).unwrap()));
    }
    assert_eq!(metric("stickyd_sockets_opened_total{transport=\"polling\",upstream=\"app\"}"), 10.0);
    assert_eq!(metric("stickyd_sockets_opened_total{transport=\"websocket\",upstream=\"app\"}"), 5.0);
    assert_eq!(metric("stickyd_sockets_upgraded_total{upstream=\"app\"}"), 6.0);
    assert!(metric("stickyd_socket_messages_total{direction=\"up\",upstream=\"app\"}") >= 15.0 * 4.0 - 4.0);

    for load in [upgrading, polling, first] {
        load.stop().await;
    }
    wait_for_async("no socket is listed", async || watched.count("") == 0).await;
    let closed = |reason| metric(&format!("stickyd_sockets_closed_total{{reason=\"{reason}\",upstream=\"app\"}}"));
    let reasons = ["client", "worker", "client_gone", "worker_gone", "expired"].map(closed);
    assert_eq!(reasons.iter().sum::<f64>(), 15.0, "{reasons:?}");
    wait_for_async("no worker has a session left", async || {
        let left = |worker: &Worker| watched.proxy.worker(&worker.name).sessions();
        workers.iter().map(left).sum::<u32>() == 0
    })
    .await;
    assert_eq!(
        reasons.iter().sum::<f64>(),
        ["client", "worker", "client_gone", "worker_gone", "expired"].map(closed).iter().sum::<f64>()
    );
    assert_eq!(metric("stickyd_socket_lifetime_seconds_count{transport=\"websocket\",upstream=\"app\"}"), 11.0);
    assert_eq!(metric("stickyd_socket_lifetime_seconds_count{transport=\"polling\",upstream=\"app\"}"), 4.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_websockets_and_their_messages_are_listed() {
    let worker = WsEcho::start(&[]).await;
    let toml = format!(
        "[upstream.ws]\nworkers = [{:?}]\n[[route]]\npath = \"/chat\"\nupstream = \"ws\"\n[[route]]\nhost = \"*.app\"\nupstream = \"ws\"\n",
        worker.address()
    );
    let watched = Watched::with(&toml);
    let url = format!("ws://{}/chat?x=1", watched.proxy.address);
    let (mut client, _) = within(tokio_tungstenite::connect_async(url)).await.unwrap();
    for text in ["a", "bb", "ccc"] {
        client.send(Message::text(text)).await.unwrap();
        within(client.next()).await.unwrap().unwrap();
    }
    client.send(Message::Ping(vec![1].into())).await.unwrap();
    within(client.next()).await.unwrap().unwrap();
    // What has just passed may be counted a moment later.
    let mine = || watched.sockets("protocol=plain&route=/chat").remove(0);
    wait_for_async("all bytes are counted", async || mine()["down"]["bytes"] == json!(2 * 4 + 3 * 2 + 1)).await;
    let one = mine();
    assert_eq!((&one["sid"], &one["labels"], &one["user_agent"]), (&Value::Null, &json!({}), &Value::Null));
    assert_eq!(
        (&one["route"], &one["transport"], &one["upstream"]),
        (&json!("/chat"), &json!("websocket"), &json!("ws"))
    );
    // A ping is not a message, but its bytes count: 2 of head and 4 of mask each.
    assert_eq!((&one["up"]["messages"], &one["up"]["bytes"]), (&json!(3), &json!(6 * 4 + 3 * 2 + 1)));
    assert_eq!((&one["down"]["messages"], &one["down"]["bytes"]), (&json!(3), &json!(2 * 4 + 3 * 2 + 1)));
    assert_eq!(watched.count("protocol=engine.io"), 0);
    client.close(None).await.unwrap();
    while within(client.next()).await.is_some() {}
    wait_for_async("the socket is gone", async || watched.count("") == 0).await;
    let metric = |series: &str| watched.proxy.metric(series);
    assert_eq!(metric("stickyd_sockets_closed_total{reason=\"client\",upstream=\"ws\"}"), 1.0);
    assert_eq!(metric("stickyd_socket_messages_total{direction=\"up\",upstream=\"ws\"}"), 3.0);
    assert_eq!(metric("stickyd_socket_bytes_total{direction=\"up\",upstream=\"ws\"}"), 31.0 + 6.0);
    // Its Close had no code.
    let closes =
        |code| metric(&format!("stickyd_close_codes_total{{code=\"{code}\",direction=\"up\",upstream=\"ws\"}}"));
    assert_eq!((closes("1005"), closes("1000"), closes("other")), (1.0, 0.0, 0.0));
}

/// A list that is longer than one write is sent in pieces, and is complete over the API and on the command line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_list_is_complete() {
    let worker = WsEcho::start(&[]).await;
    let watched = Watched::with(&format!("[upstream.ws]\nworkers = [{:?}]\n", worker.address()));
    let url = format!("ws://{}/", watched.proxy.address);
    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(within(tokio_tungstenite::connect_async(&url)).await.unwrap().0);
    }
    wait_for_async("all sockets are listed", async || watched.count("") == 300).await;
    let asked = |query: &str| Raw::connect_unix(&watched.admin).get(&format!("/api/v1/sockets?{query}"));
    let (short, long) = (asked("limit=10"), asked("limit=10000"));
    assert!(long.body.len() > 100_000, "{} bytes", long.body.len());
    assert_eq!((long.header("transfer-encoding"), long.header("content-length")), (Some("chunked"), None));
    assert_eq!(short.header("content-length"), Some(&*short.body.len().to_string()));
    let ids: BTreeSet<_> = watched.sockets("sort=-id").iter().map(|one| one["id"].to_string()).collect();
    assert_eq!(ids.len(), 300);
    // A client that leaves in the middle of the list delays no other.
    for _ in 0..8 {
        Raw::connect_unix(&watched.admin)
            .send("GET /api/v1/sockets?limit=10000 HTTP/1.1\r\nHost: localhost\r\nX-Stickyd: 1\r\n\r\n");
    }
    assert_eq!(watched.count(""), 300);
}

/// WebSockets over HTTP/2 have their own transport name, and TLS is shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_over_http2_are_listed() {
    let workers = NodeServer::start_many(1, &[]).await;
    let stickyd = Secured::with("", &upstream(&workers));
    let client = stickyd.client().await;
    wait_for_async("the extended CONNECT is announced", async || client.send.is_extended_connect_protocol_enabled())
        .await;
    let mut request = connect("websocket", "/socket.io/?EIO=4&transport=websocket&storeId=h2");
    request.headers_mut().insert("user-agent", "Two/2".parse().unwrap());
    let Ok((io, _)) = client.tunnel(request).await else { panic!("refused") };
    let sockets = &stickyd.proxy().server().shared().sessions.sockets;
    let all = || (0..stickyd::testing::sockets::SHARDS).flat_map(|shard| sockets.shard(shard)).collect::<Vec<_>>();
    wait_for_async("the session has its name", async || {
        all().iter().any(|one| one.with_texts(|sid, _| !sid.is_empty()))
    })
    .await;
    let one = all().remove(0);
    assert_eq!(
        (one.transport().word(), one.tls(), one.agent(), one.kind().word()),
        ("websocket-h2", true, "Two/2", "engine.io")
    );
    one.with_texts(|_, labels| assert_eq!(labels, [("store", Some("h2")), ("user", None), ("tenant", None)]));
    drop((io, client, one));
    wait_for_async("the socket is gone", async || sockets.is_empty()).await;
}

#[test]
fn wrong_queries_are_refused() {
    let watched = Watched::with("[upstream.app]\nworkers = [\"127.0.0.1:9\"]\nlabels = { store = \"query:s\" }\n");
    for (query, status, words) in [
        ("worker=none", 404, "there is no worker `none`"),
        ("upstream=none", 404, "there is no upstream `none`"),
        ("label.stoer=1", 404, "no upstream has a label `stoer`"),
        ("state=dead", 422, "open, quiet, suspect, draining, closing"),
        ("transport=udp", 422, "polling, websocket, websocket-h2"),
        ("protocol=http", 422, "engine.io, plain"),
        ("address=here", 422, "10.0.0.0/8"),
        ("min_age=old", 422, "90s or 2h"),
        ("sort=size", 422, "connected, idle"),
        ("limit=0", 422, "from 1 to 10000"),
        ("limit=10001", 422, "from 1 to 10000"),
        ("offset=-1", 422, "must be a number"),
        ("wroker=x", 422, "unknown parameter `wroker`"),
    ] {
        let (answered, said) = watched.ask("GET", &format!("/api/v1/sockets?{query}"), "");
        assert_eq!(answered, status, "{query}: {said}");
        assert!(said["error"].as_str().unwrap().contains(words), "{query}: {said}");
    }
    for id in ["0", "unknown", "zzzzzzzzzzzzzzzzzzzz", "1"] {
        assert_eq!(watched.ask("GET", &format!("/api/v1/sockets/{id}"), "").0, 404, "{id}");
    }
    wait_for("an empty list is a list", || watched.count("") == 0);
}
