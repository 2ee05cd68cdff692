//! The admin API as `conf/openapi.json` describes it: every answer of a running stickyd is checked against the
//! document.

use std::collections::BTreeSet;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use stickyd::testing::admin::api::{self, PATHS, paths};

use crate::support::admin::reload;
use crate::support::engines::{begin_session, config_of_named, many_sessions, path, sessions_at};
use crate::support::proxy::{Binary, Proxy, free_address};
use crate::support::raw::{Raw, RawWorker};
use crate::support::wait::wait_for;

fn document() -> Value {
    serde_json::from_str(include_str!("../../conf/openapi.json")).unwrap()
}

/// A client of the API that checks every answer against the document.
struct Checked<'a> {
    binary: &'a Binary,
    document: Value,
    seen: BTreeSet<String>,
}

impl Checked<'_> {
    /// A request for `path`, which `template` describes: its status and answer, as text if the answer is not JSON.
    fn ask(&mut self, method: &str, template: &str, path: &str, body: &str) -> (u16, Value) {
        let length = body.len();
        let request = format!(
            "{} {path} HTTP/1.1\r\nHost: localhost\r\nX-Stickyd: 1\r\nContent-Length: {length}\r\n\r\n{body}",
            method.to_uppercase()
        );
        let answer = Raw::connect_unix(&self.binary.admin()).ask(&request);
        let status = answer.status();
        let described = &self.document["paths"][template][method]["responses"][status.to_string()];
        assert!(described.is_object(), "{method} {template} does not document the status {status}: {}", answer.text());
        let kind = answer.header("content-type").unwrap().split(';').next().unwrap().to_owned();
        let schema = &described["content"][&kind]["schema"];
        assert!(schema.is_object(), "{method} {template} {status} is not documented as {kind}");
        let value = match kind.as_str() {
            "application/json" => serde_json::from_slice(&answer.body).unwrap(),
            _ => Value::from(answer.text()),
        };
        let mut schema = schema.clone();
        schema["components"] = self.document["components"].clone();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let errors: Vec<_> = validator.iter_errors(&value).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(errors.is_empty(), "{method} {path}: {errors:#?}\n{value:#}");
        if kind == "application/json" {
            typed(template, status, &value);
        }
        self.seen.insert(format!("{method} {template} {status}"));
        (status, value)
    }

    fn get(&mut self, path: &str) -> (u16, Value) {
        let template = path.split('?').next().unwrap();
        self.ask("get", template, path, "")
    }

    fn socket(&mut self, method: &str, what: &str, id: &str, body: &str) -> (u16, Value) {
        self.ask(method, &format!("/api/v1/sockets/{{id}}{what}"), &format!("/api/v1/sockets/{id}{what}"), body)
    }

    fn say(&mut self, worker: &str, word: &str, body: &str) -> (u16, Value) {
        let template = "/api/v1/workers/{upstream}/{worker}/{word}";
        self.ask("post", template, &format!("/api/v1/workers/app/{worker}/{word}"), body)
    }
}

/// Stops the workers that stickyd has started.
fn wish_stop(api: &mut Checked<'_>) -> u16 {
    api.ask("post", "/api/v1/spawn/{upstream}/{word}", "/api/v1/spawn/web/stop", "").0
}

