//! The members of the fleet, and what differs: `stickyd fleet` and the API.

use std::process::Command;

use serde_json::Value;

use super::config;
use crate::support::node::NodeServer;
use crate::support::proxy::Binary;
use crate::support::raw::Raw;
use crate::support::redis::Redis;
use crate::support::wait::wait_for;

/// The answer of the API.
fn fleet(binary: &Binary) -> Value {
    let answer = Raw::connect_unix(&binary.admin()).get("/api/v1/fleet");
    assert_eq!(answer.status(), 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

/// Runs `stickyd fleet` with an option: its exit code and its output.
fn command(binary: &Binary, option: &str) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stickyd"));
    let said = command.args(["fleet", option, "--config", "stickyd.toml"]).current_dir(&binary.directory).output();
    let said = said.unwrap();
    (said.status.code(), String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned())
}

#[tokio::test]
async fn equal_stickyds_see_each_other_and_do_not_differ() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(2, &[]).await);
    let start = |name: &str| {
        Binary::with(&format!("state_dir = \".\"\n{}", config(&workers, name, &format!("{:?}", redis.url()), "")))
    };
    let (one, two) = (start("edge-1"), start("edge-2"));
    wait_for("both are shown with live workers", || {
        let (code, text) = command(&one, "--check");
        let is_whole = code == Some(0) && text.contains("edge-1 (this one)") && text.contains("edge-2");
        if is_whole { Ok(()) } else { Err(text) }
    });
    let said = fleet(&two);
    let names: Vec<_> = said["members"].as_array().unwrap().iter().map(|member| &member["name"]).collect();
    assert_eq!(names, ["edge-1", "edge-2"]);
    assert_eq!((&said["members"][1]["own"], &said["redis"][0]["state"]), (&true.into(), &"up".into()));
    assert_eq!(said["members"][0]["summary"]["workers"].as_array().unwrap().len(), 2);
    drop(one);
    wait_for("a stickyd that was killed vanishes", || fleet(&two)["members"].as_array().unwrap().len() == 1);
}

#[tokio::test]
async fn what_differs_is_named_and_fails_the_check() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(2, &[]).await);
    let url = format!("{:?}", redis.url());
    let first = Binary::with(&format!("state_dir = \".\"\n{}", config(&workers, "edge-1", &url, "")));
    let fewer = config(&workers[..1], "edge-2", &url, "").replace("[fleet]", "affinity = [\"socket.io\"]\n[fleet]");
    let _fewer = Binary::with(&format!("state_dir = \".\"\n{fewer}"));
    let other = config(&workers, "edge-3", &url, "").replace("0123456789abcdef", "fedcba9876543210");
    let _other = Binary::with(&format!("state_dir = \".\"\n{other}"));
    let wanted = ["edge-3 has another secret", "edge-2 does not know app/w2", "edge-2 runs another `affinity` for app"];
    wait_for("each difference is named", || {
        let (code, text) = command(&first, "--check");
        if code == Some(1) && wanted.iter().all(|one| text.contains(one)) { Ok(()) } else { Err(text) }
    });
    let (code, text) = command(&first, "--wide");
    assert_eq!(code, Some(0), "without --check it only shows: {text}");
}

#[tokio::test]
async fn a_redis_that_is_away_is_shown_with_its_error() {
    let (mut redis, workers) = (Redis::start(), NodeServer::start_many(1, &[]).await);
    redis.stop();
    let text = config(&workers, "edge-1", &format!("{:?}", redis.url()), "");
    let binary = Binary::with(&format!("state_dir = \".\"\n{text}"));
    wait_for("the error is shown", || {
        let said = fleet(&binary);
        if said["redis"][0]["state"] == "connection" { Ok(()) } else { Err(said) }
    });
    assert_eq!(command(&binary, "--check").0, Some(1));
    let status = Raw::connect_unix(&binary.admin()).get("/api/v1/status");
    let status: Value = serde_json::from_slice(&status.body).unwrap();
    assert_eq!(status["redis"][0]["state"], "connection", "{status}");
}

#[tokio::test]
async fn a_stickyd_without_fleet_says_so() {
    let workers = NodeServer::start_many(1, &[]).await;
    let binary = Binary::with(&format!("state_dir = \".\"\n{}", crate::support::cluster::upstream(&workers)));
    let (code, text) = command(&binary, "--wide");
    assert!(code == Some(1) && text.contains("belongs to no fleet"), "{text}");
    assert!(command(&binary, "--acl").1.contains("has no [fleet]"));
}
