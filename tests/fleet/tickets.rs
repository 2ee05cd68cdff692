//! TLS sessions of one stickyd are resumed at the others, with keys from Redis; Redis may fail, have rubbish and learn
//! nothing.

#![allow(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]

use std::net::SocketAddr;

use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::secrecy::{assert_nothing_refused, grant};
use super::{SECRET, Stickyds};
use crate::support::node::NodeServer;
use crate::support::proxy::{Binary, Proxy};
use crate::support::raw::{RawWorker, ok};
use crate::support::redis::Redis;
use crate::support::tls::{Certificates, Client, openssl};
use crate::support::wait::wait_for;

/// Where Redis has the keys.
const KEYS: &str = "stickyd:{ctl}:t:";

const SITE: &str = "certificate = \"site.pem\", key = \"site.key\"";

/// A worker that answers with what it was told of the client's certificate.
fn worker() -> RawWorker {
    RawWorker::answering(|request| ok(request.header("x-client-subject").unwrap_or("no subject")))
}

fn files() -> Certificates {
    let files = Certificates::new();
    files.issue("site", &["a.example"]);
    files
}

/// Configuration of a stickyd of the fleet, with a TLS listener.
fn text(worker: &RawWorker, name: &str, redis: &str, tls: &str) -> String {
    format!(
        "{SECRET}threads = 1\n[[listener]]\naddress = \"127.0.0.1:0\"\ntls = {{ {tls} }}\n[upstream.app]\n\
         workers = [{{ address = \"{}\", name = \"w\" }}]\n[fleet]\nredis = {redis:?}\nname = \"{name}\"\n",
        worker.address
    )
}

/// Two stickyds of a fleet with these TLS settings.
fn two(files: &Certificates, worker: &RawWorker, redis: &str, tls: [&str; 2]) -> Stickyds {
    let [one, other] = tls;
    let start = |(name, tls)| Proxy::with_files(&text(worker, name, redis, tls), &files.directory);
    Stickyds([("edge-1", one), ("edge-2", other)].map(start).into())
}

/// Waits until both have at least so many keys.
fn wait_for_keys(stickyds: &Stickyds, count: f64) {
    wait_for("both have the keys", || {
        let held: Vec<_> = stickyds.0.iter().map(|one| one.metric("stickyd_fleet_ticket_keys")).collect();
        if held.iter().all(|held| *held >= count) { Ok(()) } else { Err(held) }
    });
}

/// Makes a connection and a request; whether the session was resumed, and what the worker was told.
fn ask(client: &mut Client, address: SocketAddr) -> (bool, String) {
    let mut made = client.connect(address, "a.example");
    let answer = made.raw.ask("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    (made.resumed, answer.text().to_owned())
}

/// Begins a session at one address; whether another one resumes it.
fn resumes(mut client: Client, from: SocketAddr, to: SocketAddr) -> bool {
    assert!(!ask(&mut client, from).0, "a new session");
    ask(&mut client, to).0
}

#[test]
fn a_session_resumes_at_the_other_stickyd() {
    let (redis, files, worker) = (Redis::start(), files(), worker());
    let stickyds = two(&files, &worker, &redis.url(), [SITE, SITE]);
    wait_for_keys(&stickyds, 2.0);
    let [a, b] = [&stickyds.0[0], &stickyds.0[1]];
    for (version, name) in [(&TLS12, "1.2"), (&TLS13, "1.3")] {
        assert!(resumes(files.client().version(version), a.address, b.address), "{name}");
        assert!(resumes(files.client().version(version), b.address, a.address), "{name}, back");
        for one in [a, b] {
            let labels = format!("listener=\"127.0.0.1:0\",result=\"ok\",resumed=\"yes\",version=\"{name}\"");
            assert_eq!(one.metric(&format!("stickyd_tls_handshakes_total{{{labels}}}")), 1.0, "{name}");
        }
    }
    let keys = redis.keys(KEYS);
    assert_eq!(keys.len(), 2, "{keys:?}: this epoch and the next one");
    for key in keys {
        let left: u64 = redis.cli(&["ttl", &key]).parse().unwrap();
        assert!((24 * 3_600 - 60..=48 * 3_600).contains(&left), "{key}: {left} s");
        assert_eq!(redis.cli(&["strlen", &key]), "76", "{key}: 48 bytes, sealed");
    }
}

/// A session of OpenSSL, in a file; it may be resumed many times.
struct OpensslSession<'a> {
    files: &'a Certificates,
    version: &'static str,
    name: String,
}

