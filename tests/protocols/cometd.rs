//! CometD: its cookie names the browser, and the session's id is only in bodies.

use serde_json::json;

use super::Trial;

fn cometd() -> Trial {
    Trial::new("cometd", &[], json!({"cookies": true, "hosts": true}), "affinity = [\"cometd\"]")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_break_without_the_preset() {
    cometd().breaks_without().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_through_two_stickyds() {
    cometd().is_found_by_two().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_live_on() {
    cometd().lives_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_dead_are_lost() {
    cometd().only_the_dead_are_lost().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_of_one_address() {
    cometd().spreads_from_one_address().await;
}
