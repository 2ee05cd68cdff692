//! Redis in every bad state: no session is lost, and it is used again once it is well.

#![allow(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]

use std::time::Duration;

use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{Stickyds, stop_whole};
use crate::support::engines::path;
use crate::support::node::NodeServer;
use crate::support::raw::Raw;
use crate::support::redis::Redis;
use crate::support::wait::{wait_for, wait_for_async};

/// Runs polling clients over three stickyds while Redis becomes bad and well again: no session is lost, and pins are
/// found again.
pub(super) async fn survives(
    mut redis: Redis,
    spoil: impl FnOnce(&mut Redis),
    heal: impl FnOnce(&mut Redis),
) -> Stickyds {
    let workers = NodeServer::start_many(3, &[]).await;
    let stickyds = Stickyds::start(3, &workers, &format!("{:?}", redis.url()), "");
    stickyds.wait_until_redis_is(true);
    stickyds.all_take_new().await;
    let mut load = stickyds.keep(12).await;
    spoil(&mut redis);
    load.echo(5).await;
    stickyds.run_whole(12, json!({"transports": ["polling"]})).await;
    heal(&mut redis);
    load.echo(2).await;
    let before = stickyds.lookups("hit");
    wait_for_async("sessions are found in Redis again", async || {
        stickyds.run_whole(3, json!({"transports": ["polling"]})).await;
        stickyds.lookups("hit") > before
    })
    .await;
    stop_whole(load).await;
    stickyds
}

#[tokio::test]
async fn redis_that_ends_costs_no_session() {
    survives(Redis::start(), Redis::stop, Redis::start_again).await;
}

#[tokio::test]
async fn redis_that_is_frozen_costs_no_session() {
    let stickyds = survives(Redis::start(), |redis| redis.signal("STOP"), |redis| redis.signal("CONT")).await;
    let waited = stickyds.lookups("timeout");
    assert!(waited <= 80.0, "few requests wait for a frozen Redis: {waited}");
    // On a busy machine another command may be the first to find it out, and then it is not asked.
    assert!(waited + stickyds.lookups("open") >= 1.0, "some lookups find it frozen");
}

#[tokio::test]
async fn redis_without_memory_costs_no_session() {
    let full = |redis: &mut Redis| _ = redis.cli(&["config", "set", "maxmemory", "1"]);
    let room = |redis: &mut Redis| _ = redis.cli(&["config", "set", "maxmemory", "0"]);
    let stickyds = survives(Redis::start(), full, room).await;
    assert!(stickyds.sum("stickyd_fleet_redis_errors_total{kind=\"oom\"}") > 0.0);
}

#[tokio::test]
async fn redis_that_becomes_a_replica_costs_no_session() {
    // The replica of a master that is not there serves what it has, and refuses writes.
    let demote = |redis: &mut Redis| _ = redis.cli(&["replicaof", "127.0.0.1", "1"]);
    let promote = |redis: &mut Redis| _ = redis.cli(&["replicaof", "no", "one"]);
    let stickyds = survives(Redis::start(), demote, promote).await;
    assert!(stickyds.sum("stickyd_fleet_redis_errors_total{kind=\"readonly\"}") > 0.0);
}

#[tokio::test]
async fn redis_that_cannot_save_costs_no_session() {
    // Redis 7 lets no command change the name of the file.
    let redis = Redis::with(&["--save", "3600 1", "--appendonly", "no", "--dbfilename", "none"]);
    let break_disk = |redis: &mut Redis| {
        redis.cli(&["set", "stickyd:x", "1"]);
        // No file can be written where a folder has its name.
        std::fs::create_dir_all(redis.folder.join("none")).unwrap();
        redis.cli(&["bgsave"]);
        wait_for("a save has failed", || redis.cli(&["info", "persistence"]).contains("rdb_last_bgsave_status:err"));
    };
    let mend = |redis: &mut Redis| _ = redis.cli(&["config", "set", "stop-writes-on-bgsave-error", "no"]);
    let stickyds = survives(redis, break_disk, mend).await;
    assert!(stickyds.sum("stickyd_fleet_redis_errors_total{kind=\"misconf\"}") > 0.0);
}

