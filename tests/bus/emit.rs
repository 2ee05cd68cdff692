//! Messages of the backend: `POST /api/v1/emit` and `stickyd emit`, to real applications with the bus and with each
//! adapter over a real Redis. Twelve real clients count; a third each polls, upgrades, and begins with WebSocket.

use std::process::Command;

use serde_json::{Value, json};

use super::{Clients, Fleet};
use crate::support::admin::{metric, post};
use crate::support::raw::Raw;
use crate::support::redis::Redis;

impl Fleet {
    /// Sends a message of the backend; the status, and the answer, which is as the document says.
    pub(crate) fn emit(&self, order: &Value) -> (u16, Value) {
        let (status, answer) = post(&self.stickyd, "/api/v1/emit", &order.to_string());
        is_as_described("/api/v1/emit", "post", status, &answer);
        (status, answer)
    }

    /// Runs a command of stickyd; what it printed, and whether it succeeded.
    pub(crate) fn command(&self, arguments: &[&str]) -> (String, bool) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stickyd"));
        let output = command.args(arguments).args(["-c", "stickyd.toml"]).current_dir(&self.stickyd.directory).output();
        let output = output.unwrap();
        let text = [output.stdout, output.stderr].concat();
        (String::from_utf8(text).unwrap(), output.status.success())
    }
}

