//! Workers that die, stop, sleep, come back and flap while clients send numbered messages: messages are lost only by
//! the death of their own worker, and other sessions are not affected.

use serde_json::{Value, json};

use crate::support::cluster::{all_upgraded, run_whole, upstream};
use crate::support::load::Load;
use crate::support::node::{NodeServer, Worker};
use crate::support::proxy::Proxy;
use crate::support::wait::wait_for_async;

/// Clients of each kind, so that each of three workers has 12 sessions.
const N: u64 = 18;

/// Three workers, and clients on WebSocket and on polling that send all the time.
struct Town {
    workers: Vec<Worker>,
    proxy: Proxy,
    loads: [Load; 2],
}

impl Town {
    async fn start() -> Self {
        let workers = NodeServer::start_many(3, &[]).await;
        let health = "health = { kind = \"http\", path = \"/health\", interval = \"500ms\", timeout = \"400ms\" }\n";
        let proxy = Proxy::with(&format!("{}{health}", upstream(&workers)));
        let load = |transports: &[&str]| {
            Load::start(json!({"urls": [proxy.url("")], "n": N, "messages": "endless", "interval": 20,
                "transports": transports, "timeout": 120_000}))
        };
        let mut loads = [load(&["polling", "websocket"]), load(&["polling"])];
        for load in &mut loads {
            load.event("all-connected").await;
        }
        all_upgraded(&mut loads[0], N).await;
        for load in &mut loads {
            // Each client has had an answer of its worker.
            wait_for_async("every client knows its worker", async || {
                let status = load.status().await;
                if status["workers"].get("unknown").is_none() { Ok(()) } else { Err(status) }
            })
            .await;
        }
        Self { workers, proxy, loads }
    }

    /// The number of clients of each kind on a worker.
    async fn on(&mut self, name: &str) -> [u64; 2] {
        let mut on = [0; 2];
        for (on, load) in on.iter_mut().zip(&mut self.loads) {
            *on = load.status().await["workers"][name].as_u64().unwrap_or(0);
        }
        on
    }

    /// Waits until every client is connected, and `hit` clients of each kind have connected again.
    async fn all_back(&mut self, hit: [u64; 2]) {
        for (load, hit) in self.loads.iter_mut().zip(hit) {
            wait_for_async("every client is connected again", async || {
                let status = load.status().await;
                let all_back = status["reconnects"].as_u64().unwrap() >= hit && status["connected"] == N;
                if all_back { Ok(()) } else { Err((hit, status)) }
            })
            .await;
        }
    }

    /// Starts the same worker as another process on its port.
    async fn restart(&mut self, index: usize) {
        let (name, port) = (self.workers[index].name.clone(), self.workers[index].port.to_string());
        self.workers[index] = NodeServer::start(&["--name", &name, "--port", &port]).await;
    }

    async fn until_generation(&self, name: &str, generation: u32) {
        let worker = self.proxy.worker(name);
        wait_for_async("the restart is noticed", async || worker.generation() >= generation).await;
    }

