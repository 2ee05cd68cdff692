//! tus: `Location` in the answer to the creating POST is the URL of the upload.

use serde_json::json;

use super::Trial;

fn tus(args: &'static [&'static str]) -> Trial {
    Trial::new("tus", args, json!({}), "affinity = [\"tus\"]")
}

/// The pieces are larger than any body that is held for a second worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_pieces_through_two_stickyds() {
    let trial = Trial { client: json!({"piece": 3_000_000}), sessions: 10, ..tus(&[]) };
    trial.is_found_by_two().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_break_without_the_preset() {
    tus(&[]).breaks_without().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_through_two_stickyds() {
    tus(&[]).is_found_by_two().await;
    tus(&["--relative"]).is_found_by_two().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_live_on() {
    tus(&[]).lives_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_dead_are_lost() {
    tus(&[]).only_the_dead_are_lost().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_of_one_address() {
    tus(&[]).spreads_from_one_address().await;
}
