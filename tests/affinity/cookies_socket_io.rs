//! stickyd's cookie with Socket.IO: a new handshake goes to the worker of the last session, which connection state
//! recovery needs.

use serde_json::Value;

use crate::support::cluster::{SECRET, upstream};
use crate::support::engine_io::{Ask, Session};
use crate::support::node::NodeServer;
use crate::support::proxy::Proxy;

/// The content of the packet that starts with `40{`.
fn connected(body: &str) -> Value {
    let packet = body.split('\x1e').find_map(|packet| packet.strip_prefix("40")).unwrap_or_else(|| panic!("{body}"));
    serde_json::from_str(packet).unwrap()
}

/// Eight workers and changing addresses: without the cookie the client would rarely come back to its worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_with_a_cookie_recovers_its_state() {
    let workers = NodeServer::start_many(8, &["--recovery"]).await;
    let config = format!("{SECRET}{}", upstream(&workers));
    let (proxy, other) = (Proxy::with(&config), Proxy::with(&config));
    for client in 0..4 {
        let (first, answer) = Session::begin(Ask::new(proxy.address).from([127, 0, 1, client + 1])).await;
        let cookie = answer.cookie().expect("a cookie with the handshake");
        assert_eq!(first.post("40").await.status, 200);
        let was = connected(&first.get().await.body);
        // An event gives the client the offset it will ask from.
        assert_eq!(first.post("42[\"n\",7]").await.status, 200);
        let event = first.get().await.body;
        let event: Value = serde_json::from_str(event.strip_prefix("42").unwrap()).unwrap();
        let (worker, offset) = (event[2].as_str().unwrap(), event[3].as_str().unwrap());
        // The connection is lost; the client connects again through the other stickyd of the fleet, from another
        // address.
        assert_eq!(first.post("1").await.status, 200);

        let ask = Ask::new(other.address).from([127, 0, 2, client + 1]).with("cookie", &*cookie);
        let (second, answer) = Session::begin(ask).await;
        assert_eq!(answer.cookie(), None, "the cookie stays as it is");
        let pid = was["pid"].as_str().unwrap();
        assert_eq!(second.post(format!("40{{\"pid\":\"{pid}\",\"offset\":\"{offset}\"}}")).await.status, 200);
        let is = connected(&second.get().await.body);
        assert_eq!((&is["sid"], &is["pid"]), (&was["sid"], &was["pid"]), "recovered");
        assert_eq!(second.echo().await, worker);
        // Ordinary requests of the same browser go to that worker, too.
        assert_eq!(second.ask.send("GET", "/who", "").await.header("x-worker"), worker);
    }
    assert_eq!(other.metric("stickyd_affinity_total{source=\"cookie\",upstream=\"app\"}"), 8.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_placed_elsewhere_rewrites_the_cookie() {
    let mut workers = NodeServer::start_many(3, &[]).await;
    let proxy = Proxy::with(&upstream(&workers));
    let (session, answer) = Session::begin(Ask::new(proxy.address)).await;
    let first = answer.cookie().unwrap();
    assert_eq!(session.post("40").await.status, 200);
    assert!(session.get().await.body.starts_with("40{"));
    let name = session.echo().await;
    let dead = workers.iter().position(|worker| worker.name == name).unwrap();
    workers[dead].kill().await;

    let (session, answer) = Session::begin(Ask::new(proxy.address).with("cookie", &*first)).await;
    let second = answer.cookie().expect("a rewritten cookie");
    assert_ne!(second, first);
    assert_eq!(session.post("40").await.status, 200);
    assert!(session.get().await.body.starts_with("40{"));
    let elsewhere = session.echo().await;
    assert_ne!(elsewhere, name);
    for last in 1..=5 {
        // The cookie decides, from any address.
        let ask = Ask::new(proxy.address).from([127, 0, 3, last]).with("cookie", &*second);
        let who = ask.send("GET", "/who", "").await;
        assert_eq!((who.header("x-worker"), who.cookie()), (elsewhere.as_str(), None));
        let (session, answer) = Session::begin(ask).await;
        assert_eq!(answer.cookie(), None);
        assert_eq!(session.post("40").await.status, 200);
        assert!(session.get().await.body.starts_with("40{"));
        assert_eq!(session.echo().await, elsewhere);
    }
    // A forged cookie is ignored.
    let mut forged = second.into_bytes();
    *forged.last_mut().unwrap() ^= 1;
    let (_, answer) = Session::begin(Ask::new(proxy.address).with("cookie", String::from_utf8(forged).unwrap())).await;
    assert!(answer.cookie().is_some(), "a client without a cookie gets one");
}

/// A sid decides before every cookie.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sid_decides_whatever_the_cookie_says() {
    let workers = NodeServer::start_many(3, &[]).await;
    let proxy = Proxy::with(&upstream(&workers));
    let mut cookies = Vec::new();
    let mut sessions = Vec::new();
    for _ in 0..6 {
        let (session, answer) = Session::begin(Ask::new(proxy.address)).await;
        cookies.push(answer.cookie().unwrap());
        assert_eq!(session.post("40").await.status, 200);
        assert!(session.get().await.body.starts_with("40{"));
        sessions.push((session.echo().await, session));
    }
    for (worker, session) in sessions {
        for cookie in &cookies {
            let mut session = session.clone();
            session.ask.headers.push(("cookie", cookie.clone()));
            assert_eq!(session.echo().await, worker);
        }
    }
    assert_eq!(proxy.metric("stickyd_discoveries_total{result=\"found\",upstream=\"app\"}"), 0.0);
}
