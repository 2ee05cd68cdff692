//! Discovery while workers do not answer: one silent worker is the owner by elimination, two are waited for.

use std::time::Duration;

use crate::support::cluster::{upstream, upstream_of};
use crate::support::engine_io::{Ask, Session, together};
use crate::support::node::{NodeServer, PythonServer, Worker};
use crate::support::proxy::Proxy;
use crate::support::scripted::{Heard, Scripted, Then, answer, refusal};
use crate::support::wait::{at_most, wait_for_async};

const FOUND: &str = "stickyd_discoveries_total{result=\"found\",upstream=\"app\"}";
const ELIMINATED: &str = "stickyd_discoveries_total{result=\"eliminated\",upstream=\"app\"}";
const UNDECIDED: &str = "stickyd_discoveries_total{result=\"undecided\",upstream=\"app\"}";

/// A session on each worker, made without stickyd.
async fn one_each(workers: &[Worker], proxy: &Proxy) -> Vec<Session> {
    let mut sessions = Vec::new();
    for worker in workers {
        let session = Session::open(Ask::new(([127, 0, 0, 1], worker.port).into())).await;
        assert_eq!(session.echo().await, worker.name);
        sessions.push(session.through(proxy.address));
    }
    sessions
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_hung_worker_is_the_owner_by_elimination() {
    let workers = NodeServer::start_many(3, &[]).await;
    let proxy = Proxy::with(&upstream(&workers));
    let sessions = one_each(&workers, &proxy).await;
    workers[2].stop().await;
    let answer = sessions[2].post("42[\"n\",7]");
    let woken = async {
        // The worker wakes after all others have refused and the request waits for it.
        wait_for_async("the session is pinned to the hung worker", async || {
            proxy.metric("stickyd_sessions{upstream=\"app\",worker=\"w3\"}") == 1.0
        })
        .await;
        workers[2].cont().await;
    };
    let (answer, ()) = tokio::join!(answer, woken);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(proxy.metric(ELIMINATED), 1.0);
    assert_eq!(sessions[2].echo().await, "w3");
    let mut strangers = 0;
    for worker in &workers[..2] {
        let stats = worker.stats().await;
        strangers += stats["refused"]["POST"].as_u64().unwrap_or(0);
    }
    assert_eq!(strangers, 0, "the other workers refused the probe and never got the POST");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hung_workers_are_waited_for_and_never_refused() {
    let workers = NodeServer::start_many(3, &[]).await;
    let proxy = Proxy::with(&upstream(&workers));
    let sessions = one_each(&workers, &proxy).await;
    workers[1].stop().await;
    workers[2].stop().await;
    // The session of the third worker is found meanwhile.
    let found = sessions[0].post("42[\"n\",7]").await;
    assert_eq!(found.status, 200, "{found:?}");
    assert!(found.took < at_most(Duration::from_millis(900)), "{found:?}");

    let answers = together(sessions[1..].iter().cloned().flat_map(|session| {
        let other = session.clone();
        [true, false].map(|is_poll| {
            let session = if is_poll { session.clone() } else { other.clone() };
            async move { if is_poll { session.get().await } else { session.post("42[\"n\",7]").await } }
        })
    }))
    .await;
    for answer in answers {
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(!answer.body.contains("Session ID unknown"), "{answer:?}");
        assert_eq!(answer.header("retry-after"), "1");
        assert!((Duration::from_secs(4)..at_most(Duration::from_millis(5_900))).contains(&answer.took), "{answer:?}");
    }
    assert_eq!(proxy.metric(UNDECIDED), 4.0);
    workers[1].cont().await;
    workers[2].cont().await;
    // Neither worker had got the request while its owner was unknown, so their sessions go on.
    for (worker, session) in workers.iter().zip(&sessions) {
        assert_eq!(session.echo().await, worker.name);
        assert_eq!(worker.stats().await["broken_polls"], 0);
    }
}

/// A worker that wakes within the time of discovery is asked then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_hung_workers_the_one_that_wakes_is_asked() {
    for python in [false, true] {
        let mut workers = NodeServer::start_many(1, &[]).await;
        for name in ["w2", "w3"] {
            workers.push(match python {
                true => PythonServer::start(&["--name", name]).await,
                false => NodeServer::start(&["--name", name]).await,
            });
        }
        let proxy = Proxy::with(&upstream(&workers));
        let sessions = one_each(&workers, &proxy).await;
        workers[1].stop().await;
        workers[2].stop().await;
        let waiting = tokio::join!(sessions[1].post("42[\"n\",7]"), async {
            // The probes of the first second have found both silent.
            tokio::time::sleep(Duration::from_millis(1_200)).await;
            workers[1].cont().await;
        });
        assert_eq!(waiting.0.status, 200, "{:?}", waiting.0);
        assert!(waiting.0.took < at_most(Duration::from_secs(4)), "{:?}", waiting.0);
        assert_eq!(sessions[1].echo().await, "w2");
        workers[2].cont().await;
        assert_eq!(sessions[2].echo().await, "w3");
    }
}

/// A POST does not wait for the poll that only it can complete, and each is sent to the owner once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_finds_the_worker_at_which_its_poll_waits() {
    let node = NodeServer::start_many(3, &[]).await;
    let mut python = Vec::new();
    for name in ["w1", "w2", "w3"] {
        python.push(PythonServer::start(&["--name", name]).await);
    }
    for workers in [node, python] {
        let proxy = Proxy::with(&upstream(&workers));
        let sessions = one_each(&workers, &proxy).await;
        for (session, worker) in sessions.iter().zip(&workers) {
            let before = worker.stats().await;
            let polling = session.clone();
            let mut poll = tokio::task::JoinSet::from_iter([async move { polling.get().await }]);
            worker.stats_when(|now| number(&now["requests"]["GET"]) > number(&before["requests"]["GET"])).await;
            let posted = session.post("42[\"n\",7]").await;
            assert_eq!(posted.status, 200, "{posted:?}");
            let polled = poll.join_next().await.unwrap().unwrap();
            assert!(polled.body.contains("42[\"n\",7"), "{polled:?}");
        }
        assert_eq!(proxy.metric(FOUND), 6.0);
        for worker in &workers {
            let stats = worker.stats().await;
            assert_eq!(number(&stats["errors"]["3"]), 0, "no overlap: {stats}");
        }
    }
}

