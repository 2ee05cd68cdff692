//! Pages that answer anything: what they say neither makes sessions nor changes what holds for real ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::support::cluster::upstream_of;
use crate::support::engine_io::{Ask, Session, together};
use crate::support::proxy::Proxy;
use crate::support::scripted::{Heard, Scripted, Then, answer, open, refusal};
use crate::support::wait::wait_for_async;

/// Number of sessions made so far.
static MADE: AtomicUsize = AtomicUsize::new(0);

/// A page with Engine.IO beside it: `/page` answers 200 to everything; `/socket.io/` makes sessions.
fn page(heard: &Heard) -> Then {
    let path = heard.line.split(' ').nth(1).unwrap();
    Then::Say(match (path.starts_with("/page"), heard.sid()) {
        (true, _) => answer("200 OK", "Content-Type: text/html\r\n", "<title>42 made-up sids</title>"),
        (false, None) => open(&format!("0x{}", MADE.fetch_add(1, SeqCst)), 25_000),
        (false, Some(sid)) if sid.starts_with("0x") => answer("200 OK", "", "ok"),
        (false, Some(_)) => refusal(),
    })
}

async fn pages(limits: &str) -> (Vec<Scripted>, Proxy) {
    let mut workers = Vec::new();
    for _ in 0..2 {
        workers.push(Scripted::start(page).await);
    }
    let proxy = Proxy::with(&format!("{}{limits}", upstream_of(workers.iter().map(|w| w.address.to_string()))));
    (workers, proxy)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_answers_makes_no_sessions() {
    let (_workers, proxy) = pages("").await;
    let made_up = (0..100).map(|i| {
        let ask = Ask::new(proxy.address);
        async move {
            let method = if i % 2 == 0 { "GET" } else { "POST" };
            ask.send(method, &format!("/page?EIO=4&transport=polling&sid=made-up-{i}"), "").await.status
        }
    });
    assert!(together(made_up).await.iter().all(|status| *status == 200), "the page is served all the same");
    assert_eq!(proxy.metric("stickyd_pins"), 0.0);
    for worker in ["w1", "w2"] {
        assert_eq!(proxy.metric(&format!("stickyd_sessions{{upstream=\"app\",worker=\"{worker}\"}}")), 0.0);
        assert_eq!(proxy.worker(worker).sessions(), 0, "{worker} has no load");
    }
    assert_eq!(proxy.server().shared().sessions.sockets.len(), 0, "no socket is listed");
    // Real sessions are placed as evenly as ever.
    for _ in 0..10 {
        assert_eq!(Ask::new(proxy.address).send("GET", "/socket.io/?EIO=4&transport=polling", "").await.status, 200);
    }
    assert!(proxy.worker("w1").sessions() >= 4 && proxy.worker("w2").sessions() >= 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sids_that_prove_nothing_cost_budget() {
    let (_workers, proxy) = pages("[limits]\ndiscoveries_per_address = 5\ndiscoveries = 1000\n").await;
    let made_up = (0..60).map(|i| {
        let ask = Ask::new(proxy.address);
        async move { ask.send("GET", &format!("/page?EIO=4&transport=polling&sid=made-up-{i}"), "").await.status }
    });
    let answers = together(made_up).await;
    let served = answers.iter().filter(|status| **status == 200).count();
    assert!(answers.iter().all(|status| matches!(status, 200 | 503)), "{answers:?}");
    assert!((5..60).contains(&served), "{served} were served");
    assert_eq!(proxy.metric("stickyd_pins"), 0.0);
}

/// The upstream's time to live and the size of held bodies follow sessions that came back, within bounds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_odd_handshake_teaches_nothing() {
    let worker = Scripted::start(|heard| {
        let packet = |ms: u64, payload: u64| {
            let sid = if ms > 100_000 { "odd" } else { "usual" };
            answer(
                "200 OK",
                "",
                &format!(
                    r#"0{{"sid":"{sid}","upgrades":[],"pingInterval":{ms},"pingTimeout":{ms},"maxPayload":{payload}}}"#
                ),
            )
        };
        Then::Say(match (heard.sid(), heard.line.contains("echo")) {
            (None, true) => packet(86_400_000, 1_000_000_000_000),
            (None, false) => packet(20_000, 2_000_000),
            (Some(_), _) => answer("200 OK", "", "ok"),
        })
    })
    .await;
    let proxy = Proxy::with(&upstream_of([worker.address.to_string()]));
    let numbers = || {
        let snapshot = proxy.server().shared().snapshot.load();
        let upstream = snapshot.upstream("app").unwrap();
        (upstream.session_ttl(), upstream.max_replay())
    };
    let usual = (Duration::from_secs(90), 1_000_000);
    let ask = Ask::new(proxy.address);
    assert_eq!(numbers(), usual);
    for _ in 0..3 {
        assert_eq!(ask.send("GET", "/socket.io/?EIO=4&transport=polling&echo", "").await.status, 200);
        assert_eq!(numbers(), usual, "one answer is not a session");
    }
    assert_eq!(ask.send("GET", "/socket.io/?EIO=4&transport=polling", "").await.status, 200);
    assert_eq!(numbers(), usual);
    assert_eq!(Session::made_up(ask.clone(), "usual").post("40").await.status, 200);
    assert_eq!(numbers(), (Duration::from_secs(45), 2_000_000), "the session came back");
    assert_eq!(Session::made_up(ask, "odd").post("40").await.status, 200);
    assert_eq!(numbers(), (Duration::from_secs(3_605), 10_000_000), "what comes back is bounded");
}

/// A page that echoes what its client sends: the client can make sessions of its own there, and no others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_echoed_session_proves_nothing_of_others() {
    let mut workers = Vec::new();
    for _ in 0..2 {
        workers.push(
            Scripted::start(|heard| {
                Then::Say(match heard.sid() {
                    None => open("echoed", 25_000),
                    Some(_) => answer("200 OK", "Content-Type: text/html\r\n", "whatever you say"),
                })
            })
            .await,
        );
    }
    let proxy = Proxy::with(&upstream_of(workers.iter().map(|worker| worker.address.to_string())));
    let ask = Ask::new(proxy.address);
    let path = |sid: &str| format!("/echo?EIO=4&transport=polling{sid}");
    assert_eq!(ask.send("GET", &path(""), "").await.status, 200);
    assert_eq!(ask.send("POST", &path("&sid=echoed"), "40").await.status, 200);
    assert_eq!(proxy.metric("stickyd_pins"), 1.0);
    for i in 0..20 {
        assert_eq!(ask.send("GET", &path(&format!("&sid=made-up-{i}")), "").await.status, 200);
    }
    assert_eq!(proxy.metric("stickyd_pins"), 1.0, "only its own session");
    let puts: usize = workers.iter().map(|worker| worker.count("PUT")).sum();
    assert_eq!(puts, 0);
}

/// A page that keeps a GET waiting and answers a POST beside it: waiting is not a proof either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_waits_makes_no_sessions() {
    let mut workers = Vec::new();
    let waiting = Arc::new(AtomicUsize::new(0));
    for _ in 0..2 {
        let waiting = waiting.clone();
        workers.push(
            Scripted::start(move |heard| match heard.line.starts_with("GET") {
                true => {
                    waiting.fetch_add(1, SeqCst);
                    Then::Silence
                }
                false => Then::Say(answer("200 OK", "", "ok")),
            })
            .await,
        );
    }
    let proxy = Proxy::with(&upstream_of(workers.iter().map(|worker| worker.address.to_string())));
    let ask = Ask::new(proxy.address);
    let path = "/slow?EIO=4&transport=polling&sid=made-up";
    let waits = ask.clone();
    let _get = tokio::task::JoinSet::from_iter([async move { waits.try_send("GET", path, "").await }]);
    wait_for_async("the GET waits", async || waiting.load(SeqCst) == 1).await;
    assert_eq!(ask.send("POST", path, "40").await.body, "ok");
    assert_eq!((proxy.metric("stickyd_pins"), waiting.load(SeqCst)), (0.0, 1));
}
