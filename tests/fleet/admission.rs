//! Sessions whose token comes in a CONNECT packet, when their requests come to several stickyds.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Stickyds, config};
use crate::support::engines::path;
use crate::support::node::{NodeServer, Worker};
use crate::support::proxy::Proxy;
use crate::support::raw::Raw;
use crate::support::redis::Redis;
use crate::support::tokens::{SECRET, token};
use crate::support::wait::{wait_for, wait_for_async};

async fn started(workers: &[Worker], redis: &Redis) -> Stickyds {
    let more = format!(
        "lookup_timeout = \"1s\"\n[[route]]\nupstream = \"app\"\n[route.jwt]\nsecret = \"{SECRET}\"\nfrom = [\"auth:token\"]\n"
    );
    let url = format!("{:?}", redis.url());
    let stickyds = Stickyds(["a", "b"].map(|name| Proxy::with(&config(workers, name, &url, &more))).into());
    stickyds.wait_until_redis_is(true);
    stickyds.all_take_new().await;
    stickyds
}

/// Begins a session, and sends nothing in it.
fn begin(address: SocketAddr) -> String {
    let answer = Raw::connect(address).get("/socket.io/?EIO=4&transport=polling");
    let open: Value = serde_json::from_str(&answer.text()[1..]).unwrap();
    open["sid"].as_str().unwrap().to_owned()
}

fn post(address: SocketAddr, sid: &str, body: &str) -> u16 {
    let head = format!("POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", path(sid), body.len());
    Raw::connect(address).ask(&format!("{head}{body}")).status()
}

fn connect_packet() -> String {
    format!("40{}", json!({"token": token(json!({"sub": "u"}))}))
}

/// Number of sessions that owe a CONNECT packet, as Redis has it.
fn owing(redis: &Redis) -> usize {
    redis.keys("stickyd:w:").len()
}

/// Uses the session on these stickyds until the time is over in which a CONNECT packet has to come.
fn goes_on(proxies: &[&Proxy], sid: &str) {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(12) {
        for proxy in proxies {
            assert_eq!((polls(proxy, sid), post(proxy.address, sid, "3")), (200, 200), "{:?}", begun.elapsed());
        }
    }
}

fn polls(proxy: &Proxy, sid: &str) -> u16 {
    Raw::connect(proxy.address).get(&path(sid)).status()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_found_on_another_stickyd_is_cut_without_connect() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(1, &["--ping-interval", "300"]).await);
    let stickyds = started(&workers, &redis).await;
    let [a, b] = &stickyds.0[..] else { panic!() };
    let sid = begin(a.address);
    wait_for("Redis knows that it owes a packet", || owing(&redis) == 1);
    assert_eq!(polls(b, &sid), 200, "a ping of the worker");
    assert_eq!(post(b.address, &sid, "3"), 200);
    wait_for_async("b ends the session", async || {
        let _ = post(b.address, &sid, "3");
        polls(b, &sid) == 400
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_another_stickyd_admits_goes_on_everywhere() {
    for first in [0, 1] {
        let (redis, workers) = (Redis::start(), NodeServer::start_many(1, &["--ping-interval", "300"]).await);
        let stickyds = started(&workers, &redis).await;
        let [a, b] = &stickyds.0[..] else { panic!() };
        let sid = begin(a.address);
        wait_for("Redis knows that it owes a packet", || owing(&redis) == 1);
        for proxy in [a, b] {
            assert_eq!(polls(proxy, &sid), 200, "each stickyd knows the session");
            assert_eq!(post(proxy.address, &sid, "3"), 200);
        }
        assert_eq!(post(stickyds.0[first].address, &sid, &connect_packet()), 200);
        wait_for("Redis knows that it has come", || owing(&redis) == 0);
        goes_on(&[a, b], &sid);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_no_session_is_cut_that_may_be_admitted() {
    let (mut redis, workers) = (Redis::start(), NodeServer::start_many(1, &["--ping-interval", "300"]).await);
    let stickyds = started(&workers, &redis).await;
    let [a, b] = &stickyds.0[..] else { panic!() };
    let sid = begin(a.address);
    assert_eq!((polls(a, &sid), post(a.address, &sid, "3")), (200, 200));
    redis.stop();
    stickyds.wait_until_redis_is(false);
    assert_eq!(post(b.address, &sid, &connect_packet()), 200);
    goes_on(&[a], &sid);
}