/// Checks an answer against the OpenAPI document.
pub(crate) fn is_as_described(path: &str, method: &str, status: u16, said: &Value) {
    let document: Value = serde_json::from_str(include_str!("../../conf/openapi.json")).unwrap();
    let described = &document["paths"][path][method]["responses"][status.to_string()];
    let mut schema = described["content"]["application/json"]["schema"].clone();
    assert!(schema.is_object(), "{status} is not described: {said}");
    schema["components"] = document["components"].clone();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<_> = validator.iter_errors(said).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{said:#}");
}

/// What clients count: each of `wanted` got it once, `red` of them are in the room `red`.
async fn got(clients: &mut Clients, text: &str, wanted: u64, red: u64) {
    let counts = clients.ask(&format!("got {text} {wanted}")).await;
    assert_eq!(counts, json!({"once": wanted, "total": wanted, "red": red}), "{text}");
}

/// Every kind of recipients, over an adapter of the application.
pub(super) async fn reaches_all(fleet: &Fleet, clients: &mut Clients) {
    let send = |order: Value| assert_eq!(fleet.emit(&order), (200, json!({"published": true})), "{order}");
    send(json!({"event": "news", "args": ["all"]}));
    got(clients, "all", 12, 6).await;
    send(json!({"upstream": "app", "rooms": ["red"], "event": "news", "args": ["room"]}));
    got(clients, "room", 6, 6).await;
    send(json!({"namespace": "/", "rooms": ["red", "blue"], "event": "news", "args": ["rooms"]}));
    got(clients, "rooms", 12, 6).await;
    send(json!({"except": ["red"], "event": "news", "args": ["except"]}));
    got(clients, "except", 6, 0).await;
    send(json!({"rooms": ["none"], "event": "news", "args": ["unheard"]}));
    send(json!({"namespace": "/other", "event": "news", "args": ["unheard"]}));
    let long = "ü".repeat(200);
    send(json!({"event": "news", "args": [long, 1, -1, 1.5, null, true, {"a": [[]]}]}));
    got(clients, &long, 12, 6).await;
    send(json!({"event": "news", "args": [31.245_270_191_439_438]}));
    got(clients, "31.245270191439438", 12, 6).await;
    got(clients, "unheard", 0, 0).await;
    let (said, is_fine) = fleet.command(&["emit", "news", "command", "--room", "red", "--upstream", "app"]);
    assert!(is_fine && said.starts_with("published"), "{said}");
    got(clients, "command", 6, 6).await;
}

async fn over_redis(adapter: &str, mode: &str) {
    let redis = Redis::start();
    let more = format!("emit = {{ via = \"redis-adapter\", redis = \"{}\", adapter = \"{adapter}\" }}\n", redis.url());
    let variables = [("ADAPTER", adapter), ("REDIS", &redis.url()), ("MODE", mode)];
    let fleet = Fleet::configured(2, &more, &variables).await;
    let mut clients = fleet.clients(12).await;
    reaches_all(&fleet, &mut clients).await;
    let series = "stickyd_emits_total{result=\"published\",via=\"redis-adapter\"}";
    assert_eq!(metric(&fleet.stickyd, series), 9.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_classic_adapter_delivers_what_is_emitted() {
    over_redis("classic", "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sharded_adapter_delivers_what_is_emitted() {
    over_redis("sharded", "dynamic").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sharded_adapter_delivers_with_private_channels() {
    over_redis("sharded", "dynamic-private").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_streams_adapter_delivers_what_is_emitted() {
    over_redis("streams", "").await;
}

/// The adapter's Redis has its own user; a Redis that is away is an error in words, and is found again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_adapters_redis_has_its_own_user_and_may_go_away() {
    let mut redis = Redis::start();
    let acl = "acl setuser emitter on >secret-of-emitter resetkeys resetchannels &socket.io#* -@all +publish +ping +hello +select";
    let allow = |redis: &Redis| assert_eq!(redis.cli(&acl.split(' ').collect::<Vec<_>>()), "OK");
    allow(&redis);
    let password = redis.folder.join("password");
    std::fs::write(&password, "secret-of-emitter\n").unwrap();
    let more = format!(
        "emit = {{ via = \"redis-adapter\", redis = \"{}\", username = \"emitter\", password_file = {password:?} }}\n",
        redis.url()
    );
    let fleet = Fleet::configured(1, &more, &[("ADAPTER", "classic"), ("REDIS", &redis.url())]).await;
    let mut clients = fleet.clients(2).await;
    let order = |text: &str| json!({"event": "news", "args": [text]});
    assert_eq!(fleet.emit(&order("first")).0, 200);
    got(&mut clients, "first", 2, 1).await;
    redis.stop();
    let (status, answer) = fleet.emit(&order("lost"));
    assert_eq!(status, 502);
    let words = answer["error"].as_str().unwrap();
    assert!(words.contains(&redis.address.to_string()) && !words.contains("secret-of-emitter"), "{words}");
    redis.start_again();
    assert_eq!(fleet.emit(&order("no-user")).0, 502, "the user is unknown");
    allow(&redis);
    assert_eq!(fleet.emit(&order("again")).0, 200);
    assert_eq!(metric(&fleet.stickyd, "stickyd_emits_total{result=\"failed\",via=\"redis-adapter\"}"), 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bus_counts_and_collects_answers() {
    let fleet = Fleet::start(3, &[]).await;
    let mut clients = fleet.clients(12).await;
    fleet.wait_linked(3.0);
    let emit = |order: Value| {
        let (status, mut answer) = fleet.emit(&order);
        assert_eq!(status, 200, "{answer}");
        answer.as_object_mut().unwrap().remove("took_ms");
        answer
    };
    let counted = |sockets| json!({"published": true, "silent": 0, "sockets": sockets, "workers": 3});
    assert_eq!(emit(json!({"event": "news", "args": ["all"]})), counted(12));
    got(&mut clients, "all", 12, 6).await;
    assert_eq!(emit(json!({"rooms": ["red"], "event": "news", "args": ["room"]})), counted(6));
    got(&mut clients, "room", 6, 6).await;
    assert_eq!(emit(json!({"except": ["red"], "event": "news", "args": ["except"]})), counted(6));
    got(&mut clients, "except", 6, 0).await;
    assert_eq!(emit(json!({"rooms": ["none"], "event": "news", "args": ["unheard"]})), counted(0));
    assert_eq!(
        emit(json!({"namespace": "/none", "event": "news"})),
        json!({"published": true, "silent": 0, "sockets": 0, "workers": 0})
    );
    let answers = emit(json!({"rooms": ["red"], "event": "question", "args": ["who"], "ack": true, "timeout": "20s"}));
    assert_eq!(answers["sockets"], 6);
    let mut texts: Vec<_> = answers["acks"].as_array().unwrap().iter().map(|ack| ack.as_str().unwrap()).collect();
    texts.sort_unstable();
    assert_eq!(texts, ["0: who", "10: who", "2: who", "4: who", "6: who", "8: who"]);
    // Clients that have no handler for an event never answer.
    let silent = emit(json!({"event": "unheard", "ack": true, "timeout": "300ms"}));
    assert_eq!((&silent["sockets"], &silent["acks"]), (&json!(12), &json!([])));
    let (said, is_fine) = fleet.command(&["emit", "question", "\"x\"", "--room", "red", "--ack"]);
    assert!(is_fine && said.contains("6 sockets") && said.contains("6 clients answered"), "{said}");
    got(&mut clients, "unheard", 0, 0).await;
    assert_eq!(
        fleet.workers[0].ask("/side?text=x").as_array().map(Vec::len),
        Some(2),
        "the sender is not counted as a server"
    );
}

/// Twenty requests at once, and then some in turn: also clients that poll get each once, and the latter in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_the_same_moment_reach_all_clients() {
    let fleet = Fleet::start(2, &[]).await;
    let mut clients = fleet.clients(6).await;
    fleet.wait_linked(2.0);
    std::thread::scope(|scope| {
        for n in 0..20 {
            let order = json!({"event": "news", "args": [format!("moment{n}.")]});
            let fleet = &fleet;
            scope.spawn(move || {
                let (status, answer) = fleet.emit(&order);
                assert_eq!((status, &answer["sockets"]), (200, &json!(6)), "{answer}");
            });
        }
    });
    for n in 0..20 {
        got(&mut clients, &format!("moment{n}."), 6, 3).await;
    }
    for n in 0..20 {
        assert_eq!(fleet.emit(&json!({"event": "news", "args": [format!("turn{n}")]})).0, 200);
    }
    assert_eq!(clients.ask("series turn 20").await, json!({"whole": 6, "lengths": [20, 20, 20, 20, 20, 20]}));
}

/// The parser of an application is its own affair: the hub sends it data, not packets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bus_knows_no_parser() {
    let parser = ("PARSER", "socket.io-msgpack-parser");
    let fleet = Fleet::start(2, &[parser]).await;
    let with = format!("{}={}", parser.0, parser.1);
    let (mut clients, _) = Clients::connect(6, &[fleet.stickyd.url("")], &[&with]).await;
    fleet.wait_linked(2.0);
    assert_eq!(fleet.emit(&json!({"rooms": ["red"], "event": "news", "args": ["room"]})).1["sockets"], 3);
    got(&mut clients, "room", 3, 3).await;
    let answers = fleet.emit(&json!({"event": "question", "args": ["x"], "ack": true})).1;
    assert_eq!(answers["acks"].as_array().map(Vec::len), Some(6));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_messages_of_the_backend_are_refused() {
    let fleet = Fleet::start(1, &[]).await;
    fleet.wait_linked(1.0);
    let long = "x".repeat(65 * 1024);
    for (order, status, words) in [
        (json!({}), 422, "give `event`"),
        (json!({"event": ""}), 422, "not empty"),
        (json!({"event": "disconnect"}), 422, "none of connect"),
        (json!({"event": "e", "namespace": "chat"}), 422, "must begin with /"),
        (json!({"event": "e", "rooms": "red"}), 422, "`rooms` must be a list"),
        (json!({"event": "e", "rooms": [""]}), 422, "1 to 512 bytes"),
        (json!({"event": "e", "rooms": []}), 422, "leave it out to reach all clients"),
        (json!({"event": "e", "rooms": null}), 422, "`rooms` must be a list"),
        (json!({"event": "e", "rooms": vec!["r"; 1_001]}), 422, "at most 1000 names"),
        (json!({"event": "e", "except": ["x".repeat(513)]}), 422, "1 to 512 bytes"),
        (json!({"event": "e", "args": {"0": 1}}), 422, "`args` must be a list"),
        (json!({"event": "e", "path": "socket.io"}), 422, "must begin with /"),
        (json!({"event": "e", "path": "/none"}), 404, "has the path `/none`: nothing was sent"),
        (json!({"event": "e", "ack": true, "timeout": "0s"}), 422, "1ms to 30s"),
        (json!({"event": "e", "ack": true, "timeout": "5"}), 422, "1ms to 30s"),
        (json!({"event": "e", "ack": "yes"}), 422, "`ack` must be true or false"),
        (json!({"event": "e", "room": ["red"]}), 422, "unknown field `room`"),
        (json!({"event": "e", "text": "x"}), 422, "via = \"frames\""),
        (json!({"event": "e", "timeout": "5s"}), 422, "needs \"ack\""),
        (json!({"event": "e", "ack": true, "timeout": "1h"}), 422, "1ms to 30s"),
        (json!({"event": "e", "upstream": "none"}), 404, "no upstream `none`"),
        (json!({"event": "e", "args": [long]}), 413, "the limit is 65536"),
    ] {
        let (got, answer) = fleet.emit(&order);
        assert_eq!(got, status, "{answer}");
        assert!(answer["error"].as_str().unwrap().contains(words), "{answer}");
    }
    let deep = format!("{{\"event\": \"e\", \"args\": {}{}}}", "[".repeat(200), "]".repeat(200));
    let odd: [&[u8]; 4] =
        [deep.as_bytes(), br#"{"event": "\ud800"}"#, br#"{"event": "e", "args": [1e999]}"#, b"\xff{}"];
    for body in odd {
        let length = body.len();
        let head =
            format!("POST /api/v1/emit HTTP/1.1\r\nHost: localhost\r\nX-Stickyd: 1\r\nContent-Length: {length}\r\n");
        let mut connection = Raw::connect_unix(&fleet.stickyd.admin());
        let answer = connection.send([head.as_bytes(), b"\r\n", body].concat()).answer();
        assert_eq!(answer.status(), 422, "{}", answer.text());
        assert!(answer.text().contains("the body must be a JSON object with upstream"), "{}", answer.text());
    }
    // Messages that are sent are not among the events of operators.
    assert_eq!(fleet.emit(&json!({"event": "e", "path": "/socket.io/"})).0, 200);
    let events = fleet.admin("/api/v1/events?kind=operator");
    assert!(events.contains("POST /api/v1/emit (status 422)") && !events.contains("xxxx"), "{events}");
    assert!(!events.contains("POST /api/v1/emit (status 200)"), "{events}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_way_nothing_is_emitted() {
    let fleet = Fleet::configured(0, "bus = false\n", &[]).await;
    let (status, answer) = fleet.emit(&json!({"event": "e"}));
    assert_eq!(status, 403);
    assert!(answer["error"].as_str().unwrap().contains("has no `emit`"), "{answer}");
    let fleet = Fleet::configured(0, "emit = { via = \"bus\" }\n", &[]).await;
    assert_eq!(fleet.emit(&json!({"event": "e"})).0, 503, "no worker is linked");
}