/// Reads an answer as the struct of its path; written again, it must be the same.
fn typed(template: &str, status: u16, value: &Value) {
    fn same<T: DeserializeOwned + Serialize>(value: &Value) {
        let read: T = serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}: {value:#}"));
        assert_eq!(&serde_json::to_value(read).unwrap(), value);
    }
    match template {
        paths::OPENAPI => {}
        paths::RELOAD if status != 200 => same::<api::ReloadFailure>(value),
        _ if status != 200 => same::<api::ErrorAnswer>(value),
        paths::EVENTS => same::<api::EventsAnswer>(value),
        paths::HISTORY => same::<api::HistoryAnswer>(value),
        paths::EXPLAIN => same::<api::ExplainAnswer>(value),
        paths::FLEET => same::<api::FleetAnswer>(value),
        paths::FLEET_ORDERS => same::<api::FleetOrdersAnswer>(value),
        paths::LOG => same::<api::LogAnswer>(value),
        paths::LOGS => same::<api::LogsAnswer>(value),
        paths::NOTIFY => same::<api::notify::NotifyAnswer>(value),
        paths::NOTIFY_TEST => same::<api::notify::NotifyTestAnswer>(value),
        paths::PINS => same::<api::PinAnswer>(value),
        paths::RELOAD => same::<api::ReloadAnswer>(value),
        paths::SOCKETS => same::<api::SocketsAnswer>(value),
        paths::SOCKETS_CLOSE if value["closings"].is_array() => same::<api::ClosingsAnswer>(value),
        paths::SOCKETS_CLOSE => same::<api::CloseAnswer>(value),
        paths::SOCKET => same::<api::SocketView>(value),
        paths::SOCKET_CLOSE => same::<api::ClosedSocket>(value),
        paths::SPAWN => same::<api::SpawnAnswer>(value),
        paths::SPAWN_WISH => same::<api::PoolView>(value),
        paths::STATS => same::<api::StatsAnswer>(value),
        paths::STATUS => same::<api::StatusAnswer>(value),
        paths::WORKERS => same::<api::WorkersAnswer>(value),
        paths::WORKER_STATE => same::<api::WorkerView>(value),
        other => panic!("{other} has no struct"),
    }
}

#[test]
fn every_path_is_described_and_every_described_path_is_there() {
    let document = document();
    let described = document["paths"].as_object().unwrap();
    for (path, methods) in PATHS {
        let entry = described.get(path).unwrap_or_else(|| panic!("{path} is not in the document"));
        assert_eq!(entry.as_object().unwrap().keys().collect::<Vec<_>>(), methods, "{path}");
    }
    assert_eq!(described.len(), PATHS.len());
}

