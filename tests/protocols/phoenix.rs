//! Phoenix long polling: the id is a token in the answer to the first poll. A poll with an unknown token starts a new
//! session.

use serde_json::json;

use super::Trial;

fn phoenix() -> Trial {
    patient(&[])
}

fn patient(args: &'static [&'static str]) -> Trial {
    Trial::new("phoenix", args, json!({}), "affinity = [\"phoenix\"]")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_break_without_the_preset() {
    phoenix().breaks_without().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_through_two_stickyds() {
    phoenix().is_found_by_two().await;
    // Nodes with a common secret ask each other before they refuse a session.
    patient(&["--stranger", "2000"]).is_found_by_two().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_live_on() {
    phoenix().lives_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_dead_are_lost() {
    phoenix().only_the_dead_are_lost().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_of_one_address() {
    phoenix().spreads_from_one_address().await;
}
