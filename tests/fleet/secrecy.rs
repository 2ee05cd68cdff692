//! What Redis gets to know, and which rights it has to give.

use serde_json::json;

use super::Stickyds;
use crate::support::load::Load;
use crate::support::node::{NodeServer, Worker};
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
    let sids: Vec<_> = sids.iter().filter(|sid| !sid.is_empty()).collect();
    assert!(!sids.is_empty(), "the test knows some session ids");
    for sid in sids {
        assert!(!seen.contains(sid.as_str()), "Redis has seen the session id {sid}");
    }
    assert!(!seen.contains("alice"), "{seen}");
}

/// Makes a user `edge` with the password `pass` and the rights that stickyd prints, on all of these servers.
pub(super) fn grant(servers: &[&Redis], workers: &[Worker]) {
    let text = super::config(workers, "a", &format!("{:?}", servers[0].url()), "username = \"edge\"");
    let binary = Binary::with(&format!("state_dir = \".\"\n{text}"));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_stickyd"));
    let said =
        command.args(["fleet", "--acl", "--config", "stickyd.toml"]).current_dir(&binary.directory).output().unwrap();
    assert!(said.status.success(), "{said:?}");
    let line = String::from_utf8(said.stdout).unwrap();
    assert!(line.starts_with("user edge on >PASSWORD ") && !line.contains("+@all"), "{line}");
    drop(binary);
    let line = line.replace(">PASSWORD", ">pass");
    let set: Vec<&str> = ["acl", "setuser"].into_iter().chain(line.split_whitespace().skip(1)).collect();
    for redis in servers {
        assert_eq!(redis.cli(&set), "OK");
    }
}

/// The rights suffice: no server has refused anything.
pub(super) fn assert_nothing_refused(servers: &[&Redis], stickyds: &Stickyds) {
    for redis in servers {
        let log = redis.cli(&["acl", "log"]);
        let refused: Vec<_> = log.lines().skip_while(|line| *line != "object").skip(1).take(1).collect();
        // Redis 7.2 and later know a command that no line of rights for all versions can grant.
        assert!(log.is_empty() || (log.matches("object\n").count() == 1 && refused == ["client|setinfo"]), "{log}");
        for command in ["publish", "subscribe"] {
            let message = if command == "publish" { &["x"][..] } else { &[] };
            let run = [&["acl", "dryrun", "edge", command, "stickyd:{ctl}:c:x"], message].concat();
            assert_eq!(redis.cli(&run), "OK");
        }
    }
    for kind in ["auth", "other"] {
        assert_eq!(stickyds.sum(&format!("stickyd_fleet_redis_errors_total{{kind=\"{kind}\"}}")), 0.0, "{kind}");
    }
}

#[tokio::test]
async fn the_rights_that_are_printed_suffice() {
    let redis = Redis::start();
    let workers = NodeServer::start_many(2, &[]).await;
    grant(&[&redis], &workers);
    let url = format!("\"redis://edge:pass@{}/1\"", redis.address);
    let stickyds = Stickyds::start(2, &workers, &url, "");
    stickyds.wait_until_redis_is(true);
    stickyds.all_take_new().await;
    stickyds.run_whole(10, json!({"transports": ["polling"]})).await;
    assert!(stickyds.lookups("hit") > 0.0);
    assert_nothing_refused(&[&redis], &stickyds);
}

#[tokio::test]
async fn a_user_without_rights_costs_no_session_and_is_said() {
    let redis = Redis::start();
    let workers = NodeServer::start_many(2, &[]).await;
    redis.cli(&["acl", "setuser", "edge", "on", ">pass", "~*", "&*", "+ping", "+hello", "+auth", "+get", "+client"]);
    let url = format!("\"redis://edge:pass@{}\"", redis.address);
    let binary = Binary::with(&format!("state_dir = \".\"\n{}", super::config(&workers, "a", &url, "")));
    let line = binary.says(&["the fleet's Redis has failed", "edge", "stickyd fleet --acl"]);
    assert!(!line.contains("pass@"), "{line}");
    let stickyds = Stickyds::start(2, &workers, &url, "");
    stickyds.wait_until_redis_is(true);
    stickyds.all_take_new().await;
    stickyds.run_whole(10, json!({})).await;
    stickyds.run_whole(10, json!({"transports": ["polling"]})).await;
    assert!(stickyds.sum("stickyd_fleet_redis_errors_total{kind=\"auth\"}") >= 2.0);
    assert!(stickyds.sum("stickyd_fleet_writes_total{result=\"failed\"}") >= 20.0, "no pin is stored");
    assert_eq!(stickyds.lookups("hit"), 0.0);
}

/// The session ids that clients were given.
fn sids_of(load: &Load) -> Vec<String> {
    load.said("connect").iter().filter_map(|event| event["sid"].as_str().map(str::to_owned)).collect()
}

#[tokio::test]
async fn redis_sees_no_session_id_while_stickyds_restart() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(2, &[]).await);
    let monitor = redis.monitor();
    let start = |name: &str| {
        Binary::with(&format!(
            "state_dir = \".\"\n{}",
            super::config(&workers, name, &format!("{:?}", redis.url()), "")
        ))
    };
    let mut binaries = [start("edge-1"), start("edge-2"), start("edge-3")];
    let urls: Vec<_> = binaries.iter().map(|binary| binary.url("")).collect();
    let options = |n| {
        json!({"urls": urls, "alternate": "request", "n": n, "messages": 5, "keep": true,
            "timeout": 120_000, "query": {"user": "alice-in-wonderland"}})
    };
    let mut load = Load::start(options(20));
    load.event("all-echoed").await;
    let mut sids = Vec::new();
    for binary in &mut binaries {
        assert_eq!(binary.terminate().0, Some(0));
        binary.start_again();
        let mut more = Load::start(options(10));
        more.event("all-echoed").await;
        sids.extend(sids_of(&more));
        more.stop().await;
    }
    load.status().await;
    sids.extend(sids_of(&load));
    assert!(sids.len() >= 50, "{} session ids", sids.len());
    let seen = monitor.text();
    assert!(seen.contains("\"SET\" \"stickyd:p:") && seen.contains("\"GET\" \"stickyd:p:"), "{seen}");
    for sid in &sids {
        assert!(!seen.contains(sid.as_str()), "Redis has seen the session id {sid}");
    }
    assert!(!seen.contains("alice"), "Redis has seen a user");
    load.stop().await;
}