#[test]
#[allow(clippy::too_many_lines, reason = "one running stickyd answers every request of the API")]
fn every_answer_is_as_the_document_says() {
    let (one, two) = (many_sessions("one"), many_sessions("two"));
    let unused = free_address();
    let both =
        config_of_named(&[("one", &one), ("two", &two)], "debug_header = true\nlabels = { app = \"query:app\" }");
    let all = both.replace("}]\n", &format!("}}, {{ address = \"{unused}\", name = \"absent\" }}]\n"));
    let told = "[notify]\n[[notify.to]]\nslack = { url = \"http://127.0.0.1:1/\" }\n";
    let binary = Binary::with(&format!("{all}\n{told}"));
    let mut api = Checked { binary: &binary, document: document(), seen: BTreeSet::new() };
    assert_eq!(api.get("/api/v1/openapi.json").1, api.document);
    api.get("/metrics");

    // Workers and their states.
    wait_for("all workers have passed a check", || {
        api.get("/api/v1/workers").1["workers"].as_array().unwrap().iter().all(|w| w["check"].is_object())
    });
    let workers = api.get("/api/v1/workers").1;
    let (up, gone) = (&workers["workers"][0], &workers["workers"][2]);
    assert_eq!((&up["health"], &up["why"]["health"]), (&json!("up"), &json!("its checks pass")));
    assert_eq!(
        (&up["restarts"], &up["why"]["ejection"], &up["check"]["outcome"]),
        (&json!(0), &json!("never"), &json!("passed"))
    );
    assert_eq!((&gone["health"], &gone["why"]["health"]), (&json!("gone"), &json!("no process has listened there")));
    assert_eq!(gone["process"], Value::Null);
    // The workers of this test are threads of its own process.
    wait_for("the workers' process is found", || {
        api.get("/api/v1/workers").1["workers"][0]["process"]["pid"] == std::process::id()
    });

    // Sessions.
    let sid = sessions_at(&binary, "one", 1).remove(0);
    let pin = api.get(&format!("/api/v1/pins?upstream=app&sid={sid}")).1;
    assert_eq!(
        (&pin["worker"], &pin["ended"], &pin["holds"], &pin["ttl_s"]),
        (&json!("one"), &json!(false), &json!(0), &json!(50))
    );
    let mut poll = Raw::connect(binary.address);
    poll.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", path(&sid)));
    wait_for("the open poll holds its pin", || api.get(&format!("/api/v1/pins?sid={sid}")).1["holds"] == 1);
    assert_eq!(api.get(&format!("/api/v1/pins?sid={sid}")).1["expires_in_s"], Value::Null);
    assert_eq!(api.get("/api/v1/pins?sid=nobodys").0, 404);
    assert_eq!(api.get("/api/v1/pins?upstream=app").0, 422);
    assert_eq!(api.get("/api/v1/pins?upstream=none&sid=x").0, 404);

    begin_session(binary.address, "&app=x+y");

    // Explaining a decision.
    let explained = api.get(&format!("/api/v1/explain?upstream=app&sid={sid}")).1;
    assert_eq!((&explained["now"]["worker"], &explained["now"]["why"]), (&json!("one"), &json!("pinned")));
    assert_eq!(explained["if_it_died"]["why"], "chance", "without the address of its client");
    let explained = api.get(&format!("/api/v1/explain?sid={sid}&address=192.0.2.1")).1;
    assert_eq!(explained["if_it_died"]["worker"], "two");
    assert_eq!(api.get("/api/v1/explain?sid=nobodys&address=192.0.2.1").1["now"]["why"], "unpinned");
    assert_eq!(api.get("/api/v1/explain").1["now"]["why"], "chance");
    for wrong in ["?address=x", "?kind=x", "?worker=x"] {
        assert_eq!(api.get(&format!("/api/v1/explain{wrong}")).0, 422, "{wrong}");
    }
    assert_eq!(api.get("/api/v1/explain?upstream=none").0, 404);

    // Notifications: the receiver does not exist.
    let notify = "/api/v1/notify/test";
    assert_eq!(api.get("/api/v1/notify").1["receivers"][0]["name"], "slack");
    let sent = api.ask("post", notify, notify, "").1;
    assert!(sent["results"][0]["error"].as_str().unwrap().starts_with("cannot connect"), "{sent}");
    assert_eq!(api.ask("post", notify, notify, "{\"to\": \"none\"}").0, 404);
    assert_eq!(api.ask("post", notify, notify, "{\"too\": \"none\"}").0, 422);

    // The state of stickyd itself.
    let status = api.get("/api/v1/status").1;
    assert_eq!((&status["pid"], &status["stopping"]), (&json!(binary.pid()), &json!(false)));
    assert_eq!(status["process"]["pid"], binary.pid());
    assert!(
        status["descriptors"]["held"].as_u64().unwrap() > 5 && status["descriptors"]["limit"].as_u64().unwrap() > 5
    );
    assert_eq!(api.get("/api/v1/health"), (200, json!("ok\n")));
    assert_eq!(api.get("/api/v1/health?upstream=app").0, 200);
    assert_eq!(api.get("/api/v1/health?upstream=none").0, 404);
    assert_eq!(api.get("/api/v1/health?upstraem=app").0, 422);
    let stats = api.get("/api/v1/stats").1;
    assert!(stats["totals"]["handshakes"].as_u64().unwrap() >= 1 && stats["totals"]["requests"].as_u64().unwrap() >= 1);
    assert!(stats["live"]["average_age_s"].is_u64());
    assert!(stats["workers"].as_array().unwrap().iter().any(|one| one["live"]["sessions"] != 0));
    wait_for("the rates have an earlier scrape", || api.get("/api/v1/stats").1["rates"]["requests_per_s"].is_number());

    // Sockets: list, show and close.
    let one = api.get(&format!("/api/v1/sockets?sid={sid}")).1["sockets"][0].clone();
    assert_eq!((&one["worker"], &one["transport"], &one["state"]), (&json!("one"), &json!("polling"), &json!("open")));
    assert_eq!((api.get("/api/v1/sockets?worker=none").0, api.get("/api/v1/sockets?x=1").0), (404, 422));
    let id = one["id"].as_str().unwrap();
    assert_eq!(api.socket("get", "", id, "").1["sid"], sid);
    assert_eq!((api.socket("get", "", "none", "").0, api.socket("post", "/close", "none", "").0), (404, 404));
    assert_eq!(api.socket("post", "/close", id, "{\"code\": 1006}").0, 422);
    // A client that does not answer the Close stays for a while, so that a second request still finds it.
    loop {
        let mut silent = Raw::connect(binary.address);
        silent.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
        assert_eq!(silent.head().unwrap().status(), 101);
        let found = api.get("/api/v1/sockets?protocol=plain&sort=-id").1["sockets"][0]["id"].clone();
        let id = found.as_str().unwrap();
        assert_eq!(api.socket("post", "/close", id, "{\"code\": 4000}").0, 200);
        if api.socket("post", "/close", id, "").0 == 409 {
            assert_eq!(api.socket("get", "", id, "").1["state"], "closing");
            break;
        }
    }
    let close = "/api/v1/sockets/close";
    let only = format!("\"sid\": \"{sid}\"");
    let dry = api.ask("post", close, close, &format!("{{{only}, \"dry_run\": true}}"));
    assert_eq!((dry.0, &dry.1["matched"]), (200, &json!(1)));
    assert_eq!(
        (api.ask("post", close, close, "{}").0, api.ask("post", close, close, "{\"sid\": \"x\"}").0),
        (422, 404)
    );
    let slowly = format!("{{{only}, \"spread\": \"24h\"}}");
    for number in 1..=16 {
        let said = api.ask("post", close, close, &slowly);
        assert_eq!(
            (said.0, &said.1["closing"]["number"], &said.1["closing"]["left"]),
            (200, &json!(number), &json!(1))
        );
    }
    assert_eq!(api.ask("post", close, close, &slowly).0, 409, "sixteen slow closes are running");
    assert_eq!(api.get(close).1["closings"].as_array().unwrap().len(), 16);
    let stats = api.get("/api/v1/stats").1;
    assert!(stats["sockets"]["polling"].as_u64().unwrap() >= 1, "{stats}");
    assert!(stats["totals"]["sockets_opened"].as_u64().unwrap() >= 2 && stats["upstreams"][0]["sockets"]["live"] != 0);
    assert_eq!(
        stats["upstreams"][0]["labels"],
        json!({"app": {"values": [{"value": "x y", "sockets": 1}], "others": 0}})
    );

    // The fleet; a whole answer is checked in `tests/fleet/members.rs`.
    assert_eq!(api.get("/api/v1/fleet").0, 404);
    let orders = "/api/v1/fleet/orders";
    assert_eq!(api.get(&format!("{orders}?path=/api/v1/stats")).0, 404);
    assert_eq!((api.get(orders).0, api.get(&format!("{orders}?x=1")).0), (422, 422));
    let mut order = |body: &str| api.ask("post", orders, orders, body).0;
    assert_eq!((order("{\"path\": \"/api/v1/broadcast\"}"), order("{}")), (404, 422));

    // The log level.
    assert_eq!(api.get("/api/v1/log").1, json!({"level": "info", "from": "environment", "file": "info"}));
    let mut put = |body: &str| api.ask("put", "/api/v1/log", "/api/v1/log", body);
    assert_eq!(put("{\"level\": \"stickyd::testing::proxy=debug,warn\"}").1["from"], "run time");
    assert_eq!((put("{\"level\": \"inof\"}").0, put("debug").0, put("{\"level\": 1}").0), (422, 422, 422));
    assert_eq!(put("{\"level\": null}").1["from"], "environment");

    // Admin states of workers.
    assert_eq!((api.say("one", "sleep", "").0, api.say("three", "drain", "").0), (404, 404));
    assert_eq!(api.say("one", "drain", "{\"grace\": 1}").0, 422);
    let said = api.say("one", "drain", "{\"grace\": \"1h\"}").1;
    assert_eq!((&said["admin"], &said["why"]["admin"]), (&json!("drain"), &json!("set at run time")));
    assert!(api.get(&format!("/api/v1/pins?sid={sid}")).1["drain_ends_in_s"].as_u64().unwrap() <= 3_600);
    assert_eq!(api.get("/api/v1/explain?address=192.0.2.1").1["now"]["worker"], "two");
    api.say("two", "maint", "");
    let ill = api.get("/api/v1/health?upstream=app");
    assert_eq!(ill, (503, json!("no worker of `app` takes new sessions\n")));
    assert_eq!(api.get("/api/v1/explain?address=192.0.2.1").1["now"]["why"], "nobody");
    api.say("two", "ready", "");

    // Events and history.
    let told = api.get("/api/v1/events?limit=1024").1;
    let kinds: Vec<_> = told["events"].as_array().unwrap().iter().map(|event| event["kind"].clone()).collect();
    for kind in ["started", "operator", "drain_begun", "maint", "ready"] {
        assert!(kinds.contains(&json!(kind)), "{kind} is not among {kinds:?}");
    }
    assert_eq!(api.get(&format!("/api/v1/events?since={}", told["next"])).1["events"], json!([]));
    for wrong in ["kind=x", "since=x", "limit=0", "limit=1025", "x=1"] {
        assert_eq!(api.get(&format!("/api/v1/events?{wrong}")).0, 422, "{wrong}");
    }
    let history = api.get("/api/v1/history?range=1h&worker=one").1;
    assert_eq!((&history["count"], &history["step_s"]), (&json!(360), &json!(10)));
    assert_eq!((api.get("/api/v1/history?range=2h").0, api.get("/api/v1/history?x=1").0), (422, 422));

    // Reloads of the configuration.
    reload(&binary, &config_of_named(&[("two", &two)], ""));
    assert_eq!(api.say("one", "ready", "").0, 409);
    let removed =
        api.get("/api/v1/workers").1["workers"].as_array().unwrap().iter().find(|w| w["worker"] == "one").cloned();
    assert_eq!(removed.unwrap()["admin"], "removed");
    // Workers that stickyd starts itself.
    assert_eq!((api.get("/api/v1/logs").0, api.get("/api/v1/logs?from=x").0), (503, 422), "there is no spawner");
    let spawn = "[upstream.web]\nspawn = { command = [\"sh\", \"-c\", \"echo up; exec sleep 600\"], instances = 1 }\n\
        [[route]]\npath = \"/\"\nupstream = \"app\"\n";
    reload(&binary, &format!("{}{spawn}", config_of_named(&[("two", &two)], "")));
    wait_for("the worker has written", || api.get("/api/v1/logs").1["lines"][0]["text"] == "up");
    let template = "/api/v1/spawn/{upstream}/{word}";
    let mut wish = |what: &str, body: &str| api.ask("post", template, &format!("/api/v1/spawn/{what}"), body).0;
    assert_eq!(
        (wish("web/sleep", ""), wish("app/restart", ""), wish("web/stop", "{\"worker\": \"9\"}")),
        (404, 404, 409)
    );
    assert_eq!(
        (wish("web/scale", ""), wish("web/restart", "x"), wish("web/scale", "{\"instances\": 2}")),
        (422, 422, 200)
    );
    assert_eq!(wish("web/restart", "{\"worker\": \"1\"}"), 200);
    assert_eq!(api.get("/api/v1/spawn").1["upstreams"][0]["instances"], 2);
    assert_eq!(wish_stop(&mut api), 200);

    let mut post = || api.ask("post", "/api/v1/reload", "/api/v1/reload", "").0;
    assert_eq!(post(), 200);
    std::fs::write(binary.directory.join("stickyd.toml"), "x").unwrap();
    assert_eq!(post(), 422);

    let described = api.document["paths"].as_object().unwrap().iter().flat_map(|(path, methods)| {
        let answers = |(method, said): (&String, &Value)| {
            let statuses: Vec<String> = said["responses"].as_object().unwrap().keys().cloned().collect();
            statuses.into_iter().map(|status| format!("{method} {path} {status}")).collect::<Vec<_>>()
        };
        methods.as_object().unwrap().iter().flat_map(answers).collect::<Vec<_>>()
    });
    // Messages to clients and labels are checked against the document in `tests/broadcast.rs`, `tests/bus/` and
    // `tests/queue.rs`, the live stream in `live.rs`.
    let elsewhere = [
        "post /api/v1/broadcast ",
        "post /api/v1/emit ",
        "get /api/v1/live ",
        "get /api/v1/queue ",
        "post /api/v1/queue",
        "put /api/v1/sockets/by-sid/{sid} ",
    ];
    let here = described.filter(|answer| !elsewhere.iter().any(|other| answer.starts_with(other)));
    // A stickyd with a fleet: `tests/fleet/`.
    let of_fleet = ["fleet 200", "fleet/orders 200", "fleet/orders 409", "fleet/orders 503"];
    let here = here.filter(|answer| !of_fleet.iter().any(|other| answer.ends_with(&format!("/api/v1/{other}"))));
    let unseen: Vec<String> = here.filter(|answer| !api.seen.contains(answer)).collect();
    let stopping = ["get /api/v1/notify 503", "post /api/v1/notify/test 503", "post /api/v1/reload 503"];
    assert_eq!(unseen, stopping, "only while stickyd stops");
}

