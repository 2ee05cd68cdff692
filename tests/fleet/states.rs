//! States of Redis that last or come back: paused, slow, evicting, loading, broken clusters, replicas, missing rights,
//! and a network that separates one stickyd from it.

#![allow(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp};
use tokio::sync::watch;

use super::failures::{Hole, survives};
use super::{Stickyds, config};
use crate::support::engines::{begin_session, path};
use crate::support::node::NodeServer;
use crate::support::proxy::{Binary, Proxy};
use crate::support::raw::Raw;
use crate::support::redis::Redis;
use crate::support::wait::{wait_for, wait_for_async, wait_within};

fn errors(stickyds: &Stickyds, kind: &str) -> f64 {
    stickyds.sum(&format!("stickyd_fleet_redis_errors_total{{kind=\"{kind}\"}}"))
}

#[tokio::test]
async fn redis_that_is_paused_costs_no_session() {
    let pause = |redis: &mut Redis| assert_eq!(redis.cli(&["client", "pause", "5000", "all"]), "OK");
    // The answer comes when the pause is over.
    let ends = |redis: &mut Redis| assert_eq!(redis.cli(&["ping"]), "PONG");
    let stickyds = survives(Redis::start(), pause, ends).await;
    assert!(errors(&stickyds, "timeout") > 0.0);
}

#[tokio::test]
async fn redis_that_loads_its_file_costs_no_session() {
    let redis = Redis::with(
        &[
            &["--save", "", "--appendonly", "no", "--enable-debug-command", "yes"][..],
            &["--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024"],
        ]
        .concat(),
    );
    let restart = |redis: &mut Redis| {
        assert_eq!(redis.cli(&["debug", "populate", "5000", "filler", "100"]), "OK");
        assert_eq!(redis.cli(&["save"]), "OK");
        redis.stop();
        redis.start_again();
        assert!(redis.cli(&["info", "persistence"]).contains("loading:1"), "the file is read for 10 s");
    };
    let loaded = |redis: &mut Redis| {
        wait_for("redis has read its file", || redis.cli(&["info", "persistence"]).contains("loading:0"));
    };
    let stickyds = survives(redis, restart, loaded).await;
    assert!(errors(&stickyds, "loading") > 0.0);
}

#[tokio::test]
async fn a_cluster_without_some_slots_costs_no_session() {
    let redis = Redis::with(&["--save", "", "--appendonly", "no", "--cluster-enabled", "yes"]);
    assert_eq!(redis.cli(&["cluster", "addslotsrange", "0", "16383"]), "OK");
    let state = |redis: &Redis, word: &str| {
        wait_for("the cluster has noticed", || {
            redis.cli(&["cluster", "info"]).contains(&format!("cluster_state:{word}"))
        });
    };
    state(&redis, "ok");
    let spoil = |redis: &mut Redis| {
        assert_eq!(redis.cli(&["cluster", "delslotsrange", "0", "100"]), "OK");
        state(redis, "fail");
    };
    let heal = |redis: &mut Redis| {
        assert_eq!(redis.cli(&["cluster", "addslotsrange", "0", "100"]), "OK");
        state(redis, "ok");
    };
    let stickyds = survives(redis, spoil, heal).await;
    assert!(errors(&stickyds, "clusterdown") > 0.0);
}

#[tokio::test]
async fn redis_that_evicts_costs_no_session_and_is_said() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(2, &[]).await);
    let text = |name: &str| format!("state_dir = \".\"\n{}", config(&workers, name, &format!("{:?}", redis.url()), ""));
    let binary = Binary::with(&text("said"));
    let stickyds = Stickyds::start(2, &workers, &format!("{:?}", redis.url()), "");
    stickyds.wait_until_redis_is(true);
    stickyds.all_take_new().await;
    let mut load = stickyds.keep(10).await;
    binary_uses(&redis, 3);
    let memory = redis.cli(&["info", "memory"]);
    let used =
        memory.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().trim().parse::<u64>().unwrap();
    assert_eq!(redis.cli(&["config", "set", "maxmemory-policy", "allkeys-lru"]), "OK");
    assert_eq!(redis.cli(&["config", "set", "maxmemory", &(used + 100_000).to_string()]), "OK");
    let filler = "x".repeat(20_000);
    wait_for("redis evicts", || {
        for number in 0..20 {
            redis.cli(&["set", &format!("filler:{number}"), &filler]);
        }
        let stats = redis.cli(&["info", "stats"]);
        stats.lines().any(|line| line.strip_prefix("evicted_keys:").is_some_and(|count| count.trim() != "0"))
    });
    load.echo(5).await;
    stickyds.run_whole(10, json!({"transports": ["polling"]})).await;
    // Each new connection looks at the memory, so that the test need not wait for the next look.
    redis.cli(&["client", "kill", "type", "normal"]);
    binary.says(&["the fleet's Redis", "pins are evicted: give the Redis more memory (maxmemory)"]);
    wait_for("each stickyd has counted it", || errors(&stickyds, "evicted") >= 2.0);
    redis.cli(&["config", "set", "maxmemory", "0"]);
    let before = stickyds.lookups("hit");
    wait_for_async("sessions are found in Redis again", async || {
        stickyds.run_whole(3, json!({"transports": ["polling"]})).await;
        stickyds.lookups("hit") > before
    })
    .await;
    super::stop_whole(load).await;
}

