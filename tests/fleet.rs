//! Several stickyds over one real Redis: pins are found there, nothing depends on it, and Redis learns nothing.

mod admission;
mod clusters;
mod failures;
mod members;
mod orders;
mod pin;
mod placement;
mod rubbish;
mod secrecy;
mod states;
mod tickets;
mod users;

use serde_json::{Value, json};

use crate::support::cluster::{SECRET, assert_whole, upstream};
use crate::support::load::Load;
use crate::support::node::{NodeServer, Worker};
use crate::support::proxy::Proxy;
use crate::support::redis::Redis;
use crate::support::wait::wait_for;

/// Configuration of one stickyd of a fleet.
fn config(workers: &[Worker], name: &str, redis: &str, more: &str) -> String {
    format!("{SECRET}{}[fleet]\nredis = {redis}\nname = \"{name}\"\n{more}\n", upstream(workers))
}

/// Stickyds of one fleet in front of the same workers.
struct Stickyds(Vec<Proxy>);

impl Stickyds {
    fn start(count: usize, workers: &[Worker], redis: &str, more: &str) -> Self {
        let one = |i| Proxy::with(&config(workers, &format!("edge-{i}"), redis, more));
        Self((1..=count).map(one).collect())
    }

    fn urls(&self) -> Vec<String> {
        self.0.iter().map(|proxy| proxy.url("")).collect()
    }

    /// The sum of a series over all of them.
    fn sum(&self, series: &str) -> f64 {
        self.0.iter().map(|proxy| proxy.metric(series)).sum()
    }

    fn lookups(&self, result: &str) -> f64 {
        self.sum(&format!("stickyd_fleet_lookups_total{{result=\"{result}\"}}"))
    }

    /// Waits until every stickyd uses its Redis, or none does.
    fn wait_until_redis_is(&self, up: bool) {
        let series = "stickyd_fleet_redis_up{shard=";
        wait_for("each stickyd has noticed the state of its Redis", || {
            let seen: Vec<bool> = self.0.iter().map(|proxy| metric_beginning(proxy, series) > 0.0).collect();
            if seen.iter().all(|is_up| *is_up == up) { Ok(()) } else { Err(seen) }
        });
    }

    async fn all_take_new(&self) {
        for proxy in &self.0 {
            proxy.all_take_new().await;
        }
    }

    /// Options of clients each of whose connections goes to the next stickyd.
    fn clients(&self, n: u64, more: &Value) -> Value {
        let mut options =
            json!({"urls": self.urls(), "alternate": "request", "n": n, "messages": 5, "timeout": 60_000});
        options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        options
    }

    /// Starts clients that poll, and waits until each has had its answers: their sessions stay until the load stops.
    async fn keep(&self, n: u64) -> Load {
        let mut load = Load::start(self.clients(n, &json!({"transports": ["polling"], "keep": true})));
        load.event("all-echoed").await;
        load
    }

    /// Runs clients whose connections take turns; all of them stay whole.
    async fn run_whole(&self, n: u64, more: Value) -> Value {
        let result = Load::run(self.clients(n, &more)).await;
        assert_whole(&result, n, 5);
        result
    }
}

/// Ends clients that were kept; none of them has noticed anything.
async fn stop_whole(load: Load) {
    let result = load.stop().await;
    assert_eq!((&result["refusals"]["total"], &result["reconnects"]), (&json!(0), &json!(0)), "{result}");
}

/// The lowest value of the series that begin with this text; 0 if there is none.
fn metric_beginning(proxy: &Proxy, beginning: &str) -> f64 {
    let text = String::from_utf8(stickyd::testing::admin::scrape(proxy.server().shared())).unwrap();
    let values = text.lines().filter(|line| line.starts_with(beginning)).filter_map(|line| line.rsplit(' ').next());
    values.filter_map(|value| value.parse::<f64>().ok()).reduce(f64::min).unwrap_or(0.0)
}

