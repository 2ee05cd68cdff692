//! The bus: what an application without an adapter does on several workers reaches the clients of all of them.
//!
//! Real Socket.IO servers run with the environment that `stickyd bus env` prints, with a real stickyd in front; real
//! clients count. `tests/clients/bus_worker.cjs` is the application, `bus_clients.js` are the clients.

mod failures;
mod recovery;
mod start;

use std::process::Command;

use serde_json::{Value, json};

use super::support::process::Process;
use super::support::proxy::{Binary, free_address};
use super::support::raw::Raw;
use super::support::wait::wait_for;

/// Workers of an upstream `app`, linked to the bus of a stickyd in front of them.
pub(crate) struct Fleet {
    stickyd: Binary,
    workers: Vec<BusWorker>,
    /// Environment of every worker.
    variables: Vec<(String, String)>,
}

/// One worker, with the address that it keeps when it is started again.
pub(crate) struct BusWorker {
    process: Process,
    address: std::net::SocketAddr,
    pub(crate) pid: u64,
}

impl Fleet {
    /// Starts this many workers, with more variables in their environment.
    pub(crate) async fn start(workers: usize, variables: &[(&str, &str)]) -> Self {
        let addresses: Vec<_> = (0..workers).map(|_| free_address()).collect();
        let names = addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
        let stickyd = Binary::with(&format!(
            "state_dir = \".\"\n[upstream.app]\nworkers = {names:?}\n\
            allow_empty = true\nhealth = {{ kind = \"tcp\", interval = \"100ms\" }}\n"
        ));
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut fleet = Self { stickyd, workers: Vec::new(), variables };
        for address in addresses {
            let worker = fleet.worker(address).await;
            fleet.workers.push(worker);
        }
        fleet
    }

    async fn worker(&self, address: std::net::SocketAddr) -> BusWorker {
        let mut command = vec!["-c".to_owned(), format!("export {} && exec \"$@\"", self.bus_env()), "sh".to_owned()];
        command.extend(["env".to_owned(), format!("PORT={}", address.port()), format!("HOST={}", address.ip())]);
        command.extend(self.variables.iter().map(|(name, value)| format!("{name}={value}")));
        command.extend(["node".to_owned(), "bus_worker.cjs".to_owned()]);
        let mut process = Process::start("sh", command);
        let said = process.line().await.expect("the worker starts");
        self.stickyd.says(&[&format!("worker={address}"), "to=\"up\""]);
        BusWorker { process, address, pid: said["pid"].as_u64().unwrap() }
    }

    /// What `stickyd bus env` prints.
    pub(crate) fn bus_env(&self) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stickyd"));
        let output = command.args(["bus", "env", "-c", "stickyd.toml"]).current_dir(&self.stickyd.directory).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Socket.IO servers that are linked to the bus, as `/metrics` shows them.
    pub(crate) fn linked(&self) -> f64 {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--unix-socket"]).arg(self.stickyd.admin()).arg("http://localhost/metrics");
        let text = String::from_utf8(curl.output().unwrap().stdout).unwrap();
        assert!(text.contains("stickyd_bus_messages_total"), "{text}");
        let series = text.lines().filter(|line| line.starts_with("stickyd_bus_workers{"));
        series.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    }

    /// Kills a worker and starts it again.
    pub(crate) async fn restart(&mut self, index: usize) {
        self.workers[index].process.kill().await;
        self.workers[index] = self.worker(self.workers[index].address).await;
    }

    /// Connects this many clients through stickyd, and checks that they are on all workers.
    pub(crate) async fn clients(&self, count: usize) -> Clients {
        let (clients, workers) = Clients::connect(count, &[self.stickyd.url("")], &[]).await;
        assert_eq!(workers, self.workers.len() as u64, "clients are on all workers");
        clients
    }
}

impl BusWorker {
    /// Asks the application over HTTP.
    pub(crate) fn ask(&self, path: &str) -> Value {
        let answer = Raw::connect(self.address).get(path);
        serde_json::from_str(&answer.text()).unwrap_or_else(|_| Value::from(answer.text()))
    }
}

/// A process with Socket.IO clients.
pub(crate) struct Clients(Process);

impl Clients {
    /// Connects to these URLs in turn. Returns the clients and the number of workers that they are on.
    pub(crate) async fn connect(count: usize, urls: &[String], env: &[&str]) -> (Self, u64) {
        let mut command: Vec<String> = env.iter().map(|pair| (*pair).to_owned()).collect();
        command.extend(["node".to_owned(), "bus_clients.js".to_owned(), count.to_string()]);
        command.extend(urls.iter().cloned());
        let mut process = Process::start("env", command);
        let said = process.line().await.expect("the clients connect");
        (Self(process), said["workers"].as_u64().unwrap())
    }

