//! Workers with DNS names, resolved by the system's getaddrinfo from a hosts file of the test (nss_wrapper, which reads
//! that file again when it changes).

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::support::admin::{metric, post_reload, states, write};
use crate::support::proxy::{Binary, Proxy, free_address};
use crate::support::raw::{Raw, RawWorker, ok};
use crate::support::wait::wait_for;

/// The addresses of `app.test` for every process that is started with [`by`].
struct Names {
    file: PathBuf,
    changes: Cell<u64>,
}

impl Names {
    fn new(ips: &[IpAddr]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("stickyd-hosts-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let names = Self { file: std::env::temp_dir().join(name), changes: Cell::new(0) };
        let loads = by(&names.file, Command::new("true")).output().unwrap();
        assert!(loads.stderr.is_empty(), "libnss-wrapper is missing: tests/run installs it");
        names.set(ips);
        names
    }

    fn set(&self, ips: &[IpAddr]) {
        let next = self.file.with_extension("next");
        // The wrapper does not accept a file without a line.
        let lines = ips.iter().map(|ip| format!("{ip} app.test\n"));
        std::fs::write(&next, format!("127.0.0.1 other.test\n{}", lines.collect::<String>())).unwrap();
        // The wrapper compares whole seconds of the file's time; these are in the past, so that any later file is
        // newer.
        self.changes.set(self.changes.get() + 1);
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + self.changes.get());
        std::fs::File::options().append(true).open(&next).unwrap().set_modified(time).unwrap();
        std::fs::rename(next, &self.file).unwrap();
    }

    /// Makes all lookups hang from now on.
    fn hang(&self) {
        let next = self.file.with_extension("next");
        assert!(Command::new("mkfifo").arg(&next).status().unwrap().success());
        std::fs::rename(next, &self.file).unwrap();
    }

    fn stickyd(&self, toml: &str) -> Binary {
        let file = self.file.clone();
        Binary::started_by(toml, move |_| by(&file, Binary::command()))
    }
}

/// Makes a command resolve names from this hosts file first.
fn by(file: &Path, mut command: Command) -> Command {
    command.env("LD_PRELOAD", "libnss_wrapper.so").env("NSS_WRAPPER_HOSTS", file);
    // A name that is not in the file is looked up at a name server that does not answer.
    command.env("RES_OPTIONS", "timeout:1 attempts:1");
    command
}

