//! SignalR: negotiate gives the id, every request of the connection names it in its query.

use serde_json::{Value, json};

use super::Trial;

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

/// As ASP.NET Core 2: `connectionId` is the id.
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

/// A WebSocket without negotiate is a connection of its own: nothing is learned, nothing looked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_negotiate() {
    signalr(&[], json!({"transport": "WebSockets", "skipNegotiation": true})).is_found_by_two().await;
}
