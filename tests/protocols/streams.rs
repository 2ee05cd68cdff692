//! Event streams: not buffered, not ended by time-outs, counted as live, and ended by a drain.

use std::sync::{Mutex, mpsc};

use serde_json::json;
use stickyd::testing::config::AdminState;
use stickyd::testing::upstream::AdminChange;

use super::{Trial, config, edit};
use crate::support::h2::{Secured, ask};
use crate::support::proxy::{Binary, Proxy};
use crate::support::raw::{Raw, RawWorker};
use crate::support::wait::{wait_for, within};

/// Every time-out at its minimum, except those of health checks and drains.
const TINY: &str =
    "connect_timeout = \"500ms\"\nresponse_timeout = \"500ms\"\ntunnel_idle = \"1s\"\nqueue_timeout = \"500ms\"\n";
const TINY_LIMITS: &str =
    "[limits]\nidle_timeout = \"1s\"\nhead_timeout = \"1s\"\nmin_rate_grace = \"1s\"\nmin_rate = 1000000\n";

/// A worker that answers with an event stream; it sends the texts that the test gives it.
fn streaming() -> (RawWorker, mpsc::Sender<&'static str>) {
    let (say, said) = mpsc::channel::<&'static str>();
    let said = Mutex::new(said);
    let worker = RawWorker::scripted(move |leg| {
        let Some(request) = leg.request() else { return };
        if !request.start.starts_with("GET /mcp") {
            leg.send("HTTP/1.1 200 OK\r\nMcp-Session-Id: one\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        leg.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        while let Ok(event) = said.lock().unwrap().recv() {
            if !leg.send(format!("{:x}\r\n{event}\r\n", event.len())) {
                return;
            }
        }
    });
    (worker, say)
}

/// The events arrive one by one, also after a silence that is longer than every time-out.
#[test]
fn a_stream_outlives_every_time_out() {
    let (worker, say) = streaming();
    let proxy = Proxy::with(&format!(
        "[upstream.app]\naffinity = [\"mcp\"]\n{TINY}workers = [\"{}\"]\n{TINY_LIMITS}",
        worker.address
    ));
    let post = "POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(Raw::connect(proxy.address).ask(post).header("mcp-session-id"), Some("one"));
    let mut stream = Raw::connect(proxy.address);
    stream.send("GET /mcp HTTP/1.1\r\nHost: a\r\nMcp-Session-Id: one\r\nAccept: text/event-stream\r\n\r\n");
    assert_eq!(stream.head().unwrap().status(), 200);
    say.send("data: 1\n\n").unwrap();
    assert_eq!(stream.exactly(14), b"9\r\ndata: 1\n\n\r\n", "the event is passed on at once");
    assert_eq!(proxy.worker(&worker.address.to_string()).sessions(), 1, "the session and its stream count once");
    // Later connections that are as silent end by their time-outs: one after the other, four of them.
    for _ in 0..4 {
        Raw::connect(proxy.address).closed();
    }
    say.send("data: 2\n\n").unwrap();
    assert_eq!(stream.exactly(14), b"9\r\ndata: 2\n\n\r\n", "the stream is still open");
}

/// With real clients and servers: each session's stream is at the worker of its session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_drained_worker_end_and_begin_elsewhere() {
    let trial = Trial::new(
        "mcp",
        &[],
        json!({"push": true, "renew": true}),
        "affinity = [\"mcp\"]\ndrain = { grace = \"1s\" }",
    );
    let workers = trial.workers(1..=3).await;
    let stickyd = Binary::with(&config(&workers, trial.rules));
    let mut clients = trial.clients(&[stickyd.url("")]);
    clients.open(12).await;
    let before = clients.ask().await;
    assert_eq!(before["workers"].as_object().unwrap().len(), 3, "{before}");
    let streams = workers[1].stats().await["streams"].as_u64().unwrap();
    assert_eq!(before["workers"]["w2"], streams, "one stream per session");
    let drained = config(&workers, trial.rules).replace("name = \"w2\"", "name = \"w2\", admin = \"drain\"");
    edit(&stickyd, &drained);
    workers[1].stats_when(|stats| stats["streams"] == 0).await;
    let after = clients.ask().await;
    println!("drained: {} on it before; {}", streams, after["workers"]);
    assert_eq!((&after["held"], after["workers"].get("w2")), (&json!(12), None), "{after}");
    let others: u64 = ["w1", "w3"].iter().map(|name| after["workers"][name].as_u64().unwrap()).sum();
    assert_eq!(others, 12, "{after}");
    assert_eq!(after["moved"], before["workers"]["w2"], "no other session moved: {after}");
}

/// Over HTTP/2 with other requests on the same connection: passed on at once, and ended in order by a drain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_over_http2_ends_in_order() {
    let (worker, say) = streaming();
    let name = worker.address.to_string();
    let secured = Secured::with("", &format!("[upstream.app]\naffinity = [\"mcp\"]\nworkers = [{name:?}]\n"));
    let client = secured.client().await;
    let mut request = ask("GET", "/mcp");
    request.headers_mut().insert("accept", "text/event-stream".parse().unwrap());
    let (answer, mut send) = client.begin(request).await;
    send.send_data(bytes::Bytes::new(), true).unwrap();
    let (parts, mut body) = within(answer).await.unwrap().into_parts();
    assert_eq!(parts.status, 200);
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        say.send(event).unwrap();
        let data = within(body.data()).await.unwrap().unwrap();
        assert_eq!(data, event.as_bytes(), "the event is passed on at once");
        body.flow_control().release_capacity(data.len()).unwrap();
        assert_eq!(client.get("/other").await.status, 200);
    }
    let live = secured.proxy().worker(&name);
    assert_eq!(live.sessions(), 1);
    let config = secured.proxy().server().shared().snapshot.load().upstreams[0].config.clone();
    live.change(AdminChange::Say(AdminState::Maint, None), &config);
    while let Some(data) = within(body.data()).await {
        assert!(data.expect("the stream ends in order").is_empty(), "nothing comes before the end");
    }
    wait_for("no session is left", || live.sessions() == 0);
}

/// An event stream without a session: it is not buffered, and the stop of stickyd ends it.
#[test]
fn a_stream_ends_with_stickyd() {
    let (worker, say) = streaming();
    let proxy = Proxy::with(&format!("[upstream.app]\naffinity = [\"mcp\"]\nworkers = [\"{}\"]\n", worker.address));
    let mut stream = Raw::connect(proxy.address);
    stream.send("GET /mcp HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n");
    assert_eq!(stream.head().unwrap().status(), 200);
    say.send("data: 1\n\n").unwrap();
    assert_eq!(stream.exactly(14), b"9\r\ndata: 1\n\n\r\n");
    wait_for("the stream is counted", || proxy.metric("stickyd_requests_in_flight") >= 0.0);
    proxy.stop();
    stream.rest();
}
