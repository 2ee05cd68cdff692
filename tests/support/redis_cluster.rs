//! A real Redis Cluster: three masters, and what its operators do to it.

use std::process::Command;

use super::redis::Redis;
use super::wait::wait_for;

/// Servers of a cluster. The first three were made masters.
pub(crate) struct RedisCluster {
    pub(crate) nodes: Vec<Redis>,
}

/// A server that may become one of a cluster.
fn node() -> Redis {
    let own = ["--bind-source-addr", "HOST", "--cluster-announce-ip", "HOST", "--cluster-node-timeout", "5000"];
    Redis::with(&[&["--save", "", "--appendonly", "no", "--cluster-enabled", "yes"], &own[..]].concat())
}

/// Runs `redis-cli --cluster …`, which by itself may wait for ever.
fn manage(arguments: &[&str]) {
    let said = Command::new("timeout").args(["30", "redis-cli", "--cluster"]).args(arguments).output().unwrap();
    assert!(said.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said.stdout));
}

impl RedisCluster {
    /// Starts three masters, which share the slots.
    pub(crate) fn start() -> Self {
        let nodes = vec![node(), node(), node()];
        let addresses: Vec<_> = nodes.iter().map(|node| node.address.to_string()).collect();
        let arguments: Vec<_> =
            ["create", "--cluster-yes"].into_iter().chain(addresses.iter().map(|one| &**one)).collect();
        manage(&arguments);
        let cluster = Self { nodes };
        cluster.wait_until_whole();
        cluster
    }

    fn wait_until_whole(&self) {
        wait_for("the cluster is whole", || {
            let is_whole = |node: &Redis| node.cli(&["cluster", "info"]).contains("cluster_state:ok");
            let all = self.nodes.len().to_string();
            let knows_all =
                |node: &Redis| node.cli(&["cluster", "info"]).contains(&format!("cluster_known_nodes:{all}"));
            self.nodes.iter().all(|node| is_whole(node) && knows_all(node))
        });
    }

    /// The addresses of all servers, with a comma between them, each after this text.
    pub(crate) fn addresses(&self, before: &str) -> String {
        self.nodes.iter().map(|node| format!("{before}{}", node.address)).collect::<Vec<_>>().join(",")
    }

    /// The master that has the slot of a key, as it says itself.
    pub(crate) fn owner(&self, key: &str) -> usize {
        // Servers of a cluster refuse what belongs to another one.
        let has = |node: &Redis| !node.cli(&["get", key]).contains("MOVED");
        self.nodes.iter().position(has).expect("a server has each slot")
    }

    /// Moves the empty slot of a key to another master, and waits until all servers know it.
    pub(crate) fn move_slot(&self, key: &str, to: usize) {
        let (from, to) = (&self.nodes[self.owner(key)], &self.nodes[to]);
        let slot = to.cli(&["cluster", "keyslot", key]);
        let [of, id] = [from, to].map(|node| node.cli(&["cluster", "myid"]));
        let set = |node: &Redis, words: &[&str]| {
            let said = node.cli(&[&["cluster", "setslot", &slot], words].concat());
            assert_eq!(said, "OK", "{words:?}");
        };
        // Only a server that has imported the slot raises its epoch, so that the others believe it.
        set(to, &["importing", &of]);
        set(from, &["migrating", &id]);
        set(to, &["node", &id]);
        set(from, &["node", &id]);
        let moved = format!("MOVED {slot} {}", to.address);
        wait_for("all servers know the server that has the slot", || {
            self.nodes
                .iter()
                .filter(|node| node.address != to.address)
                .all(|node| node.cli(&["get", key]).contains(&moved))
        });
    }

    /// Adds a replica of a master, which takes its place if it dies; waits until it has all data.
    pub(crate) fn add_replica_of(&mut self, master: usize) {
        let (replica, of) = (node(), &self.nodes[master]);
        let (new, id) = (replica.address.to_string(), of.cli(&["cluster", "myid"]));
        manage(&["add-node", &new, &of.address.to_string(), "--cluster-slave", "--cluster-master-id", &id]);
        self.nodes.push(replica);
        self.wait_until_whole();
        let replica = self.nodes.last().unwrap();
        wait_for("the replica is in step", || {
            let said = replica.cli(&["info", "replication"]);
            if said.contains("master_link_status:up") { Ok(()) } else { Err(said) }
        });
    }
}
