//! Other protocols than Socket.IO: real servers and clients of each, with three workers and without stickyd's cookie.

mod cometd;
mod examples;
mod follow;
mod hostile;
mod mcp;
mod phoenix;
mod refusals;
mod signalr;
mod sockjs;
mod streams;
mod tus;

use std::ops::RangeInclusive;

use serde_json::{Value, json};

use crate::support::kind::Kind;
use crate::support::node::{KindServer, NodeServer, PythonServer, Worker};
use crate::support::proxy::{Binary, Proxy};
use crate::support::redis::Redis;
use crate::support::wait::wait_for;

/// A common secret makes several stickyds one fleet; they share nothing else.
const SECRET: &str = "secret = \"0123456789abcdef0123456789abcdef\"\n";

/// So many sessions that a worker without any is not chance: with three workers and a hash, one run in fifty thousand.
const SESSIONS: usize = 30;

/// `[upstream.app]` with these workers under their own names, and the lines under test.
fn config(workers: &[Worker], rules: &str) -> String {
    let named = |worker: &Worker| format!("{{ address = {:?}, name = {:?} }}", worker.address(), worker.name);
    let workers: Vec<_> = workers.iter().map(named).collect();
    format!("{SECRET}[upstream.app]\n{rules}\nworkers = [{}]\n", workers.join(", "))
}

/// The kind of server that the workers run.
#[derive(Clone, Copy)]
enum Server {
    /// The protocol's own server, `tests/clients/kinds/KIND_server.js`.
    Kind,
    /// Socket.IO on Node, `tests/clients/server.js`.
    SocketIo,
    /// Socket.IO on Python, `tests/clients/python_server.py`.
    Python,
}

/// One protocol with its servers and clients, and the configuration under test.
struct Trial {
    /// The name in `tests/clients/kinds/KIND_client.js`.
    kind: &'static str,
    server: Server,
    /// Arguments of the servers.
    args: &'static [&'static str],
    /// Options of the clients, except their targets.
    client: Value,
    /// The lines of the upstream under test.
    rules: &'static str,
    /// Lines with which sessions break, to show that the test finds it.
    without: &'static str,
    /// The number of sessions.
    sessions: usize,
}