impl<'a> OpensslSession<'a> {
    fn begin(files: &'a Certificates, version: &'static str, name: &str, at: SocketAddr) -> Self {
        let session = Self { files, version, name: format!("{name}{version}") };
        let said = session.connect(at, "-sess_out");
        assert!(said.contains("New, TLSv1.") && said.contains("no subject"), "{said}");
        session
    }

    fn resumes(&self, at: SocketAddr) -> bool {
        let said = self.connect(at, "-sess_in");
        assert!(said.contains("no subject"), "answered: {said}");
        said.contains("Reused, TLSv1.")
    }

    fn connect(&self, at: SocketAddr, option: &str) -> String {
        let request = "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
        let Self { version, name, .. } = self;
        let line =
            format!("s_client -connect {at} -servername a.example -CAfile ca.pem -ign_eof {version} {option} {name}");
        openssl(&self.files.directory, &line, request)
    }

    /// Name of the key that has sealed the ticket: its first 16 bytes, as OpenSSL prints the ticket.
    fn key_name(&self) -> Vec<u8> {
        let said = openssl(&self.files.directory, &format!("sess_id -in {} -text -noout", self.name), "");
        let line = said.lines().find_map(|line| line.trim().strip_prefix("0000 - ")).expect(&said);
        let bytes: String = line.chars().take(47).collect();
        bytes.split([' ', '-']).map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
    }
}

#[test]
fn openssl_resumes_at_another_process() {
    let (redis, files, worker) = (Redis::start(), files(), worker());
    let site = SITE.replace("site.", &format!("{}/site.", files.directory.display()));
    let start = |name: &str| {
        Binary::with(&format!("state_dir = \".\"\nlog.level = \"debug\"\n{}", text(&worker, name, &redis.url(), &site)))
    };
    let (a, mut b) = (start("edge-1"), start("edge-2"));
    for version in ["-tls1_2", "-tls1_3"] {
        wait_for("a session of one process is resumed at the other", || {
            OpensslSession::begin(&files, version, "first", a.address).resumes(b.address)
        });
        let session = OpensslSession::begin(&files, version, "kept", a.address);
        // A stickyd that restarts has the keys again.
        assert_eq!(b.terminate().0, Some(0));
        b.start_again();
        wait_for("it is resumed after a restart", || session.resumes(b.address));
        // The name of the key is part of what is sealed in Redis.
        let name = session.key_name();
        assert_eq!(name.len(), 16);
        for key in redis.keys(KEYS) {
            let said = std::process::Command::new("redis-cli")
                .args(["-h", &redis.address.ip().to_string(), "-p", &redis.address.port().to_string(), "get", &key])
                .output()
                .unwrap();
            assert!(said.stdout.len() >= 76 && !said.stdout.windows(16).any(|some| some == name), "{key}");
        }
        let hex: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
        for log in [a.log(), b.log()] {
            assert!(!log.to_lowercase().contains(&hex), "{log}");
        }
    }
}

#[test]
fn known_keys_are_used_while_redis_is_away() {
    let (mut redis, files, worker) = (Redis::start(), files(), worker());
    let stickyds = two(&files, &worker, &redis.url(), [SITE, SITE]);
    wait_for_keys(&stickyds, 2.0);
    let [a, b] = [stickyds.0[0].address, stickyds.0[1].address];
    let mut before = files.client();
    assert!(!ask(&mut before, a).0);
    redis.stop();
    stickyds.wait_until_redis_is(false);
    assert!(ask(&mut before, b).0, "a session of before");
    for version in [&TLS12, &TLS13] {
        assert!(resumes(files.client().version(version), a, b), "a session of now");
    }
    // A stickyd that has never had a key resumes its own sessions, as without a fleet.
    let late = Proxy::with_files(&text(&worker, "edge-3", &redis.url(), SITE), &files.directory);
    assert!(!resumes(files.client(), a, late.address) && !resumes(files.client(), late.address, a));
    let mut own = files.client();
    assert!(!ask(&mut own, late.address).0 && ask(&mut own, late.address).0);
    // Redis is back, and has lost the keys: those in hand are stored again.
    let mut meanwhile = files.client();
    assert!(!ask(&mut meanwhile, a).0);
    redis.start_again();
    let late = Stickyds(vec![late]);
    wait_for_keys(&late, 2.0);
    wait_for("all use one key again", || resumes(files.client(), late.0[0].address, a));
    assert!(ask(&mut meanwhile, b).0, "the key of before is still in hand");
    assert!(ask(&mut own, late.0[0].address).0, "and so is its own");
}

/// A way to a Redis whose clock is ahead.
pub(super) struct AheadWay {
    pub(super) address: SocketAddr,
    pub(super) hours: watch::Sender<u64>,
}

