//! `follow`: an ordinary request that names a socket reaches that socket's worker.

use serde_json::{Value, json};

use super::{Server, Trial};
use crate::support::redis::Redis;

fn sockets(server: Server, client: Value) -> Trial {
    Trial {
        server,
        without: "affinity = [\"socket.io\"]",
        // Bounded load places the sessions, so that few are enough to use all workers.
        sessions: 12,
        ..Trial::new(
            "socket",
            &[],
            client,
            "affinity = [\"socket.io\"]\nfollow = [\"header:x-socket-id\", \"query:socketId\"]",
        )
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_follow_requests_go_to_any_worker() {
    for client in [json!({}), json!({"id": "engine", "where": "query"})] {
        sockets(Server::SocketIo, client).breaks_without().await;
    }
}

/// Socket.IO's own id, in any namespace and over any transport: learned by the stickyd that carried the session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_the_sockets_own_id() {
    for client in [
        json!({}),
        json!({"where": "query"}),
        json!({"namespace": "/other"}),
        json!({"transports": ["websocket"]}),
        json!({"transports": ["websocket"], "namespace": "/other", "where": "query"}),
        json!({"transports": ["polling", "websocket"]}),
    ] {
        sockets(Server::SocketIo, client).is_kept_by_one().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_the_own_id_of_a_python_socket() {
    for client in [json!({}), json!({"transports": ["websocket"]})] {
        sockets(Server::Python, client).is_kept_by_one().await;
    }
}

/// Engine.IO's sid is known for as long as its session is pinned.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_the_sid() {
    for client in [json!({"id": "engine"}), json!({"id": "engine", "where": "query", "transports": ["websocket"]})] {
        sockets(Server::SocketIo, client).is_kept_by_one().await;
    }
}

/// Each request goes to the other stickyd of the two, so that half of them reach one that has not seen the id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_the_sockets_own_id_in_a_fleet() {
    for client in [
        json!({}),
        json!({"namespace": "/other", "where": "query"}),
        json!({"transports": ["websocket"]}),
        json!({"transports": ["polling", "websocket"]}),
    ] {
        sockets(Server::SocketIo, client).is_found_by_fleet(12).await;
    }
    sockets(Server::Python, json!({"transports": ["websocket"]})).is_found_by_fleet(12).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_the_sid_in_a_fleet() {
    let client = json!({"id": "engine", "where": "query", "transports": ["websocket"]});
    sockets(Server::SocketIo, client).is_found_by_fleet(12).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_that_shares_no_pins_loses_requests() {
    let trial = sockets(Server::SocketIo, json!({"transports": ["websocket"]}));
    let (redis, workers) = (Redis::start(), trial.workers(1..=3).await);
    let proxies = trial.fleet(&redis, &workers, "pins = false\n").await;
    let mut clients = trial.clients(&proxies.each_ref().map(|proxy| proxy.url("")));
    clients.open(12).await;
    clients.ask().await;
    let lost = clients.ask().await;
    assert!(lost["held"].as_u64().unwrap() < 12, "{lost}");
}
