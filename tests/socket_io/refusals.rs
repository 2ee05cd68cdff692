//! Sessions that end because their worker died or lost them: the client learns it at once, in the form of Engine.IO,
//! and in a form that its browser lets it read.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::support::admin;
use crate::support::answer::Answer;
use crate::support::cluster::{all_upgraded, upstream, upstream_of};
use crate::support::engine_io::{Ask, Session, together};
use crate::support::load::Load;
use crate::support::node::NodeServer;
use crate::support::proxy::{Binary, Proxy};
use crate::support::raw::Raw;
use crate::support::wait::{at_most, wait_for_async};

const ORIGIN: &str = "https://page.test";

fn assert_own_refusal(answer: &Answer, body: &str) {
    assert_eq!((answer.status, answer.body.as_str()), (400, body), "{answer:?}");
    assert_eq!(answer.header("access-control-allow-origin"), ORIGIN, "{answer:?}");
    assert_eq!(answer.header("access-control-allow-credentials"), "true", "{answer:?}");
    assert_eq!(answer.header("vary"), "Origin", "{answer:?}");
    assert_eq!(answer.header("cache-control"), "no-store", "{answer:?}");
    assert!(answer.took < at_most(Duration::from_millis(1_000)), "{answer:?}");
}

const JSON: &str = r#"{"code":1,"message":"Session ID unknown"}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_a_dead_worker_are_refused_at_once() {
    let mut workers = NodeServer::start_many(2, &[]).await;
    let proxy = Proxy::with(&upstream(&workers));
    let ask = Ask::new(proxy.address).with("origin", ORIGIN);
    let sessions = Session::open_many(8, &ask).await;
    let named = together(sessions.into_iter().map(|session| async move { (session.echo().await, session) })).await;
    let (dead, live): (Vec<_>, Vec<_>) = named.into_iter().partition(|(worker, _)| worker == "w1");
    assert_eq!((dead.len(), live.len()), (4, 4));
    workers[0].kill().await;

    // Each is the first request after the worker's death, all at the same moment.
    let [get, post, upgrade, jsonp] = <[_; 4]>::try_from(dead).unwrap().map(|(_, session)| session);
    let jsonp_url = format!("{}&j=0", jsonp.url("polling"));
    let (get, post, upgrade, jsonp) = tokio::join!(
        get.get(),
        post.post("42[\"n\",1]"),
        async { upgrade.upgrade().await.unwrap_err() },
        jsonp.ask.send("GET", &jsonp_url, ""),
    );
    for answer in [&get, &post, &jsonp] {
        assert_own_refusal(answer, JSON);
        assert_eq!(answer.header("content-type"), "application/json", "{answer:?}");
    }
    assert_own_refusal(&upgrade, "Session ID unknown");
    assert_eq!(upgrade.header("connection"), "close");
    assert_eq!(proxy.metric("stickyd_refusals_total{fate=\"own\",upstream=\"app\"}"), 4.0);
    assert_eq!(proxy.metric("stickyd_sessions{upstream=\"app\",worker=\"w1\"}"), 0.0, "their pins are gone");

    // Without an `Origin` no CORS fields are needed.
    let unknown = Session::made_up(Ask::new(proxy.address), &"x".repeat(300)).get().await;
    assert_eq!((unknown.status, unknown.body.as_str()), (400, JSON));
    assert_eq!(unknown.header("access-control-allow-origin"), "");
    assert_eq!(unknown.header("cache-control"), "no-store");

    for (_, session) in &live {
        assert_eq!(session.echo().await, "w2", "other sessions go on");
    }
    let (anew, _) = Session::begin(ask).await;
    assert_eq!(anew.post("40").await.status, 200, "a new handshake works at once");
}

