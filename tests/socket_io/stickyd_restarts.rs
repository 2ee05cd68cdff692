//! stickyd is killed and started again: sessions between two polls go on, other sessions end once and start anew, and
//! no client gets an avoidable "Session ID unknown".

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::cluster::{all_upgraded, upstream};
use crate::support::engine_io::{Ask, Session, together};
use crate::support::load::Load;
use crate::support::node::{NodeServer, OxideServer, PythonServer, Worker};
use crate::support::proxy::Binary;
use crate::support::wait::at_most;

/// 30 clients of these workers are between two polls while stickyd is killed and started again: all sessions go on.
async fn between_polls(workers: &[Worker], mut client: Value) {
    let mut stickyd = Binary::with(&upstream(workers));
    client["urls"] = json!([stickyd.url("")]);
    let mut options = json!({"n": 30, "kind": "raw", "messages": 3, "keep": true});
    options.as_object_mut().unwrap().extend(client.as_object().unwrap().clone());
    let mut load = Load::start(options);
    load.event("all-echoed").await;
    load.hold().await;
    stickyd.kill();
    stickyd.start_again();
    load.command("go").await;
    load.echo(3).await;
    let result = load.stop().await;
    assert_eq!(
        result["echoes"],
        json!({"sent": 180, "ok": 180, "lost": 0, "duplicated": 0, "reordered": 0}),
        "{result}"
    );
    assert_eq!(result["refusals"]["total"], 0, "{result}");
    for none in ["bad_answers", "connect_errors", "disconnects"] {
        assert_eq!(result[none], json!({}), "{none}: {result}");
    }
    assert_eq!(result["reconnects"], 0, "{result}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_polls_all_live_on() {
    for version in ["4", "2"] {
        let workers = NodeServer::start_many(3, &["--version", version]).await;
        let version: u8 = version.parse().unwrap();
        for more in [json!({}), json!({"mode": "step"}), json!({"transports": "jsonp"}), json!({"sharedAgent": true})] {
            let mut client = more;
            client["version"] = json!(version);
            between_polls(&workers, client).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_polls_all_live_on_with_other_servers() {
    let mut python = Vec::new();
    let mut oxide = Vec::new();
    for name in ["w1", "w2", "w3"] {
        python.push(PythonServer::start(&["--name", name]).await);
        oxide.push(OxideServer::start(&["--name", name]).await);
    }
    for workers in [python, oxide] {
        for mode in ["flow", "step"] {
            between_polls(&workers, json!({"mode": mode})).await;
        }
    }
}

/// The cost of a restart: each session whose poll, POST or tunnel was open starts anew once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_requests_in_flight_only_those_start_anew() {
    for version in [4, 2] {
        let workers = NodeServer::start_many(3, &["--version", &version.to_string()]).await;
        let mut stickyd = Binary::with(&upstream(&workers));
        let clients = |n: u64, more: Value| {
            let mut options = json!({"urls": [stickyd.url("")], "n": n, "version": version, "messages": "endless",
                "interval": 15, "keep": true});
            options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            Load::start(options)
        };
        let mut held = clients(10, json!({"kind": "raw", "messages": 3}));
        let mut tunnels = clients(10, json!({}));
        let mut polls = clients(10, json!({"transports": ["polling"]}));
        let mut raw = clients(10, json!({"kind": "raw"}));
        held.event("all-echoed").await;
        held.hold().await;
        all_upgraded(&mut tunnels, 10).await;
        for load in [&mut polls, &mut raw] {
            load.event("all-connected").await;
        }
        let before = held_sids(&mut held).await;
        stickyd.kill();
        for load in [&mut tunnels, &mut polls, &mut raw] {
            load.event("all-disconnected").await;
        }
        stickyd.start_again();
        held.command("go").await;
        held.echo(3).await;
        for load in [&mut tunnels, &mut polls, &mut raw] {
            load.event("all-connected").await;
        }
        all_upgraded(&mut tunnels, 10).await;
        assert_eq!(held_sids(&mut held).await, before);
        for (name, load, cost) in [("held", held, 0), ("tunnels", tunnels, 10), ("polls", polls, 10), ("raw", raw, 10)]
        {
            let result = load.stop().await;
            println!(
                "version {version}, {name}: {} of 10 started anew, {} refusals, {} messages lost of {}",
                result["reconnects"], result["refusals"]["total"], result["echoes"]["lost"], result["echoes"]["sent"]
            );
            assert_eq!(result["reconnects"], cost, "{name}: {result}");
            assert_eq!(result["refusals"]["total"], 0, "{name}: {result}");
            assert_eq!(result["connected"], 10, "{name}: {result}");
            assert_eq!(
                (&result["echoes"]["duplicated"], &result["echoes"]["reordered"]),
                (&json!(0), &json!(0)),
                "{result}"
            );
        }
    }
}

/// How many sessions the clients have had so far: the same number means that none has started anew.
async fn held_sids(load: &mut Load) -> Value {
    let status = load.status().await;
    json!([status["reconnects"], status["connected"], status["disconnects"]])
}

/// One worker hangs during the restart: sessions of other workers are found at once; its own wait for it and go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_one_worker_hung_the_others_are_found_at_once() {
    let workers = NodeServer::start_many(3, &[]).await;
    let mut stickyd = Binary::with(&upstream(&workers));
    let sessions = Session::open_many(24, &Ask::new(stickyd.address)).await;
    let named = together(sessions.into_iter().map(|session| async move { (session.echo().await, session) })).await;
    let (hung, others): (Vec<_>, Vec<_>) = named.into_iter().partition(|(worker, _)| worker == "w2");
    assert_eq!(hung.len(), 8, "bounded load spreads the sessions evenly");
    let mut tunnels = Load::start(json!({"urls": [stickyd.url("")], "n": 12, "messages": 3, "keep": true}));
    tunnels.event("all-echoed").await;
    all_upgraded(&mut tunnels, 12).await;
    stickyd.kill();
    workers[1].stop().await;
    tunnels.event("all-disconnected").await;
    stickyd.start_again();

    // A POST that the hung worker must take, and the poll of the same session: neither is answered before the worker
    // wakes.
    let waiting = hung.iter().cloned().flat_map(|(_, session)| {
        let poll = session.clone();
        [true, false].map(|is_poll| {
            let session = if is_poll { poll.clone() } else { session.clone() };
            async move { if is_poll { session.get().await } else { session.post("42[\"n\",7]").await } }
        })
    });
    let waiting = tokio::task::JoinSet::from_iter(waiting);
    let found = together(others.into_iter().map(|(worker, session)| async move {
        let answer = session.post("42[\"n\",7]").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(session.echo().await, worker);
        answer.took
    }))
    .await;
    let slowest = found.iter().max().unwrap();
    println!("16 sessions of two live workers found beside a hung one: the slowest POST took {slowest:?}");
    assert!(*slowest < at_most(Duration::from_millis(900)), "{slowest:?}: no request waits for the hung worker");

    workers[1].cont().await;
    for answer in waiting.join_all().await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    for (_, session) in &hung {
        assert_eq!(session.echo().await, "w2");
    }
    // Sessions with open tunnels start anew; handshakes at the hung worker wait for it, and none is refused.
    all_upgraded(&mut tunnels, 12).await;
    tunnels.echo(3).await;
    let result = tunnels.stop().await;
    println!("12 tunnels: {} started anew, {} refusals", result["reconnects"], result["refusals"]["total"]);
    assert_eq!((&result["reconnects"], &result["refusals"]["total"]), (&json!(12), &json!(0)), "{result}");
    for (worker, session) in &hung {
        assert_eq!(session.echo().await, *worker);
    }
}

/// A worker is in a graceful `server.close()`: its open connections go on. After a restart of stickyd the sessions of
/// other workers go on, and those of the closing worker, which cannot be reached any more, are refused once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_one_worker_closing() {
    let mut workers = NodeServer::start_many(3, &[]).await;
    let mut stickyd = Binary::with(&upstream(&workers));
    let sessions = Session::open_many(12, &Ask::new(stickyd.address)).await;
    let named = together(sessions.into_iter().map(|session| async move { (session.echo().await, session) })).await;
    let mut tunnels = Load::start(json!({"urls": [stickyd.url("")], "n": 12, "messages": 3, "keep": true}));
    tunnels.event("all-echoed").await;
    all_upgraded(&mut tunnels, 12).await;

    workers[1].close().await;
    // The tunnels of the closing worker go on.
    tunnels.echo(5).await;
    let status = tunnels.status().await;
    assert_eq!((&status["reconnects"], &status["workers"]["w2"]), (&json!(0), &json!(4)), "{status}");

    stickyd.kill();
    tunnels.event("all-disconnected").await;
    stickyd.start_again();
    tunnels.event("all-connected").await;
    tunnels.echo(3).await;
    let result = tunnels.stop().await;
    assert_eq!(result["reconnects"], 12, "{result}");
    assert_eq!(result["refusals"]["total"], 0, "{result}");
    assert_eq!(result["workers"].get("w2"), None, "it takes no new sessions: {result}");

    let mut ended = 0;
    for (worker, session) in named {
        match session.try_echo().await {
            Ok(name) => assert_eq!(name, worker),
            Err(answer) => {
                assert_eq!((worker.as_str(), answer.status), ("w2", 400), "{answer:?}");
                assert!(answer.body.contains("Session ID unknown"), "{answer:?}");
                ended += 1;
            }
        }
    }
    assert_eq!(ended, 4, "a worker that refuses connects gets no new requests");
}