#[tokio::test]
async fn sessions_of_other_stickyds_are_found_in_redis() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(4, &[]).await);
    let stickyds = Stickyds::start(3, &workers, &format!("{:?}", redis.url()), "lookup_timeout = \"100ms\"");
    stickyds.wait_until_redis_is(true);
    stickyds.all_take_new().await;
    let load = stickyds.keep(20).await;
    wait_for("redis has one key per live session", || {
        let keys = redis.keys("stickyd:p:").len();
        if keys == 20 { Ok(()) } else { Err(keys) }
    });
    stop_whole(load).await;
    for transports in [json!(["polling"]), json!(["polling", "websocket"]), json!(["websocket"])] {
        stickyds.run_whole(20, json!({"transports": transports})).await;
    }
    let (hits, misses) = (stickyds.lookups("hit"), stickyds.lookups("miss"));
    // Two other stickyds look up each of 60 polling sessions. An answer may leave before Redis has the pin: a loaded
    // machine misses a few, and asks the workers for them. `tests/long fleet-200` has the share of a quiet machine.
    assert!(hits >= 90.0 && hits >= 3.0 * misses, "{hits} found, {misses} not");
    for other in ["timeout", "wrong", "unknown_worker", "bad_seal"] {
        assert_eq!(stickyds.lookups(other), 0.0, "{other}");
    }
    assert!(stickyds.sum("stickyd_fleet_writes_total{result=\"ok\"}") >= 80.0);
}

#[tokio::test]
async fn an_ended_session_is_not_found_by_another_stickyd() {
    use crate::support::engines::{begin_session, many_sessions, path};
    use crate::support::raw::Raw;
    let (redis, worker) = (Redis::start(), many_sessions("one"));
    let text = |name: &str| {
        let worker = format!("{{ address = \"{}\", name = \"one\" }}", worker.address);
        format!("{SECRET}[upstream.app]\nworkers = [{worker}]\n[fleet]\nredis = {:?}\nname = \"{name}\"", redis.url())
    };
    let (a, b) = (Proxy::with(&text("a")), Proxy::with(&text("b")));
    let stickyds = Stickyds(vec![a, b]);
    stickyds.wait_until_redis_is(true);
    stickyds.all_take_new().await;
    let sid = begin_session(stickyds.0[0].address, "");
    wait_for("redis has the pin", || redis.keys("stickyd:p:").len() == 1);
    let shared = stickyds.0[0].server().shared();
    let snapshot = shared.snapshot.load();
    let key = shared.sessions.keys.key("app", sid.as_bytes());
    shared.sessions.end(snapshot.upstream("app").unwrap(), key);
    let written = || stickyds.sum("stickyd_fleet_writes_total{result=\"ok\"}");
    wait_for("redis has the end", || written() >= 2.0);
    let answer = Raw::connect(stickyds.0[1].address).get(&path(&sid));
    assert_eq!((answer.status(), stickyds.lookups("ended")), (400, 1.0), "{}", answer.text());
}

#[tokio::test]
async fn pins_are_spread_over_several_redis() {
    let (one, two) = (Redis::start(), Redis::start());
    let workers = NodeServer::start_many(2, &[]).await;
    let list = |a: &Redis, b: &Redis| format!("[{:?}, {:?}]", a.url(), b.url());
    // The order in the file does not matter.
    let (forth, back) = (list(&one, &two), list(&two, &one));
    // On a busy machine, 20 ms are too short.
    let patient = "lookup_timeout = \"1s\"";
    let stickyds = Stickyds(
        [("a", forth), ("b", back)].map(|(name, list)| Proxy::with(&config(&workers, name, &list, patient))).into(),
    );
    stickyds.wait_until_redis_is(true);
    stickyds.all_take_new().await;
    let load = stickyds.keep(30).await;
    // There, too, a few sessions may be asked for before their pins are written.
    assert!(stickyds.lookups("hit") >= 20.0, "{}", stickyds.lookups("hit"));
    let (first, second) = (one.keys("stickyd:p:").len(), two.keys("stickyd:p:").len());
    assert!(first >= 3 && second >= 3, "{first} and {second} pins");
    assert_eq!(first + second, 30, "each session has one pin");
    stop_whole(load).await;
}
