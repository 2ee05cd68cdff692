//! Silent, late and deaf stickyds, two operators at once, and the rights that orders need in Redis.

use serde_json::json;

use super::{api, cli, command, edge, edges, polling_edges, states, wait_until_all_obey};
use crate::fleet::secrecy::grant;
use crate::fleet::tickets::AheadWay;
use crate::support::admin;
use crate::support::engines::many_sessions;
use crate::support::node::NodeServer;
use crate::support::redis::Redis;
use crate::support::wait::wait_for;

#[test]
fn a_frozen_stickyd_is_named_and_obeys_once_it_goes_on() {
    let (redis, _worker, all) = polling_edges(3);
    all[2].signal("STOP");
    // It would vanish from the list after 15 s, which a loaded machine may take.
    for member in redis.keys("stickyd:{ctl}:m:") {
        redis.cli(&["persist", &member]);
    }
    let said = cli(&all[0], &["drain", "app/one"]);
    let said = said.is(1, &["edge-1: app/one is in drain", "edge-2: app/one is in drain"]);
    assert!(said.out.ends_with("2 of 3 stickyds answered: edge-3 was silent for 5 s\n"), "{}", said.all());
    let said = cli(&all[0], &["drain", "app/one", "--wait"]);
    said.is(1, &["drained at the stickyds that answered: they have no session left", "edge-3 was silent for 5 s"]);
    all[2].signal("CONT");
    wait_for("the order is done there, too", || states(&all) == ["drain", "drain", "drain"]);
}

#[test]
fn too_many_questions_at_once_are_refused() {
    let (redis, _worker, all) = polling_edges(2);
    all[1].signal("STOP");
    // It would vanish from the list after 15 s, which a loaded machine may take.
    for member in redis.keys("stickyd:{ctl}:m:") {
        redis.cli(&["persist", &member]);
    }
    // Each of them waits for the silent one for 5 s.
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let ask = || {
            let (status, said) = api(&all[0], "path=/api/v1/stats", None);
            assert!(status == 200 || said["error"].as_str().unwrap().contains("too many questions"), "{said}");
            status
        };
        let asked: Vec<_> = (0..6).map(|_| scope.spawn(ask)).collect();
        asked.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(statuses.contains(&503), "{statuses:?}");
    assert!(statuses.iter().filter(|status| **status == 200).count() >= 4, "{statuses:?}");
    all[1].signal("CONT");
    wait_for("the bound counts only what is under way", || api(&all[0], "path=/api/v1/stats", None).0 == 200);
}

#[test]
fn a_stickyd_that_joins_late_takes_on_the_states() {
    let (redis, worker, mut all) = polling_edges(1);
    let address = worker.address.to_string();
    cli(&all[0], &["drain", "app/one", "--grace", "1h"]).is(0, &["1 of 1 stickyds answered"]);
    all.push(edge(&address, "edge-2", &redis.url(), ""));
    wait_for("the one that joins drains, too", || states(&all) == ["drain", "drain"]);
    let left = admin::worker(&all[1], "one")["drain"]["ends_in_s"].as_u64().unwrap();
    assert!((3_000..=3_600).contains(&left), "the time that is left counts from the order on: {left}");
    let events = command(&all[1], &["events", "--kind", "operator"]);
    events.is(0, &["app/one is set to drain, as", "had ordered for the fleet by way of edge-1"]);
    // A state that the file of one stickyd sets differently is not taken over.
    let own = super::edge_text(&address, "edge-3", &redis.url(), "")
        .replace("name = \"one\" }", "name = \"one\", admin = \"maint\" }");
    let own = crate::support::proxy::Binary::with(&own);
    wait_until_all_obey(&own, 3);
    assert_eq!(states(&[own]), ["maint"]);
    wait_until_all_obey(&all[0], 2);
    // Ready is a state, too: it is not left to chance which order a stickyd that joins has read.
    cli(&all[1], &["ready", "app/one"]).is(0, &["edge-1: app/one is ready"]);
    let mut last = vec![edge(&address, "edge-4", &redis.url(), "")];
    wait_until_all_obey(&last[0], 3);
    last.append(&mut all);
    assert_eq!(states(&last), ["ready", "ready", "ready"]);
}

#[test]
fn a_stickyd_without_control_is_deaf_and_named() {
    let (redis, worker) = (Redis::start(), many_sessions("one"));
    let address = worker.address.to_string();
    let all = [edge(&address, "edge-1", &redis.url(), ""), edge(&address, "edge-2", &redis.url(), "control = false")];
    let deaf = "1 of 2 stickyds answered: edge-2 takes no orders (control = false)\n";
    let said = wait_for("edge-2 is named", || {
        let said = cli(&all[0], &["maint", "app/one"]);
        if said.out.ends_with(deaf) { Ok(said) } else { Err(said.all()) }
    });
    said.is(1, &[]);
    assert_eq!(states(&all), ["maint", "ready"]);
    wait_until_all_obey(&all[1], 2);
    // It may give orders, and does its own.
    cli(&all[1], &["drain", "app/one"]).is(0, &["2 of 2 stickyds answered"]);
    assert_eq!(states(&all), ["drain", "drain"]);
}

