//! Event streams: not buffered, counted as live sessions, and ended in order by a drain and by the stop of stickyd.

use std::time::Duration;

use bytes::Bytes;
use stickyd::testing::config::AdminState;
use stickyd::testing::upstream::AdminChange;

use super::{Pool, answer, ask, decision};
use crate::support::h2::{Secured, ask as request};
use crate::support::proxy::Proxy;
use crate::support::raw::{Leg, Raw};
use crate::support::wait::{wait_for, within};

/// An event stream without end of which one event is sent; other requests get the worker's name. The stream of the
/// older MCP begins with its endpoint, in two pieces.
fn events(number: usize, leg: &mut Leg) {
    while let Some(request) = leg.request() {
        if request.target().starts_with("/events") || request.target() == "/sse" {
            leg.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
            if request.target() == "/sse" {
                let id = format!("0123456789abcdef-w{number}");
                for piece in ["event: endpoint\r\ndata: /messages?session".to_owned(), format!("Id={id}\r\n\r\n")] {
                    leg.send(format!("{:x}\r\n{piece}\r\n", piece.len()));
                }
            } else {
                leg.send("9\r\ndata: 1\n\n\r\n");
            }
            leg.until_closed();
            return;
        }
        let mine = request.target().contains(&format!("-w{number}"));
        let refusal = answer("404 Not Found", "", "Could not find session");
        let ours = answer("200 OK", "", &format!("w{number}"));
        if !leg.send(if request.target().starts_with("/messages") && !mine { refusal } else { ours }) {
            return;
        }
    }
}

fn pool() -> Pool {
    Pool::scripted(3, |number, _, leg| events(number, leg))
}

/// Opens a stream: its connection and its worker.
fn open(proxy: &Proxy, target: &str, first: &str) -> (Raw, String) {
    let mut client = Raw::connect(proxy.address);
    client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n"));
    let head = client.head().unwrap();
    assert_eq!(head.status(), 200);
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(first) {
        seen.extend(client.exactly(1));
    }
    (client, decision(&head).0)
}

fn say(proxy: &Proxy, worker: &str, state: AdminState, grace: Option<Duration>) {
    let config = proxy.server().shared().snapshot.load().upstreams[0].config.clone();
    proxy.worker(worker).change(AdminChange::Say(state, grace), &config);
}

fn rest(mut client: Raw) -> String {
    String::from_utf8_lossy(&client.rest()).into_owned()
}

#[test]
fn a_stream_is_a_live_session_and_a_drain_ends_it_in_order() {
    let pool = pool();
    let proxy = Proxy::with(&pool.upstream("[\"cookie\", \"address\"]"));
    let (client, owner) = open(&proxy, "/events", "data: 1");
    let (left, _) = open(&proxy, "/events", "data: 1");
    assert_eq!(proxy.worker(&owner).sessions(), 2);
    drop(left);
    wait_for("the ended stream is not counted", || proxy.worker(&owner).sessions() == 1);
    say(&proxy, &owner, AdminState::Drain, None);
    for _ in 0..3 {
        assert_eq!(ask(&proxy, "GET", "/", "", "").status(), 200);
    }
    assert_eq!(proxy.worker(&owner).sessions(), 1, "a drain without a grace leaves the stream");
    say(&proxy, &owner, AdminState::Drain, Some(Duration::from_secs(1)));
    let mut client = client;
    let mut end = Vec::new();
    while !end.ends_with(b"0\r\n\r\n") {
        end.extend(client.exactly(1));
    }
    wait_for("no session is left", || proxy.worker(&owner).sessions() == 0);
    assert_eq!(proxy.metric("stickyd_drain_closed_total{kind=\"polling\",upstream=\"app\"}"), 1.0);
    // The client connects again and gets another worker.
    let (_again, other) = open(&proxy, "/events", "data: 1");
    assert_ne!(other, owner);
}

#[test]
#[allow(clippy::disallowed_methods, reason = "the worker's own thread sends nothing for longer than every time-out")]
fn no_time_out_cuts_a_silent_stream() {
    let pool = Pool::scripted(1, |_, _, leg| {
        let Some(_) = leg.request() else { return };
        leg.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n");
        std::thread::sleep(Duration::from_secs(4));
        leg.send("9\r\ndata: 2\n\n\r\n");
        leg.until_closed();
    });
    let times = "response_timeout = \"1s\"\ntunnel_idle = \"1s\"\n[limits]\nidle_timeout = \"1s\"\nhead_timeout = \"1s\"\nmin_rate_grace = \"1s\"\n";
    let proxy = Proxy::with(&format!("{}{times}", pool.upstream("[\"address\"]")));
    let (mut client, _) = open(&proxy, "/events", "data: 1");
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("data: 2") {
        seen.extend(client.exactly(1));
    }
}

#[test]
fn a_stop_ends_a_stream_in_order() {
    let pool = pool();
    let proxy = Proxy::with(&pool.upstream("[\"address\"]"));
    let (client, _) = open(&proxy, "/events", "data: 1");
    let ended = proxy.stop();
    assert_eq!(ended.cut, 0);
    assert!(rest(client).ends_with("0\r\n\r\n"));
}

#[test]
fn the_older_mcp_is_learned_while_its_stream_passes() {
    let pool = pool();
    let [here, there] = pool.behind_two(&pool.upstream("[\"mcp\"]"));
    let mut streams = Vec::new();
    for _ in 0..3 {
        let (client, owner) = open(&here, "/sse", "\r\n\r\n\r\n");
        let target = format!("/messages?sessionId=0123456789abcdef-{owner}");
        for proxy in [&here, &there] {
            let posted = ask(proxy, "POST", &target, "", "{}");
            assert_eq!((posted.status(), posted.text()), (200, owner.as_str()), "{posted:?}");
        }
        assert_eq!(here.worker(&owner).sessions(), 1, "the stream and its pin count once");
        streams.push((client, owner));
    }
    streams.sort_by(|a, b| a.1.cmp(&b.1));
    assert_eq!(streams.iter().map(|(_, owner)| owner.as_str()).collect::<Vec<_>>(), ["w1", "w2", "w3"]);
    let (client, owner) = streams.remove(0);
    say(&here, &owner, AdminState::Maint, None);
    let mut client = client;
    let mut end = Vec::new();
    while !end.ends_with(b"0\r\n\r\n") {
        end.extend(client.exactly(1));
    }
    let refused = ask(&here, "POST", &format!("/messages?sessionId=0123456789abcdef-{owner}"), "", "{}");
    assert_eq!((refused.status(), refused.text().contains("-32001")), (404, true), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http_2_a_stream_ends_and_other_streams_go_on() {
    let pool = pool();
    let stickyd = Secured::with("", &pool.upstream("[\"address\"]"));
    let client = stickyd.client().await;
    let (answer, mut upload) = client.begin(request("GET", "/events")).await;
    upload.send_data(Bytes::new(), true).unwrap();
    let mut body = within(answer).await.unwrap().into_body();
    assert_eq!(within(body.data()).await.unwrap().unwrap(), "data: 1\n\n");
    let proxy = stickyd.proxy();
    let owner = (1..=3).map(|number| format!("w{number}")).find(|name| proxy.worker(name).sessions() == 1).unwrap();
    say(proxy, &owner, AdminState::Maint, None);
    while let Some(rest) = within(body.data()).await {
        assert!(rest.unwrap().is_empty(), "the stream ends without a reset");
    }
    assert_ne!(client.get("/page").await.text(), owner);
}