impl Trial {
    fn new(kind: &'static str, args: &'static [&'static str], client: Value, rules: &'static str) -> Self {
        Self {
            kind,
            server: Server::Kind,
            args,
            client,
            rules,
            without: "affinity = [\"address\"]",
            sessions: SESSIONS,
        }
    }

    async fn workers(&self, numbers: RangeInclusive<usize>) -> Vec<Worker> {
        let mut workers = Vec::new();
        match self.server {
            Server::Kind => workers = KindServer::start_many(self.kind, numbers, self.args).await,
            Server::SocketIo => {
                for number in numbers {
                    workers.push(NodeServer::start(&[&["--name", &format!("w{number}")], self.args].concat()).await);
                }
            }
            Server::Python => {
                for number in numbers {
                    workers.push(PythonServer::start(&[&["--name", &format!("w{number}")], self.args].concat()).await);
                }
            }
        }
        workers
    }

    /// Clients whose requests each come from another address and go to the proxies in turn.
    fn clients(&self, urls: &[String]) -> Kind {
        self.clients_of(urls, 32)
    }

    /// Clients like those of `clients` from this number of addresses; 0: from 127.0.0.1 only.
    fn clients_of(&self, urls: &[String], addresses: usize) -> Kind {
        let mut options = json!({"urls": urls, "addresses": addresses});
        options.as_object_mut().unwrap().extend(self.client.as_object().unwrap().clone());
        Kind::start(self.kind, &options)
    }

    /// Shows that the test finds lost sessions: with affinity by address only, and another address for each request.
    async fn breaks_without(&self) {
        let workers = self.workers(1..=3).await;
        let proxy = Proxy::with(&config(&workers, self.without));
        let mut clients = self.clients(&[proxy.url("")]);
        clients.open(12).await;
        clients.ask().await;
        let lost = clients.ask().await;
        println!("{} without a rule: {} of 12 live; {}", self.kind, lost["held"], lost["lost"]);
        assert!(lost["held"].as_u64().unwrap() < 12, "{lost}");
    }

    /// One stickyd: no session is lost or moves, and all workers are used.
    async fn is_kept_by_one(&self) {
        let workers = self.workers(1..=3).await;
        let proxy = Proxy::with(&config(&workers, self.rules));
        proxy.all_take_new().await;
        let mut clients = self.clients(&[proxy.url("")]);
        clients.open(self.sessions).await;
        for _ in 0..3 {
            clients.ask().await;
        }
        let end = clients.stop().await;
        self.assert_whole(&end, self.sessions, 3);
        self.say("one", &end, &workers).await;
    }

    /// One stickyd without an `affinity` key, which also sets its own cookie: no session is lost or moves.
    async fn keeps_with_cookies(&self) {
        let workers = self.workers(1..=3).await;
        let proxy = Proxy::with(&config(&workers, self.rules));
        proxy.all_take_new().await;
        let mut clients = self.clients(&[proxy.url("")]);
        clients.open(self.sessions).await;
        for _ in 0..2 {
            clients.ask().await;
        }
        let end = clients.stop().await;
        self.assert_live(&end, self.sessions, 3);
    }

    /// All clients have one address: no worker gets much more than its share.
    async fn spreads_from_one_address(&self) {
        let workers = self.workers(1..=3).await;
        let proxy = Proxy::with(&config(&workers, self.rules));
        proxy.all_take_new().await;
        let mut clients = self.clients_of(&[proxy.url("")], 0);
        for _ in 0..3 {
            clients.open(10).await;
        }
        let state = clients.ask().await;
        self.assert_whole(&state, 30, 3);
        let most = state["workers"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).max();
        println!("{}, 30 from one address: {}", self.kind, state["workers"]);
        assert!(most <= Some(13), "{state}");
    }

    /// Two stickyds in turn for every request: no session is lost or moves, and all workers are used.
    async fn is_found_by_two(&self) {
        let workers = self.workers(1..=3).await;
        let proxies = [0, 1].map(|_| Proxy::with(&config(&workers, self.rules)));
        for proxy in &proxies {
            proxy.all_take_new().await;
        }
        let mut clients = self.clients(&proxies.each_ref().map(|proxy| proxy.url("")));
        clients.open(self.sessions).await;
        for _ in 0..3 {
            clients.ask().await;
        }
        let end = clients.stop().await;
        self.assert_whole(&end, self.sessions, 3);
        self.say("two in turn", &end, &workers).await;
    }

    /// Two stickyds of a fleet in turn for every request, as `is_found_by_two`. `names`: of all sessions in Redis.
    async fn is_found_by_fleet(&self, names: usize) {
        let (redis, workers) = (Redis::start(), self.workers(1..=3).await);
        let proxies = self.fleet(&redis, &workers, "").await;
        let mut clients = self.clients(&proxies.each_ref().map(|proxy| proxy.url("")));
        clients.open(self.sessions).await;
        wait_for("redis has all names", || {
            let found = redis.keys("stickyd:a:").len();
            if found >= names { Ok(()) } else { Err(found) }
        });
        for _ in 0..3 {
            clients.ask().await;
        }
        let end = clients.stop().await;
        self.assert_whole(&end, self.sessions, 3);
        self.say("a fleet of two in turn", &end, &workers).await;
    }

    /// Two stickyds of a fleet.
    async fn fleet(&self, redis: &Redis, workers: &[Worker], more: &str) -> [Proxy; 2] {
        let fleet = |name: &str| {
            format!("[fleet]\nredis = {:?}\nname = \"{name}\"\nlookup_timeout = \"1s\"\n{more}", redis.url())
        };
        let proxies = ["edge-1", "edge-2"].map(|name| Proxy::with(&(config(workers, self.rules) + &fleet(name))));
        wait_for("each has seen the other", || proxies.iter().all(|one| one.metric("stickyd_fleet_members") > 1.5));
        for proxy in &proxies {
            proxy.all_take_new().await;
        }
        proxies
    }

    /// Two stickyds, one of which is killed and started again between two requests; then one more worker is added.
    async fn lives_on(&self) {
        let mut workers = self.workers(1..=3).await;
        let mut stickyds = [0, 1].map(|_| Binary::with(&config(&workers, self.rules)));
        let mut clients = self.clients(&stickyds.each_ref().map(|stickyd| stickyd.url("")));
        clients.open(self.sessions).await;
        self.assert_whole(&clients.ask().await, self.sessions, 3);

        clients.hold().await;
        stickyds[0].kill();
        stickyds[0].start_again();
        clients.go().await;
        clients.ask().await;
        self.assert_whole(&clients.ask().await, self.sessions, 3);

        workers.extend(self.workers(4..=4).await);
        for stickyd in &stickyds {
            edit(stickyd, &config(&workers, self.rules));
        }
        clients.ask().await;
        self.assert_whole(&clients.ask().await, self.sessions, 3);
        clients.open(self.sessions).await;
        clients.ask().await;
        let end = clients.stop().await;
        self.assert_whole(&end, 2 * self.sessions, 4);
        self.say("one restarted, a worker added", &end, &workers).await;
    }

    /// A worker dies: its sessions end at once, with answers that their clients understand, and no other session ends.
    async fn only_the_dead_are_lost(&self) {
        let mut workers = self.workers(1..=3).await;
        let proxy = Proxy::with(&config(&workers, self.rules));
        proxy.all_take_new().await;
        let mut clients = self.clients(&[proxy.url("")]);
        clients.open(self.sessions).await;
        let before = clients.ask().await;
        self.assert_whole(&before, self.sessions, 3);
        workers[1].kill().await;
        let after = clients.ask().await;
        let dead = before["workers"]["w2"].as_u64().unwrap();
        println!("{}, one of three killed: {dead} were on it; {}", self.kind, after["lost"]);
        assert_eq!(after["held"].as_u64().unwrap() + dead, self.sessions as u64, "{after}");
        assert_eq!((&after["moved"], after["lost"].get("no answer")), (&json!(0), None), "{after}");
        clients.open(12).await;
        let anew = clients.ask().await;
        assert_eq!(anew["held"].as_u64().unwrap() + dead, self.sessions as u64 + 12, "{anew}");
    }

    fn assert_whole(&self, state: &Value, sessions: usize, workers: usize) {
        self.assert_live(state, sessions, workers);
        // Clients get no cookies of stickyd; only protocols whose servers set cookies have any.
        let cookies = if self.client["cookies"] == true { sessions } else { 0 };
        assert_eq!(state["set_cookies"], cookies, "{}: {state}", self.kind);
    }

    /// All sessions live, on at least as many workers.
    fn assert_live(&self, state: &Value, sessions: usize, workers: usize) {
        let kind = self.kind;
        assert_eq!((&state["sessions"], &state["held"]), (&json!(sessions), &json!(sessions)), "{kind}: {state}");
        assert_eq!(state["moved"], 0, "{kind}: {state}");
        assert!(state["workers"].as_object().unwrap().len() >= workers, "{kind}: {state}");
    }

    async fn say(&self, what: &str, end: &Value, workers: &[Worker]) {
        let mut refused = Vec::new();
        for worker in workers {
            refused.push(worker.stats().await["refused"].clone());
        }
        let (kind, workers, answers) = (self.kind, &end["workers"], &end["answers"]);
        println!("{kind}, {what}: on {workers}; refused at the workers {refused:?}; clients saw {answers}");
    }
}

/// Edits the file of a running stickyd, and waits until it is reloaded.
fn edit(stickyd: &Binary, upstream: &str) {
    let path = stickyd.directory.join("stickyd.toml");
    let old = std::fs::read_to_string(&path).unwrap();
    let head = old.split("[upstream.app]").next().unwrap();
    let (_, upstream) = upstream.split_once("[upstream.app]").unwrap();
    let count = |stickyd: &Binary| stickyd.log().matches("reloaded").count();
    let before = count(stickyd);
    std::fs::write(&path, format!("{head}[upstream.app]{upstream}")).unwrap();
    wait_for("the edited file is reloaded", || count(stickyd) > before);
}