#[tokio::test]
async fn redis_that_loses_all_pins_costs_no_session() {
    survives(Redis::start(), |redis| _ = redis.cli(&["flushall"]), |_| ()).await;
}

#[tokio::test]
async fn a_session_whose_pin_redis_has_lost_is_found_by_asking() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(3, &[]).await);
    let stickyds = Stickyds::start(2, &workers, &format!("{:?}", redis.url()), "");
    stickyds.wait_until_redis_is(true);
    stickyds.all_take_new().await;
    let open = Raw::connect(stickyds.0[0].address).get("/socket.io/?EIO=4&transport=polling");
    let sid: serde_json::Value = serde_json::from_str(&open.text()[1..]).unwrap();
    let path = path(sid["sid"].as_str().unwrap());
    wait_for("redis has the pin", || redis.keys("stickyd:p:").len() == 1);
    assert_eq!(redis.cli(&["flushall"]), "OK");
    let post = format!("POST {path} HTTP/1.1\r\nHost: a\r\nOrigin: http://o\r\nContent-Length: 2\r\n\r\n40");
    let answer = Raw::connect(stickyds.0[1].address).ask(&post);
    assert_eq!((answer.status(), answer.text()), (200, "ok"));
    assert_eq!((stickyds.lookups("miss"), stickyds.lookups("hit")), (1.0, 0.0));
    wait_for("redis has the pin again", || redis.keys("stickyd:p:").len() == 1);
}

#[tokio::test]
async fn a_wrong_password_costs_no_session_and_is_said() {
    let redis = Redis::with(&["--save", "", "--appendonly", "no", "--requirepass", "right"]);
    let workers = NodeServer::start_many(2, &[]).await;
    let url = format!("\"redis://:wrong@{}\"", redis.address);
    let stickyds = Stickyds::start(2, &workers, &url, "");
    wait_for("the password was refused", || stickyds.sum("stickyd_fleet_redis_errors_total{kind=\"auth\"}") >= 2.0);
    stickyds.all_take_new().await;
    stickyds.run_whole(10, json!({"transports": ["polling"]})).await;
    assert_eq!(stickyds.lookups("timeout"), 0.0, "no request waits for it");
    assert!(stickyds.lookups("open") > 0.0);
}

/// A way to Redis that can swallow all bytes.
pub(super) struct Hole {
    pub(super) address: std::net::SocketAddr,
    pub(super) swallows: watch::Sender<bool>,
}

impl Hole {
    pub(super) async fn before(target: std::net::SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (swallows, state) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut state = state.clone();
                tokio::spawn(async move {
                    if *state.borrow() {
                        let _ = state.wait_for(|swallows| !swallows).await;
                        return;
                    }
                    let Ok(mut server) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => return,
                        _ = async { _ = state.wait_for(|swallows| *swallows).await } => {}
                    }
                    // Both connections stay open, and nothing passes any more.
                    let _ = state.wait_for(|swallows| !swallows).await;
                });
            }
        });
        Self { address, swallows }
    }
}

// The hole needs a thread of its own, since waiting for a state blocks that of the test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_swallows_everything_costs_no_session() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(3, &[]).await);
    let hole = Hole::before(redis.address).await;
    let stickyds = Stickyds::start(3, &workers, &format!("\"redis://{}\"", hole.address), "");
    stickyds.wait_until_redis_is(true);
    stickyds.all_take_new().await;
    hole.swallows.send_replace(true);
    stickyds.run_whole(20, json!({"transports": ["polling"]})).await;
    let waited = stickyds.lookups("timeout");
    assert!((1.0..=80.0).contains(&waited), "few requests wait: {waited}");
    hole.swallows.send_replace(false);
    let before = stickyds.lookups("hit");
    tokio::time::timeout(Duration::from_secs(60), async {
        while stickyds.lookups("hit") <= before {
            stickyds.run_whole(3, json!({"transports": ["polling"]})).await;
        }
    })
    .await
    .expect("sessions are found in Redis again");
}
