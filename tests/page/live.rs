//! What the page shows of a running stickyd, and how soon: a real browser, real Socket.IO workers and clients.

use serde_json::{Value, json};

use super::bridge::Bridge;
use crate::support::browser::Browser;
use crate::support::load::Load;
use crate::support::node::{NodeServer, Worker};
use crate::support::proxy::Binary;

/// A stickyd with real workers named w1, w2, …, whose death is seen at the next check.
pub(super) async fn stickyd(count: usize) -> (Vec<Worker>, Binary) {
    let workers = NodeServer::start_many(count, &[]).await;
    let list = workers.iter().map(|one| format!("{{ address = \"{}\", name = \"{}\" }}", one.address(), one.name));
    let list = list.collect::<Vec<_>>().join(", ");
    let health = "health = { kind = \"tcp\", interval = \"500ms\", fast_interval = \"200ms\" }";
    let labels = "labels = { store = \"query:store\" }";
    let binary = Binary::with(&format!(
        "state_dir = \".\"\n[[route]]\nupstream = \"app\"\nbroadcast = true\n[upstream.app]\nworkers = [{list}]\n{health}\n{labels}"
    ));
    (workers, binary)
}

/// Clients that stay connected by WebSocket, with these options of their library.
pub(super) async fn stay(binary: &Binary, n: u64, io: Value) -> Load {
    let mut load = Load::start(
        json!({"urls": [binary.url("")], "n": n, "messages": 1, "keep": true, "timeout": 120_000, "io": io}),
    );
    load.event("all-upgraded").await;
    load
}

#[tokio::test]
async fn a_killed_worker_is_told_within_two_seconds() {
    let (mut workers, binary) = stickyd(3).await;
    let bridge = Bridge::start(&binary, &[]);
    let mut browser = Browser::open(bridge.url()).await;
    browser.see(".headline .first", "All 3 workers are up.").await;
    assert_eq!(browser.run("location.hash").await, "#/overview", "the key is in no history");
    browser.press(&["g", "w"]).await;
    browser.see("[data-worker='app/w2'] .badge", "up").await;
    workers[1].kill().await;
    let told = browser.ask(json!({"do": "see", "at": "[data-worker='app/w2'] .badge", "text": "gone"})).await;
    let ms = told["ms"].as_f64().unwrap();
    assert!(ms <= 2_000.0, "{ms} ms");
    browser.see("[data-worker='app/w2'] .why", "connects are refused").await;
    browser.press(&["g", "o"]).await;
    let first = browser.see(".headline.bad .first", "app/w2 has been gone for").await;
    assert!(first.contains(": start it again."), "what, since when, and what to do: {first}");
    browser.press(&["g", "e"]).await;
    browser.see(".events li", "app/w2").await;
    browser.has_behaved().await;
}

#[tokio::test]
async fn without_any_worker_the_first_sentence_says_so() {
    let (mut workers, binary) = stickyd(2).await;
    let bridge = Bridge::start(&binary, &[]);
    let mut browser = Browser::open(bridge.url()).await;
    browser.see(".headline.good .first", "All 2 workers are up.").await;
    for worker in &mut workers {
        worker.kill().await;
    }
    let first = browser.see(".headline.bad .first", "app has had no worker for new sessions").await;
    assert!(first.contains("start one of its workers"), "{first}");
    browser.see(".headline .detail", "New clients get 503").await;
    browser.has_behaved().await;
}

#[tokio::test]
async fn a_stopped_stickyd_is_told_and_its_return_resumes() {
    let (_workers, mut binary) = stickyd(1).await;
    let bridge = Bridge::start(&binary, &[]);
    let mut browser = Browser::open(bridge.url()).await;
    browser.see(".headline .first", "The worker is up.").await;
    browser.run("globalThis.neverReloaded = true").await;
    binary.terminate();
    browser.see(".banner.bad", "No connection to stickyd").await;
    browser.see(".side .link", "not connected").await;
    binary.start_again();
    browser.gone(".banner.bad", "").await;
    browser.see(".side .link", "live").await;
    browser.see(".headline .first", "The worker is up.").await;
    assert_eq!(browser.run("globalThis.neverReloaded").await, true, "without a reload");
    // While stickyd was away, requests failed; the page has to expect that.
    browser.has_behaved().await;
}

#[tokio::test]
async fn a_hidden_tab_lets_the_stream_go() {
    let (_workers, binary) = stickyd(1).await;
    let bridge = Bridge::start(&binary, &[]);
    let mut browser = Browser::open(bridge.url()).await;
    browser.see(".side .link", "live").await;
    let resources =
        "performance.getEntriesByType('resource').filter((one) => one.name.includes('/api/v1/live')).length";
    assert_eq!(browser.run(resources).await, 0, "the stream is open: only ended requests are entries");
    browser.ask(json!({"do": "hide", "hidden": true})).await;
    browser
        .run(&format!(
            "new Promise((done) => {{ const look = () => {resources} ? done() : setTimeout(look, 20); look() }})"
        ))
        .await;
    browser.ask(json!({"do": "hide", "hidden": false})).await;
    browser.see(".side .link", "live").await;
}

#[tokio::test]
async fn sockets_are_listed_searched_and_shown() {
    let (_workers, binary) = stickyd(2).await;
    let bridge = Bridge::start(&binary, &[]);
    let load = stay(&binary, 30, json!({"query": {"store": "7"}})).await;
    let mut browser = Browser::open(bridge.url()).await;
    browser.press(&["g", "s"]).await;
    browser.see(".summary", "30 of 30 live sockets").await;
    browser.fill("#search", "label:store=8").await;
    browser.see(".empty", "No socket matches").await;
    browser.fill("#search", "label:store=7 worker:w1").await;
    browser.see(".rows tbody tr", "app/w1").await;
    browser.gone(".rows tbody tr", "app/w2").await;
    browser.fill("#search", "colour:blue").await;
    browser.see(".hint.bad", "is not a condition").await;
    browser.fill("#search", "upstream:nothing").await;
    browser.see(".hint.bad", "there is no upstream `nothing`").await;
    browser.fill("#search", "").await;
    browser.see(".summary", "30 of 30 live sockets").await;
    browser.click(".rows tbody tr", "app/w1").await;
    browser.see(".drawer", "Session id").await;
    browser.press(&["Escape"]).await;
    browser.gone(".drawer", "").await;
    browser.press(&["g", "l"]).await;
    browser.see(".values li", "7").await;
    browser.has_behaved().await;
    drop(load);
}