/// 90 clients, 30 on each of three workers, one of which dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_of_a_killed_worker_start_anew_on_the_others() {
    let mut workers = NodeServer::start_many(3, &[]).await;
    let proxy = Proxy::with(&upstream(&workers));
    let mut tunnels = Load::start(json!({"urls": [proxy.url("")], "n": 45, "messages": 3, "keep": true}));
    tunnels.event("all-echoed").await;
    all_upgraded(&mut tunnels, 45).await;
    let mut polls = Load::start(json!({"urls": [proxy.url("")], "n": 45, "messages": 3, "keep": true,
        "transports": ["polling"]}));
    polls.event("all-echoed").await;
    let on_w2 = |status: &serde_json::Value| status["workers"]["w2"].as_u64().unwrap();
    let hit = [on_w2(&tunnels.status().await), on_w2(&polls.status().await)];
    assert!((28..=32).contains(&(hit[0] + hit[1])), "about 30 by bounded load: {hit:?}");

    workers[1].kill().await;
    let began = Instant::now();
    for (load, hit) in [(&mut tunnels, hit[0]), (&mut polls, hit[1])] {
        wait_for_async("the killed worker's clients are connected again", async || {
            let status = load.status().await;
            if status["reconnects"] == hit && status["connected"] == 45 { Ok(()) } else { Err((hit, status)) }
        })
        .await;
    }
    let back = began.elapsed();
    tunnels.echo(3).await;
    polls.echo(3).await;
    all_upgraded(&mut tunnels, 45).await;
    for (name, load, hit) in [("tunnels", tunnels, hit[0]), ("polls", polls, hit[1])] {
        let result = load.stop().await;
        println!("{name}: {hit} hit, all back after {back:?}, {}", result["reconnect_ms"]);
        assert_eq!(result["reconnects"], hit, "only the killed worker's clients connect again: {result}");
        assert_eq!(result["connected"], 45, "{result}");
        assert_eq!(result["workers"].get("w2"), None, "{result}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owners_own_refusal_is_forwarded_and_its_pin_dropped() {
    let workers = NodeServer::start_many(3, &["--cors", &format!("{ORIGIN},credentials")]).await;
    let proxy = Proxy::with(&upstream(&workers));
    let session = Session::open(Ask::new(proxy.address).with("origin", ORIGIN)).await;
    let owner = session.echo().await;
    let owner = workers.iter().find(|worker| worker.name == owner).unwrap();
    let live = || proxy.metric(&format!("stickyd_sessions{{upstream=\"app\",worker=\"{}\"}}", owner.name));
    assert_eq!(live(), 1.0);
    // The session ends at the worker, without stickyd seeing it.
    let behind = session.clone().through(([127, 0, 0, 1], owner.port).into());
    assert_eq!(behind.post("1").await.status, 200);
    let refused = session.get().await;
    assert_eq!((refused.status, refused.body.as_str()), (400, JSON));
    assert_eq!(refused.header("access-control-allow-origin"), ORIGIN, "the worker's own fields: {refused:?}");
    assert_eq!(refused.header("access-control-allow-credentials"), "true");
    assert_eq!(live(), 0.0, "the pin is dropped");
    assert_eq!(proxy.metric("stickyd_pins"), 0.0);
    assert_eq!(proxy.metric("stickyd_refusals_total{fate=\"forwarded\",upstream=\"app\"}"), 1.0);
    assert_eq!(
        proxy.metric("stickyd_refusals_total{fate=\"healed\",upstream=\"app\"}"),
        0.0,
        "no other worker was tried"
    );
    let mut asked = 0;
    for worker in &workers {
        asked += worker.stats().await["errors"]["1"].as_u64().unwrap_or(0);
    }
    assert_eq!(asked, 1, "no other worker was asked");
}

/// A balancer of connections between stickyd and its workers, as PM2's cluster mode is at a single port.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_processes_at_one_address_are_reported() {
    let workers = NodeServer::start_many(2, &[]).await;
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = relay.local_addr().unwrap();
    let ports = [workers[0].port, workers[1].port];
    let mut relaying = JoinSet::new();
    relaying.spawn(async move {
        let mut connections = JoinSet::new();
        for port in ports.iter().cycle() {
            let Ok((mut client, _)) = relay.accept().await else { return };
            let mut worker = TcpStream::connect(("127.0.0.1", *port)).await.unwrap();
            connections.spawn(async move { copy_bidirectional(&mut client, &mut worker).await });
        }
    });
    let stickyd = Binary::with(&format!("state_dir = \".\"\n{}", upstream_of([address.to_string()])));
    let result = Load::run(json!({"urls": [stickyd.url("")], "n": 10, "duration": 1500})).await;
    assert!(result["refusals"]["total"].as_u64().unwrap() >= 3, "{result}");
    let log = stickyd.log();
    assert!(log.contains("several processes share this address"), "{log}");
    assert!(log.contains("increment_var"), "{log}");
    assert!(log.contains(&address.to_string()), "{log}");
    // It is also where operators look later.
    assert_eq!(admin::metric(&stickyd, "stickyd_shared_addresses{upstream=\"app\"}"), 1.0);
    assert_eq!(admin::worker(&stickyd, "w1")["shares_address"], true);
    let status = Raw::connect_unix(&stickyd.admin()).get("/api/v1/status");
    assert!(status.text().contains("\"app/w1\""), "{}", status.text());
    let command = std::process::Command::new(env!("CARGO_BIN_EXE_stickyd"))
        .args(["workers", "--config", "stickyd.toml"])
        .current_dir(&stickyd.directory)
        .output()
        .unwrap();
    assert!(String::from_utf8(command.stdout).unwrap().contains("several processes share its address"));
}

/// Workers with their own addresses: no warning is logged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_with_addresses_of_their_own_cause_no_warning() {
    let workers = NodeServer::start_many(2, &[]).await;
    let stickyd = Binary::with(&upstream(&workers));
    let result = Load::run(json!({"urls": [stickyd.url("")], "n": 10})).await;
    assert_eq!(result["upgraded"], 10, "{result}");
    let log = stickyd.log();
    assert!(!log.contains("share this address") && !log.contains("WARN"), "{log}");
}