/// Waits until this many stickyds have shown themselves.
fn binary_uses(redis: &Redis, count: usize) {
    wait_for("all have shown themselves", || {
        let members = redis.keys("stickyd:{ctl}:m:").len();
        if members >= count { Ok(()) } else { Err(members) }
    });
}

#[tokio::test]
async fn a_replica_still_answers_lookups() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(2, &[]).await);
    let stickyds = Stickyds::start(2, &workers, &format!("{:?}", redis.url()), "lookup_timeout = \"1s\"");
    stickyds.wait_until_redis_is(true);
    stickyds.all_take_new().await;
    let sids: Vec<String> = (0..20).map(|_| begin_session(stickyds.0[0].address, "")).collect();
    wait_for("redis has the pins", || redis.keys("stickyd:p:").len() == sids.len());
    // A master that refuses writes, as a replica does.
    redis.cli(&["replicaof", "127.0.0.1", "1"]);
    begin_session(stickyds.0[0].address, "");
    begin_session(stickyds.0[1].address, "");
    wait_for("both have noticed", || {
        stickyds.0.iter().all(|one| one.metric("stickyd_fleet_redis_errors_total{kind=\"readonly\"}") >= 1.0)
    });
    let mut tasks = Vec::new();
    for sid in sids {
        let address = stickyds.0[1].address;
        // Each session is one lookup; the open poll is not waited for.
        let post =
            format!("POST {} HTTP/1.1\r\nHost: a\r\nOrigin: http://o\r\nContent-Length: 2\r\n\r\n40", path(&sid));
        tasks.push(tokio::task::spawn_blocking(move || Raw::connect(address).ask(&post).status()));
    }
    for task in tasks {
        assert_eq!(task.await.unwrap(), 200);
    }
    assert_eq!((stickyds.lookups("hit"), stickyds.lookups("open")), (20.0, 0.0), "reads go on");
}

#[tokio::test]
async fn a_refused_read_is_said_once_and_asked_again_later() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(2, &[]).await);
    let rights = ["+@all", "-get"];
    redis.cli(&[&["acl", "setuser", "edge", "on", ">pass", "~*", "&*"][..], &rights].concat());
    let url = format!("\"redis://edge:pass@{}\"", redis.address);
    let binary = Binary::with(&format!("state_dir = \".\"\n{}", config(&workers, "said", &url, "")));
    let stickyds = Stickyds::start(2, &workers, &url, "");
    stickyds.all_take_new().await;
    wait_for("the workers are used", || {
        Raw::connect(binary.address).get("/socket.io/?EIO=4&transport=polling").status() == 200
    });
    stickyds.wait_until_redis_is(true);
    // Sessions of the others, until the circuit is open.
    wait_for_async("no request waits any more", async || {
        stickyds.run_whole(10, json!({"transports": ["polling"]})).await;
        stickyds.0.iter().all(|one| super::metric_beginning(one, "stickyd_fleet_redis_up{shard=") == 0.0)
    })
    .await;
    let (began, before) = (std::time::Instant::now(), errors(&stickyds, "auth"));
    while began.elapsed() < Duration::from_secs(4) {
        stickyds.run_whole(5, json!({"transports": ["polling"]})).await;
    }
    // It is asked again after 30 s; on a very slow machine, that time has passed.
    if began.elapsed() < Duration::from_secs(25) {
        assert_eq!(errors(&stickyds, "auth"), before, "no command is tried meanwhile");
    }
    let sid = begin_session(stickyds.0[0].address, "");
    let post = format!("POST {} HTTP/1.1\r\nHost: a\r\nOrigin: http://o\r\nContent-Length: 2\r\n\r\n40", path(&sid));
    assert_eq!(Raw::connect(binary.address).ask(&post).status(), 200);
    let line = binary.says(&["the fleet's Redis has failed", "edge", "get", "stickyd fleet --acl"]);
    assert!(!line.contains("pass@"), "{line}");
    redis.cli(&["acl", "setuser", "edge", "+get"]);
    let hits = stickyds.lookups("hit");
    wait_within(Duration::from_secs(75), "sessions are found in Redis after the pause of 30 s", async || {
        stickyds.run_whole(3, json!({"transports": ["polling"]})).await;
        stickyds.lookups("hit") > hits
    })
    .await;
}

