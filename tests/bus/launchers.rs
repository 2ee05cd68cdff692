//! Ways to start workers, and frameworks: with the environment of the bus, each is linked without a change.

use std::net::SocketAddr;

use serde_json::json;

use crate::socket_io::process_managers::Place;
use crate::support::process::clients_dir;

use super::{Clients, Fleet, ask};

/// `npm start`, a forked process, a thread, and a plain process are one application.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_are_linked_however_they_are_started() {
    let fork = "require('node:child_process').fork('./bus_worker.cjs')";
    let thread = "new (require('node:worker_threads').Worker)('./bus_worker.cjs', { stdin: true });
        process.stdin.resume().on('end', () => process.exit(0))";
    let commands: [&[&str]; 4] =
        [&["npm", "start", "--silent"], &["node", "-e", fork], &["node", "-e", thread], &["node", "bus_worker.cjs"]];
    let fleet = Fleet::launched(&commands, &[]).await;
    fleet.wait_linked(4.0);
    let mut clients = fleet.clients(12).await;
    for (n, worker) in fleet.workers.iter().enumerate() {
        worker.ask(&format!("/emit?text=from{n}"));
        assert_eq!(clients.ask(&format!("got from{n} 12")).await, json!({"once": 12, "total": 12, "red": 6}), "{n}");
        assert_eq!(worker.ask("/fetch").as_array().map(Vec::len), Some(12));
    }
}

/// Two workers on a framework, as ES modules.
async fn framework(name: &str) {
    let fleet = Fleet::launched(&[&["node", "bus_app.mjs"], &["node", "bus_app.mjs"]], &[("FRAMEWORK", name)]).await;
    fleet.wait_linked(2.0);
    let mut clients = fleet.clients(6).await;
    for (n, worker) in fleet.workers.iter().enumerate() {
        worker.ask(&format!("/emit?text=from{n}"));
        assert_eq!(clients.ask(&format!("got from{n} 6")).await, json!({"once": 6, "total": 6, "red": 3}), "{name}");
        assert_eq!(worker.ask("/fetch").as_array().map(Vec::len), Some(6), "{name}");
        assert_eq!(worker.ask("/count"), json!({"rejections": 0}));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn es_modules_are_linked() {
    framework("plain").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn express_is_linked() {
    framework("express").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fastify_is_linked() {
    framework("fastify").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nestjs_is_linked() {
    framework("nest").await;
}

/// PM2 in one of its modes: four workers of the shipped ecosystem, with the line that `stickyd bus env` prints.
async fn pm2(mode: &str) {
    let fleet = Fleet::start(0, &[]).await;
    let mut place = Place::new("");
    let worker = clients_dir().join("bus_worker.cjs");
    std::fs::write(place.directory.join("app.js"), format!("await import({:?});\n", worker.to_str().unwrap())).unwrap();
    let ecosystem = place.ship("pm2/ecosystem.config.cjs");
    let shipped = std::fs::read_to_string(&ecosystem).unwrap();
    std::fs::write(&ecosystem, shipped.replace("'cluster'", &format!("'{mode}'"))).unwrap();
    place.variables = fleet.variables_of_bus();
    place.start_pm2(&ecosystem, 4).await;
    fleet.wait_linked(4.0);
    let urls: Vec<_> = (0..4).map(|slot| format!("http://127.0.0.1:{}", place.base + slot)).collect();
    let (mut clients, workers) = Clients::connect(12, &urls, &[]).await;
    assert_eq!(workers, 4, "{mode}");
    for slot in 0..4 {
        let ask = |path: &str| ask(SocketAddr::from(([127, 0, 0, 1], place.base + slot)), path);
        ask(&format!("/emit?text=from{slot}"));
        let all = json!({"once": 12, "total": 12, "red": 6});
        assert_eq!(clients.ask(&format!("got from{slot} 12")).await, all, "{mode}");
        assert_eq!(ask("/fetch").as_array().map(Vec::len), Some(12), "{mode}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_of_pm2_in_cluster_mode_are_linked() {
    pm2("cluster").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_of_pm2_in_fork_mode_are_linked() {
    pm2("fork").await;
}
