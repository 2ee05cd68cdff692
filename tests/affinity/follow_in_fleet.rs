//! Ordinary requests that name a Socket.IO session of another stickyd go to its worker, as Redis says.

use std::time::Instant;

use serde_json::Value;

use super::follow::{FOLLOW, led, pool};
use super::{Pool, ask, decision};
use crate::support::proxy::{Binary, Proxy};
use crate::support::raw::Raw;
use crate::support::redis::Redis;
use crate::support::wait::wait_for;

/// Where Redis has the other names of sessions.
const NAMES: &str = "stickyd:a:";

/// Configuration of a stickyd of a fleet.
fn text(pool: &Pool, redis: &str, name: &str, more: &str) -> String {
    format!(
        "secret = \"0123456789abcdef0123456789abcdef\"\n{}{FOLLOW}[fleet]\nredis = {redis:?}\nname = \"{name}\"\n\
         lookup_timeout = \"1s\"\n{more}",
        pool.upstream("[\"socket.io\", \"address\"]")
    )
}

/// Two stickyds of a fleet, which have seen each other.
fn two(pool: &Pool, redis: &str, more: &str) -> [Proxy; 2] {
    let start = |name: &str| Proxy::with(&text(pool, redis, name, more));
    let both = [start("edge-1"), start("edge-2")];
    wait_for("each has seen the other", || both.iter().all(|one| one.metric("stickyd_fleet_members") > 1.5));
    both
}

fn lookups(proxy: &Proxy, result: &str) -> f64 {
    proxy.metric(&format!("stickyd_fleet_lookups_total{{result=\"{result}\"}}"))
}

/// Begins a session; its worker and its sid.
fn begin(proxy: &Proxy) -> (String, String) {
    let opened = ask(proxy, "GET", "/socket.io/?EIO=4&transport=polling", "", "");
    (decision(&opened).0, opened.text().split('"').nth(3).unwrap().to_owned())
}

/// The first poll of a session, which connects its two sockets.
fn poll(proxy: &Proxy, sid: &str) {
    let polled = ask(proxy, "GET", &format!("/socket.io/?EIO=4&transport=polling&sid={sid}"), "", "");
    assert!(polled.text().contains("socket-"), "{}", polled.text());
}

fn all_by(proxy: &Proxy, id: &str, why: &str) -> bool {
    led(proxy, id).iter().all(|(_, said)| said == why)
}

#[test]
fn every_id_of_a_session_is_known_at_the_other_stickyd() {
    let (pool, redis) = (pool(), Redis::start());
    let monitor = redis.monitor();
    let [a, b] = two(&pool, &redis.url(), "");
    let sessions: Vec<_> = (0..3).map(|_| begin(&a)).collect();
    sessions.iter().for_each(|(_, sid)| poll(&a, sid));
    wait_for("redis has all names", || (redis.keys("stickyd:p:").len(), redis.keys(NAMES).len()) == (3, 6));
    let (mut ids, mut owners) = (Vec::new(), Vec::new());
    for (owner, sid) in &sessions {
        let follows = [(owner.clone(), "follow".to_owned()), (owner.clone(), "follow".to_owned())];
        for id in [sid.clone(), format!("/chat#{sid}"), format!("socket-{sid}"), format!("chat-{sid}")] {
            assert_eq!(led(&b, &id), follows, "{id}");
            ids.push(id);
        }
        owners.push(owner);
    }
    owners.sort();
    assert_eq!(owners, ["w1", "w2", "w3"]);
    let (hits, failed) = (lookups(&b, "hit"), ["timeout", "open", "bad_seal"].map(|result| lookups(&b, result)));
    assert!((9.0..=24.0).contains(&hits) && failed == [0.0; 3], "{hits} found, {failed:?}");
    assert!(all_by(&b, "unknown", "address"));
    assert_eq!(lookups(&a, "hit"), 0.0, "what is pinned here is never looked up");
    wait_for("redis was asked", || monitor.text().contains("\"GET\" \"stickyd:a:"));
    let seen = monitor.text();
    for id in ids {
        assert!(!seen.contains(&id), "Redis has seen {id}");
    }
}