/// A way to Redis that keeps all answers back for a time.
struct SlowWay {
    address: SocketAddr,
    delay: watch::Sender<Duration>,
}

impl SlowWay {
    async fn before(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (delay, current) = watch::channel(Duration::ZERO);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(target).await else { continue };
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                tokio::spawn(pass(from_client, to_server, None));
                tokio::spawn(pass(from_server, to_client, Some(current.clone())));
            }
        });
        Self { address, delay }
    }
}

async fn pass(mut from: tcp::OwnedReadHalf, mut to: tcp::OwnedWriteHalf, delay: Option<watch::Receiver<Duration>>) {
    let mut buffer = vec![0; 65_536];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let pause = delay.as_ref().map_or(Duration::ZERO, |delay| *delay.borrow());
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_redis_costs_no_session_and_is_said() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(2, &[]).await);
    let way = SlowWay::before(redis.address).await;
    let url = format!("\"redis://{}\"", way.address);
    let binary = Binary::with(&format!("state_dir = \".\"\n{}", config(&workers, "said", &url, "")));
    let stickyds = Stickyds::start(2, &workers, &url, "");
    stickyds.wait_until_redis_is(true);
    stickyds.all_take_new().await;
    way.delay.send_replace(Duration::from_millis(150));
    stickyds.run_whole(20, json!({"transports": ["polling"]})).await;
    let waited = stickyds.lookups("timeout");
    assert!((1.0..=80.0).contains(&waited), "few requests wait: {waited}");
    binary.says(&["the fleet's Redis is slow", "latency_ms"]);
    way.delay.send_replace(Duration::ZERO);
    let before = stickyds.lookups("hit");
    wait_for_async("sessions are found in Redis again", async || {
        stickyds.run_whole(3, json!({"transports": ["polling"]})).await;
        stickyds.lookups("hit") > before
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_halves_of_a_fleet_go_on_alone() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(2, &[]).await);
    let hole = Hole::before(redis.address).await;
    let here = Proxy::with(&config(&workers, "here", &format!("{:?}", redis.url()), ""));
    let apart = Proxy::with(&config(&workers, "apart", &format!("\"redis://{}\"", hole.address), ""));
    let stickyds = Stickyds(vec![here, apart]);
    stickyds.wait_until_redis_is(true);
    stickyds.all_take_new().await;
    let members = |count: f64| move |proxy: &Proxy| (proxy.metric("stickyd_fleet_members") - count).abs() < 0.5;
    wait_for("both see two members", || stickyds.0.iter().all(members(2.0)));
    let mut load = stickyds.keep(10).await;
    hole.swallows.send_replace(true);
    load.echo(5).await;
    stickyds.run_whole(10, json!({"transports": ["polling"]})).await;
    wait_for("each half sees itself alone", || stickyds.0.iter().all(members(1.0)));
    let up: Vec<f64> =
        stickyds.0.iter().map(|proxy| super::metric_beginning(proxy, "stickyd_fleet_redis_up{shard=")).collect();
    assert_eq!(up, [1.0, 0.0], "only one half has its Redis");
    load.echo(5).await;
    hole.swallows.send_replace(false);
    let before = stickyds.lookups("hit");
    wait_for_async("sessions are found in Redis again, and both see two members", async || {
        stickyds.run_whole(3, json!({"transports": ["polling"]})).await;
        stickyds.lookups("hit") > before && stickyds.0.iter().all(members(2.0))
    })
    .await;
    super::stop_whole(load).await;
}

#[tokio::test]
async fn only_five_requests_wait_for_a_frozen_redis() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(2, &[]).await);
    let stickyds = Stickyds::start(2, &workers, &format!("{:?}", redis.url()), "");
    stickyds.wait_until_redis_is(true);
    stickyds.all_take_new().await;
    let sids: Vec<String> = (0..60).map(|_| begin_session(stickyds.0[0].address, "")).collect();
    wait_for("redis has the pins", || redis.keys("stickyd:p:").len() == sids.len());
    redis.signal("STOP");
    for sid in &sids {
        let post = format!("POST {} HTTP/1.1\r\nHost: a\r\nOrigin: http://o\r\nContent-Length: 2\r\n\r\n40", path(sid));
        let answer = Raw::connect(stickyds.0[1].address).ask(&post);
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }
    let (waited, went_on) = (stickyds.lookups("timeout"), stickyds.lookups("open"));
    assert!(waited <= 5.0 && went_on >= 55.0, "{waited} waited, {went_on} went on");
    redis.signal("CONT");
}
