//! Orders of operators to the whole fleet: `--fleet` on the commands, and what reaches each stickyd.

mod backend;
mod control;
mod messages;

use std::process::Command;

use futures_util::StreamExt as _;
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use crate::bus::emit::is_as_described;
use crate::support::admin;
use crate::support::cluster::SECRET;
use crate::support::engines::{begin_session, many_sessions};
use crate::support::node::WsEcho;
use crate::support::proxy::Binary;
use crate::support::raw::{Raw, RawWorker};
use crate::support::redis::Redis;
use crate::support::tunnels::{Client, closed, connect};
use crate::support::wait::{wait_for, within};

/// Configuration of one stickyd before one worker, which is named `one`.
pub(super) fn edge_text(address: &str, name: &str, redis: &str, more: &str) -> String {
    format!(
        "state_dir = \".\"\n{SECRET}[upstream.app]\nworkers = [{{ address = {address:?}, name = \"one\" }}]\n\
         labels = {{ store = \"query:store\" }}\nbroadcast = true\n\
         [fleet]\nredis = {redis:?}\nname = \"{name}\"\n{more}\n"
    )
}

/// Starts a stickyd of the fleet.
pub(super) fn edge(address: &str, name: &str, redis: &str, more: &str) -> Binary {
    Binary::with(&edge_text(address, name, redis, more))
}

/// Starts stickyds named `edge-1`, `edge-2` and so on, and waits until each does what another one orders.
pub(super) fn edges(count: usize, address: &str, redis: &str) -> Vec<Binary> {
    let all: Vec<_> = (1..=count).map(|i| edge(address, &format!("edge-{i}"), redis, "")).collect();
    // Each one is asked by another one, too.
    all.iter().for_each(|one| wait_until_all_obey(one, count));
    all
}

/// Waits until that many stickyds answer an order that one of them gives.
fn wait_until_all_obey(binary: &Binary, count: usize) {
    wait_for("every stickyd does what another one orders", || {
        let members = Raw::connect_unix(&binary.admin()).get("/api/v1/fleet");
        let members: Value = serde_json::from_slice(&members.body).unwrap();
        if members["members"].as_array().unwrap().len() != count {
            return Err(members.to_string());
        }
        let said = cli(binary, &["workers"]);
        let whole = format!("{count} of {count} stickyds answered\n");
        if said.code == Some(0) && said.out.ends_with(&whole) { Ok(()) } else { Err(said.all()) }
    });
}

/// What a command printed.
pub(super) struct Printed {
    pub(super) code: Option<i32>,
    pub(super) out: String,
    err: String,
}

impl Printed {
    pub(super) fn all(&self) -> String {
        format!("{:?}\n{}{}", self.code, self.out, self.err)
    }

    /// Fails unless the exit code is this one, and the output has all of these texts.
    #[track_caller]
    pub(super) fn is(self, code: i32, texts: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.all());
        for text in texts {
            assert!(self.all().contains(text), "{text:?} is missing in {}", self.all());
        }
        self
    }
}

/// Runs a command with `--fleet`.
fn cli(binary: &Binary, arguments: &[&str]) -> Printed {
    command(binary, &[arguments, &["--fleet"]].concat())
}

pub(super) fn command(binary: &Binary, arguments: &[&str]) -> Printed {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stickyd"));
    let admin = format!("unix:{}", binary.admin().display());
    let said = command.args(arguments).args(["--admin", &admin]).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Printed { code: said.status.code(), out: text(said.stdout), err: text(said.stderr) }
}

/// An order or a question over the API; its answer is checked against the document.
fn api(binary: &Binary, query: &str, body: Option<&str>) -> (u16, Value) {
    let path = "/api/v1/fleet/orders";
    let (method, (status, said)) = match body {
        Some(body) => ("post", admin::post(binary, path, body)),
        None => {
            let answer = Raw::connect_unix(&binary.admin()).get(&format!("{path}?{query}"));
            ("get", (answer.status(), serde_json::from_slice(&answer.body).unwrap()))
        }
    };
    is_as_described(path, method, status, &said);
    (status, said)
}

/// The admin state of the worker at each of these stickyds.
fn states(all: &[Binary]) -> Vec<String> {
    all.iter().map(|one| admin::worker(one, "one")["admin"].as_str().unwrap_or("absent").to_owned()).collect()
}

