//! The bus: what an application without an adapter does on several workers reaches the clients of all of them.
//!
//! Real Socket.IO servers run with the environment that `stickyd bus env` prints, with a real stickyd in front; real
//! clients count. `tests/clients/bus_worker.cjs` is the application, `bus_clients.js` are the clients.

mod bounds;
mod calls;
mod clusters;
pub(crate) mod emit;
mod facts;
mod failures;
mod labels;
mod launchers;
mod machines;
mod queue;
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
        Self::configured(workers, "", variables).await
    }

    /// As `start`, with more lines in the upstream.
    pub(crate) async fn configured(workers: usize, more: &str, variables: &[(&str, &str)]) -> Self {
        let addresses: Vec<_> = (0..workers).map(|_| free_address()).collect();
        let stickyd = stickyd(&addresses, more);
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut fleet = Self { stickyd, workers: Vec::new(), variables };
        for address in addresses {
            let worker = fleet.worker(address, &["node", "bus_worker.cjs"]).await;
            fleet.workers.push(worker);
        }
        fleet
    }

    /// Starts one worker for each of these commands.
    pub(crate) async fn launched(commands: &[&[&str]], variables: &[(&str, &str)]) -> Self {
        let mut fleet = Self::start(0, variables).await;
        let addresses: Vec<_> = commands.iter().map(|_| free_address()).collect();
        fleet.stickyd = stickyd(&addresses, "");
        for (address, command) in addresses.into_iter().zip(commands) {
            let worker = fleet.worker(address, command).await;
            fleet.workers.push(worker);
        }
        fleet
    }

    async fn worker(&self, address: std::net::SocketAddr, launch: &[&str]) -> BusWorker {
        let mut command = vec!["-c".to_owned(), format!("export {} && exec \"$@\"", self.bus_env()), "sh".to_owned()];
        command.extend(["env".to_owned(), format!("PORT={}", address.port()), format!("HOST={}", address.ip())]);
        command.extend(self.variables.iter().map(|(name, value)| format!("{name}={value}")));
        command.extend(launch.iter().map(|word| (*word).to_owned()));
        let mut process = Process::start("sh", command);
        let said = process.line().await.expect("the worker starts");
        // A worker that is there at the first check has no change of state in the log.
        let up = format!("stickyd_worker_up{{upstream=\"app\",worker=\"{address}\"}}");
        wait_for("the worker is up", || self.metric(&up) == 1.0);
        BusWorker { process, address, pid: said["pid"].as_u64().unwrap() }
    }

    /// Starts a worker that is not in the configuration: only the bus knows it.
    async fn unlisted(&self, address: std::net::SocketAddr) -> BusWorker {
        let (host, port) = (address.ip(), address.port());
        let script = format!("export {} HOST={host} PORT={port} && exec node bus_worker.cjs", self.bus_env());
        let mut process = Process::start("sh", ["-c", &script]);
        let said = process.line().await.expect("the worker starts");
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

    /// The variables of `stickyd bus env`, as a shell reads them.
    pub(crate) fn variables_of_bus(&self) -> Vec<(String, String)> {
        const NAMES: [&str; 3] = ["NODE_OPTIONS", "STICKYD_BUS", "STICKYD_BUS_UPSTREAM"];
        let values = NAMES.map(|name| format!("\"${name}\"")).join(" ");
        let script = format!("export {} && printf '%s\\n' {values}", self.bus_env());
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        NAMES.iter().zip(text.lines()).map(|(name, value)| ((*name).to_owned(), value.to_owned())).collect()
    }

    /// An answer of the admin listener.
    pub(crate) fn admin(&self, path: &str) -> String {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--unix-socket"]).arg(self.stickyd.admin()).arg(format!("http://localhost{path}"));
        String::from_utf8(curl.output().unwrap().stdout).unwrap()
    }

    /// The sum of all series whose line begins so, as `/metrics` shows them.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.admin("/metrics");
        let series: Vec<_> = text.lines().filter(|line| line.starts_with(name)).collect();
        assert!(!series.is_empty(), "{name}: {text}");
        series.iter().map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    }

    /// Socket.IO servers that are linked to the bus.
    pub(crate) fn linked(&self) -> f64 {
        self.metric("stickyd_bus_workers{")
    }

    /// Waits until this many are linked.
    pub(crate) fn wait_linked(&self, count: f64) {
        wait_for("the workers are linked", || {
            let linked = self.linked();
            if linked == count { Ok(()) } else { Err(linked) }
        });
    }

    /// Kills a worker and starts it again.
    pub(crate) async fn restart(&mut self, index: usize) {
        self.workers[index].process.kill().await;
        self.workers[index] = self.worker(self.workers[index].address, &["node", "bus_worker.cjs"]).await;
    }

    /// Connects this many clients through stickyd, and checks that they are on all workers.
    pub(crate) async fn clients(&self, count: usize) -> Clients {
        // A worker is linked before its first health check has passed.
        let up = self.workers.len() as f64;
        wait_for("the workers are up", || self.metric("stickyd_worker_up{") >= up);
        let (clients, workers) = Clients::connect(count, &[self.stickyd.url("")], &[]).await;
        assert_eq!(workers, self.workers.len() as u64, "clients are on all workers");
        clients
    }
}

/// A stickyd in front of workers at these addresses.
fn stickyd(addresses: &[std::net::SocketAddr], more: &str) -> Binary {
    let names = addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    Binary::with(&format!(
        "state_dir = \".\"\n[upstream.app]\nworkers = {names:?}\n\
        allow_empty = true\nslow_start = \"0s\"\nhealth = {{ kind = \"tcp\", interval = \"100ms\", timeout = \"5s\" }}\n{more}"
    ))
}

impl BusWorker {
    /// Asks the application over HTTP.
    pub(crate) fn ask(&self, path: &str) -> Value {
        ask(self.address, path)
    }

    /// Asks without waiting for an answer.
    pub(crate) fn tell(&self, path: &str) {
        let mut connection = std::net::TcpStream::connect(self.address).unwrap();
        std::io::Write::write_all(&mut connection, format!("GET {path} HTTP/1.1\r\nHost: worker\r\n\r\n").as_bytes())
            .unwrap();
        let _ = std::io::Read::read(&mut connection, &mut [0; 64]);
    }
}

/// Asks the application at this address over HTTP.
pub(crate) fn ask(address: std::net::SocketAddr, path: &str) -> Value {
    let answer = Raw::connect(address).get(path);
    serde_json::from_str(answer.text()).unwrap_or_else(|_| Value::from(answer.text()))
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
    fleet.workers[0].ask("/emit?text=late&room=green");
    assert_eq!(clients.ask("got late 0").await["total"], 0);
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