    /// Ends the runs: the last messages of all clients come back. `hit`: how many of each kind have started anew, once
    /// each.
    async fn counts(self, what: &str, hit: [u64; 2]) -> [Value; 2] {
        let mut results = [Value::Null, Value::Null];
        for ((mut load, hit), result) in self.loads.into_iter().zip(hit).zip(&mut results) {
            load.echo(3).await;
            *result = load.stop().await;
            println!(
                "{what}: {hit} hit, {} anew, {} (moved {}), refusals {}, disconnects {}, errors {}, anew after {}",
                result["reconnects"],
                result["echoes"],
                result["moved"],
                result["refusals"],
                result["disconnects"],
                result["connect_errors"],
                result["reconnect_ms"]
            );
            assert_eq!(result["reconnects"], hit, "{result}");
            assert_eq!(result["connected"], N, "{result}");
            for none in ["duplicated", "reordered"] {
                assert_eq!(result["echoes"][none], 0, "{none}: {result}");
            }
            assert_eq!(result["moved"], 0, "{result}");
            if hit == 0 {
                assert_eq!(result["echoes"]["lost"], 0, "{result}");
                assert_eq!(result["bad_answers"], json!({}), "{result}");
            } else if let Some(median) = result["reconnect_ms"]["median"].as_u64() {
                assert!(median <= 2_500, "{result}");
            }
        }
        results
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_started_again() {
    let mut town = Town::start().await;
    let hit = town.on("w2").await;
    town.workers[1].kill().await;
    town.all_back(hit).await;
    assert_eq!(town.on("w2").await, [0, 0]);
    town.restart(1).await;
    town.until_generation("w2", 2).await;
    let counts = town.counts("SIGKILL, then a new process on its port", hit).await;
    // An open poll gets an answer; its connection is not just closed.
    assert_eq!(counts[1]["connect_errors"].as_object().unwrap().keys().filter(|e| e.contains("reset")).count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_at_once() {
    let mut town = Town::start().await;
    let hit = town.on("w1").await;
    town.workers[0].kill().await;
    town.restart(0).await;
    town.until_generation("w1", 2).await;
    town.all_back(hit).await;
    let [_, one, two, three] =
        ["", "w1", "w2", "w3"].map(|name| if name.is_empty() { 0 } else { town.proxy.worker(name).generation() });
    assert_eq!((one, two, three), (2, 1, 1), "one restart, of one worker");
    town.counts("killed and back on its port at once", hit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_close_ends_no_session_before_the_process_ends() {
    let mut town = Town::start().await;
    let hit = town.on("w3").await;
    town.workers[2].close().await;
    let worker = town.proxy.worker("w3");
    wait_for_async("the worker is leaving", async || worker.health().word() == "leaving").await;
    // Tunnels go on. Each poll needs a new connection, which is refused; its session is only refused when the worker is
    // gone, not before.
    let sockets = town.loads[0].status().await;
    assert_eq!((&sockets["reconnects"], &sockets["connected"]), (&json!(0), &json!(N)), "{sockets}");
    town.workers[2].command("exit").await;
    town.all_back(hit).await;
    town.counts("server.close(), then its exit", hit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_workers_sessions_live_on_when_it_wakes() {
    let town = Town::start().await;
    town.workers[1].stop().await;
    let worker = town.proxy.worker("w2");
    wait_for_async("the worker is hung", async || worker.health().word() == "hung").await;
    // New sessions go to the others.
    let fresh = run_whole(&town.proxy.url(""), 12, json!({})).await;
    assert_eq!(fresh["workers"].get("w2"), None, "{fresh}");
    town.workers[1].cont().await;
    wait_for_async("the worker takes new sessions", async || worker.takes_new()).await;
    assert_eq!(worker.generation(), 1);
    town.counts("SIGSTOP until it was found hung, then SIGCONT", [0, 0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_comes_late_gets_sessions_once_it_is_there() {
    let mut workers = NodeServer::start_many(3, &[]).await;
    let port = workers[2].port.to_string();
    workers[2].kill().await;
    let proxy = Proxy::with(&upstream(&workers));
    let early = run_whole(&proxy.url(""), 12, json!({})).await;
    assert_eq!(early["workers"].get("w3"), None, "{early}");
    workers[2] = NodeServer::start(&["--name", "w3", "--port", &port]).await;
    let worker = proxy.worker("w3");
    wait_for_async("the worker takes new sessions", async || worker.takes_new()).await;
    assert_eq!(worker.generation(), 1, "its first life");
    let late = run_whole(&proxy.url(""), 24, json!({})).await;
    assert!(late["workers"]["w3"].as_u64() > Some(0), "the worker gets some sessions: {late}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flapping_worker_affects_no_other_sessions() {
    let mut town = Town::start().await;
    let steady: [[u64; 2]; 2] = [town.on("w1").await, town.on("w3").await];
    for _ in 0..3 {
        town.workers[1].kill().await;
        town.restart(1).await;
    }
    town.until_generation("w2", 2).await;
    town.all_back([0, 0]).await;
    for (name, before) in ["w1", "w3"].iter().zip(steady) {
        let now = town.on(name).await;
        assert!(now.iter().zip(before).all(|(now, before)| *now >= before), "{name}: {before:?}, then {now:?}");
    }
    for (load, kind) in town.loads.iter_mut().zip(["sockets", "polls"]) {
        load.echo(3).await;
        let status = load.status().await;
        println!("killed and restarted three times, {kind}: {} anew, {}", status["reconnects"], status["echoes"]);
        assert_eq!((&status["moved"], &status["connected"]), (&json!(0), &json!(N)), "{status}");
    }
}
