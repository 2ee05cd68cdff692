//! Configurations: every key is read into its field, every mistake is reported with its place, nothing panics.
//!
//! The texts of errors are in `config/errors*.rs`, the tests of shipped files in `config/shipped.rs`. Tests do not use
//! a real resolver: [`resolve`] answers for the few names they need.

mod drain;
mod eject;
mod emit;
mod errors_across;
mod errors_in_a_table;
mod errors_of_addresses;
mod fleet;
mod guards;
mod health;
mod history;
mod jwt;
mod labels;
mod logs_and_headers;
mod rules;
mod shipped;
mod tls;
mod tunnels;
mod variables;

use std::io;
use std::net::IpAddr;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use stickyd::testing::config::{
    AdminAddress, AdminState, Affinity, Config, Expected, Health, HealthKind, Limits, Log, SameSite, Tunnels,
    for_command_line, load, parse_with,
};
use stickyd::testing::websocket::Thresholds;

/// A valid listener and upstream in four lines, to which tests append a wrong line.
const HEAD: &str = "[[listener]]\naddress = \"0.0.0.0:80\"\n[upstream.app]\nworkers = [\"127.0.0.1:3001-3004\"]\n";

fn resolve(name: &str) -> io::Result<Vec<IpAddr>> {
    match name {
        "one.test" => Ok(vec![[10, 0, 0, 1].into()]),
        "two.test" => Ok(vec![[10, 0, 0, 9].into(), [10, 0, 0, 2].into(), [10, 0, 0, 9].into()]),
        "empty.test" => Ok(Vec::new()),
        _ => Err(io::Error::other("no such name")),
    }
}

fn errors(after_head: &str) -> String {
    errors_of(&format!("{HEAD}{after_head}"))
}

fn errors_of(text: &str) -> String {
    parse_with(text, Path::new("s.toml"), &resolve).unwrap_err().to_string()
}

/// Errors of an upstream with these workers, which are on line 4.
fn errors_of_workers(list: &str) -> String {
    errors_of(&text_of_workers(list))
}

fn text_of_workers(list: &str) -> String {
    format!("[[listener]]\naddress = \"0.0.0.0:80\"\n[upstream.app]\nworkers = {list}")
}

fn errors_in(dir: &TempDir, text: &str) -> String {
    let errors = parse_with(text, &dir.0.join("s.toml"), &resolve).unwrap_err().to_string();
    errors.replace(&dir.0.display().to_string(), "DIR")
}

fn warnings(dir: &TempDir, text: &str) -> String {
    let (_, warnings) = parse_with(text, &dir.0.join("s.toml"), &resolve).unwrap();
    let texts: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    texts.join("\n\n").replace(&dir.0.display().to_string(), "DIR")
}

fn good(text: &str) -> Config {
    let (config, warnings) =
        parse_with(text, Path::new("/etc/stickyd/s.toml"), &resolve).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(warnings, []);
    config
}

