//! SignalR: negotiate gives the id, and every request of the connection has it in its query.

use serde_json::{Value, json};

use super::{Trial, config};
use crate::support::proxy::Proxy;
use crate::support::raw::Raw;

fn signalr(args: &'static [&'static str], client: Value) -> Trial {
    Trial::new("signalr", args, client, "affinity = [\"signalr\"]")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_break_without_the_preset() {
    signalr(&[], json!({})).breaks_without().await;
    signalr(&[], json!({"transport": "WebSockets"})).breaks_without().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_transport_through_two_stickyds() {
    for transport in ["LongPolling", "ServerSentEvents", "WebSockets"] {
        signalr(&[], json!({"transport": transport, "push": true})).is_found_by_two().await;
    }
}

/// As in ASP.NET Core 2, where `connectionId` is the id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn negotiate_version_0_through_two_stickyds() {
    for transport in ["LongPolling", "WebSockets"] {
        signalr(&["--negotiate-version", "0"], json!({"transport": transport})).is_found_by_two().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polls_live_on() {
    signalr(&[], json!({"push": true})).lives_on().await;
}

/// A WebSocket without negotiate is a connection of its own: nothing is learned or discovered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_without_negotiate_is_not_learned() {
    signalr(&[], json!({"transport": "WebSockets", "skipNegotiation": true})).is_found_by_two().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_dead_are_lost() {
    signalr(&[], json!({})).only_the_dead_are_lost().await;
}

/// The connectionId of version 1 is public, so it must not lead to the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_public_id_is_not_learned() {
    let trial = signalr(&[], json!({}));
    let workers = trial.workers(1..=3).await;
    let proxy = Proxy::with(&config(&workers, trial.rules));
    let post = "POST /hub/negotiate?negotiateVersion=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    let answer = Raw::connect(proxy.address).ask(post);
    let said: Value = serde_json::from_str(answer.text()).unwrap();
    assert_eq!(proxy.metric("stickyd_pins"), 1.0);
    let by = |id: &Value| Raw::connect(proxy.address).get(&format!("/hub?id={}", id.as_str().unwrap()));
    assert_eq!(by(&said["connectionToken"]).status(), 200);
    let public = by(&said["connectionId"]);
    assert_eq!((public.status(), public.text()), (404, "No Connection with that ID"));
    assert_eq!(proxy.metric("stickyd_pins"), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_of_one_address() {
    signalr(&[], json!({})).spreads_from_one_address().await;
}

/// The default recognises a negotiation, and the ids that it gives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_transport_needs_no_configuration() {
    for transport in ["LongPolling", "ServerSentEvents", "WebSockets"] {
        let trial = Trial::new("signalr", &[], json!({"transport": transport, "push": true}), "affinity = [\"auto\"]");
        trial.is_found_by_two().await;
        Trial { rules: "", ..trial }.keeps_with_cookies().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polls_live_on_without_configuration() {
    Trial { rules: "affinity = [\"auto\"]", ..signalr(&[], json!({"push": true})) }.lives_on().await;
}
