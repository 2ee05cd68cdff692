//! CORS preflights go to the worker of the sid; they create and refresh no pin, and get no cookie.

use crate::support::answer::Answer;
use crate::support::cluster::upstream;
use crate::support::engine_io::{Ask, Session};
use crate::support::node::NodeServer;
use crate::support::proxy::Proxy;

async fn preflight(session: &Session, url: &str) -> Answer {
    let ask = session.ask.clone().with("origin", "https://page.test").with("access-control-request-method", "POST");
    ask.with("access-control-request-headers", "x-mine").send("OPTIONS", url, "").await
}

/// Version 2 answers OPTIONS with 200 for its own sessions and with 400 for others, so a 200 shows the owner.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preflights_follow_the_sid_and_leave_no_trace() {
    let workers = NodeServer::start_many(3, &["--version", "2"]).await;
    let config = upstream(&workers);
    let proxy = Proxy::with(&config);
    let mut sessions = Vec::new();
    for last in 1..=6 {
        let ask = Ask::new(proxy.address).from([127, 0, 0, last]);
        let answer = ask.send("GET", "/socket.io/?EIO=3&transport=polling&b64=1", "").await;
        assert!(answer.cookie().is_some(), "{answer:?}");
        let sid = answer.body.split("\"sid\":\"").nth(1).unwrap().split('"').next().unwrap();
        sessions.push(Session::made_up(Ask::new(proxy.address), sid));
    }
    for session in &sessions {
        let url = session.url("polling").replace("EIO=4", "EIO=3");
        let answer = preflight(session, &url).await;
        assert_eq!((answer.status, answer.cookie()), (200, None), "{answer:?}");
    }
    assert_eq!(proxy.metric("stickyd_pins"), 6.0);
    assert_eq!(proxy.metric("stickyd_discoveries_total{result=\"found\",upstream=\"app\"}"), 0.0);

    // A stickyd without pins discovers them, and pins nothing.
    let other = Proxy::with(&config);
    for session in &sessions {
        let session = session.clone().through(other.address);
        let url = session.url("polling").replace("EIO=4", "EIO=3");
        let answer = preflight(&session, &url).await;
        assert_eq!((answer.status, answer.cookie()), (200, None), "{answer:?}");
    }
    assert_eq!(other.metric("stickyd_pins"), 0.0, "a preflight creates nothing");
    // The preflight of a handshake: any worker answers, without a cookie or a session.
    let answer = preflight(&sessions[0], "/socket.io/?EIO=3&transport=polling").await;
    assert_eq!((answer.status, answer.cookie()), (400, None), "version 2 refuses the preflight itself: {answer:?}");
    let answer = preflight(&sessions[0], "/who").await;
    assert_eq!((answer.status, answer.cookie()), (200, None), "{answer:?}");
    assert_eq!(proxy.metric("stickyd_pins"), 6.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preflights_of_a_gone_workers_session_go_to_any_worker() {
    let mut workers = NodeServer::start_many(2, &["--cors", "https://page.test,credentials"]).await;
    let proxy = Proxy::with(&upstream(&workers));
    let sessions = Session::open_many(2, &Ask::new(proxy.address)).await;
    workers[0].kill().await;
    for session in &sessions {
        let answer = preflight(session, &session.url("polling")).await;
        assert_eq!(answer.status, 204, "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), "https://page.test");
    }
    assert_eq!(proxy.metric("stickyd_pins"), 2.0, "a preflight does not drop the pin of the dead worker's session");
}

/// The worker refuses connects while its open connections go on: its session stays, and any worker may answer a
/// preflight.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preflights_of_a_leaving_workers_session_go_to_any_worker() {
    let mut workers = NodeServer::start_many(2, &["--cors", "https://page.test,credentials"]).await;
    let proxy = Proxy::with(&upstream(&workers));
    let sessions = Session::open_many(2, &Ask::new(proxy.address)).await;
    let mut of_first = None;
    for session in sessions {
        if session.echo().await == "w1" {
            of_first = Some(session);
        }
    }
    let session = of_first.unwrap();
    let polling = session.clone();
    let before = workers[0].stats().await["requests"]["GET"].as_u64();
    let _poll = tokio::task::JoinSet::from_iter([async move { polling.get().await }]);
    workers[0].stats_when(|now| now["requests"]["GET"].as_u64() > before).await;
    workers[0].close().await;
    for _ in 0..3 {
        let answer = preflight(&session, &session.url("polling")).await;
        assert_eq!(answer.status, 204, "{answer:?}");
    }
    assert!(proxy.metric("stickyd_pins") >= 1.0);
}