impl Drop for Names {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

/// Three addresses of this process alone, in order, then ::1; and a port that is free on all of them.
fn places() -> ([IpAddr; 4], u16) {
    let port = TcpListener::bind("[::1]:0").unwrap().local_addr().unwrap().port();
    let IpAddr::V4(own) = free_address().ip() else { panic!("IPv4") };
    let [_, a, b, c] = own.octets();
    let ip = |bits: u8| IpAddr::V4(Ipv4Addr::new(127, a & 0x3f | bits, b, c));
    ([ip(0x40), ip(0x80), ip(0xc0), "::1".parse().unwrap()], port)
}

/// A worker whose sids begin with its name. It knows its own sessions and refuses others with Engine.IO's answer.
fn engine(name: &'static str, ip: IpAddr, port: u16) -> RawWorker {
    let made = AtomicU32::new(0);
    RawWorker::scripted_at(SocketAddr::new(ip, port), move |leg| {
        while let Some(request) = leg.request() {
            let target = request.target();
            let answer = if target.contains(&format!("sid={name}")) {
                ok(&format!("4session at {name}"))
            } else if target.contains("sid=") {
                let body = r#"{"code":1,"message":"Session ID unknown"}"#;
                let kind = "Content-Type: application/json";
                format!("HTTP/1.1 400 Bad Request\r\n{kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            } else if target.contains("EIO=4") {
                let sid = format!("{name}{:019}", made.fetch_add(1, Relaxed));
                ok(&format!("0{{\"sid\":\"{sid}\",\"upgrades\":[],\"pingInterval\":25000,\"pingTimeout\":20000}}"))
            } else {
                ok(name)
            };
            if !leg.send(answer) {
                return;
            }
        }
    })
}

fn text(workers: &str) -> String {
    format!("state_dir = \".\"\n[upstream.app]\nworkers = [{workers}]\ndns_interval = \"1s\"\n")
}

/// The sid of a new session; its first letter is the name of its worker.
fn session(binary: &Binary) -> String {
    let answer = Raw::connect(binary.address).get("/socket.io/?EIO=4&transport=polling");
    assert_eq!(answer.status(), 200, "{}", answer.text());
    answer.text().split('"').nth(3).unwrap().to_owned()
}

/// Opens sessions until each of these workers has one.
fn sessions(binary: &Binary, workers: &str) -> Vec<String> {
    let mut sids = Vec::new();
    wait_for("each worker gets a session", || {
        sids.push(session(binary));
        workers.chars().all(|worker| sids.iter().any(|sid| sid.starts_with(worker)))
    });
    sids
}

/// Checks that every session is still at its worker.
fn unmoved(binary: &Binary, sids: &[String]) {
    let mut client = Raw::connect(binary.address);
    for sid in sids {
        let answer = client.get(&format!("/socket.io/?EIO=4&transport=polling&sid={sid}"));
        assert_eq!(answer.text(), format!("4session at {}", &sid[..1]));
    }
}

/// The one DNS name as the API shows it.
fn name(binary: &Binary) -> Value {
    let answer = Raw::connect_unix(&binary.admin()).get("/api/v1/workers");
    let all: Value = serde_json::from_slice(&answer.body).unwrap();
    all["names"][0].clone()
}

fn state(binary: &Binary, word: &str) -> bool {
    let series = format!("stickyd_dns_names{{state=\"{word}\",upstream=\"app\"}}");
    (metric(binary, &series) - 1.0).abs() < f64::EPSILON && name(binary)["state"] == word
}

fn is(state: &str, ips: &[IpAddr], port: u16) -> Vec<(String, String)> {
    ips.iter().map(|ip| (SocketAddr::new(*ip, port).to_string(), state.to_owned())).collect()
}

#[test]
fn a_name_grows_shrinks_and_vanishes_and_no_session_moves() {
    let ([a, b, c, _], port) = places();
    let _workers = [engine("a", a, port), engine("b", b, port), engine("c", c, port)];
    let names = Names::new(&[b, a]);
    let binary = names.stickyd(&text(&format!("\"app.test:{port}\"")));
    assert_eq!(states(&binary), is("ready", &[a, b], port));
    assert!(state(&binary, "resolved"));
    let mut sids = sessions(&binary, "ab");

    names.set(&[c, a, b]);
    binary.says(&["the addresses of a name have changed", &format!("came=[{c}] went=[] addresses=3")]);
    assert_eq!(states(&binary), is("ready", &[a, b, c], port));
    sids.extend(sessions(&binary, "c"));
    unmoved(&binary, &sids);

    names.set(&[c]);
    binary.says(&["the addresses of a name have changed", &format!("came=[] went=[{a}, {b}] addresses=1")]);
    binary.says(&["worker removed", &a.to_string()]);
    assert_eq!(states(&binary), [is("ready", &[c], port), is("removed", &[a, b], port)].concat());
    unmoved(&binary, &sids);
    let new: Vec<_> = (0..9).map(|_| session(&binary)).collect();
    assert!(new.iter().all(|sid| sid.starts_with('c')), "{new:?}");
    sids.extend(new);

    names.set(&[]);
    let gone = "name no longer resolves: its last addresses are kept";
    binary.says(&[gone, "app.test", "kept=1"]);
    assert!(state(&binary, "kept") && name(&binary)["addresses"] == serde_json::json!([c]));
    assert!(name(&binary)["error"].as_str().is_some_and(|error| error.contains("not known")), "{}", name(&binary));
    let failed = "stickyd_dns_lookups_total{result=\"failed\",upstream=\"app\"}";
    wait_for("the lookup is repeated", || metric(&binary, failed) >= 3.0);
    assert_eq!(binary.log().matches(gone).count(), 1, "the failure is logged once");
    assert!(session(&binary).starts_with('c'));
    unmoved(&binary, &sids);

    // The name resolves again, with an address that had been removed and still has sessions.
    names.set(&[a, c]);
    binary.says(&["the addresses of a name have changed", &format!("came=[{a}] went=[] addresses=2")]);
    assert_eq!(states(&binary), [is("ready", &[a, c], port), is("removed", &[b], port)].concat());
    assert!(state(&binary, "resolved") && name(&binary)["error"].is_null());
    unmoved(&binary, &sids);
    assert!((metric(&binary, "stickyd_dns_changes_total{upstream=\"app\"}") - 3.0).abs() < f64::EPSILON);
    let told = |kind: &str| {
        let answer = Raw::connect_unix(&binary.admin()).get(&format!("/api/v1/events?kind={kind}"));
        let said: Value = serde_json::from_slice(&answer.body).unwrap();
        said["events"].as_array().unwrap().len()
    };
    assert_eq!((told("dns_changed"), told("dns_failed")), (3, 1));
}

#[test]
fn a_start_without_the_name_waits_for_its_workers() {
    let ([a, b, ..], port) = places();
    let _workers = [engine("a", a, port), engine("b", b, port)];
    let names = Names::new(&[]);
    let binary = names.stickyd(&text(&format!("{{ address = \"app.test:{port}\", name = \"w\" }}")));
    let mut check = Command::new(env!("CARGO_BIN_EXE_stickyd"));
    check.args(["check", "stickyd.toml"]).current_dir(&binary.directory);
    let checked = by(&names.file, check).output().unwrap();
    let said = [checked.stdout, checked.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(checked.status.success() && said.contains("warning: cannot resolve `app.test`"), "{said}");
    let mut client = Raw::connect(binary.address);
    // Requests with a sid wait as well, because their worker may be one that is not known yet.
    for target in ["/", "/socket.io/?EIO=4&transport=polling", "/socket.io/?EIO=4&transport=polling&sid=a1"] {
        let answer = client.get(target);
        assert_eq!((answer.status(), answer.header("retry-after")), (503, Some("1")), "{target}");
    }
    assert!(state(&binary, "unresolved"));
    names.set(&[a]);
    wait_for("requests are served", || client.get("/").status() == 200);
    assert_eq!(client.get("/socket.io/?EIO=4&transport=polling&sid=a1").text(), "4session at a");
    assert!(state(&binary, "resolved"));

    // The cookie names the worker, and the name stays when there is a second worker.
    let pair = client.get("/").cookie("stickyd_app").unwrap();
    names.set(&[a, b]);
    binary.says(&["the addresses of a name have changed", &format!("came=[{b}]")]);
    assert_eq!(states(&binary), is("ready", &[a, b], port));
    let answer = client.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {pair}\r\n\r\n"));
    assert_eq!((answer.text(), answer.header("set-cookie")), ("a", None));
    let ready = |name: &str| format!("stickyd_worker_admin{{admin=\"ready\",upstream=\"app\",worker=\"{name}\"}}");
    assert!(metric(&binary, &ready("w")) > 0.0 && metric(&binary, &ready(&format!("w-{b}"))) > 0.0);
}

#[test]
fn a_reload_that_cannot_resolve_keeps_the_workers() {
    let ([a, b, ..], port) = places();
    let _workers = [engine("a", a, port), engine("b", b, port)];
    let names = Names::new(&[a]);
    let hourly = |list: String| text(&list).replace("1s", "1h");
    let binary = names.stickyd(&hourly(format!("\"app.test:{port}\"")));
    let sids = sessions(&binary, "a");
    names.set(&[]);
    write(&binary, &hourly(format!("\"app.test:{port}\", \"{b}:{port}\"")));
    assert_eq!(post_reload(&binary).0, 200);
    binary.says(&["cannot resolve `app.test`", "stickyd.toml"]);
    assert_eq!(states(&binary), is("ready", &[a, b], port));
    unmoved(&binary, &sids);
    // A reload starts a lookup, and a shorter interval applies at once, not after the current hour.
    names.set(&[a]);
    write(&binary, &text(&format!("\"app.test:{port}\"")));
    assert_eq!(post_reload(&binary).0, 200);
    assert_eq!(states(&binary), is("ready", &[a], port));
    names.set(&[b]);
    binary.says(&["the addresses of a name have changed", &format!("came=[{b}] went=[{a}]")]);
    unmoved(&binary, &sids);
}

#[test]
fn addresses_of_both_families_are_workers() {
    let ([a, _, _, six], port) = places();
    let _workers = [engine("a", a, port), engine("s", six, port)];
    let names = Names::new(&[a]);
    // The name resolves to an address that is already listed: it is one worker, which belongs to the first entry.
    let binary = names.stickyd(&text(&format!("\"{a}:{port}\", {{ address = \"app.test:{port}\", weight = 2 }}")));
    let mut sids = sessions(&binary, "a");
    names.set(&[six, a]);
    binary.says(&["the addresses of a name have changed", "came=[::1] went=[]"]);
    assert_eq!(states(&binary), is("ready", &[a, six], port));
    sids.extend(sessions(&binary, "s"));
    names.set(&[six]);
    binary.says(&["the addresses of a name have changed", &format!("went=[{a}]")]);
    assert_eq!(states(&binary), is("ready", &[a, six], port), "the other entry keeps it");
    unmoved(&binary, &sids);
}

/// Every address of a name is a worker, so a request that reaches none at one address tries the next.
#[test]
fn an_address_that_refuses_or_is_silent_is_passed_over() {
    let ([a, b, c, _], port) = places();
    let _worker = engine("c", c, port);
    // Its queue is full, so that the kernel leaves connects unanswered.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(b, port).into()).unwrap();
    socket.listen(0).unwrap();
    let fill = || {
        let at = SocketAddr::new(b, port);
        std::net::TcpStream::connect_timeout(&at, Duration::from_millis(200)).ok()
    };
    let held: Vec<_> = std::iter::from_fn(fill).collect();
    let names = Names::new(&[a, b, c]);
    // No health check may sort the addresses out before the requests do.
    let quiet = "health = { kind = \"tcp\", interval = \"1h\" }\nconnect_timeout = \"300ms\"\neject = false\n";
    let binary = names.stickyd(&format!("{}{quiet}", text(&format!("\"app.test:{port}\""))));
    for _ in 0..12 {
        assert!(session(&binary).starts_with('c'));
        assert_eq!(
            Raw::connect(binary.address).ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").text(),
            "c"
        );
    }
    drop(held);
}

#[test]
fn our_own_listener_is_not_a_worker() {
    let listener = free_address();
    let names = Names::new(&[]);
    let listeners = format!("[[listener]]\naddress = \"{listener}\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n");
    let toml =
        text(&format!("\"app.test:{}\"", listener.port())).replace("[upstream", &format!("{listeners}[upstream"));
    let binary = names.stickyd(&toml);
    names.set(&[listener.ip()]);
    binary.says(&["name resolves to stickyd's own listener", &listener.ip().to_string()]);
    assert_eq!(Raw::connect(listener).get("/").status(), 503);
    assert!(states(&binary).is_empty());
}

/// The number of threads of a process that look names up.
fn lookups(binary: &Binary) -> usize {
    let tasks = std::fs::read_dir(Path::new("/proc").join(binary.pid().to_string()).join("task")).unwrap();
    let name = |task: std::io::Result<std::fs::DirEntry>| std::fs::read_to_string(task.ok()?.path().join("comm")).ok();
    tasks.filter_map(name).filter(|name| name.trim() == "dns").count()
}

#[test]
fn a_hanging_lookup_is_logged_not_repeated_and_delays_no_stop() {
    let ([a, ..], port) = places();
    let _worker = engine("a", a, port);
    let names = Names::new(&[a]);
    let mut binary = names.stickyd(&text(&format!("\"app.test:{port}\"")));
    let sids = sessions(&binary, "a");
    names.hang();
    binary.says(&["name no longer resolves: its last addresses are kept", "no answer in time"]);
    assert!(state(&binary, "kept"));
    assert_eq!(lookups(&binary), 1);
    unmoved(&binary, &sids);
    // The lookup never ends, so a stop that waited for it would not end either.
    assert_eq!(binary.terminate().0, Some(0));
}

/// Node listens on ::1 only when told `localhost` on many hosts: the worker is found there, also by its checks.
#[test]
fn localhost_is_127_0_0_1_or_else_the_ipv6_loopback() {
    let Ok(free) = TcpListener::bind("[::1]:0") else { return };
    let port = free.local_addr().unwrap().port();
    drop(free);
    let ipv6 = RawWorker::scripted_at(format!("[::1]:{port}").parse().unwrap(), |leg| {
        while leg.request().is_some_and(|_| leg.send(ok("ipv6"))) {}
    });
    let proxy = Proxy::with(&format!(
        "[upstream.app]\nworkers = [\"localhost:{port}\"]\nhealth = {{ path = \"/\", interval = \"100ms\", rise = 1 }}\n"
    ));
    let name = format!("127.0.0.1:{port}");
    wait_for("the worker passes its checks at ::1", || proxy.worker(&name).health().word() == "up");
    assert_eq!(Raw::connect(proxy.address).get("/").text(), "ipv6");
    assert_eq!(proxy.server().shared().snapshot.load().upstreams[0].members.len(), 1, "it is one worker");
    drop(ipv6);
    // The number means what it says.
    let proxy = Proxy::with(&format!("[upstream.app]\nworkers = [\"127.0.0.1:{port}\"]\n"));
    assert_eq!(Raw::connect(proxy.address).get("/").status(), 503);
}
