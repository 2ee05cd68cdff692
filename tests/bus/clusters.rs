//! Messages of the backend for applications whose adapter uses a real Redis Cluster: each goes to the server that has
//! the channel or the stream, also after it has moved and after a failover.

use serde_json::{Value, json};

use super::emit::reaches_all;
use super::{Clients, Fleet};
use crate::support::redis_cluster::RedisCluster;
use crate::support::wait::{wait_for, wait_for_async};

/// Two real workers with this adapter on a cluster, and twelve real clients.
async fn on_cluster(cluster: &RedisCluster, adapter: &str) -> (Fleet, Clients) {
    let url = format!("redis+cluster://{}", cluster.addresses(""));
    let more = format!("emit = {{ via = \"redis-adapter\", redis = \"{url}\", adapter = \"{adapter}\" }}\n");
    let variables = [("ADAPTER", adapter), ("REDIS", &cluster.addresses("redis://"))];
    let fleet = Fleet::configured(2, &more, &variables).await;
    let clients = fleet.clients(12).await;
    (fleet, clients)
}

fn order(text: &str) -> Value {
    json!({"event": "news", "args": [text]})
}

/// Sends messages until all clients get one: the adapter of a worker subscribes again by itself.
async fn reaches_all_again(fleet: &Fleet, clients: &mut Clients, name: &str) {
    let mut number = 0;
    wait_for_async("the clients get messages again", async || {
        number += 1;
        let text = format!("{name}{number}.");
        let (status, answer) = fleet.emit(&order(&text));
        assert_eq!(status, 200, "{answer}");
        let said = clients.ask(&format!("soon {text} 12")).await;
        if said["once"] == 12 { Ok(()) } else { Err(said) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sharded_adapter_on_a_cluster_gets_what_is_emitted() {
    let mut cluster = RedisCluster::start();
    let (fleet, mut clients) = on_cluster(&cluster, "sharded").await;
    reaches_all(&fleet, &mut clients).await;
    // The slot of the channel moves: stickyd follows at once.
    let channel = "socket.io#/#";
    let next = (cluster.owner(channel) + 1) % 3;
    cluster.move_slot(channel, next);
    assert_eq!(cluster.owner(channel), next);
    reaches_all_again(&fleet, &mut clients, "moved").await;
    // Its server dies: an error in words, until the replica has taken its place.
    cluster.add_replica_of(next);
    cluster.nodes[next].stop();
    let (status, answer) = fleet.emit(&order("lost"));
    assert_eq!(status, 502, "{answer}");
    let words = answer["error"].as_str().unwrap();
    assert!(words.starts_with("the Redis of the adapter of `app`, redis+cluster://"), "{words}");
    assert!(words.contains(" did not take the message: "), "{words}");
    wait_for("the replica has taken its place", || {
        let (status, answer) = fleet.emit(&order("meanwhile"));
        if status == 200 { Ok(()) } else { Err(answer) }
    });
    assert!(cluster.nodes[3].cli(&["role"]).starts_with("master"));
    reaches_all_again(&fleet, &mut clients, "again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_streams_adapter_on_a_cluster_gets_what_is_emitted() {
    let cluster = RedisCluster::start();
    let (fleet, mut clients) = on_cluster(&cluster, "streams").await;
    reaches_all(&fleet, &mut clients).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_classic_adapter_on_a_cluster_gets_what_is_emitted() {
    let cluster = RedisCluster::start();
    let (fleet, mut clients) = on_cluster(&cluster, "classic").await;
    reaches_all(&fleet, &mut clients).await;
}

/// An address of one server where a cluster is meant is named in the error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_behind_the_address_of_one_server_is_named() {
    let cluster = RedisCluster::start();
    let other = (cluster.owner("socket.io#/#") + 1) % 3;
    let url = cluster.nodes[other].url();
    let more = format!("emit = {{ via = \"redis-adapter\", redis = \"{url}\", adapter = \"sharded\" }}\n");
    let fleet = Fleet::configured(0, &more, &[]).await;
    let (status, answer) = fleet.emit(&order("lost"));
    assert_eq!(status, 502);
    assert!(answer["error"].as_str().unwrap().ends_with("write redis = \"redis+cluster://…\""), "{answer}");
}