/// What a stickyd explains about an id: the reason, and the worker.
fn explained(binary: &Binary, id: &str, kind: &str) -> (String, Option<String>) {
    let id = id.replace('#', "%23");
    let path = format!("/api/v1/explain?sid={id}&kind={kind}&address=127.0.0.1");
    let answer: Value = serde_json::from_slice(&Raw::connect_unix(&binary.admin()).get(&path).body).unwrap();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    (text(&answer["now"]["why"]).unwrap_or_else(|| panic!("{answer}")), text(&answer["now"]["worker"]))
}

#[test]
fn ids_of_sockets_are_explained_at_both_stickyds() {
    let (pool, redis) = (pool(), Redis::start());
    let [a, b] = ["edge-1", "edge-2"].map(|name| {
        let text = text(&pool, &redis.url(), name, "");
        Binary::with(&format!("state_dir = \".\"\n{text}"))
    });
    let get = |binary: &Binary, target: &str| Raw::connect(binary.address).get(target);
    let opened = get(&a, "/socket.io/?EIO=4&transport=polling");
    let (owner, sid) = (decision(&opened).0, opened.text().split('"').nth(3).unwrap().to_owned());
    let session = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
    assert!(get(&a, &session).text().contains("socket-"));
    wait_for("redis has all names", || (redis.keys("stickyd:p:").len(), redis.keys(NAMES).len()) == (1, 2));
    let ids = [sid.clone(), format!("/chat#{sid}"), format!("socket-{sid}"), format!("chat-{sid}")];
    let follow = ("follow".to_owned(), Some(owner.clone()));
    wait_for("edge-2 reads Redis", || explained(&b, &sid, "request") == follow);
    for (binary, of_sid) in [(&a, "pinned"), (&b, "shared")] {
        for id in &ids {
            assert_eq!(explained(binary, id, "request"), follow, "{id}");
        }
        assert_eq!(explained(binary, &sid, "session"), (of_sid.to_owned(), Some(owner.clone())));
        assert_eq!(explained(binary, &ids[2], "session"), follow);
        assert_eq!(explained(binary, "unknown", "request").0, "hash");
        assert_eq!(explained(binary, "unknown", "session").0, "unpinned");
        for result in ["hit", "miss", "bad_seal"] {
            let series = format!("stickyd_fleet_lookups_total{{result=\"{result}\"}}");
            assert_eq!(crate::support::admin::metric(binary, &series), 0.0, "an operator's look counts nothing");
        }
    }
    // What is said is what happens.
    let (worker, why, _) = decision(&get(&b, &format!("/page?socketId={}", ids[2])));
    assert_eq!((worker, why), (owner, "follow".to_owned()));
    // Once the session is over, no name of it leads anywhere.
    let goodbye = format!("POST {session} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n1");
    assert_eq!(Raw::connect(a.address).ask(&goodbye).status(), 200);
    wait_for("the pin is gone", || redis.keys("stickyd:p:").is_empty());
    for (binary, id) in [(&a, &ids[3]), (&b, &ids[3]), (&a, &sid), (&b, &sid)] {
        assert_eq!(explained(binary, id, "request").0, "hash", "{id}");
    }
}

#[test]
fn a_name_is_asked_for_once_in_a_while() {
    let (pool, redis) = (pool(), Redis::start());
    let [a, b] = two(&pool, &redis.url(), "");
    let (_, sid) = begin(&a);
    poll(&a, &sid);
    wait_for("redis has all names", || redis.keys(NAMES).len() == 2);
    let began = Instant::now();
    for _ in 0..30 {
        assert!(all_by(&b, &format!("socket-{sid}"), "follow"));
    }
    let seconds = u32::try_from(began.elapsed().as_secs()).unwrap();
    assert!(lookups(&b, "hit") <= f64::from(1 + seconds / 4), "{} in {seconds} s", lookups(&b, "hit"));
    // Once the session itself is pinned here, its names are kept for good. Of an answer to a POST, none is learned.
    let packet = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
    assert_eq!(ask(&b, "POST", &packet, "", "3").status(), 200);
    let id = format!("chat-{sid}");
    assert!(all_by(&b, &id, "follow"));
    let known = lookups(&b, "hit");
    for _ in 0..5 {
        assert!(all_by(&b, &id, "follow"));
    }
    assert_eq!(lookups(&b, "hit"), known);
}