    /// Asks the clients, for example `got TEXT WANTED`.
    pub(crate) async fn ask(&mut self, line: &str) -> Value {
        self.0.command(line).await;
        self.0.line().await.expect("the clients answer")
    }
}

/// Every call, from every worker: exactly those clients that it is for, each once.
async fn every_call_reaches_all(version: &str) {
    let fleet = Fleet::start(3, &[("SOCKET_IO", version)]).await;
    let mut clients = fleet.clients(12).await;
    for (n, worker) in fleet.workers.iter().enumerate() {
        worker.ask(&format!("/emit?text=all{n}"));
        assert_eq!(clients.ask(&format!("got all{n} 12")).await, json!({"once": 12, "total": 12, "red": 6}));
        worker.ask(&format!("/emit?text=binary{n}&binary=1"));
        assert_eq!(clients.ask(&format!("got binary{n} 12")).await["once"], 12);
        worker.ask(&format!("/emit?text=room{n}&room=red"));
        assert_eq!(clients.ask(&format!("got room{n} 6")).await, json!({"once": 6, "total": 6, "red": 6}));
        worker.ask(&format!("/emit?text=except{n}&except=red"));
        assert_eq!(clients.ask(&format!("got except{n} 6")).await, json!({"once": 6, "total": 6, "red": 0}));
        let count = |path: &str| worker.ask(path).as_array().map(Vec::len);
        assert_eq!([count("/fetch"), count("/fetch?room=red")], [Some(12), Some(6)]);
        assert_eq!([count("/ids"), count("/ids?room=red")], [Some(12), Some(6)]);
        assert_eq!([count("/ack?text=x"), count("/ack?text=x&room=red")], [Some(12), Some(6)]);
        assert_eq!(count("/side?text=x"), Some(2), "the two other servers");
    }
    let pids: std::collections::BTreeSet<_> = fleet.workers[0]
        .ask("/fetch")
        .as_array()
        .unwrap()
        .iter()
        .map(|socket| socket["data"]["pid"].as_u64())
        .collect();
    assert_eq!(pids, fleet.workers.iter().map(|worker| Some(worker.pid)).collect(), "data of other workers' sockets");
    // Calls of two workers are not ordered among each other: wait for what the first one does.
    let green = |wanted| {
        let found = fleet.workers[0].ask("/fetch?room=green").as_array().map(Vec::len);
        if found == Some(wanted) { Ok(()) } else { Err(found) }
    };
    fleet.workers[1].ask("/join?room=red&to=green");
    wait_for("all have joined", || green(6));
    fleet.workers[2].ask("/emit?text=green&room=green");
    assert_eq!(clients.ask("got green 6").await["once"], 6);
    fleet.workers[2].ask("/leave?room=green&to=green");
    wait_for("all have left", || green(0));
    fleet.workers[0].ask("/emit?text=nobody&room=green");
    assert_eq!(clients.ask("got nobody 0").await["total"], 0);
    fleet.workers[1].ask("/disconnect?room=red");
    assert_eq!(clients.ask("connected 6").await["connected"], 6);
    assert!(fleet.workers.iter().all(|worker| worker.ask("/count")["rejections"] == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_of_socket_io_reaches_all_workers() {
    every_call_reaches_all("socket.io").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_socket_io_shares_its_messages_too() {
    let fleet = Fleet::start(2, &[("SOCKET_IO", "socket.io-4.5")]).await;
    let mut clients = fleet.clients(8).await;
    fleet.workers[1].ask("/emit?text=binary&binary=1");
    assert_eq!(clients.ask("got binary 8").await["once"], 8);
    fleet.workers[0].ask("/emit?text=room&room=red");
    assert_eq!(clients.ask("got room 4").await, json!({"once": 4, "total": 4, "red": 4}));
    assert_eq!(fleet.workers[0].ask("/fetch").as_array().map(Vec::len), Some(8));
}

/// Two servers in one process are two applications: what one emits does not reach the other's clients.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_with_other_paths_are_kept_apart() {
    let fleet = Fleet::start(2, &[("SERVERS", "/socket.io,/admin")]).await;
    let mut clients = fleet.clients(6).await;
    let (mut others, workers) = Clients::connect(6, &[fleet.stickyd.url("")], &["IO_PATH=/admin"]).await;
    assert_eq!(workers, 2);
    fleet.workers[0].ask("/emit?text=for-admins&server=1");
    assert_eq!(others.ask("got for-admins 6").await["once"], 6);
    assert_eq!(clients.ask("got for-admins 0").await["total"], 0);
}
