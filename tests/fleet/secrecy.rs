//! What Redis gets to know, and which rights it has to give.

use serde_json::json;

use super::Stickyds;
use crate::support::node::NodeServer;
use crate::support::proxy::Binary;
use crate::support::redis::Redis;
use crate::support::wait::wait_for;

#[tokio::test]
async fn redis_sees_no_session_id_and_no_name_of_a_user() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(2, &[]).await);
    let monitor = redis.monitor();
    let stickyds = Stickyds::start(2, &workers, &format!("{:?}", redis.url()), "");
    stickyds.wait_until_redis_is(true);
    stickyds.all_take_new().await;
    stickyds.run_whole(10, json!({"transports": ["polling"], "query": {"user": "alice-in-wonderland"}})).await;
    let sockets = stickyds.0.iter().flat_map(|proxy| {
        let sockets = &proxy.server().shared().sessions.sockets;
        (0..64).flat_map(|shard| sockets.shard(shard)).collect::<Vec<_>>()
    });
    let sids: Vec<String> =
        sockets.map(|socket| socket.with_texts(|sid, _| String::from_utf8_lossy(sid).into())).collect();
    wait_for("redis has seen the pins", || monitor.text().contains("\"SET\" \"stickyd:p:"));
    let seen = monitor.text();
    assert!(seen.contains("stickyd:{ctl}:members"), "{seen}");
    for sid in sids.iter().filter(|sid| !sid.is_empty()) {
        assert!(!seen.contains(sid.as_str()), "Redis has seen the session id {sid}");
    }
    assert!(!seen.contains("alice"), "{seen}");
}

#[tokio::test]
async fn the_rights_that_are_printed_suffice() {
    let redis = Redis::start();
    let workers = NodeServer::start_many(2, &[]).await;
    let binary = Binary::with(&format!(
        "state_dir = \".\"\n{}",
        super::config(&workers, "a", &format!("{:?}", redis.url()), "username = \"edge\"")
    ));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_stickyd"));
    let said =
        command.args(["fleet", "--acl", "--config", "stickyd.toml"]).current_dir(&binary.directory).output().unwrap();
    assert!(said.status.success(), "{said:?}");
    let line = String::from_utf8(said.stdout).unwrap();
    assert!(line.starts_with("user edge on >PASSWORD ") && !line.contains("+@all"), "{line}");
    drop(binary);
    let words: Vec<String> = line.replace(">PASSWORD", ">pass").split_whitespace().skip(1).map(str::to_owned).collect();
    let set: Vec<&str> = ["acl", "setuser"].into_iter().chain(words.iter().map(String::as_str)).collect();
    assert_eq!(redis.cli(&set), "OK");
    let url = format!("\"redis://edge:pass@{}/1\"", redis.address);
    let stickyds = Stickyds::start(2, &workers, &url, "");
    stickyds.wait_until_redis_is(true);
    stickyds.all_take_new().await;
    stickyds.run_whole(10, json!({"transports": ["polling"]})).await;
    assert!(stickyds.lookups("hit") > 0.0);
    assert_eq!(stickyds.sum("stickyd_fleet_redis_errors_total{kind=\"auth\"}"), 0.0);
    assert_eq!(stickyds.sum("stickyd_fleet_redis_errors_total{kind=\"other\"}"), 0.0);
}

#[tokio::test]
async fn a_user_without_rights_costs_no_session_and_is_said() {
    let redis = Redis::start();
    let workers = NodeServer::start_many(2, &[]).await;
    redis.cli(&["acl", "setuser", "edge", "on", ">pass", "~*", "&*", "+ping", "+hello", "+auth", "+get", "+client"]);
    let text = super::config(&workers, "a", &format!("\"redis://edge:pass@{}\"", redis.address), "");
    let binary = Binary::with(&format!("state_dir = \".\"\n{text}"));
    let line = binary.says(&["the fleet's Redis has failed", "edge", "stickyd fleet --acl"]);
    assert!(!line.contains("pass@"), "{line}");
}