#[test]
fn a_session_that_is_over_leads_nowhere() {
    let (pool, redis) = (pool(), Redis::start());
    let [a, b] = two(&pool, &redis.url(), "");
    let (_, sid) = begin(&a);
    poll(&a, &sid);
    wait_for("redis has all names", || redis.keys(NAMES).len() == 2);
    let goodbye = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
    assert_eq!(ask(&a, "POST", &goodbye, "", "1").status(), 200);
    wait_for("the pin is gone", || redis.keys("stickyd:p:").is_empty());
    for id in [&sid, &format!("socket-{sid}")] {
        assert!(all_by(&b, id, "address"), "{id}");
    }
}

#[test]
fn without_redis_requests_are_placed_as_without_a_fleet() {
    let (pool, mut redis) = (pool(), Redis::start());
    let [a, b] = two(&pool, &redis.url(), "");
    let (_, sid) = begin(&a);
    poll(&a, &sid);
    wait_for("redis has all names", || redis.keys(NAMES).len() == 2);
    redis.stop();
    let up = format!("stickyd_fleet_redis_up{{shard=\"{}\"}}", redis.url());
    wait_for("both have noticed", || [&a, &b].iter().all(|one| one.metric(&up) < 0.5));
    let id = format!("socket-{sid}");
    assert!(all_by(&b, &id, "address") && all_by(&a, &id, "follow"));
    assert!(lookups(&b, "open") >= 1.0 && lookups(&b, "timeout") < 0.5);
    redis.start_again();
    wait_for("both use it again", || [&a, &b].iter().all(|one| one.metric(&up) > 0.5));
    // The Redis is empty. What the worker names once more is stored again, and so is the pin of a new session.
    let (owner, sid) = begin(&a);
    poll(&a, &sid);
    wait_for("redis has the names again", || redis.keys(NAMES).len() == 2);
    let id = format!("chat-{sid}");
    wait_for("the session is found again", || {
        led(&b, &id).iter().all(|one| *one == (owner.clone(), "follow".to_owned()))
    });
}

#[test]
fn a_forged_name_leads_nowhere() {
    let (pool, redis) = (pool(), Redis::start());
    let [a, b] = two(&pool, &redis.url(), "");
    let (_, sid) = begin(&a);
    poll(&a, &sid);
    wait_for("redis has all names", || redis.keys(NAMES).len() == 2);
    let keys = redis.keys(NAMES);
    // One has the value of the other, which has rubbish.
    assert_eq!(redis.cli(&["rename", &keys[0], &keys[1]]), "OK");
    assert_eq!(redis.cli(&["set", &keys[0], "rubbish"]), "OK");
    for id in [format!("socket-{sid}"), format!("chat-{sid}")] {
        assert!(all_by(&b, &id, "address"), "{id}");
    }
    assert!(lookups(&b, "bad_seal") >= 2.0 && lookups(&b, "hit") < 0.5);
    redis.cli(&["del", &keys[0]]);
    redis.cli(&["rpush", &keys[0], "another type"]);
    wait_for("another type is no better", || {
        assert!(all_by(&b, &format!("socket-{sid}"), "address") && all_by(&b, &format!("chat-{sid}"), "address"));
        lookups(&b, "bad_seal") >= 4.0
    });
}

#[test]
fn without_shared_pins_no_name_is_stored() {
    let (pool, redis) = (pool(), Redis::start());
    let [a, b] = two(&pool, &redis.url(), "pins = false\n");
    let (_, sid) = begin(&a);
    poll(&a, &sid);
    let id = format!("socket-{sid}");
    assert!(all_by(&b, &id, "address") && all_by(&a, &id, "follow"));
    assert!(redis.keys(NAMES).is_empty());
}
