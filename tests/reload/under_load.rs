//! Two hundred reloads under load: no client is affected.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;

use crate::support::admin::{metric, post_reload};
use crate::support::proxy::{Binary, free_address};
use crate::support::raw::{Raw, RawWorker, ok};
use crate::support::wait::wait_for;

const RELOADS: usize = 200;

/// The reloads before memory is measured first, because the first ones allocate what later ones use again.
const WARM: usize = 40;

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const GRANT: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A worker that answers requests, and echoes WebSocket messages of one byte.
fn worker() -> RawWorker {
    RawWorker::scripted(|leg| {
        while let Some(request) = leg.raw.request() {
            if request.header("upgrade").is_none() {
                leg.send(ok("served"));
                continue;
            }
            leg.send(GRANT);
            loop {
                let frame = leg.raw.exactly(7);
                if !leg.send([0x81, 1, frame[6]]) {
                    return;
                }
            }
        }
    })
}

/// Clients that run until they are stopped; each counts its answers, and panics at the first failure.
struct Load {
    done: Arc<AtomicBool>,
    served: Vec<Arc<AtomicU64>>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn add(&mut self, mut once: impl FnMut() + Send + 'static) {
        let (done, served) = (self.done.clone(), Arc::new(AtomicU64::new(0)));
        self.served.push(served.clone());
        self.clients.push(std::thread::spawn(move || {
            while !done.load(Relaxed) {
                once();
                served.fetch_add(1, Relaxed);
                // The proxy needs the two cores as well.
                std::thread::park_timeout(std::time::Duration::from_millis(1));
            }
        }));
    }

    fn on(address: SocketAddr) -> Self {
        let mut load = Self { done: Arc::default(), served: Vec::new(), clients: Vec::new() };
        for _ in 0..3 {
            let mut kept = Raw::connect(address);
            load.add(move || assert_eq!(kept.get("/").text(), "served"));
            load.add(move || assert_eq!(Raw::connect(address).get("/").text(), "served"));
            let mut tunnel = Raw::connect(address);
            tunnel.send(UPGRADE);
            assert_eq!(tunnel.answer().status(), 101);
            load.add(move || {
                tunnel.send([0x81, 0x81, 0, 0, 0, 0, b'x']);
                assert_eq!(tunnel.exactly(3), [0x81, 1, b'x']);
            });
        }
        load
    }

    /// Waits until each client has been served once more.
    fn all_served(&self) {
        let before: Vec<_> = self.served.iter().map(|served| served.load(Relaxed)).collect();
        wait_for("every client is served", || {
            assert!(!self.clients.iter().any(JoinHandle::is_finished), "a client failed");
            self.served.iter().zip(&before).all(|(now, before)| now.load(Relaxed) > *before)
        });
    }

    fn end(self) {
        self.done.store(true, Relaxed);
        self.clients.into_iter().for_each(|client| client.join().unwrap());
    }
}

/// Resident memory of a process, in kB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Child processes of stickyd, and threads of its reloads.
fn left(pid: u32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap().path());
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let of = |task: std::path::PathBuf| [read(task.join("children")), read(task.join("comm"))];
    tasks.flat_map(of).filter(|one| one == "reload" || one.starts_with(|c: char| c.is_ascii_digit())).collect()
}

#[test]
fn two_hundred_reloads_under_load() {
    let (one, two, extra) = (worker(), worker(), free_address());
    let keys = "state_dir = \".\"\nwatch = false\nthreads = 2\n";
    let text = |listeners: String, weight: usize, more: &str| {
        let (a, b) = (one.address, two.address);
        format!("{listeners}[upstream.app]\nworkers = [{{ address = \"{a}\", weight = {weight} }}, \"{b}\"{more}]\n")
    };
    let binary = Binary::with(&format!("{keys}{}", text(String::new(), 1, "")));
    let file = binary.directory.join("stickyd.toml");
    let load = Load::on(binary.address);
    let mut warm = 0;
    for number in 0..RELOADS {
        let own = format!("[[listener]]\naddress = \"{}\"\n", binary.address);
        let trusted = if number % 3 == 0 { "trusted_proxies = [\"10.0.0.0/8\"]\n" } else { "" };
        let other = if number % 2 == 0 { format!("[[listener]]\naddress = \"{extra}\"\n") } else { String::new() };
        let more = if number % 5 == 0 { ", \"127.0.0.1:9\"" } else { "" };
        let text = text(format!("{own}{trusted}{other}"), 1 + number % 7, more);
        std::fs::write(&file, format!("{keys}{text}")).unwrap();
        if number % 4 == 3 {
            let before = metric(&binary, "stickyd_reloads_total{result=\"ok\"}");
            binary.signal("HUP");
            wait_for("the configuration is reloaded", || {
                metric(&binary, "stickyd_reloads_total{result=\"ok\"}") > before
            });
        } else {
            let (status, said) = post_reload(&binary);
            assert_eq!(status, 200, "{said}");
        }
        if number == WARM {
            load.all_served();
            warm = resident(binary.pid());
        }
    }
    load.all_served();
    let now = resident(binary.pid());
    eprintln!("after {WARM} reloads {warm} kB, after {RELOADS} {now} kB");
    assert!(now < warm + 16 * 1024, "{warm} kB, then {now} kB");
    let tunnels = |worker: &RawWorker| {
        metric(&binary, &format!("stickyd_tunnels{{upstream=\"app\",worker=\"{}\"}}", worker.address))
    };
    assert!((tunnels(&one) + tunnels(&two) - 3.0).abs() < f64::EPSILON, "every tunnel is open and counted once");
    wait_for("no child process and no reload thread is left", || left(binary.pid()).is_empty());
    load.end();
    assert!(metric(&binary, "stickyd_reloads_total{result=\"failed\"}").abs() < f64::EPSILON);
}
