//! Connection state recovery on another worker, after the client's own worker has died.

use serde_json::json;

use super::{Clients, Fleet};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_dead_worker_recover_on_another() {
    let mut fleet = Fleet::start(3, &[("RECOVERY", "1")]).await;
    // A client that comes back before the hub has seen the end of its worker's link begins a new session.
    let (mut clients, workers) = Clients::connect(12, &[fleet.stickyd.url("")], &["DELAY=1000"]).await;
    assert_eq!(workers, 3, "clients are on all workers");
    // Each client must have seen a message: its id says from where on messages are missed.
    fleet.workers[0].ask("/emit?text=first");
    assert_eq!(clients.ask("got first 12").await["once"], 12);
    let lost = fleet.workers[2].ask("/fetch?local=1").as_array().unwrap().len();
    fleet.workers[2].process.kill().await;
    for n in 0..20 {
        fleet.workers[n % 2].ask(&format!("/emit?text=missed{n}"));
    }
    fleet.workers[1].ask("/emit?text=room&room=red");
    let state = clients.ask("connected 12").await;
    let recovered = state["recovered"].as_array().unwrap().iter().filter(|count| **count == 1).count();
    assert_eq!((&state["connected"], recovered), (&json!(12), lost));
    for n in 0..20 {
        let got = clients.ask(&format!("got missed{n} 12")).await;
        assert_eq!((&got["once"], &got["total"]), (&json!(12), &json!(12)), "message {n}");
    }
    assert_eq!(clients.ask("got room 6").await, json!({"once": 6, "total": 6, "red": 6}));
    fleet.workers[0].ask("/emit?text=after");
    assert_eq!(clients.ask("got after 12").await["once"], 12);
}

/// A client that lost its network comes back to another worker, while its own lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_recovers_on_a_worker_that_did_not_know_it() {
    let fleet = Fleet::start(2, &[("RECOVERY", "1")]).await;
    let urls: Vec<_> = fleet.workers.iter().map(|worker| format!("http://{}", worker.address)).collect();
    let (mut clients, _) = Clients::connect(4, &urls[..1], &[]).await;
    fleet.workers[1].ask("/emit?text=first");
    assert_eq!(clients.ask("got first 4").await["once"], 4);
    clients.ask(&format!("leave {}", urls[1])).await;
    for n in 0..10 {
        fleet.workers[n % 2].ask(&format!("/emit?text=missed{n}"));
    }
    clients.ask("return").await;
    let state = clients.ask("connected 4").await;
    assert_eq!(state["recovered"], json!([1, 1, 1, 1]), "{state}");
    for n in 0..10 {
        assert_eq!(clients.ask(&format!("got missed{n} 4")).await["once"], 4, "message {n}");
    }
    assert_eq!(fleet.workers[1].ask("/fetch?local=1").as_array().map(Vec::len), Some(4));
}

/// What the new worker itself says while it asks the hub for a lost session is not in the hub's answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_sent_during_a_recovery_reaches_its_client() {
    let fleet = Fleet::start(2, &[("RECOVERY", "1")]).await;
    let (mut clients, urls) = one_client(&fleet).await;
    fleet.workers.iter().for_each(|worker| drop(worker.ask("/restoring")));
    for round in 1..=2 {
        clients.ask(&format!("leave {}", urls[round % 2])).await;
        fleet.workers[0].ask(&format!("/emit?text=missed{round}"));
        clients.ask("return").await;
        assert_eq!(clients.ask("connected 1").await["recovered"], json!([round]));
        assert_eq!(clients.ask(&format!("got missed{round} 1")).await["total"], 1);
        assert_eq!(clients.ask(&format!("got meanwhile {round}")).await["total"], round);
        assert_eq!(clients.ask(&format!("got meanwhile-red {round}")).await["total"], round);
    }
    for text in ["meanwhile-blue", "meanwhile-not-red"] {
        assert_eq!(clients.ask(&format!("got {text} 0")).await["total"], 0, "{text}");
    }
}

/// The hub's answer has many messages, and a short one comes right after it: both are read at once, and then nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_right_after_a_recovery_is_not_held_back() {
    let fleet = Fleet::start(2, &[("RECOVERY", "1")]).await;
    let (mut clients, urls) = one_client(&fleet).await;
    fleet.workers[1].ask(&format!("/restoring?text={}/emit?text=after", urls[0]));
    clients.ask(&format!("leave {}", urls[1])).await;
    for n in 0..20 {
        fleet.workers[0].ask(&format!("/emit?text=missed{n}"));
    }
    clients.ask("return").await;
    assert_eq!(clients.ask("connected 1").await["recovered"], json!([1]));
    assert_eq!(clients.ask("series missed 20").await["whole"], 1);
    assert_eq!(clients.ask("got after 1").await["total"], 1);
}

/// Connects one client, which is in the room `red`, to the first worker, and shows it a message. Also returns the URLs
/// of the workers.
async fn one_client(fleet: &Fleet) -> (Clients, Vec<String>) {
    let urls: Vec<_> = fleet.workers.iter().map(|worker| format!("http://{}", worker.address)).collect();
    let (mut clients, _) = Clients::connect(1, &urls[..1], &[]).await;
    fleet.workers[1].ask("/emit?text=first");
    assert_eq!(clients.ask("got first 1").await["once"], 1);
    (clients, urls)
}

/// The messages that a worker says while it asks for sessions are kept once for all questions, and not without a bound.
#[test]
fn own_messages_are_kept_for_open_questions_up_to_a_bound() {
    let ran = std::process::Command::new("node").arg("tests/clients/hub_sessions.cjs").output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}
