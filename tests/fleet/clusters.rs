//! Redis with Sentinels, and a cluster of Redis.

use serde_json::json;

use super::secrecy::{assert_nothing_refused, grant};
use super::{Stickyds, stop_whole};
use crate::support::node::NodeServer;
use crate::support::redis::Redis;
use crate::support::redis_cluster::RedisCluster;
use crate::support::wait::wait_for;

#[tokio::test]
async fn the_master_that_sentinels_name_is_used_and_followed() {
    let mut master = Redis::start();
    let (host, port) = (master.address.ip().to_string(), master.address.port().to_string());
    // Servers find one another by the addresses that they connect from, so that these must be their own.
    let replica = ["--save", "", "--appendonly", "no", "--bind-source-addr", "HOST", "--replicaof", &host, &port];
    let replica = Redis::with(&replica);
    let sentinels: Vec<_> = (0..3).map(|_| sentinel(&master)).collect();
    wait_for("the sentinels know each other and the replica", || {
        let known = |sentinel: &Redis| {
            let said = sentinel.cli(&["sentinel", "master", "mymaster"]).replace('\n', " ");
            said.contains("num-other-sentinels 2") && said.contains("num-slaves 1")
        };
        sentinels.iter().all(known)
    });
    let workers = NodeServer::start_many(2, &[]).await;
    grant(&[&master, &replica], &workers);
    let all: Vec<_> = sentinels.iter().map(|sentinel| sentinel.address.to_string()).collect();
    let stickyds =
        Stickyds::start(2, &workers, &format!("\"redis+sentinel://edge:pass@{}/mymaster\"", all.join(",")), "");
    stickyds.wait_until_redis_is(true);
    stickyds.all_take_new().await;
    stickyds.run_whole(10, json!({"transports": ["polling"]})).await;
    assert!(stickyds.lookups("hit") > 0.0);
    master.stop();
    wait_for("the replica is the master", || replica.cli(&["role"]).starts_with("master"));
    let before = stickyds.lookups("hit");
    crate::support::wait::wait_for_async("sessions are found at the new master", async || {
        stickyds.run_whole(3, json!({"transports": ["polling"]})).await;
        stickyds.lookups("hit") > before
    })
    .await;
    assert_eq!(replica.cli(&["acl", "log"]), "", "what Redis has refused");
}

/// A Sentinel that watches this master.
fn sentinel(master: &Redis) -> Redis {
    let file = std::env::temp_dir().join(format!(
        "stickyd-sentinel-{}-{}",
        std::process::id(),
        master.folder.display().to_string().len()
    ));
    let unique =
        file.with_extension(format!("{:?}", std::time::Instant::now()).replace(|c: char| !c.is_ascii_digit(), ""));
    let (host, port) = (master.address.ip(), master.address.port());
    std::fs::write(
        &unique,
        format!(
            "sentinel monitor mymaster {host} {port} 2\nsentinel down-after-milliseconds mymaster 1000\n\
             sentinel failover-timeout mymaster 4000\n"
        ),
    )
    .unwrap();
    Redis::with(&[unique.to_str().unwrap(), "--sentinel", "--bind-source-addr", "HOST"])
}

#[tokio::test]
async fn a_cluster_of_three_masters_keeps_the_pins() {
    let cluster = RedisCluster::start();
    let nodes = &cluster.nodes;
    let workers = NodeServer::start_many(2, &[]).await;
    let servers: Vec<_> = nodes.iter().collect();
    grant(&servers, &workers);
    let url = format!("\"redis+cluster://edge:pass@{},{}\"", nodes[0].address, nodes[1].address);
    let stickyds = Stickyds::start(2, &workers, &url, "");
    stickyds.wait_until_redis_is(true);
    stickyds.all_take_new().await;
    let load = stickyds.keep(30).await;
    assert!(stickyds.lookups("hit") >= 29.0, "{}", stickyds.lookups("hit"));
    assert!(nodes.iter().all(|node| !node.keys("stickyd:p:").is_empty()), "each server has some of the pins");
    stop_whole(load).await;
    assert_nothing_refused(&servers, &stickyds);
}
