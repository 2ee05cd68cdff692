//! `stickyd pin` and `stickyd explain` for sessions of other stickyds: what Redis knows is shown as such.

use serde_json::Value;

use super::orders::{command, edge, edges};
use crate::support::engines::{begin_session, many_sessions, path};
use crate::support::proxy::Binary;
use crate::support::raw::Raw;
use crate::support::redis::Redis;
use crate::support::wait::wait_for;

fn json(edge: &Binary, arguments: &[&str]) -> Value {
    serde_json::from_str(&command(edge, &[arguments, &["--json"]].concat()).is(0, &[]).out).unwrap()
}

#[test]
fn a_session_of_another_stickyd_is_found_in_redis() {
    let (mut redis, worker) = (Redis::start(), many_sessions("one"));
    let address = worker.address.to_string();
    let all = edges(2, &address, &redis.url());
    let sid = begin_session(all[0].address, "");
    let sid = sid.as_str();
    wait_for("redis has the pin", || redis.keys("stickyd:p:").len() == 1);
    command(&all[0], &["pin", sid]).is(0, &["worker      one\n", "pinned for"]);
    command(&all[1], &["pin", sid]).is(0, &["one", "the fleet's Redis: another stickyd has pinned it", "50s after"]);
    let said = json(&all[1], &["pin", sid]);
    assert_eq!((&said["source"], &said["worker"], &said["age_s"]), (&"redis".into(), &"one".into(), &Value::Null));
    assert_eq!(json(&all[0], &["pin", sid])["source"], "here");
    let said = json(&all[1], &["explain", "--sid", sid]);
    assert_eq!((&said["now"]["why"], &said["now"]["worker"]), (&"shared".into(), &"one".into()));
    command(&all[1], &["explain", "--sid", sid])
        .is(0, &["one (up, ready)", "Redis says so, and the worker confirms it"]);
    assert_eq!(json(&all[0], &["explain", "--sid", sid])["now"]["why"], "pinned");
    assert_eq!(json(&all[1], &["explain", "--sid", "nobodys"])["now"]["why"], "unpinned");
    let none = "this stickyd has no pin for that session, and the fleet's Redis has none";
    command(&all[1], &["pin", "nobodys"]).is(1, &[none]);
    // The look of an operator counts nothing and pins nothing.
    for result in ["hit", "miss", "bad_seal"] {
        let series = format!("stickyd_fleet_lookups_total{{result=\"{result}\"}}");
        assert_eq!(crate::support::admin::metric(&all[1], &series), 0.0);
    }
    assert_eq!(json(&all[1], &["pin", sid])["source"], "redis");

    // What is said is what happens.
    let other = edge(&address, "edge-3", &redis.url(), "lookup_timeout = \"1s\"");
    wait_for("edge-3 reads Redis", || command(&other, &["pin", sid]).code == Some(0));
    let post = format!("POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n4x", path(sid));
    assert_eq!(Raw::connect(other.address).ask(&post).status(), 200);
    assert_eq!(crate::support::admin::metric(&other, "stickyd_fleet_lookups_total{result=\"hit\"}"), 1.0);
    assert_eq!(json(&other, &["pin", sid])["source"], "here");
    let text = super::orders::edge_text(&address, "edge-4", &redis.url(), "").replace("\"one\"", "\"other\"");
    let stranger = Binary::with(&text);
    wait_for("edge-4 reads Redis", || command(&stranger, &["pin", sid]).code == Some(0));
    command(&stranger, &["pin", sid]).is(0, &["one that this stickyd does not know"]);
    assert_eq!(json(&stranger, &["explain", "--sid", sid])["now"]["why"], "unpinned", "it would ask the workers");

    command(&all[0], &["close", "--sid", sid, "--yes"]).is(0, &[]);
    wait_for("redis has the end", || json(&all[1], &["pin", sid])["ended"] == true);
    command(&all[1], &["pin", sid]).is(0, &["none: an operator ended the session"]);
    assert_eq!(json(&all[1], &["explain", "--sid", sid])["now"]["why"], "ended");
    redis.stop();
    wait_for("it is said that Redis is away", || {
        let said = command(&all[1], &["pin", sid]);
        if said.all().contains("and the fleet's Redis does not answer") { Ok(()) } else { Err(said.all()) }
    });
}
