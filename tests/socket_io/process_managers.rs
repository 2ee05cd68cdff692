//! The examples of `conf/examples` as they are shipped, except for their ports: real PM2, and Node's cluster.

use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::cluster::{all_upgraded, loopback, run_whole};
use crate::support::engine_io::Ask;
use crate::support::load::Load;
use crate::support::process::clients_dir;
use crate::support::proxy::{Binary, Proxy};
use crate::support::wait::{wait_for_async, wait_within};

/// A directory with an application and the processes that run there; all end with the test.
pub(crate) struct Place {
    pub(crate) directory: PathBuf,
    /// The first of 20 free ports.
    pub(crate) base: u16,
    /// Waits for the end of its stdin and then ends PM2's daemon, so that no process is left in any case.
    reaper: Option<Child>,
    /// Variables for PM2, which its workers get from it.
    pub(crate) variables: Vec<(String, String)>,
}

impl Place {
    /// A place whose application gets these arguments (JavaScript).
    pub(crate) fn new(arguments: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let directory = std::env::temp_dir().join(format!("stickyd-pm-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let server = clients_dir().join("server.js");
        // An application of ES modules, in which the shipped files must work as well.
        let app =
            format!("process.argv.push('--daemon', {arguments});\nawait import({:?});\n", server.to_str().unwrap());
        std::fs::write(directory.join("package.json"), "{\"type\":\"module\"}").unwrap();
        let base = free_range();
        std::fs::write(directory.join("app.js"), app.replace("3001", &base.to_string())).unwrap();
        Self { directory, base, reaper: None, variables: Vec::new() }
    }

    /// Copies a shipped file here and moves its ports; the path of the copy.
    pub(crate) fn ship(&self, example: &str) -> PathBuf {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/examples").join(example);
        let text = std::fs::read_to_string(from).unwrap();
        let moved = text
            // First to characters that no file contains, because the digits of one port may be part of another.
            .replace("3001", "\u{1}")
            .replace("3004", "\u{2}")
            .replace("3020", "\u{3}")
            .replace('\u{1}', &self.base.to_string())
            .replace('\u{2}', &(self.base + 3).to_string())
            .replace('\u{3}', &(self.base + 19).to_string())
            .replace("0.0.0.0:80", "127.0.0.1:0")
            .replace("/var/lib/stickyd", self.directory.to_str().unwrap());
        let to = self.directory.join(Path::new(example).file_name().unwrap());
        std::fs::write(&to, moved).unwrap();
        to
    }

    /// stickyd with a shipped configuration.
    fn stickyd(&self, example: &str) -> Proxy {
        Proxy::with(&std::fs::read_to_string(self.ship(example)).unwrap())
    }

    async fn listening(&self, count: u16) {
        for port in self.base..self.base + count {
            wait_for_async("the worker listens", async || TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
        }
    }

    fn pm2(&self) -> Command {
        let mut command = Command::new("node");
        // PM2's daemon lives in this directory, and leaves nothing anywhere else.
        command.arg(pm2()).env("PM2_HOME", self.directory.join("pm2")).current_dir(&self.directory);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    async fn scale(&self, count: u16) {
        let scaled = self.pm2().args(["scale", "app", &count.to_string()]).output().await.unwrap();
        assert!(scaled.status.success(), "{scaled:?}");
    }

    pub(crate) async fn start_pm2(&mut self, ecosystem: &Path, ports: u16) {
        let reaper = std::process::Command::new("sh")
            .args(["-c", "read _; exec node \"$0\" kill"])
            .arg(pm2())
            .env("PM2_HOME", self.directory.join("pm2"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // In a process group of its own, so that signals to the test's group do not reach it.
            .process_group(0)
            .spawn();
        self.reaper = Some(reaper.unwrap());
        let started = self.pm2().arg("start").arg(ecosystem).output().await.unwrap();
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        self.listening(ports).await;
    }
}

fn pm2() -> PathBuf {
    clients_dir().join("node_modules/pm2/bin/pm2")
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(mut reaper) = self.reaper.take() {
            drop(reaper.stdin.take());
            let reaped = reaper.wait();
            assert!(reaped.is_ok_and(|status| status.success()) || std::thread::panicking(), "pm2 kill");
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// The first of 20 free ports, below those that the kernel gives out.
fn free_range() -> u16 {
    let first = 10_000 + u16::try_from(std::process::id() % 900).unwrap() * 20;
    let free = |base: &u16| (*base..base + 20).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
    (first..32_000).step_by(20).find(free).expect("20 free ports")
}

/// Runs clients of all kinds without any error; the workers that served those with default transports.
async fn serves(proxy: &Proxy) -> Vec<String> {
    let result = run_whole(&proxy.url(""), 16, json!({})).await;
    assert_eq!(result["upgraded"], 16, "{result}");
    run_whole(&proxy.url(""), 16, json!({"transports": ["polling"]})).await;
    run_whole(&proxy.url(""), 16, json!({"transports": ["websocket"]})).await;
    result["workers"].as_object().unwrap().keys().cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pm2_with_increment_var() {
    let mut place = Place::new("");
    let ecosystem = place.ship("pm2/ecosystem.config.cjs");
    place.start_pm2(&ecosystem, 4).await;
    let proxy = place.stickyd("pm2/stickyd.toml");
    assert_eq!(serves(&proxy).await.len(), 4);
    // Scaled up, the next ports come into use and get new sessions.
    place.scale(6).await;
    place.listening(6).await;
    wait_for_async("the new workers are up", async || {
        let up = |port| format!("stickyd_worker_health{{health=\"up\",upstream=\"app\",worker=\"127.0.0.1:{port}\"}}");
        proxy.metric(&up(place.base + 4)) + proxy.metric(&up(place.base + 5)) == 2.0
    })
    .await;
    // The share of a new worker grows (`slow_start`): within that time both get their first sessions.
    let mut used = serves(&proxy).await;
    for port in [place.base + 4, place.base + 5] {
        let name = format!("w{}", pid_of(&Ask::new(loopback(port))).await.unwrap());
        wait_for_async("the new worker serves a session", async || {
            used.extend(serves(&proxy).await);
            if used.contains(&name) { Ok(()) } else { Err((name.clone(), used.clone())) }
        })
        .await;
    }
}

/// In PM2's cluster mode the master holds the port: a crashed instance is back before a connect or a check is refused,
/// and stickyd notices the restart all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_under_pm2_is_a_new_generation_of_one_worker() {
    let mut place = Place::new("");
    let ecosystem = place.ship("pm2/ecosystem.config.cjs");
    place.start_pm2(&ecosystem, 4).await;
    let proxy = place.stickyd("pm2/stickyd.toml");
    let options = |more: Value| {
        let mut all = json!({"urls": [proxy.url("")], "n": 20, "messages": 3, "keep": true});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let mut sockets = Load::start(options(json!({})));
    sockets.event("all-echoed").await;
    all_upgraded(&mut sockets, 20).await;
    let mut polls = Load::start(options(json!({"transports": ["polling"]})));
    polls.event("all-echoed").await;
    let pid = pid_of(&Ask::new(loopback(place.base + 1))).await.unwrap();
    let mut hit = Vec::new();
    for load in [&mut sockets, &mut polls] {
        hit.push(load.status().await["workers"][format!("w{pid}")].as_u64().unwrap());
    }
    assert!(Command::new("sh").args(["-c", &format!("kill -KILL {pid}")]).status().await.unwrap().success());
    let worker = proxy.worker(&format!("127.0.0.1:{}", place.base + 1));
    wait_for_async("the restart is noticed", async || worker.generation() == 2).await;
    for (load, hit) in [(&mut sockets, hit[0]), (&mut polls, hit[1])] {
        wait_for_async("the killed worker's clients are connected again", async || {
            let status = load.status().await;
            if status["reconnects"] == hit && status["connected"] == 20 { Ok(()) } else { Err((hit, status)) }
        })
        .await;
    }
    for port in place.base..place.base + 4 {
        let generation = proxy.worker(&format!("127.0.0.1:{port}")).generation();
        assert_eq!(generation, if port == place.base + 1 { 2 } else { 1 }, "{port}");
    }
}

/// PM2 scales down from its oldest instances, at the lowest ports, and up to ports that it has not used before: both
/// within the range, so that no reload is needed and only the sessions of ended processes start anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pm2_scaled_down_and_up_drifts_through_the_range() {
    let mut place = Place::new("");
    let ecosystem = place.ship("pm2/ecosystem.config.cjs");
    place.start_pm2(&ecosystem, 4).await;
    let proxy = place.stickyd("pm2/stickyd.toml");
    let mut load = Load::start(json!({"urls": [proxy.url("")], "n": 24, "keep": true}));
    all_upgraded(&mut load, 24).await;
    // One at a time: two at once end one after the other, and a client might be moved from the first to the second.
    let mut ended = 0;
    for (port, left) in [(place.base, 3), (place.base + 1, 2)] {
        let name = format!("w{}", pid_of(&Ask::new(loopback(port))).await.unwrap());
        let hit = load.status().await["workers"][&name].as_u64().unwrap();
        assert!(hit > 0, "{name} has none");
        ended += hit;
        place.scale(left).await;
        wait_for_async("the worker ends", async || TcpStream::connect(("127.0.0.1", port)).is_err()).await;
        wait_for_async("the clients of the ended workers are connected again", async || {
            let status = load.status().await;
            if status["reconnects"] == ended && status["upgraded"] == 24 { Ok(()) } else { Err((ended, status)) }
        })
        .await;
    }

    // Two more instances: they get the next ports, not the two that are free again.
    place.scale(4).await;
    for port in [place.base + 4, place.base + 5] {
        wait_for_async("the new worker listens", async || TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
        let name = format!("stickyd_worker_health{{health=\"up\",upstream=\"app\",worker=\"127.0.0.1:{port}\"}}");
        wait_for_async("the new worker is up", async || proxy.metric(&name) == 1.0).await;
    }
    let new = run_whole(&proxy.url(""), 16, json!({})).await;
    for port in [place.base + 4, place.base + 5] {
        let name = format!("w{}", pid_of(&Ask::new(loopback(port))).await.unwrap());
        assert!(new["workers"].get(&name).is_some(), "{new}");
    }
    let result = load.stop().await;
    assert_eq!(result["reconnects"], ended, "only the sessions of the two that ended: {result}");
}

/// `pm2 reload` replaces each instance by a new process on its port, one after the other. A session ends with its
/// process and starts anew, and once more if its new process is replaced later. But sometimes, on a busy machine, PM2's
/// daemon keeps a connection that it was about to hand to a process that ended: accepted, never read and never closed
/// (seen with ss; Node's cluster waits for a reply that never comes). What was sent there is not answered, and its
/// client connects again after its own 20 s for a handshake, or 45 s without a ping.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pm2_reloaded_under_clients() {
    let mut place = Place::new("");
    let ecosystem = place.ship("pm2/ecosystem.config.cjs");
    place.start_pm2(&ecosystem, 4).await;
    let proxy = place.stickyd("pm2/stickyd.toml");
    let mut loads = Vec::new();
    for transports in [json!(["polling", "websocket"]), json!(["polling"])] {
        let mut load = Load::start(json!({"urls": [proxy.url("")], "n": 16, "messages": "endless", "interval": 20,
            "transports": transports, "timeout": 170_000}));
        load.event("all-connected").await;
        loads.push(load);
    }
    all_upgraded(&mut loads[0], 16).await;
    let reloaded = place.pm2().args(["reload", "app"]).output().await.unwrap();
    assert!(reloaded.status.success(), "{reloaded:?}");
    for (mut load, kind) in loads.into_iter().zip(["sockets", "polls"]) {
        wait_within(Duration::from_secs(70), "every client has reconnected", async || {
            let status = load.status().await;
            let all_back = status["reconnects"].as_u64() >= Some(16) && status["connected"] == 16;
            if all_back { Ok(()) } else { Err(status) }
        })
        .await;
        load.echo(3).await;
        let result = load.stop().await;
        println!(
            "pm2 reload, {kind}: {} anew of 16, {}, moved {}, refusals {}, disconnects {}, errors {}",
            result["reconnects"],
            result["echoes"],
            result["moved"],
            result["refusals"],
            result["disconnects"],
            result["connect_errors"]
        );
        assert!(result["reconnects"].as_u64() <= Some(4 * 16), "{result}");
        assert_eq!((&result["moved"], &result["echoes"]["duplicated"]), (&json!(0), &json!(0)), "{result}");
    }
    let generations: Vec<_> =
        (0..4).map(|i| proxy.worker(&format!("127.0.0.1:{}", place.base + i)).generation()).collect();
    println!("generations: {generations:?}");
    assert!(generations.iter().all(|generation| *generation <= 2), "{generations:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pm2_with_a_hard_coded_port() {
    let mut place = Place::new("'--port', '3001'");
    place.ship("pm2/portshift.cjs");
    let ecosystem = place.ship("pm2/ecosystem.portshift.config.cjs");
    place.start_pm2(&ecosystem, 4).await;
    assert_eq!(serves(&place.stickyd("pm2/stickyd.toml")).await.len(), 4);
}

/// PM2's cluster mode without `increment_var`: four processes share one port, which cannot work and is reported.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pm2_with_one_port_for_all_is_reported_with_a_remedy() {
    let mut place = Place::new("");
    let ecosystem = place.ship("pm2/ecosystem.config.cjs");
    let shipped = std::fs::read_to_string(&ecosystem).unwrap();
    let without = shipped.replace("increment_var: 'PORT',", "");
    assert_ne!(without, shipped);
    std::fs::write(&ecosystem, without).unwrap();
    place.start_pm2(&ecosystem, 1).await;
    let stickyd = Binary::with(&format!("[upstream.app]\nworkers = [\"127.0.0.1:{}\"]\n", place.base));
    let mut load = Load::start(json!({"urls": [stickyd.url("")], "n": 10, "keep": true}));
    let words = "several processes share this address. Give each its own port (PM2: increment_var: 'PORT')";
    wait_for_async("the log has the remedy", async || stickyd.log().contains(words)).await;
    assert!(load.status().await["refusals"]["total"].as_u64().unwrap() >= 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_cluster() {
    let place = Place::new("");
    let script = place.ship("cluster.cjs");
    // The workers end with their primary, because their channel to it closes.
    let _primary = Command::new("node")
        .arg(script)
        .arg("./app.js")
        .current_dir(&place.directory)
        .env("PORT", place.base.to_string())
        .env("WORKERS", "4")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    place.listening(4).await;
    let proxy = place.stickyd("node-cluster.toml");
    assert_eq!(serves(&proxy).await.len(), 4);

    // One worker dies and comes back on its port as another process.
    let worker = Ask::new(loopback(place.base + 1));
    let pid = pid_of(&worker).await.unwrap();
    assert!(Command::new("sh").args(["-c", &format!("kill -KILL {pid}")]).status().await.unwrap().success());
    wait_for_async("the worker is another process", async || {
        // A connection that the primary hands to the dying process is never answered.
        let again = tokio::time::timeout(Duration::from_secs(1), pid_of(&worker)).await.ok().flatten();
        if again.is_some_and(|again| again != pid) { Ok(()) } else { Err(again) }
    })
    .await;
    let name = format!("127.0.0.1:{}", place.base + 1);
    let up = format!("stickyd_worker_health{{health=\"up\",upstream=\"app\",worker=\"{name}\"}}");
    wait_for_async("the worker is up again", async || proxy.metric(&up) == 1.0).await;
    serves(&proxy).await;
}

async fn pid_of(worker: &Ask) -> Option<u64> {
    let who = worker.try_send("GET", "/who", "").await?;
    serde_json::from_str::<Value>(&who.body).ok()?["pid"].as_u64()
}