/// The next text that a client gets.
async fn text_of(client: &mut Client) -> String {
    loop {
        if let Message::Text(text) = within(client.next()).await.unwrap().unwrap() {
            return text.to_string();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_of_all_stickyds_are_listed_reached_and_closed() {
    let (redis, worker) = (Redis::start(), WsEcho::start(&[]).await);
    let all = tokio::task::block_in_place(|| edges(3, &worker.address(), &redis.url()));
    let mut clients = Vec::new();
    for (i, edge) in all.iter().enumerate() {
        clients.push(connect(edge.address, &format!("/?store={}", if i < 2 { 7 } else { 8 })).await);
    }
    let run = |arguments: &[&str]| tokio::task::block_in_place(|| cli(&all[1], arguments));
    let whole = "3 of 3 stickyds answered\n";
    let listed = run(&["sockets", "--wide"]).is(0, &["STICKYD", "3 of 3 live sockets at 3 stickyds", whole]);
    for name in ["edge-1", "edge-2", "edge-3"] {
        assert_eq!(listed.out.lines().filter(|line| line.starts_with(name)).count(), 1, "{}", listed.out);
    }
    run(&["sockets", "--label", "store=7", "--limit", "1"]).is(0, &["1 of 2 matching sockets", "3 live"]);
    run(&["sockets", "--limit", "9999", "--offset", "2"]).is(1, &["at most 10000 together"]);
    run(&["workers"]).is(0, &["STICKYD", "edge-1", "edge-2", "edge-3", "(all)", whole]);
    let stats = run(&["stats"]).is(0, &["STICKYD", "edge-3", whole]);
    let stores = |value: &str, count: &str| {
        stats.out.lines().any(|line| line.split_whitespace().eq(["app", "store", value, count]))
    };
    assert!(stores("7", "2") && stores("8", "1"), "{}", stats.out);
    // Statistics of one stickyd have its own labels.
    tokio::task::block_in_place(|| command(&all[2], &["stats"])).is(0, &["store  8"]);

    let said = run(&["broadcast", "--label", "store=7", "--text", "to store 7"]);
    said.is(0, &["2 of 2 sockets were reached", whole]);
    run(&["broadcast", "--all", "--text", "to all"]).is(0, &["3 of 3 sockets were reached"]);
    for client in clients.iter_mut().take(2) {
        assert_eq!(text_of(client).await, "to store 7");
    }
    for client in &mut clients {
        assert_eq!(text_of(client).await, "to all");
    }
    run(&["broadcast", "--label", "store=9", "--text", "x"]).is(1, &["no live socket matches: nothing was sent"]);
    let json = run(&["sockets", "--json"]).is(0, &[]);
    let json: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((&json["asked"], json["answers"].as_array().unwrap().len()), (&3.into(), 3));

    run(&["close", "--all"]).is(1, &["3 sockets would be closed: add --yes"]);
    run(&["close", "--all", "--dry-run"]).is(0, &["3 sockets would be closed", whole]);
    let spread = run(&["close", "--label", "store=7", "--yes", "--code", "4001", "--spread", "50ms"]);
    spread.is(0, &["2 sockets closed", whole]);
    for client in clients.iter_mut().take(2) {
        assert_eq!(closed(client).await.unwrap().0, 4001);
    }
    run(&["close", "--label", "store=8", "--yes"]).is(0, &["1 socket closed"]);
    assert_eq!(closed(&mut clients[2]).await.unwrap().0, 1012);
}

/// A worker of the test, whose sessions poll, and stickyds before it.
fn polling_edges(count: usize) -> (Redis, RawWorker, Vec<Binary>) {
    let (redis, worker) = (Redis::start(), many_sessions("one"));
    let all = edges(count, &worker.address.to_string(), &redis.url());
    (redis, worker, all)
}

#[test]
fn ids_of_sockets_belong_to_one_stickyd() {
    let (_redis, _worker, all) = polling_edges(2);
    // Each stickyd counts for itself, so sooner or later both have a socket with the same id.
    let ids = |edge: &Binary| -> Vec<String> {
        let said = command(edge, &["sockets", "--json"]);
        let all: Value = serde_json::from_str(&said.out).unwrap();
        all["sockets"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    };
    let shared = wait_for("both have a socket with the same id", || {
        all.iter().for_each(|edge| _ = begin_session(edge.address, "&store=7"));
        let (first, second) = (ids(&all[0]), ids(&all[1]));
        first.iter().find(|id| second.contains(id)).cloned().ok_or_else(|| format!("{first:?} {second:?}"))
    });
    let (of_first, of_second) = (format!("edge-1/{shared}"), format!("edge-2/{shared}"));
    cli(&all[0], &["close", &shared]).is(1, &["several stickyds may have a socket", &of_first, &of_second]);
    cli(&all[0], &["sockets", &shared]).is(0, &["edge-1", "edge-2"]);
    cli(&all[0], &["close", &of_second]).is(0, &[&format!("closing {shared} at edge-2")]);
    wait_for("the one at edge-2 is closed", || !ids(&all[1]).contains(&shared));
    assert!(ids(&all[0]).contains(&shared), "the other one stays");
    cli(&all[1], &["sockets", &of_first]).is(0, &["edge-1", "one", "1 of 1 stickyds answered"]);
    cli(&all[1], &["sockets", &of_second]).is(1, &["there is no live socket"]);
    cli(&all[1], &["close", &shared]).is(0, &[&format!("closing {shared} at edge-1")]);
    // What was closed before an error is told with it.
    (0..2).for_each(|_| _ = begin_session(all[1].address, "&store=7"));
    let (one, other) = wait_for("edge-2 has two sockets", || match ids(&all[1]).as_slice() {
        [one, other, ..] => Ok((one.clone(), other.clone())),
        few => Err(few.to_vec()),
    });
    let said = cli(&all[0], &["close", &format!("edge-2/{one}"), "edge-9/x"]);
    said.is(1, &[&format!("closing {one} at edge-2\nerror: no stickyd of the fleet is named `edge-9`")]);
    let said = command(&all[1], &["close", &other, "none"]);
    said.is(1, &[&format!("closing {other}\nerror: ")]);
    cli(&all[1], &["sockets", "edge-9/x"]).is(1, &["no stickyd of the fleet is named `edge-9`"]);
}

#[test]
fn an_answer_of_several_pages_arrives_whole() {
    let (redis, _worker, all) = polling_edges(2);
    for i in 0..800 {
        begin_session(all[1].address, &format!("&store={}{i}", "x".repeat(50)));
    }
    begin_session(all[0].address, "&store=7");
    let before = redis.cli(&["info", "commandstats"]);
    let said = cli(&all[0], &["sockets", "--json"]).is(0, &[]);
    let json: Value = serde_json::from_str(&said.out).unwrap();
    let own = |i: usize| json["answers"][i]["answer"]["sockets"].as_array().unwrap().len();
    assert_eq!((own(0), own(1)), (1, 800));
    let pushes = |text: &str| -> u32 {
        let line = text.lines().find_map(|line| line.strip_prefix("cmdstat_rpush:calls=")).unwrap();
        line.split(',').next().unwrap().parse().unwrap()
    };
    let pushed = pushes(&redis.cli(&["info", "commandstats"])) - pushes(&before);
    assert!(pushed >= 3, "the answer begins, and has several pages: {pushed}");
    let shown = cli(&all[0], &["sockets", "--sort", "-connected", "--limit", "400", "--offset", "50"]);
    shown.is(0, &["400 of 801 matching sockets"]);
}

#[test]
fn a_drain_of_the_fleet_ends_the_sessions_of_all() {
    let (_redis, _worker, all) = polling_edges(2);
    all.iter().for_each(|edge| _ = begin_session(edge.address, "&store=7"));
    let said = cli(&all[0], &["drain", "app/one", "--grace", "1h"]);
    said.is(0, &["edge-1: app/one is in drain: 1 session ends within", "edge-2: app/one is in drain"]);
    assert_eq!(states(&all), ["drain", "drain"]);
    let said = cli(&all[0], &["drain", "app/one", "--grace", "1h", "--wait", "--timeout", "1ms"]);
    said.is(1, &["timed out with sessions left; the drain continues"]);
    let said = cli(&all[1], &["drain", "app/one", "--grace", "0s", "--wait"]);
    said.is(0, &["drained: no session is left", "2 of 2 stickyds answered"]);
    cli(&all[1], &["maint", "app/one"]).is(0, &["edge-2: app/one is in maint"]);
    cli(&all[1], &["ready", "app/one"]).is(0, &["edge-1: app/one is ready", "edge-2: app/one is ready"]);
    assert_eq!(states(&all), ["ready", "ready"]);
    cli(&all[0], &["drain", "app/none"]).is(1, &["upstream `app` has no worker `none`"]);
    let said = cli(&all[0], &["drain", "app/one", "--grace", "60"]);
    said.is(1, &["invalid `grace`"]);
    let events = command(&all[1], &["events", "--kind", "operator"]);
    events.is(0, &["by way of edge-1, asked the fleet for POST /api/v1/workers/app/one/drain (status 200)"]);
}

#[test]
fn a_stickyd_without_fleet_or_redis_says_so() {
    let (mut redis, worker) = (Redis::start(), many_sessions("one"));
    let alone = Binary::with(&crate::support::engines::config_of_named(&[("one", &worker)], ""));
    for arguments in [&["sockets"][..], &["stats"], &["workers"], &["drain", "app/one"], &["close", "--all", "--yes"]] {
        cli(&alone, arguments).is(1, &["this stickyd belongs to no fleet: its file has no [fleet]"]);
    }
    let mut all = edges(2, &worker.address.to_string(), &redis.url());
    redis.stop();
    let away = "the fleet's Redis does not answer: no stickyd was asked; try without the fleet";
    for arguments in [&["stats"][..], &["maint", "app/one"], &["broadcast", "--all", "--text", "x"]] {
        cli(&all[0], arguments).is(1, &[away]);
    }
    assert_eq!(states(&all), ["ready", "ready"], "nothing was ordered");
    redis.start_again();
    wait_until_all_obey(&all[1], 2);
    cli(&all[0], &["maint", "app/one"]).is(0, &["2 of 2 stickyds answered"]);
    // It keeps nothing on the disk, so it has lost the state with the rest.
    redis.stop();
    redis.start_again();
    wait_for("the state is in Redis again", || redis.cli(&["hlen", "stickyd:{ctl}:admin"]) == "1");
    all.push(edge(&worker.address.to_string(), "edge-3", &redis.url(), ""));
    wait_for("a stickyd that joins takes the state over", || states(&all) == ["maint", "maint", "maint"]);
}
