//! Each stream needs a connection to a worker: one client's streams can use up only the descriptors that clients may
//! have.

use std::process::Command;

use h2::client::Builder;
use hyper::StatusCode;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::h2::{Secured, ask};
use crate::support::proxy::Binary;
use crate::support::raw::{Raw, RawWorker};
use crate::support::wait::{wait_for, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_leave_descriptors_for_checks_and_admin() {
    // The worker answers its health check, and nothing else.
    let worker = RawWorker::scripted(|leg| {
        leg.request();
        leg.until_closed();
    });
    let secured = Secured::unstarted();
    let toml = format!(
        "threads = 1\nstate_dir = \".\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
         tls = {{ certificate = \"{0}/cert.pem\", key = \"{0}/key.pem\" }}\n\
         [upstream.app]\nworkers = [\"{1}\"]\n[limits]\nreserved_descriptors = 60\nconnections_per_address = 1000",
        secured.directory.display(),
        worker.address
    );
    let binary = Binary::started_by(&toml, |_| {
        let mut command = Command::new("sh");
        let stickyd = env!("CARGO_BIN_EXE_stickyd");
        command.args(["-c", &format!("ulimit -n 200; exec {stickyd} run --config stickyd.toml")]);
        command
    });
    let mut clients = Vec::new();
    for _ in 0..2 {
        let stream = within(TcpStream::connect(binary.address)).await.unwrap();
        clients.push(secured.client_on(stream, &Builder::new()).await);
    }
    // Twice as many streams as one connection may have.
    let mut asked = JoinSet::new();
    for _ in 0..100 {
        for client in &clients {
            let (answer, send) = client.begin(ask("GET", "/")).await;
            asked.spawn(async move {
                let status = answer.await.map(|answer| answer.status());
                drop(send);
                status
            });
        }
    }
    for _ in 0..5 {
        let refused = within(asked.join_next()).await.unwrap().unwrap();
        assert_eq!(refused.unwrap(), StatusCode::SERVICE_UNAVAILABLE);
    }
    // The admin listener still has descriptors, for many requests.
    let admin: Vec<_> = (0..10).map(|_| Raw::connect_unix(&binary.admin())).collect();
    for mut one in admin {
        assert_eq!(one.get("/metrics").status(), 200);
    }
    binary.says(&["the remaining descriptors are reserved"]);
    drop((asked, clients));
    wait_for("all descriptors are given back", || {
        let answer = Raw::connect_unix(&binary.admin()).get("/metrics").text().to_owned();
        let open = answer.lines().find_map(|line| line.strip_prefix("stickyd_descriptors ")).unwrap();
        open.parse::<f64>().unwrap() < 60.0
    });
}
