//! Limits of a user's sockets over several stickyds, which count them in Redis; the own count holds without it.

use std::net::SocketAddr;

use futures_util::{FutureExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::secrecy::{assert_nothing_refused, grant};
use super::{Stickyds, config};
use crate::support::node::{NodeServer, Worker};
use crate::support::proxy::{Binary, Proxy};
use crate::support::raw::{Raw, RawWorker};
use crate::support::redis::Redis;
use crate::support::tokens::{Guarded, SECRET, all, token};
use crate::support::tunnels::Client;
use crate::support::wait::{wait_for, wait_for_async, within};

/// A route whose users are named by the query, for WebSockets by hand, and one by tokens for real clients.
fn routes(users: &str, by_hand: &RawWorker) -> String {
    let worker = format!("{{ address = \"{}\", name = \"hand\" }}", by_hand.address);
    format!(
        "lookup_timeout = \"1s\"\n[upstream.hand]\nworkers = [{worker}]\nlabels = {{ uid = \"query:uid\" }}\n\
         [[route]]\nupstream = \"hand\"\npath = \"/by-hand\"\n\
         users = {{ by = \"uid\", {users} }}\n\
         [[route]]\nupstream = \"app\"\nusers = {{ by = \"jwt:sub\", {users} }}\n[route.jwt]\n\
         secret = \"{SECRET}\"\nfrom = [\"header:authorization\", \"auth:token\"]\n"
    )
}

/// The workers of all stickyds of a test.
struct Workers {
    real: Vec<Worker>,
    by_hand: RawWorker,
}

impl Workers {
    async fn start() -> Self {
        let by_hand = RawWorker::scripted(|leg| {
            while let Some(request) = leg.request() {
                let accept = derive_accept_key(request.header("sec-websocket-key").unwrap_or_default().as_bytes());
                let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
                leg.send(format!("{head}Sec-WebSocket-Accept: {accept}\r\n\r\n"));
                leg.until_closed();
            }
        });
        Self { real: NodeServer::start_many(1, &[]).await, by_hand }
    }

    fn text(&self, name: &str, redis: &str, users: &str) -> String {
        config(&self.real, name, redis, &routes(users, &self.by_hand))
    }
}

/// Stickyds in front of one worker, all of which use Redis.
async fn started(count: usize, workers: &Workers, redis: &Redis, users: &str) -> Stickyds {
    let url = format!("{:?}", redis.url());
    let stickyds =
        Stickyds((1..=count).map(|i| Proxy::with(&workers.text(&format!("edge-{i}"), &url, users))).collect());
    stickyds.wait_until_redis_is(true);
    stickyds.all_take_new().await;
    wait_for("each stickyd sees all others", || {
        let seen: Vec<_> = stickyds.0.iter().map(|proxy| proxy.metric("stickyd_fleet_members")).collect();
        if seen.iter().all(|seen| *seen >= count as f64) { Ok(()) } else { Err(seen) }
    });
    stickyds
}

/// Opens a WebSocket of a user by hand.
async fn open(address: SocketAddr, user: &str) -> Result<Held, u16> {
    let url = format!("ws://{address}/by-hand?uid={user}");
    match within(tokio_tungstenite::connect_async(url)).await {
        Ok((client, _)) => Ok(Held { client, code: None }),
        Err(Error::Http(answer)) => Err(answer.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

/// Opens a WebSocket, and waits until its stickyd has checked it in Redis.
async fn open_checked(proxy: &Proxy, user: &str) -> Held {
    let before = checks(proxy);
    let client = open(proxy.address, user).await.unwrap();
    wait_for("the socket is checked", || checks(proxy) > before);
    client
}

fn checks(proxy: &Proxy) -> f64 {
    ["within", "over", "unknown"].iter().map(|result| checked(proxy, result)).sum()
}

fn checked(proxy: &Proxy, result: &str) -> f64 {
    proxy.metric(&format!("stickyd_fleet_user_checks_total{{result=\"{result}\"}}"))
}

/// Number of entries in the only list of a user.
fn listed(redis: &Redis) -> String {
    let keys = redis.keys("stickyd:u:");
    assert!(keys.len() <= 1, "{keys:?}");
    keys.first().map_or_else(|| "0".to_owned(), |key| redis.cli(&["llen", key]))
}

/// A WebSocket, and the code of its Close once that has come; 0: it ended without one.
struct Held {
    client: Client,
    code: Option<u16>,
}

impl Held {
    fn is_open(&mut self) -> bool {
        while self.code.is_none()
            && let Some(read) = self.client.next().now_or_never()
        {
            self.code = match read {
                Some(Ok(Message::Close(Some(frame)))) => Some(frame.code.into()),
                Some(Ok(Message::Close(None)) | Err(_)) | None => Some(0),
                Some(Ok(_)) => None,
            };
        }
        self.code.is_none()
    }

    /// Waits until it is closed; the code.
    fn code(&mut self) -> u16 {
        wait_for("the socket is closed", || !self.is_open());
        self.code.unwrap()
    }
}

fn open_ones(held: &mut [Held]) -> usize {
    held.iter_mut().map(Held::is_open).filter(|is_open| *is_open).count()
}

fn options(proxy: &Proxy, user: &str, transports: &Value, in_auth: bool) -> Value {
    let token = token(json!({"sub": user}));
    let mut options = json!({"url": proxy.url(""), "transports": transports, "stays": true, "settle": 500});
    match in_auth {
        true => options["auth"] = json!({"token": token}),
        false => options["extraHeaders"] = json!({"authorization": format!("Bearer {token}")}),
    }
    options
}

async fn real(proxy: &Proxy, user: &str, transports: &Value) -> Guarded {
    let mut settings = options(proxy, user, transports, false);
    // It ends when it is told to, however long that takes on a busy machine.
    settings["settle"] = json!(600_000);
    let mut client = Guarded::start(&settings);
    client.event("echo").await;
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_socket_too_many_closes_the_oldest_on_any_stickyd() {
    let (redis, workers) = (Redis::start(), Workers::start().await);
    let stickyds = started(3, &workers, &redis, "sockets = 2, over = \"oldest\"").await;
    let (websocket, polling) = (json!(["websocket"]), json!(["polling"]));
    let mut first = real(&stickyds.0[0], "u", &websocket).await;
    wait_for("Redis has the first", || listed(&redis) == "1");
    let mut second = real(&stickyds.0[1], "u", &polling).await;
    wait_for("Redis has both", || listed(&redis) == "2");
    let mut third = real(&stickyds.0[2], "u", &websocket).await;
    let end = first.event("disconnect").await;
    assert_eq!((&end["code"], &end["text"]), (&json!(4409), &json!("too_many_connections")), "{end}");
    first.command("finish").await;
    first.event("end").await;
    wait_for("two are counted", || listed(&redis) == "2");
    for client in [&mut second, &mut third] {
        client.command("emit /").await;
        client.event("echo").await;
    }
    let turned = |proxy: &Proxy| proxy.metric("stickyd_guarded_total{guard=\"users\",upstream=\"app\"}");
    assert!(turned(&stickyds.0[0]) >= 1.0, "counted where the socket was");
    drop(third);
    wait_for("a socket that ends leaves its place", || listed(&redis) == "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_socket_too_many_is_refused_by_the_count_of_the_fleet() {
    for in_auth in [false, true] {
        let (redis, workers) = (Redis::start(), Workers::start().await);
        let stickyds = started(3, &workers, &redis, "sockets = 2, over = \"refuse\"").await;
        let transports = [json!(["polling"]), json!(["websocket"])];
        let mut kept = Vec::new();
        for (place, transports) in transports.iter().enumerate() {
            let mut client = Guarded::start(&options(&stickyds.0[place], "u", transports, in_auth));
            client.event("echo").await;
            kept.push(client);
            wait_for("Redis has it", || listed(&redis) == (place + 1).to_string());
        }
        for transports in &transports {
            let said = Guarded::start(&options(&stickyds.0[2], "u", transports, in_auth)).end().await;
            assert_eq!(all(&said, "end")[0]["attempts"], 1, "{said:?}");
            assert_eq!(all(&said, "error")[0]["code"], "too_many_connections", "{said:?}");
        }
        for client in &mut kept {
            client.command("emit /").await;
            client.event("echo").await;
        }
        wait_for("the refused ones are not counted", || listed(&redis) == "2");
        drop(kept.pop());
        wait_for("one is left", || listed(&redis) == "1");
        Guarded::start(&options(&stickyds.0[2], "u", &transports[1], in_auth)).event("echo").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_the_own_count_holds_until_it_is_back() {
    let (mut redis, workers) = (Redis::start(), Workers::start().await);
    let stickyds = started(2, &workers, &redis, "sockets = 1, over = \"oldest\"").await;
    let mut first = open_checked(&stickyds.0[0], "u").await;
    redis.stop();
    stickyds.wait_until_redis_is(false);
    let mut second = open(stickyds.0[1].address, "u").await.unwrap();
    let mut third = open(stickyds.0[1].address, "u").await.unwrap();
    assert_eq!(second.code(), 4409, "the own count");
    assert!(first.is_open() && third.is_open(), "no socket is lost");
    redis.start_again();
    // Redis has lost everything. Both stickyds enter their sockets again, and one of the two has to go.
    wait_for("one socket is left", || {
        let open = [first.is_open(), third.is_open()];
        if open[0] != open[1] { Ok(()) } else { Err(open) }
    });
    wait_for("one socket is counted", || listed(&redis) == "1");
    assert_ne!(first.is_open(), third.is_open());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_redis_refuses_no_socket() {
    let (redis, workers) = (Redis::start(), Workers::start().await);
    let stickyds = started(2, &workers, &redis, "sockets = 1, over = \"refuse\"").await;
    let first = open_checked(&stickyds.0[0], "u").await;
    assert_eq!(open(stickyds.0[1].address, "u").await.err(), Some(429));
    redis.signal("STOP");
    stickyds.wait_until_redis_is(false);
    let mut second = open(stickyds.0[1].address, "u").await.unwrap();
    assert_eq!(open(stickyds.0[1].address, "u").await.err(), Some(429), "the own count");
    redis.signal("CONT");
    stickyds.wait_until_redis_is(true);
    drop(first);
    wait_for("the socket that was let in is counted", || listed(&redis) == "1");
    wait_for_async("the count of the fleet holds again", async || {
        open(stickyds.0[0].address, "u").await.err() == Some(429)
    })
    .await;
    assert!(second.is_open());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sockets_of_a_dead_stickyd_stop_counting() {
    let (redis, workers) = (Redis::start(), Workers::start().await);
    let users = "sockets = 1, over = \"refuse\"";
    let dies = workers.text("dies", &format!("{:?}", redis.url()), users);
    let mut dies = Binary::with(&format!("state_dir = \".\"\n{dies}"));
    let stickyds = started(1, &workers, &redis, users).await;
    wait_for("both are there", || stickyds.0[0].metric("stickyd_fleet_members") == 2.0);
    let _first = open(dies.address, "u").await.unwrap();
    wait_for("Redis has the socket", || listed(&redis) == "1");
    assert_eq!(open(stickyds.0[0].address, "u").await.err(), Some(429));
    dies.kill();
    // Its summary lives for 15 s, and is read every 5 s.
    wait_for_async("the user may connect again", async || open(stickyds.0[0].address, "u").await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stickyds_that_race_for_the_last_place_let_in_as_many_as_allowed() {
    let (redis, workers) = (Redis::start(), Workers::start().await);
    let stickyds = started(3, &workers, &redis, "sockets = 4, over = \"refuse\"").await;
    let opening = (0..18).map(|i| open(stickyds.0[i % 3].address, "u"));
    let mut opened: Vec<Held> = futures_util::future::join_all(opening).await.into_iter().flatten().collect();
    wait_for("four are left", || {
        let left = open_ones(&mut opened);
        if left == 4 { Ok(()) } else { Err(left) }
    });
    wait_for("Redis has four", || listed(&redis) == "4");
    assert_eq!(open_ones(&mut opened), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_and_foreign_entries_do_not_count() {
    let (redis, workers) = (Redis::start(), Workers::start().await);
    let stickyds = started(2, &workers, &redis, "sockets = 2, over = \"refuse\"").await;
    let first = open_checked(&stickyds.0[0], "u").await;
    wait_for("Redis has it", || listed(&redis) == "1");
    let list = redis.keys("stickyd:u:").remove(0);
    // Anything, of any length, and the entry of another user, moved here.
    for rubbish in ["", "x", &"y".repeat(52), &"z".repeat(5_000)] {
        assert_ne!(redis.cli(&["lpush", &list, rubbish]), "0");
    }
    let other = open_checked(&stickyds.0[0], "v").await;
    wait_for("Redis has both users", || redis.keys("stickyd:u:").len() == 2);
    let moved = redis.keys("stickyd:u:").into_iter().find(|key| *key != list).unwrap();
    assert_eq!(
        redis.cli(&[
            "eval",
            "redis.call('lpush', KEYS[2], redis.call('lindex', KEYS[1], 0)) \
        -- an old entry of the user itself, ten times
        local own = redis.call('lindex', KEYS[2], -1) for i = 1, 10 do redis.call('rpush', KEYS[2], own) end \
        return 'done'",
            "2",
            &moved,
            &list
        ]),
        "done"
    );
    let second = open_checked(&stickyds.0[1], "u").await;
    assert_eq!(open(stickyds.0[0].address, "u").await.err(), Some(429));
    wait_for("the rest is removed", || redis.cli(&["llen", &list]) == "2");
    // Another kind of value, which no list command works on.
    drop((first, second, other));
    wait_for("all sockets have left", || redis.keys("stickyd:u:").is_empty());
    assert_eq!(redis.cli(&["set", &list, "no list"]), "OK");
    let mut third = open(stickyds.0[0].address, "u").await.unwrap();
    wait_for("it is a list again", || redis.cli(&["llen", &list]) == "1");
    assert!(third.is_open());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_sees_no_user_and_grants_what_is_printed() {
    let (redis, workers) = (Redis::start(), Workers::start().await);
    grant(&[&redis], &workers.real);
    let monitor = redis.monitor();
    let url = format!("\"redis://edge:pass@{}\"", redis.address);
    let users = "sockets = 1, over = \"oldest\"";
    let stickyds = Stickyds(["a", "b"].map(|name| Proxy::with(&workers.text(name, &url, users))).into());
    stickyds.wait_until_redis_is(true);
    stickyds.all_take_new().await;
    // Names are compared byte by byte, and each is a user of its own.
    let names = ["alice", "alice%00", "alice%20", "%e2%98%83alice", "alice%22%0d%0ADEL", &"alice".repeat(40)];
    let mut clients = Vec::new();
    for name in names {
        clients.push(open_checked(&stickyds.0[0], name).await);
    }
    wait_for("each user has a list", || redis.keys("stickyd:u:").len() == names.len());
    assert_eq!(open_ones(&mut clients), names.len());
    let _second = open_checked(&stickyds.0[1], "alice").await;
    assert_eq!(clients[0].code(), 4409);
    let seen = monitor.text();
    for command in ["\"RPUSH\" \"stickyd:u:", "\"EXPIRE\" \"stickyd:u:", "\"LREM\" \"stickyd:u:"] {
        wait_for("Redis has seen the command", || monitor.text().contains(command));
    }
    for name in ["alice", "uid", "by-hand"] {
        assert!(!seen.contains(name), "Redis has seen {name}: {seen}");
    }
    assert_nothing_refused(&[&redis], &stickyds);
}

#[test]
fn a_user_has_one_rate_on_all_stickyds() {
    let (mut redis, worker) = (Redis::start(), RawWorker::named("w"));
    let start = |name: &str| {
        let worker = format!("{{ address = \"{}\", name = \"w\" }}", worker.address);
        let upstream = format!("[upstream.app]\nworkers = [{worker}]\nlabels = {{ uid = \"query:uid\" }}\n");
        let route = "[[route]]\nupstream = \"app\"\nrate = { by = \"uid\", requests = \"4/h\" }\n";
        let fleet = format!("[fleet]\nredis = {:?}\nname = {name:?}\n", redis.url());
        Proxy::with(&format!("{}{upstream}{route}{fleet}", crate::support::cluster::SECRET))
    };
    let stickyds = Stickyds(vec![start("a"), start("b")]);
    let [a, b] = &stickyds.0[..] else { panic!() };
    stickyds.wait_until_redis_is(true);
    let ask = |proxy: &Proxy, user: &str| Raw::connect(proxy.address).get(&format!("/page?uid={user}")).status();
    let messages =
        |proxy: &Proxy, result: &str| proxy.metric(&format!("stickyd_fleet_messages_total{{result=\"{result}\"}}"));
    let mut number = 0;
    let mut fresh = move |what: &str| {
        number += 1;
        format!("{what}{number}")
    };
    wait_for("what is spent on a is missing on b", || {
        let user = fresh("u");
        assert_eq!([ask(a, &user), ask(a, &user), ask(a, &user)], [200; 3]);
        // What was spent before is in the first message at the latest, and charged before the third is read.
        for _ in 0..3 {
            let before = messages(b, "received");
            wait_for("b hears a", || {
                ask(a, &fresh("x"));
                messages(b, "received") > before
            });
        }
        let seen = [ask(b, &user), ask(b, &user), ask(b, &fresh("v"))];
        if seen == [200, 429, 200] { Ok(()) } else { Err(seen) }
    });
    redis.stop();
    stickyds.wait_until_redis_is(false);
    for proxy in [a, b] {
        assert_eq!([ask(proxy, "w"), ask(proxy, "w"), ask(proxy, "w"), ask(proxy, "w")], [200; 4]);
        assert_eq!(ask(proxy, "w"), 429, "the own count");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_hundreds_of_sockets_is_counted_exactly() {
    for over in ["oldest", "refuse"] {
        let (redis, workers) = (Redis::start(), Workers::start().await);
        let stickyds = started(2, &workers, &redis, &format!("sockets = 550, over = \"{over}\"")).await;
        let mut opened = Vec::new();
        // Few at a time: on a loaded machine, Redis answers fifty questions later than `lookup_timeout`, and a socket
        // about which it has not answered in time is let in.
        for part in 0..65 {
            let opening = (0..10).map(|i| open(stickyds.0[(part + i) % 2].address, "u"));
            opened.extend(futures_util::future::join_all(opening).await.into_iter().flatten());
        }
        wait_for("as many are left as allowed", || {
            let left = open_ones(&mut opened);
            if left == 550 { Ok(()) } else { Err(left) }
        });
        wait_for("Redis has them", || listed(&redis) == "550");
        // Redis loses some: they are entered again, though the list is long.
        let list = redis.keys("stickyd:u:").remove(0);
        assert_eq!(redis.cli(&["ltrim", &list, "20", "-1"]), "OK");
        wait_for_async("Redis has them again", async || listed(&redis) == "550").await;
        assert_eq!(open_ones(&mut opened), 550, "{over}");
    }
}
