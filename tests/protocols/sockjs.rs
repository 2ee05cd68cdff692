//! SockJS: clients make the ids and put them into the path. A poll with an unknown id creates a session on that worker.

use serde_json::json;

use super::Trial;

fn sockjs(transport: &str) -> Trial {
    Trial::new("sockjs", &[], json!({"transports": [transport]}), "affinity = [\"sockjs\"]")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_break_without_the_preset() {
    sockjs("xhr-polling").breaks_without().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_transport_through_two_stickyds() {
    for transport in ["xhr-polling", "xhr-streaming", "websocket"] {
        sockjs(transport).is_found_by_two().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polls_live_on() {
    sockjs("xhr-polling").lives_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_dead_are_lost() {
    sockjs("xhr-polling").only_the_dead_are_lost().await;
}

/// The default recognises the path.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_transport_needs_no_configuration() {
    for transport in ["xhr-polling", "xhr-streaming", "websocket"] {
        Trial { rules: "affinity = [\"auto\"]", ..sockjs(transport) }.is_found_by_two().await;
        Trial { rules: "", ..sockjs(transport) }.keeps_with_cookies().await;
    }
}