/// A temporary folder of one test, removed at its end.
struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("stickyd-config-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) {
        let file = self.0.join(name);
        std::fs::write(&file, text).unwrap();
        // As keys and secrets should be: a file that all users can read is warned of.
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Writes `NAME.crt` and `NAME.key`, valid from the first year to the second.
    fn certificate(&self, name: &str, years: Range<i32>) {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(years.start, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.end, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        self.write(&format!("{name}.crt"), &params.self_signed(&key).unwrap().pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_listener_and_an_upstream_are_enough() {
    let config = good(HEAD);
    assert_eq!((&config.secret, &config.state_dir, &config.routes), (&None, &None, &Vec::new()));
    assert!((1..=256).contains(&config.threads));
    assert_eq!((config.limits, config.log, config.watch), (Limits::default(), Log::default(), true));
    assert_eq!((config.admin.address, config.admin.token), (AdminAddress::None, None));
    let listener = &config.listeners[0];
    assert_eq!(
        (listener.address, &listener.name, &listener.tls, listener.trusted_proxies.len()),
        (([0, 0, 0, 0], 80).into(), &None, &None, 0)
    );
    let app = &config.upstreams[0];
    assert_eq!(app.affinity, [Affinity::automatic(), vec![Affinity::Cookie, Affinity::Address]].concat());
    assert_eq!(app.health, Health::default());
    assert_eq!((app.cookie_same_site, app.tunnel_idle, app.request_timeout), (SameSite::Lax, None, None));
    assert_eq!((app.connect_timeout, app.response_timeout), (Duration::from_secs(5), Duration::from_secs(60)));
    assert_eq!(app.dns_interval, Duration::from_secs(10));
    assert_eq!((app.tunnels.ping, app.tunnels.broadcast), (None, false));
}

/// A configuration with every key, none of them at its default.
const EVERY_KEY: &str = r#"
secret_file = "secret"
state_dir = "state"
threads = 3
[[listener]]
address = "[::]:443"
name = "web"
tls = { certificate = "site.crt", key = "site.key" }
trusted_proxies = ["127.0.0.0/8", "10.1.2.3", "fd00::1/8"]
[upstream.web]
workers = ["one.test:80"]
[upstream.app]
workers = [{ address = "10.0.0.7:3000", name = "w7", weight = 2, admin = "drain" }]
affinity = ["address", "cookie"]
health = { kind = "http", path = "/health", interval = "3s", timeout = "1s", rise = 4, fall = 5 }
cookie = { same_site = "strict" }
connect_timeout = "1s"
response_timeout = "2m"
request_timeout = "5m"
tunnel_idle = "1h"
tunnel_ping = "20s"
tunnel_ping_timeout = "5s"
round_trip = { excellent = "50ms", good = "1s" }
broadcast = true
dns_interval = "1m"
[[route]]
host = "Chat.Example.com"
path = "/app"
upstream = "app"
[[route]]
upstream = "web"
[admin]
address = "0.0.0.0:9145"
token_file = "token"
[limits]
pins = 1000
pins_per_address = 1
discoveries_per_address = 2
discoveries = 3
replay_bytes = "4MiB"
handshakes = 5
http2_streams = 6
handshake_timeout = "3s"
[log]
level = "warn,stickyd::affinity=debug"
access = true
"#;

#[test]
fn every_key_is_read_into_its_field() {
    let dir = TempDir::new("every-key");
    dir.certificate("site", 2000..4000);
    dir.write("secret", "\n 0123456789abcdef\n");
    dir.write("token", "fedcba9876543210\n");
    let (config, warnings) = parse_with(EVERY_KEY, &dir.0.join("s.toml"), &resolve).unwrap();
    assert_eq!(warnings, []);
    check_every_key(&dir, &config);
    // The same through a file and the real resolver, without names to look up.
    let text = EVERY_KEY.replace("one.test", "10.0.0.1");
    dir.write("s.toml", &text);
    let loaded = load(&dir.0.join("s.toml")).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(loaded, parse_with(&text, &dir.0.join("s.toml"), &resolve).unwrap().0);
}

fn check_every_key(dir: &TempDir, config: &Config) {
    assert_eq!(config.secret.as_ref().unwrap().0, b"0123456789abcdef");
    assert_eq!(config.state_dir, Some(dir.0.join("state")));
    assert_eq!(config.threads, 3);
    let listener = &config.listeners[0];
    assert_eq!((listener.address.to_string().as_str(), listener.name.as_deref()), ("[::]:443", Some("web")));
    assert_eq!(listener.tls.as_ref().unwrap().certificates[0].chain.len(), 1);
    let proxies: Vec<_> = listener.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(proxies, ["127.0.0.0/8", "10.1.2.3/32", "fd00::/8"]);
    let names: Vec<_> = config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    assert_eq!(names, ["web", "app"], "in the order of the file");
    let app = &config.upstreams[1];
    let worker = &app.workers[0];
    assert_eq!((worker.address.to_string().as_str(), worker.name.as_str()), ("10.0.0.7:3000", "w7"));
    assert_eq!((worker.weight, worker.admin), (2, AdminState::Drain));
    assert_eq!(app.affinity, [Affinity::Address, Affinity::Cookie]);
    let second = Duration::from_secs(1);
    let (kind, fast_interval) = (HealthKind::Http(health::at("/health"), Expected::default()), 750 * second / 1000);
    let start_grace = Duration::ZERO;
    assert_eq!(
        app.health,
        Health { kind, interval: 3 * second, fast_interval, timeout: second, rise: 4, fall: 5, start_grace }
    );
    assert_eq!(app.cookie_same_site, SameSite::Strict);
    assert_eq!((app.connect_timeout, app.response_timeout), (second, 120 * second));
    assert_eq!(app.request_timeout, Some(300 * second));
    assert_eq!((app.tunnel_idle, app.dns_interval), (Some(3600 * second), 60 * second));
    let round_trip = Thresholds { excellent: Duration::from_millis(50), good: second };
    let tunnels = Tunnels { round_trip, ping: Some(20 * second), ping_timeout: 5 * second, broadcast: true };
    assert_eq!(app.tunnels, tunnels);
    let routes: Vec<_> = config.routes.iter().map(|r| (r.host.as_deref(), r.path.as_str(), r.upstream)).collect();
    assert_eq!(routes, [(Some("chat.example.com"), "/app", 1), (None, "/", 0)]);
    assert_eq!(config.admin.address, AdminAddress::Tcp(([0, 0, 0, 0], 9145).into()));
    assert_eq!(config.admin.token.as_ref().unwrap().0, b"fedcba9876543210");
    let limits = Limits {
        pins: 1000,
        pins_per_address: 1,
        discoveries_per_address: 2,
        discoveries: 3,
        replay_bytes: 4 << 20,
        handshakes: 5,
        http2_streams: 6,
        handshake_timeout: 3 * second,
        ..Limits::default()
    };
    assert_eq!(config.limits, limits);
    assert_eq!(config.log, Log { level: "warn,stickyd::affinity=debug".to_owned(), access: true, ..Log::default() });
}

/// Each worker as `NAME=ADDRESS`.
fn workers(entry: &str) -> Vec<String> {
    let config = good(&format!("listener = [{{ address = \"0.0.0.0:80\" }}]\nupstream.app.workers = [{entry}]"));
    config.upstreams[0].workers.iter().map(|worker| format!("{}={}", worker.name, worker.address)).collect()
}

#[test]
fn worker_addresses_are_expanded() {
    assert_eq!(workers("\"127.0.0.1:3001-3002\""), ["127.0.0.1:3001=127.0.0.1:3001", "127.0.0.1:3002=127.0.0.1:3002"]);
    assert_eq!(workers("\"[::1]:3000\""), ["[::1]:3000=[::1]:3000"]);
    assert_eq!(workers("\"localhost:3000\""), ["127.0.0.1:3000=127.0.0.1:3000"]);
    assert_eq!(workers("\"unix:/run/5.sock\""), ["unix:/run/5.sock=unix:/run/5.sock"]);
    assert_eq!(workers("\"unix:run/5.sock\""), ["unix:/etc/stickyd/run/5.sock=unix:/etc/stickyd/run/5.sock"]);
    assert_eq!(workers("\"two.test:80\""), ["10.0.0.2:80=10.0.0.2:80", "10.0.0.9:80=10.0.0.9:80"]);
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_are_accepted() {
    assert_eq!(good(&HEAD.replace('\n', "\r\n")), good(HEAD));
    assert_eq!(good(&format!("\u{feff}{HEAD}")), good(HEAD));
    assert!(errors(&"x = 1\r\n".replace('x', "tls")).contains("5 | tls = 1\n"));
}

#[test]
fn names_of_several_workers_get_a_suffix() {
    let named = |address| workers(&format!("{{ address = \"{address}\", name = \"w\" }}"));
    assert_eq!(named("127.0.0.1:1"), ["w=127.0.0.1:1"]);
    assert_eq!(named("127.0.0.1:1-2"), ["w-1=127.0.0.1:1", "w-2=127.0.0.1:2"]);
    assert_eq!(named("one.test:1"), ["w=10.0.0.1:1"]);
    assert_eq!(named("two.test:1"), ["w-10.0.0.2=10.0.0.2:1", "w-10.0.0.9=10.0.0.9:1"]);
    assert_eq!(named("two.test:1-2")[3], "w-10.0.0.9-2=10.0.0.9:2");
}

#[test]
fn admin_addresses_and_secrets_have_short_forms() {
    let admin = |text: &str| good(&format!("{text}\n{HEAD}")).admin.address;
    assert_eq!(admin("state_dir = \"/var/lib/s\""), AdminAddress::Unix("/var/lib/s/admin.sock".into()));
    assert_eq!(admin("admin.address = \"localhost:1\""), AdminAddress::Tcp(([127, 0, 0, 1], 1).into()));
    assert_eq!(admin("admin.address = \"unix:/run/a\"\nstate_dir = \"/x\""), AdminAddress::Unix("/run/a".into()));
    let secret = good(&format!("secret = \"0123456789abcdef\"\n{HEAD}")).secret;
    assert_eq!(secret.unwrap().0, b"0123456789abcdef");
}

#[test]
fn the_command_line_is_a_configuration_too() {
    let strings = |all: &[&str]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
    let config = for_command_line(&strings(&["0.0.0.0:80"]), &strings(&["127.0.0.1:1-2", "unix:/run/a"])).unwrap();
    assert_eq!((config.upstreams[0].name.as_str(), config.upstreams[0].workers.len()), ("app", 3));
    assert_eq!((config.state_dir, config.admin.address), (None, AdminAddress::None));
    let wrong = for_command_line(&strings(&["0.0.0.0:80", "80"]), &strings(&["127.0.0.1:2-1"])).unwrap_err();
    insta::assert_snapshot!(wrong, @"
    error: the address needs a port
     --> command line:1:30
      |
    1 | --listen 0.0.0.0:80 --listen 80 --worker 127.0.0.1:2-1
      |                              ^^
      = help: write 0.0.0.0:80, 127.0.0.1:8080 or [::]:443

    error: the range of ports ends before it begins
     --> command line:1:52
      |
    1 | --listen 0.0.0.0:80 --listen 80 --worker 127.0.0.1:2-1
      |                                                    ^^^
      = help: write 1-2
    ");
    insta::assert_snapshot!(for_command_line(&[], &[]).unwrap_err(), @"
    error: there is no listener
     --> command line
      = help: add --listen 0.0.0.0:80

    error: there is no worker
     --> command line
      = help: add --worker 127.0.0.1:3001-3004
    ");
}

/// A configuration with every kind of value, for tests that damage it.
fn specimen() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/config/full.toml")).unwrap()
}

#[test]
fn control_characters_are_not_printed() {
    let said = errors("affinity = [\"\\u001b[31m\"]\n\"\\u0007\" = \"\"\n");
    assert!(said.chars().all(|c| c == '\n' || !c.is_control()), "{said}");
}

#[test]
fn errors_of_a_file_of_the_wrong_kind_stay_short() {
    for text in ["[".repeat(100_000), "a\n".repeat(200_000), "a = [".repeat(50_000), "a.".repeat(100_000)] {
        assert!(errors_of(&text).len() < 100_000, "{}", text.len());
    }
    let many: String = (0..5_000).map(|i| format!("key{i} = 1\n")).collect();
    let said = errors_of(&many);
    assert_eq!(said.matches("error: ").count(), 100);
    assert!(said.ends_with("\n\nand 4902 more"), "{}", &said[said.len() - 200..]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Cuts out, inserts and replaces parts: the result is a configuration, or a list of errors that can be printed.
    #[test]
    fn a_damaged_configuration_never_panics(
        edits in prop::collection::vec(
            (any::<prop::sample::Index>(), 0..12_usize, "[ -~\\n\u{e9}\u{1F600}]{0,4}"),
            1..6,
        )
    ) {
        let mut text = specimen();
        for (at, cut, put) in edits {
            let chars: Vec<char> = text.chars().collect();
            let at = at.index(chars.len() + 1);
            let tail = chars.iter().skip(at + cut);
            text = chars.iter().take(at).chain(put.chars().collect::<Vec<_>>().iter()).chain(tail).collect();
        }
        match parse_with(&text, Path::new("/nonexistent/s.toml"), &resolve) {
            Ok((_, warnings)) => warnings.iter().for_each(|warning| drop(warning.to_string())),
            Err(errors) => prop_assert!(!errors.to_string().is_empty()),
        }
    }

    /// Parses arbitrary text without a panic.
    #[test]
    fn noise_never_panics(text in "\\PC*") {
        let _ = parse_with(&text, Path::new("s.toml"), &resolve).map_err(|errors| errors.to_string());
    }
}