#[test]
fn explaining_and_reading_pins_changes_nothing() {
    let worker = many_sessions("one");
    let proxy = Proxy::before(&[worker.address]);
    let shared = proxy.server().shared();
    let snapshot = shared.snapshot.load();
    let upstream = snapshot.upstream("app").unwrap();
    let client = stickyd::testing::client::Client { address: "192.0.2.1".parse().unwrap(), known: true, secure: false };
    let question = stickyd::testing::affinity::explain::ExplainQuestion { client: Some(client), ..Default::default() };
    let before = (proxy.worker(&worker.address.to_string()).sessions(), shared.sessions.pins.len());
    for _ in 0..100 {
        let found = stickyd::testing::affinity::explain::explain(&shared.sessions, upstream, question);
        assert_eq!(found.now.1.word(), "placed");
        assert_eq!(found.then.unwrap().1.word(), "nobody", "there is no other worker");
    }
    let worker = proxy.worker(&worker.address.to_string());
    assert_eq!((worker.sessions(), shared.sessions.pins.len()), before);
    assert_eq!(worker.recent.count(stickyd::testing::clock::now_s()), 0);
}

#[test]
fn what_is_explained_is_what_happens() {
    let workers: Vec<RawWorker> = ["a", "b", "c", "d"].map(RawWorker::named).into();
    let list: Vec<String> = workers
        .iter()
        .zip(["a", "b", "c", "d"])
        .map(|(worker, name)| format!("{{ address = \"{}\", name = \"{name}\" }}", worker.address))
        .collect();
    let binary = Binary::with(&format!("state_dir = \".\"\n[upstream.app]\nworkers = [{}]", list.join(", ")));
    let explain = |query: &str| -> Value {
        let answer = Raw::connect_unix(&binary.admin()).get(&format!("/api/v1/explain?kind=request&{query}"));
        serde_json::from_slice(&answer.body).unwrap()
    };
    let answer = Raw::connect(binary.address).get("/");
    let by_address = explain("address=127.0.0.1");
    assert_eq!((&by_address["now"]["worker"], &by_address["now"]["why"]), (&json!(answer.text()), &json!("hash")));
    let pair = answer.cookie("stickyd_app").unwrap();
    let value = pair.split_once('=').unwrap().1.to_owned();
    for given in [&pair, &value] {
        let by_cookie = explain(&format!("cookie={given}"));
        assert_eq!((&by_cookie["now"]["worker"], &by_cookie["now"]["why"]), (&json!(answer.text()), &json!("cookie")));
        assert_eq!(by_cookie["cookie"], "valid");
    }
    assert_eq!(explain("cookie=forged&address=127.0.0.1")["cookie"], "not ours");
    // The worker dies, and the prediction comes true.
    let next = explain(&format!("cookie={value}"))["if_it_died"]["worker"].as_str().unwrap().to_owned();
    assert_ne!(next, answer.text());
    let maint = format!(
        "POST /api/v1/workers/app/{}/maint HTTP/1.1\r\nHost: localhost\r\nX-Stickyd: 1\r\nContent-Length: 0\r\n\r\n",
        answer.text()
    );
    assert_eq!(Raw::connect_unix(&binary.admin()).ask(&maint).status(), 200);
    let with_cookie = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {pair}\r\n\r\n");
    assert_eq!(Raw::connect(binary.address).ask(&with_cookie).text(), next);
}