impl AheadWay {
    pub(super) async fn before(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (hours, ahead) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(target).await else { continue };
                let ((mut asks, mut told), (mut answers, mut asked)) = (client.into_split(), server.into_split());
                let ahead = ahead.clone();
                tokio::spawn(async move { tokio::io::copy(&mut asks, &mut asked).await });
                tokio::spawn(async move {
                    let mut buffer = vec![0; 65_536];
                    while let Ok(count @ 1..) = answers.read(&mut buffer).await {
                        let some = &mut buffer[..count];
                        put_ahead(some, *ahead.borrow());
                        if told.write_all(some).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, hours }
    }
}

/// Changes the answers to TIME: the seconds in ten digits, and the microseconds.
fn put_ahead(answers: &mut [u8], hours: u64) {
    const HEAD: &[u8] = b"*2\r\n$10\r\n";
    let places = answers.windows(HEAD.len()).enumerate().filter(|(_, some)| *some == HEAD);
    for at in places.map(|(at, _)| at + HEAD.len()).collect::<Vec<_>>() {
        let Some(digits) = answers.get_mut(at..at + 10) else { continue };
        let Some(seconds) = std::str::from_utf8(digits).ok().and_then(|text| text.parse::<u64>().ok()) else {
            continue;
        };
        digits.copy_from_slice((seconds + hours * 3_600).to_string().as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_rotate_by_the_clock_of_redis() {
    let (redis, files, worker) = (Redis::start(), files(), worker());
    let way = AheadWay::before(redis.address).await;
    let stickyds = two(&files, &worker, &format!("redis://{}", way.address), [SITE, SITE]);
    wait_for_keys(&stickyds, 2.0);
    let [a, b] = [stickyds.0[0].address, stickyds.0[1].address];
    let sessions = ["-tls1_2", "-tls1_3"].map(|version| OpensslSession::begin(&files, version, "first", a));
    let first = sessions[0].key_name();
    for (hours, held) in [(12, 3.0), (24, 4.0)] {
        way.hours.send_replace(hours);
        // Each new connection asks for the time, so that the test need not wait for the next heartbeat.
        redis.cli(&["client", "kill", "type", "normal"]);
        wait_for_keys(&stickyds, held);
        for session in &sessions {
            assert!(session.resumes(a) && session.resumes(b), "after {hours} hours");
        }
        let next = OpensslSession::begin(&files, "-tls1_2", "next", a);
        assert!(next.key_name() != first && next.resumes(b), "a new key after {hours} hours");
    }
    way.hours.send_replace(36);
    redis.cli(&["client", "kill", "type", "normal"]);
    for session in &sessions {
        wait_for("the ticket is too old for both", || !session.resumes(a) && !session.resumes(b));
    }
    for version in [&TLS12, &TLS13] {
        wait_for("new sessions are resumed", || resumes(files.client().version(version), a, b));
    }
    assert_eq!(redis.keys(KEYS).len(), 5, "Redis itself does not know that time has passed");
}

#[test]
fn rubbish_for_keys_is_refused_and_replaced() {
    let (redis, files, worker) = (Redis::start(), files(), worker());
    let stickyds = two(&files, &worker, &redis.url(), [SITE, SITE]);
    wait_for_keys(&stickyds, 2.0);
    let [a, b] = [stickyds.0[0].address, stickyds.0[1].address];
    let session = OpensslSession::begin(&files, "-tls1_3", "before", a);
    let keys = redis.keys(KEYS);
    let stored = || keys.iter().map(|key| redis.cli(&["type", key])).collect::<Vec<_>>();
    let refused = || stickyds.sum("stickyd_fleet_messages_total{result=\"bad_seal\"}");
    let spoils: [(&str, &dyn Fn()); 4] = [
        ("swapped", &|| {
            for (from, to) in [(&keys[0], "aside"), (&keys[1], &keys[0]), (&"aside".to_owned(), &keys[1])] {
                assert_eq!(redis.cli(&["rename", from, to]), "OK");
            }
        }),
        ("random", &|| keys.iter().for_each(|key| _ = redis.cli(&["set", key, &"x".repeat(76)]))),
        ("empty", &|| keys.iter().for_each(|key| _ = redis.cli(&["set", key, ""]))),
        ("another type", &|| {
            for key in &keys {
                redis.cli(&["del", key]);
                redis.cli(&["rpush", key, "x"]);
            }
        }),
    ];
    for (what, spoil) in spoils {
        let before = refused();
        spoil();
        // Each new connection looks at the keys, so that the test need not wait for the next heartbeat.
        redis.cli(&["client", "kill", "type", "normal"]);
        wait_for("the keys are there again", || {
            let sizes: Vec<_> = keys.iter().map(|key| redis.cli(&["strlen", key])).collect();
            let is_right = sizes == ["76", "76"] && redis.cli(&["get", &keys[0]]) != "x".repeat(76);
            if is_right { Ok(()) } else { Err((what, sizes, stored())) }
        });
        wait_for("it is counted", || what == "another type" || refused() > before);
        // A stickyd that starts now gets the keys that the others never gave up.
        let late =
            Proxy::with_files(&text(&worker, what.split(' ').next().unwrap(), &redis.url(), SITE), &files.directory);
        wait_for("a later stickyd has the same keys", || session.resumes(late.address));
        assert!(session.resumes(a) && session.resumes(b), "{what}");
        assert!(resumes(files.client(), a, b) && resumes(files.client(), b, late.address), "{what}");
    }
}

#[test]
fn a_session_resumes_only_where_the_policy_is_the_same() {
    let (redis, files, worker) = (Redis::start(), files(), worker());
    files.issue("other", &["a.example", "b.example"]);
    files.issue_client("bob", "bob");
    let stranger = Certificates::new();
    files.write("stranger.pem", &std::fs::read_to_string(stranger.directory.join("ca.pem")).unwrap());
    let both = std::fs::read_to_string(files.directory.join("ca.pem")).unwrap()
        + &std::fs::read_to_string(files.directory.join("stranger.pem")).unwrap();
    files.write("both.pem", &both);
    let auth = |mode: &str, ca: &str| format!("{SITE}, client_auth = {{ mode = \"{mode}\", ca = \"{ca}.pem\" }}");
    let (required, optional) = (auth("required", "ca"), auth("optional", "ca"));
    let told = "CN=bob,O=Example\\, Ltd.";
    for (one, other, is_same) in [
        (SITE, required.as_str(), false),
        (SITE, optional.as_str(), false),
        (&optional, &required, false),
        (&required, &auth("required", "both"), false),
        (SITE, "certificate = \"other.pem\", key = \"other.key\"", false),
        (&required, &required, true),
        (&optional, &optional, true),
    ] {
        redis.cli(&["flushall"]);
        let stickyds = two(&files, &worker, &redis.url(), [one, other]);
        wait_for_keys(&stickyds, 2.0);
        let [a, b] = [stickyds.0[0].address, stickyds.0[1].address];
        for version in [&TLS12, &TLS13] {
            let resumed = resumes(files.client_with("bob").version(version), a, b);
            assert_eq!(resumed, is_same, "{one} then {other}");
            let mut client = files.client_with("bob").version(version);
            let (first, second) = (ask(&mut client, a).1, ask(&mut client, b).1);
            assert_eq!(first, if one == SITE { "no subject" } else { told });
            assert_eq!(second, if other.contains("client_auth") { told } else { "no subject" }, "{other}");
        }
        if other.contains("required") && !one.contains("required") {
            // A session without a certificate opens no way past the policy.
            let mut client = files.client();
            assert_eq!(ask(&mut client, a).1, "no subject");
            assert!(!client.is_served(b, "a.example"));
        }
    }
}

#[test]
fn tickets_can_be_left_out() {
    let (redis, files, worker) = (Redis::start(), files(), worker());
    let start = |name: &str| {
        let text = text(&worker, name, &redis.url(), SITE) + "tickets = false\n";
        Proxy::with_files(&text, &files.directory)
    };
    let stickyds = Stickyds(vec![start("edge-1"), start("edge-2")]);
    wait_for("each has seen the other", || stickyds.0.iter().all(|one| one.metric("stickyd_fleet_members") > 1.5));
    let [a, b] = [stickyds.0[0].address, stickyds.0[1].address];
    assert!(!resumes(files.client(), a, b) && resumes(files.client(), a, a));
    assert_eq!(redis.keys(KEYS), [""; 0], "no key is stored");
}

#[tokio::test]
async fn the_rights_that_are_printed_suffice_for_keys() {
    let (redis, files, worker) = (Redis::start(), files(), worker());
    grant(&[&redis], &NodeServer::start_many(1, &[]).await);
    let url = format!("redis://edge:pass@{}", redis.address);
    let stickyds = two(&files, &worker, &url, [SITE, SITE]);
    wait_for_keys(&stickyds, 2.0);
    assert!(resumes(files.client(), stickyds.0[0].address, stickyds.0[1].address));
    // What replaces rubbish needs no other right.
    redis.cli(&["set", &redis.keys(KEYS)[0], "x"]);
    redis.cli(&["client", "kill", "type", "normal"]);
    wait_for("the keys are there again", || redis.keys(KEYS).iter().all(|key| redis.cli(&["strlen", key]) == "76"));
    assert_nothing_refused(&[&redis], &stickyds);
}
