//! The demo: real Socket.IO workers inside one process, stickyd in front of them, clients that connect through it, and
//! a page of live figures. While you watch, a worker is killed and stickyd is restarted; the page shows how many
//! sessions each of these costs.
//!
//! Run it with `cargo demo`, which compiles it in the shortest time, or with `cargo run --release -p stickyd-demo`. It
//! needs nothing installed, uses loopback addresses only, and ends after half a minute.

mod client;
mod screen;
mod tally;
mod worker;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use screen::Screen;
use stickyd::testing::config::{self, Config};
use stickyd::testing::server::Server;
use stickyd::testing::systemd::Parent;
use tally::Tally;
use worker::Worker;

const WORKERS: usize = 4;
const POLLING: usize = 60;
const WEBSOCKET: usize = 30;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let mut workers = (1..=WORKERS).map(|i| Worker::start(format!("w{i}"))).collect::<Result<Vec<_>>>()?;
    let addresses: Vec<SocketAddr> = workers.iter().map(|worker| worker.address).collect();
    let mut server = Server::start(config("127.0.0.1:0", &addresses)?, None, Parent::default())?;
    let address = server.addresses.first().copied().ok_or("stickyd has no listener")?;

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let tally = Arc::new(Tally::default());
    for i in 0..POLLING + WEBSOCKET {
        let tally = tally.clone();
        if i < POLLING {
            runtime.spawn(client::poll_for_ever(address, tally));
        } else {
            runtime.spawn(client::websocket_for_ever(address, tally));
        }
    }

    let screen = Screen::new(address);
    screen.watch(&server, &tally, Duration::from_secs(6));

    tally.begin_step();
    if workers.len() > 1 {
        workers.remove(1).kill();
    }
    screen.watch(&server, &tally, Duration::from_secs(6));

    tally.begin_step();
    server.stop().gently.cancel();
    server.wait();
    server = Server::start(config(&address.to_string(), &addresses)?, None, Parent::default())?;
    screen.watch(&server, &tally, Duration::from_secs(8));

    server.stop().now.cancel();
    server.stop().gently.cancel();
    server.wait();
    Ok(())
}

/// Returns the demo's configuration. The secret is the same before and after the restart, as with a state directory.
fn config(listen: &str, workers: &[SocketAddr]) -> Result<Config> {
    let named = |(i, address)| format!("{{ address = \"{address}\", name = \"w{}\" }}", i + 1);
    let workers: Vec<String> = workers.iter().enumerate().map(named).collect();
    let workers = workers.join(", ");
    let text = format!(
        "secret = \"a demo has no secrets to keep\"\nthreads = 1\nlog.level = \"error\"\n\
         [[listener]]\naddress = \"{listen}\"\n[upstream.app]\nworkers = [{workers}]\n"
    );
    Ok(config::parse(&text, "demo.toml".as_ref())?)
}
