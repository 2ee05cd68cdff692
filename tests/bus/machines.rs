//! Two machines of a fleet, each with its own stickyd and workers: messages cross over a real Redis, which may fail.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Clients, Fleet};
use crate::support::cluster::SECRET;
use crate::support::proxy::Binary;
use crate::support::redis::Redis;
use crate::support::wait::{at_most, wait_for};

/// A machine with two workers.
async fn machine(name: &str, redis: &Redis) -> Fleet {
    let text = format!(
        "{SECRET}state_dir = \".\"\n[upstream.app]\nworkers = []\nallow_empty = true\n\
         [fleet]\nredis = {:?}\nname = {name:?}\n",
        redis.url()
    );
    let mut fleet = Fleet { stickyd: Binary::with(&text), workers: Vec::new(), variables: Vec::new() };
    for _ in 0..2 {
        let address = crate::support::proxy::free_address();
        let worker = fleet.unlisted(address).await;
        fleet.workers.push(worker);
    }
    fleet
}

/// Waits until the machine knows this many workers of the other one.
fn knows(machine: &Fleet, count: f64) {
    wait_for("the machine knows the workers of the other one", || {
        let known = machine.metric("stickyd_bus_fleet_workers");
        if known == count { Ok(()) } else { Err(known) }
    });
}

async fn two_machines() -> (Redis, Fleet, Fleet, Clients) {
    let redis = Redis::start();
    let (one, two) = (machine("edge-1", &redis).await, machine("edge-2", &redis).await);
    let all = one.workers.iter().chain(&two.workers);
    let urls: Vec<_> = all.map(|worker| format!("http://{}", worker.address)).collect();
    let (clients, workers) = Clients::connect(12, &urls, &[]).await;
    assert_eq!(workers, 4);
    knows(&one, 2.0);
    knows(&two, 2.0);
    (redis, one, two, clients)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_reaches_the_clients_of_both_machines() {
    let (redis, one, two, mut clients) = two_machines().await;
    let monitor = redis.monitor();
    for (n, worker) in one.workers.iter().chain(&two.workers).enumerate() {
        worker.ask(&format!("/emit?text=secret-words{n}"));
        assert_eq!(clients.ask(&format!("got secret-words{n} 12")).await["once"], 12, "from worker {n}");
        worker.ask(&format!("/emit?text=room{n}&room=red&binary=1"));
        assert_eq!(clients.ask(&format!("got room{n} 6")).await, json!({"once": 6, "total": 6, "red": 6}));
        let count = |path: &str| worker.ask(path).as_array().map(Vec::len);
        let counts = [count("/fetch"), count("/ids?room=red"), count("/ack?text=x"), count("/side?text=x")];
        assert_eq!(counts, [Some(12), Some(6), Some(12), Some(3)], "worker {n}");
    }
    one.workers[0].ask("/join?room=red&to=green");
    wait_for("the sockets have joined on both machines", || {
        two.workers[1].ask("/ids?room=green").as_array().map(Vec::len) == Some(6)
    });
    // Messages of the backend, too: the workers of the other machine are counted, and their clients answer.
    for machine in [&one, &two] {
        let (status, said) =
            machine.emit(&json!({"rooms": ["red"], "event": "news", "args": ["secret-words-emitted"]}));
        assert_eq!((status, &said["workers"], &said["sockets"]), (200, &json!(4), &json!(6)), "{said}");
    }
    let said = two.emit(&json!({"event": "question", "args": ["who"], "ack": true})).1;
    assert_eq!(said["acks"].as_array().map(Vec::len), Some(12), "{said}");
    // Redis sees neither a message nor a room, nor the name of the application.
    let seen = monitor.text();
    assert!(seen.contains("\"PUBLISH\""), "{seen}");
    for word in ["secret-words", "\"red\"", "green", "socket.io", "news"] {
        assert!(!seen.contains(word), "{word}");
    }
    let rejections = |fleet: &Fleet| fleet.workers.iter().all(|worker| worker.ask("/count")["rejections"] == 0);
    assert!(rejections(&one) && rejections(&two));
}

/// A worker knows its sockets by `socket.id`, and tells the stickyd of its machine; their connections are at another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_by_socket_id_reach_the_stickyd_that_has_the_socket() {
    let (redis, address) = (Redis::start(), crate::support::proxy::free_address());
    let start = |name: &str| {
        let text = format!(
            "{SECRET}state_dir = \".\"\n[upstream.app]\nworkers = [{{ address = \"{address}\", name = \"w1\" }}]\n\
             health = {{ kind = \"tcp\", interval = \"100ms\", timeout = \"5s\" }}\n\
             [fleet]\nredis = {:?}\nname = {name:?}\n",
            redis.url()
        );
        Fleet { stickyd: Binary::with(&text), workers: Vec::new(), variables: Vec::new() }
    };
    let (near, far) = (start("edge-1"), start("edge-2"));
    let worker = near.unlisted(address).await;
    wait_for("the worker is up", || far.metric("stickyd_worker_up{") == 1.0);
    let (_clients, workers) = Clients::connect(3, &[far.stickyd.url("")], &[]).await;
    assert_eq!(workers, 1);
    near.wait_linked(1.0);
    let ids: Vec<_> = worker.ask("/ids").as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 3);
    for id in &ids {
        wait_for("the stickyds know one another", || {
            let (status, said) = near.label(id, &json!({"labels": {"user": "ann"}}));
            if status == 200 { Ok(()) } else { Err(said) }
        });
    }
    assert_eq!(far.sockets("label.user=ann").len(), 3);
    assert_eq!(near.label("unknown-id", &json!({"labels": {"user": "ann"}})).0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_each_machine_is_as_alone() {
    let (mut redis, one, two, mut clients) = two_machines().await;
    for failure in ["killed", "stopped"] {
        if failure == "killed" {
            redis.stop()
        } else {
            redis.signal("STOP")
        }
        knows(&one, 0.0);
        knows(&two, 0.0);
        let began = Instant::now();
        one.workers[0].ask(&format!("/emit?text={failure}"));
        assert_eq!(clients.ask(&format!("got {failure} 6")).await["total"], 6, "the clients of one machine");
        let count = |path: &str| one.workers[0].ask(path).as_array().map(Vec::len);
        assert_eq!([count("/fetch"), count("/ack?text=x"), count("/side?text=x")], [Some(6), Some(6), Some(1)]);
        assert!(
            began.elapsed() < at_most(Duration::from_secs(5)),
            "nothing waits for the other machine: {:?}",
            began.elapsed()
        );
        if failure == "killed" {
            redis.start_again()
        } else {
            redis.signal("CONT")
        }
        knows(&one, 2.0);
        knows(&two, 2.0);
        two.workers[1].ask(&format!("/emit?text=after-{failure}"));
        assert_eq!(clients.ask(&format!("got after-{failure} 12")).await["once"], 12);
    }
    assert!(one.workers.iter().chain(&two.workers).all(|worker| worker.ask("/count")["rejections"] == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_dies_is_not_waited_for() {
    let (_redis, one, mut two, _clients) = two_machines().await;
    two.stickyd.kill();
    knows(&one, 0.0);
    let began = Instant::now();
    assert_eq!(one.workers[0].ask("/fetch").as_array().map(Vec::len), Some(6));
    assert!(began.elapsed() < at_most(Duration::from_secs(3)), "{:?}", began.elapsed());
    two.stickyd.start_again();
    knows(&one, 2.0);
    wait_for("all are listed", || one.workers[0].ask("/fetch").as_array().map(Vec::len) == Some(12));
}