fn number(value: &serde_json::Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// An owner with nothing to send: its poll goes to no other worker, however long it takes, and the POST goes to it at
/// once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_decides_nothing_and_probes_carry_no_client_data() {
    for place in 0..3 {
        let mut workers = Vec::new();
        for i in 0..3 {
            let owner = i == place;
            let script = move |heard: &Heard| match heard.line.split(' ').next().unwrap() {
                // Probes do not tell at these workers.
                "PUT" => Then::Say(answer("405 Method Not Allowed", "", "")),
                "GET" if owner => Then::Silence,
                "POST" if owner => Then::Say(answer("200 OK", "", "ok")),
                _ => Then::Say(refusal()),
            };
            workers.push(Scripted::start(script).await);
        }
        let proxy = Proxy::with(&upstream_of(workers.iter().map(|worker| worker.address.to_string())));
        let ask = Ask::new(proxy.address).with("cookie", "mine=1").with("authorization", "Bearer mine");
        let session = Session::made_up(ask.with("x-mine", "mine"), "AAAAAAAAAAAAAAAAAAAA");
        let polling = session.clone();
        let poll = tokio::task::JoinSet::from_iter([async move { polling.get().await }]);
        wait_for_async("the poll is at its owner", async || workers[place].count("GET") == 1).await;
        // Longer than a probe is waited for, and than the refusals of the others are remembered.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        let posted = session.post("40").await;
        assert_eq!((posted.status, posted.body.as_str()), (200, "ok"));
        assert!(posted.took < at_most(Duration::from_millis(500)), "{posted:?}");
        for (i, worker) in workers.iter().enumerate() {
            let (gets, posts) = (worker.count("GET"), worker.count("POST"));
            assert!(if i == place { (gets, posts) == (1, 1) } else { gets <= 1 && posts == 0 }, "{i}: {gets}, {posts}");
            for probe in worker.heard().iter().filter(|heard| heard.line.starts_with("PUT")) {
                assert!(!probe.head.contains("mine"), "{}", probe.head);
                let uri = probe.line.strip_prefix("PUT ").unwrap();
                assert!(uri.starts_with("/socket.io/?EIO=4&transport=polling&sid="), "{uri}");
            }
        }
        drop(poll);
    }
}
