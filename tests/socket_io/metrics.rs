//! Metrics show what happened: decisions by source, live sessions and tunnels, pins and how long they live.

use std::time::Duration;

use serde_json::json;

use crate::support::cluster::{all_upgraded, upstream, upstream_of};
use crate::support::engine_io::{Ask, Session};
use crate::support::load::Load;
use crate::support::node::NodeServer;
use crate::support::proxy::Proxy;
use crate::support::scripted::{Scripted, Then, answer, open, refusal};
use crate::support::wait::wait_for_async;

fn source(source: &str) -> String {
    format!("stickyd_affinity_total{{source=\"{source}\",upstream=\"app\"}}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_decision_is_counted_by_its_source() {
    let workers = NodeServer::start_many(3, &[]).await;
    let proxy = Proxy::with(&upstream(&workers));
    let ask = Ask::new(proxy.address);
    let (session, answer) = Session::begin(ask.clone()).await;
    assert_eq!((proxy.metric(&source("new")), proxy.metric(&source("sid"))), (1.0, 0.0));
    assert_eq!(session.post("40").await.status, 200);
    assert_eq!(session.get().await.status, 200);
    assert_eq!(proxy.metric(&source("sid")), 2.0);
    assert_eq!(ask.send("GET", "/who", "").await.status, 200);
    assert_eq!(proxy.metric(&source("address")), 1.0);
    let known = ask.clone().with("cookie", answer.cookie().unwrap());
    assert_eq!(known.send("GET", "/who", "").await.status, 200);
    assert_eq!(proxy.metric(&source("cookie")), 1.0);
    let strange = Session::open(Ask::new(([127, 0, 0, 1], workers[0].port).into())).await.through(proxy.address);
    assert_eq!(strange.post("42[\"n\",7]").await.status, 200);
    assert_eq!(proxy.metric(&source("discovered")), 1.0);
    assert_eq!(strange.get().await.status, 200);
    assert_eq!(
        (proxy.metric(&source("discovered")), proxy.metric(&source("sid"))),
        (1.0, 3.0),
        "the session is pinned after its discovery"
    );
    assert_eq!(proxy.metric(&source("any")), 0.0);

    let nothing_but_sids = Proxy::with(&format!("{}affinity = [\"socket.io\"]\n", upstream(&workers)));
    assert_eq!(Ask::new(nothing_but_sids.address).send("GET", "/who", "").await.cookie(), None);
    assert_eq!(nothing_but_sids.metric(&source("any")), 1.0);

    let fate = |fate| proxy.metric(&format!("stickyd_refusals_total{{fate=\"{fate}\",upstream=\"app\"}}"));
    let result = |result| proxy.metric(&format!("stickyd_discoveries_total{{result=\"{result}\",upstream=\"app\"}}"));
    assert_eq!((fate("own"), fate("forwarded")), (0.0, 0.0));
    assert!(fate("healed") <= 2.0, "at most two refusals were kept from the client");
    assert_eq!((result("found"), result("unknown")), (1.0, 0.0));
    assert_eq!(Session::made_up(ask, "AAAAAAAAAAAAAAAAAAAA").get().await.status, 400);
    assert_eq!((fate("forwarded"), result("unknown")), (1.0, 1.0));
}

/// Default, polling and WebSocket-only clients come and go: the counts per worker equal those of the workers, and after
/// the lifetime of the last pin every count is 0.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_sessions_and_tunnels_are_exact_and_return_to_zero() {
    // A ping time-out that no busy machine reaches.
    let workers = NodeServer::start_many(3, &["--ping-interval", "400", "--ping-timeout", "3000"]).await;
    let proxy = Proxy::with(&upstream(&workers));
    let clients = |n: u64, transports: serde_json::Value| {
        Load::start(json!({"urls": [proxy.url("")], "n": n, "messages": 3, "keep": true, "transports": transports}))
    };
    let mut default = clients(9, json!(null));
    let mut polling = clients(7, json!(["polling"]));
    let mut websocket = clients(8, json!(["websocket"]));
    for load in [&mut default, &mut polling, &mut websocket] {
        load.event("all-echoed").await;
    }
    all_upgraded(&mut default, 9).await;
    let of = |name: &str, worker: &str| proxy.metric(&format!("{name}{{upstream=\"app\",worker=\"{worker}\"}}"));
    let (mut sessions, mut tunnels) = (0.0, 0.0);
    for worker in &workers {
        assert_eq!(of("stickyd_sessions", &worker.name), worker.stats().await["live"].as_f64().unwrap());
        sessions += of("stickyd_sessions", &worker.name);
        tunnels += of("stickyd_tunnels", &worker.name);
    }
    assert_eq!((sessions, tunnels), (24.0, 17.0));
    assert_eq!(proxy.metric("stickyd_pins"), 16.0, "a WebSocket-first session needs no pin");

    // Clients that leave with a goodbye are gone at once; the pin of a tunnel stays for 5 s, for a late poll.
    polling.stop().await;
    websocket.stop().await;
    // Sooner than the lifetime of a pin, 8.4 s.
    wait_for_async("only the default clients are counted", async || {
        workers.iter().map(|worker| of("stickyd_sessions", &worker.name)).sum::<f64>() == 9.0
    })
    .await;
    for worker in &workers {
        worker.stats_when(|stats| stats["live"] == of("stickyd_sessions", &worker.name)).await;
        assert_eq!(of("stickyd_sessions", &worker.name), of("stickyd_tunnels", &worker.name));
    }
    // A client that just stops: its pin lives for pingInterval + pingTimeout + 5 s.
    let silent = Session::open(Ask::new(proxy.address)).await;
    default.stop().await;
    assert!(proxy.metric("stickyd_pins") >= 1.0);
    wait_for_async("no pin is left", async || proxy.metric("stickyd_pins") == 0.0).await;
    for worker in &workers {
        for series in ["stickyd_sessions", "stickyd_tunnels", "stickyd_requests_in_flight"] {
            assert_eq!(of(series, &worker.name), 0.0, "{series}");
        }
        assert_eq!(worker.stats().await["live"], 0);
    }
    let late = silent.get().await;
    assert_eq!(late.status, 400, "the worker has forgotten the session: {late:?}");
}