#[test]
fn the_api_says_which_stickyd_answered_what() {
    let (mut redis, worker, all) = polling_edges(1);
    let (status, said) = api(&all[0], "path=/api/v1/stats", None);
    assert_eq!((status, &said["answers"][0]["own"], &said["asked"]), (200, &json!(true), &json!(1)));
    let maint = json!({"path": "/api/v1/workers/app/one/maint", "at": said["answers"][0]["node"]}).to_string();
    let (status, said) = api(&all[0], "", Some(&maint));
    assert_eq!((status, &said["answers"][0]["answer"]["admin"]), (200, &json!("maint")));
    assert_eq!(redis.keys("stickyd:{ctl}:admin").len(), 0, "an order for one stickyd is not kept for the others");
    assert_eq!(api(&all[0], "", Some("{\"path\": \"/api/v1/reload\"}")).0, 422);
    assert_eq!(api(&all[0], "path=/api/v1/stats&at=edge-9", None).0, 404);
    let twin = edge(&worker.address.to_string(), "edge-1", &redis.url(), "");
    wait_until_all_obey(&twin, 2);
    assert_eq!(api(&all[0], "path=/api/v1/stats&at=edge-1", None).0, 409);
    let ready = json!({"path": "/api/v1/workers/app/one/ready", "at": "edge-1"}).to_string();
    assert_eq!(api(&all[0], "", Some(&ready)).0, 409);
    redis.stop();
    assert_eq!((api(&all[0], "path=/api/v1/stats", None).0, api(&all[0], "", Some(&maint)).0), (503, 503));
}

#[test]
fn two_operators_at_once_leave_all_stickyds_in_one_state() {
    let (redis, worker, mut all) = polling_edges(2);
    std::thread::scope(|scope| {
        for (edge, word) in all.iter().zip(["maint", "ready"]) {
            scope.spawn(move || {
                for _ in 0..8 {
                    let said = cli(edge, &[word, "app/one"]);
                    // An order may be overtaken by a later one, which is said.
                    assert!(
                        said.code == Some(0) || said.all().contains("a later order of the fleet"),
                        "{}",
                        said.all()
                    );
                }
            });
        }
    });
    let seen = states(&all);
    assert_eq!(seen[0], seen[1]);
    all.push(edge(&worker.address.to_string(), "edge-3", &redis.url(), ""));
    wait_for("one that joins has the same state", || {
        let all = states(&all);
        if all.iter().all(|state| *state == seen[0]) { Ok(()) } else { Err(all) }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_hold_although_the_clock_of_redis_is_set_back() {
    let (redis, worker) = (Redis::start(), many_sessions("one"));
    let way = AheadWay::before(redis.address).await;
    way.hours.send_replace(1_000);
    tokio::task::block_in_place(|| {
        let (address, url) = (worker.address.to_string(), format!("redis://{}", way.address));
        let mut all = edges(2, &address, &url);
        cli(&all[0], &["drain", "app/one", "--grace", "1h"]).is(0, &["2 of 2 stickyds answered"]);
        way.hours.send_replace(0);
        // Each new connection asks for the time, so that the test need not wait for the next heartbeat.
        redis.cli(&["client", "kill", "type", "normal"]);
        for (edge, word) in [(1, "ready"), (0, "maint"), (1, "ready"), (0, "maint")] {
            // The stickyds are told apart from silent ones once each knows the time.
            wait_for("all do it", || {
                let said = cli(&all[edge], &[word, "app/one"]);
                if said.code == Some(0) && said.out.contains("2 of 2") { Ok(()) } else { Err(said.all()) }
            });
            assert_eq!(states(&all), [word, word]);
        }
        // One that knows only what Redis has takes over the last one, and its orders hold as well.
        all.push(edge(&address, "edge-3", &url, ""));
        wait_for("one that joins has the state", || states(&all) == ["maint", "maint", "maint"]);
        wait_until_all_obey(&all[2], 3);
        cli(&all[2], &["drain", "app/one", "--grace", "1h"]).is(0, &["3 of 3 stickyds answered"]);
        assert_eq!(states(&all), ["drain", "drain", "drain"]);
        // What is left of a drain counts from when it was ordered, not from the time that orders it.
        all.push(edge(&address, "edge-4", &url, ""));
        wait_for("one that joins drains, too", || states(&all)[3] == "drain");
        let left = admin::worker(&all[3], "one")["drain"]["ends_in_s"].as_u64().unwrap();
        assert!((3_000..=3_600).contains(&left), "{left}");
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rights_that_are_printed_suffice_for_orders() {
    let (redis, worker) = (Redis::start(), many_sessions("one"));
    let workers = NodeServer::start_many(1, &[]).await;
    tokio::task::block_in_place(|| {
        grant(&[&redis], &workers);
        let address = worker.address.to_string();
        let all = edges(2, &address, &format!("redis://edge:pass@{}", redis.address));
        cli(&all[0], &["drain", "app/one"]).is(0, &["2 of 2 stickyds answered"]);
        assert_eq!(redis.cli(&["acl", "log"]), "", "what Redis has refused");
        // Nothing is granted that orders do not need.
        let used = redis.cli(&["info", "commandstats"]);
        for word in ["rpush", "lpop", "hset", "hgetall", "expire", "publish", "subscribe", "zadd", "mget"] {
            assert!(used.contains(&format!("cmdstat_{word}:")), "{word} is not used: {used}");
        }
        for word in ["rpush", "hset", "hgetall"] {
            assert_eq!(redis.cli(&["acl", "setuser", "edge", &format!("-{word}")]), "OK");
            cli(&all[0], &["ready", "app/one"]).is(i32::from(word != "hgetall"), &[]);
            assert_eq!(redis.cli(&["acl", "setuser", "edge", &format!("+{word}")]), "OK");
        }
    });
}
