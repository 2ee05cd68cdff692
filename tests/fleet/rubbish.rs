//! Wrong data in Redis: random bytes, other types, values of another fleet, and values moved or replayed by a program
//! that may write there. None of it costs a session.

#![allow(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]

use std::time::Duration;

use serde_json::json;

use super::{Stickyds, config};
use crate::support::engines::{begin_session, path};
use crate::support::load::Load;
use crate::support::node::NodeServer;
use crate::support::proxy::Proxy;
use crate::support::raw::Raw;
use crate::support::redis::Redis;
use crate::support::wait::{wait_for, wait_for_async};

#[tokio::test]
async fn rubbish_in_redis_costs_no_session() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(3, &[]).await);
    let stickyds = Stickyds::start(3, &workers, &format!("{:?}", redis.url()), "");
    stickyds.wait_until_redis_is(true);
    stickyds.all_take_new().await;
    let load = tokio::spawn({
        let options = stickyds.clients(50, &json!({"messages": 20}));
        async move { Load::run(options).await }
    });
    let (mut spoilt, mut seed) = (0_u32, 7_u32);
    while !load.is_finished() {
        for key in redis.keys("stickyd:") {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let rubbish: String =
                (0..seed % 97).map(|i| char::from(seed.rotate_left(i).to_le_bytes()[0].max(1))).collect();
            match seed >> 28 {
                0..3 => _ = redis.cli(&["del", &key]),
                // A value of another type.
                3..6 => {
                    redis.cli(&["del", &key]);
                    redis.cli(&["rpush", &key, &rubbish]);
                }
                _ => _ = redis.cli(&["set", &key, &rubbish, "ex", "60"]),
            }
            spoilt += 1;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let result = load.await.unwrap();
    assert_eq!((&result["refusals"]["total"], &result["reconnects"]), (&json!(0), &json!(0)), "{result}");
    assert_eq!(result["echoes"]["lost"], 0, "{result}");
    assert!(spoilt > 0);
    redis.cli(&["flushall"]);
    let before = stickyds.lookups("hit");
    wait_for_async("sessions are found in Redis again", async || {
        stickyds.run_whole(3, json!({"transports": ["polling"]})).await;
        stickyds.lookups("hit") > before
    })
    .await;
}

/// Sends a message of a session to a stickyd; whether its worker took it.
fn is_taken(proxy: &Proxy, sid: &str) -> bool {
    let post = format!("POST {} HTTP/1.1\r\nHost: a\r\nOrigin: http://o\r\nContent-Length: 2\r\n\r\n40", path(sid));
    Raw::connect(proxy.address).ask(&post).status() == 200
}

#[tokio::test]
async fn a_forged_pin_is_not_believed() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(3, &[]).await);
    let stickyds = Stickyds::start(2, &workers, &format!("{:?}", redis.url()), "lookup_timeout = \"1s\"");
    stickyds.wait_until_redis_is(true);
    stickyds.all_take_new().await;
    let sids: Vec<String> = (0..8).map(|_| begin_session(stickyds.0[0].address, "")).collect();
    wait_for("redis has the pins", || redis.keys("stickyd:p:").len() == sids.len());
    // Each value is moved to the key of another session; then some keys get another type.
    let keys = redis.keys("stickyd:p:");
    for pair in keys.chunks(2) {
        assert_eq!(redis.cli(&["rename", &pair[0], "aside"]), "OK");
        assert_eq!(redis.cli(&["rename", &pair[1], &pair[0]]), "OK");
        assert_eq!(redis.cli(&["rename", "aside", &pair[1]]), "OK");
    }
    redis.cli(&["del", &keys[0]]);
    redis.cli(&["rpush", &keys[0], "another type"]);
    for sid in &sids {
        assert!(is_taken(&stickyds.0[1], sid), "{sid}");
    }
    assert_eq!((stickyds.lookups("bad_seal"), stickyds.lookups("hit")), (8.0, 0.0));
    // What was found by asking replaces what was spoilt.
    wait_for("redis has the pins again", || redis.cli(&["type", &keys[0]]) == "string");
}

#[tokio::test]
async fn a_value_that_is_replayed_costs_one_refusal() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(2, &[]).await);
    let stickyds = Stickyds::start(2, &workers, &format!("{:?}", redis.url()), "lookup_timeout = \"1s\"");
    stickyds.wait_until_redis_is(true);
    stickyds.all_take_new().await;
    let sid = begin_session(stickyds.0[0].address, "");
    wait_for("redis has the pin", || redis.keys("stickyd:p:").len() == 1);
    let key = redis.keys("stickyd:p:").remove(0);
    assert_eq!(redis.cli(&["copy", &key, "kept"]), "1");
    // The client says goodbye, and the pin goes.
    let goodbye = format!("POST {} HTTP/1.1\r\nHost: a\r\nOrigin: http://o\r\nContent-Length: 1\r\n\r\n1", path(&sid));
    assert_eq!(Raw::connect(stickyds.0[0].address).ask(&goodbye).status(), 200);
    wait_for("the pin is gone", || redis.keys("stickyd:p:").is_empty());
    assert_eq!(redis.cli(&["copy", "kept", &key]), "1");
    assert!(!is_taken(&stickyds.0[1], &sid), "the session is over");
    assert_eq!((stickyds.lookups("hit"), stickyds.lookups("wrong")), (1.0, 1.0));
    wait_for("the replayed value is gone", || redis.keys("stickyd:p:").is_empty());
}

#[tokio::test]
async fn two_fleets_in_one_redis_do_not_meet() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(2, &[]).await);
    let url = format!("{:?}", redis.url());
    let ours = Stickyds::start(2, &workers, &url, "");
    let theirs =
        |name: &str| Proxy::with(&config(&workers, name, &url, "").replace("0123456789abcdef", "fedcba9876543210"));
    let theirs = Stickyds(vec![theirs("other-1"), theirs("other-2")]);
    for fleet in [&ours, &theirs] {
        fleet.wait_until_redis_is(true);
        fleet.all_take_new().await;
    }
    for fleet in [&ours, &theirs] {
        fleet.run_whole(10, json!({"transports": ["polling"]})).await;
        let found = (fleet.lookups("hit"), fleet.lookups("bad_seal"), fleet.lookups("wrong"));
        assert!(found.0 > 0.0 && found.1 == 0.0 && found.2 == 0.0, "{found:?}");
    }
}