/// A poll stays open for nine seconds, although the session would only live for 5.2 s without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_lives_while_its_poll_is_open() {
    let mut workers = Vec::new();
    for name in ["one-AAAAAAAAAAAA", "two-AAAAAAAAAAAA"] {
        let script = move |heard: &crate::support::scripted::Heard| match heard.sid() {
            None => Then::Say(open(name, 100)),
            Some(sid) if sid != name || heard.line.starts_with("PUT") => Then::Say(refusal()),
            Some(_) if heard.line.starts_with("POST") => Then::Say(answer("200 OK", "", "ok")),
            Some(_) => Then::Later(Duration::from_secs(9), answer("200 OK", "", "6")),
        };
        workers.push(Scripted::start(script).await);
    }
    let proxy = Proxy::with(&upstream_of(workers.iter().map(|worker| worker.address.to_string())));
    let (session, _) = Session::begin(Ask::new(proxy.address)).await;
    let polled = session.get().await;
    assert_eq!((polled.status, polled.body.as_str()), (200, "6"));
    assert!(polled.took > Duration::from_secs(8), "{polled:?}");
    // The session is still pinned: otherwise it would be discovered again.
    assert_eq!(session.post("40").await.status, 200);
    assert_eq!(proxy.metric("stickyd_discoveries_total{result=\"found\",upstream=\"app\"}"), 0.0);
    assert_eq!(proxy.metric("stickyd_pins"), 1.0);
    assert_eq!(workers.iter().map(|worker| worker.count("PUT")).sum::<usize>(), 0);
}

/// Handshakes whose body has no session id: `Set-Cookie: io=` has it, or else the handshake is counted as unread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_io_cookie_is_a_second_source() {
    let mut workers = Vec::new();
    for name in ["one%2FAAAA", "two%2FAAAA"] {
        let script = move |heard: &crate::support::scripted::Heard| match heard.sid() {
            None if heard.line.contains("&plain") => Then::Say(answer("200 OK", "", "no packet")),
            None => {
                let cookie = format!("Set-Cookie: io={name}; Path=/; HttpOnly\r\n");
                Then::Say(answer("200 OK", &cookie, "something unreadable"))
            }
            Some(sid) if sid == name => Then::Say(answer("200 OK", "", "mine")),
            Some(_) => Then::Say(refusal()),
        };
        workers.push(Scripted::start(script).await);
    }
    let proxy = Proxy::with(&upstream_of(workers.iter().map(|worker| worker.address.to_string())));
    let ask = Ask::new(proxy.address);
    let mut sids = Vec::new();
    for _ in 0..2 {
        let answer = ask.send("GET", "/socket.io/?EIO=3&transport=polling", "").await;
        assert_eq!(answer.body, "something unreadable", "the answer passes unchanged");
        let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().map(|v| v.to_str().unwrap()).collect();
        let io = cookies.iter().find_map(|cookie| cookie.strip_prefix("io=")).unwrap();
        sids.push(io.split(';').next().unwrap().to_owned());
    }
    sids.sort();
    assert_eq!(sids, ["one%2FAAAA", "two%2FAAAA"], "one session each, because bounded load counts them");
    for sid in &sids {
        assert_eq!(Session::made_up(ask.clone(), sid).get().await.body, "mine");
    }
    let learned = |result| proxy.metric(&format!("stickyd_handshakes_total{{result=\"{result}\",upstream=\"app\"}}"));
    assert_eq!((learned("learned"), learned("unlearned")), (2.0, 0.0));
    assert_eq!(proxy.metric("stickyd_discoveries_total{result=\"found\",upstream=\"app\"}"), 0.0);
    assert_eq!(ask.send("GET", "/socket.io/?EIO=3&transport=polling&plain", "").await.body, "no packet");
    assert_eq!((learned("learned"), learned("unlearned")), (2.0, 1.0));
    assert_eq!(proxy.metric("stickyd_pins"), 2.0);
}
