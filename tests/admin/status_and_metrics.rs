//! What operators see: the admin listener, metrics, and the files in the state directory.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::proxy::{Binary, Proxy};
use crate::support::raw::{Message, Raw, RawWorker};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn json(answer: &Message) -> Value {
    assert_eq!(answer.status(), 200, "{answer:?}");
    serde_json::from_slice(&answer.body).unwrap()
}

/// A stickyd whose admin listener is on TCP; `token` says whether it has a token file.
fn over_tcp(worker: &RawWorker, token: bool) -> (Proxy, std::net::SocketAddr) {
    let file = std::env::temp_dir().join(format!("stickyd-token-{}", std::process::id()));
    std::fs::write(&file, "0123456789abcdef-token\n").unwrap();
    let token = if token { format!("token_file = \"{}\"\n", file.display()) } else { String::new() };
    let proxy = Proxy::with(&format!(
        "[upstream.app]\nworkers = [\"{}\"]\n[admin]\naddress = \"127.0.0.1:0\"\n{token}",
        worker.address
    ));
    let stickyd::testing::config::AdminAddress::Tcp(address) = proxy.server().admin else {
        panic!("TCP was asked for")
    };
    let _ = std::fs::remove_file(&file);
    (proxy, address)
}

#[test]
fn the_state_directory_is_readable_by_its_owner_only() {
    let worker = RawWorker::named("a");
    let mut binary = Binary::with(&format!("state_dir = \".\"\n[upstream.app]\nworkers = [\"{}\"]", worker.address));
    let secret = binary.directory.join("secret");
    assert_eq!((mode(&secret), mode(&binary.admin())), (0o600, 0o600));
    let bytes = std::fs::read(&secret).unwrap();
    assert_eq!(bytes.len(), 32);
    let pair = Raw::connect(binary.address).get("/").cookie("stickyd_app").unwrap();
    binary.terminate();
    assert!(!binary.admin().exists(), "the socket is removed at the stop");
    binary.start_again();
    assert_eq!(std::fs::read(&secret).unwrap(), bytes);
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {pair}\r\n\r\n");
    assert_eq!(Raw::connect(binary.address).ask(&request).header("set-cookie"), None, "still valid");
    // After SIGKILL the socket file is still there; the next process replaces it.
    binary.kill();
    assert!(binary.admin().exists());
    binary.start_again();
    assert_eq!(Raw::connect_unix(&binary.admin()).get("/api/v1/health").text(), "ok\n");
}

#[test]
fn a_secret_file_is_shared_by_the_fleet() {
    let worker = RawWorker::named("a");
    let text = format!("secret_file = \"fleet\"\n[upstream.app]\nworkers = [\"{}\"]", worker.address);
    let directory = std::env::temp_dir().join(format!("stickyd-fleet-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("fleet"), "0123456789abcdef0123456789abcdef\n").unwrap();
    let (one, other) = (Proxy::with_files(&text, &directory), Proxy::with_files(&text, &directory));
    std::fs::remove_dir_all(&directory).unwrap();
    let pair = Raw::connect(one.address).get("/").cookie("stickyd_app").unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {pair}\r\n\r\n");
    assert_eq!(Raw::connect(other.address).ask(&request).header("set-cookie"), None);
}

#[test]
fn the_unix_socket_needs_no_token_to_write() {
    let worker = RawWorker::named("a");
    let binary = Binary::with(&format!("state_dir = \".\"\n[upstream.app]\nworkers = [\"{}\"]", worker.address));
    let answer = Raw::connect_unix(&binary.admin())
        .ask("POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nX-Stickyd: 1\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(json(&answer)["reloaded"], true);
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

#[test]
fn tcp_reads_need_the_host_of_the_listener() {
    let worker = RawWorker::named("a");
    let (_proxy, admin) = over_tcp(&worker, false);
    let status = |host: &str| Raw::connect(admin).ask(&format!("GET /metrics HTTP/1.1\r\n{host}\r\n")).status();
    for host in ["Host: 127.0.0.1\r\n", "Host: localhost:1\r\n", "Host: [::1]:9\r\n"] {
        assert_eq!(status(host), 200, "{host}");
    }
    for host in ["Host: evil.example\r\n", "Host: localhost.evil.example\r\n", "Host:\r\n", ""] {
        assert_eq!(status(host), 403, "{host}");
    }
}

#[test]
fn tcp_writes_need_the_token() {
    let worker = RawWorker::named("a");
    let (_proxy, admin) = over_tcp(&worker, true);
    let post = |fields: &str| {
        let request = format!(
            "POST /api/v1/reload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\
            Content-Type: application/json\r\nX-Stickyd: 1\r\n{fields}\r\n"
        );
        Raw::connect(admin).ask(&request).status()
    };
    for fields in [
        "",
        "Authorization: Bearer wrong\r\n",
        "Authorization: Bearer 0123456789abcdef-toke\r\n",
        "Authorization: Bearer 0123456789abcdef-token2\r\n",
        "Authorization: Basic 0123456789abcdef-token\r\n",
        "Cookie: token=0123456789abcdef-token\r\n",
    ] {
        assert_eq!(post(fields), 401, "{fields}");
    }
    // Accepted; that there is no file to reload is another error.
    assert_eq!(post("Authorization: Bearer 0123456789abcdef-token\r\n"), 422);
    let (_without, admin) = over_tcp(&worker, false);
    let request = "POST /api/v1/reload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(Raw::connect(admin).ask(request).status(), 403);
}

#[test]
fn odd_requests_to_the_admin_listener() {
    let worker = RawWorker::named("a");
    let (_proxy, admin) = over_tcp(&worker, true);
    let status = |request: &str| Raw::connect(admin).ask(request).status();
    assert_eq!(status("GET /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"), 404);
    assert_eq!(status("GET /api/v1/reload HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"), 405);
    assert_eq!(status("rubbish\r\n\r\n"), 400);
    // The listener for clients serves none of these paths.
    let proxy = Proxy::before(&[worker.address]);
    assert_eq!(Raw::connect(proxy.address).get("/metrics").text(), "a");
}

#[test]
fn status_workers_and_health() {
    let worker = RawWorker::named("a");
    let (proxy, admin) = over_tcp(&worker, false);
    let _client = Raw::connect(proxy.address).get("/");
    let mut operator = Raw::connect(admin);
    let mut get = |path: &str| operator.ask(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    assert_eq!(get("/api/v1/health").text(), "ok\n");
    let status = json(&get("/api/v1/status"));
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["pid"], std::process::id());
    assert_eq!(status["pins"]["limit"], 1_000_000);
    let workers = json(&get("/api/v1/workers"));
    assert_eq!(workers["workers"].as_array().unwrap().len(), 1);
    let shown = &workers["workers"][0];
    assert_eq!(shown["upstream"], "app");
    assert_eq!(shown["address"], worker.address.to_string());
    assert_eq!((&shown["health"], &shown["admin"]), (&"up".into(), &"ready".into()));
    assert_eq!((&shown["takes_new"], &shown["serves"]), (&true.into(), &true.into()));
}

#[test]
fn metrics_parse_and_have_every_series() {
    let worker = RawWorker::named("a");
    let (proxy, admin) = over_tcp(&worker, false);
    Raw::connect(proxy.address).get("/");
    let answer = Raw::connect(admin).ask("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(answer.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    for line in answer.text().lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let (name, labels) =
            series.split_once('{').map_or((series, None), |(name, rest)| (name, rest.strip_suffix('}')));
        assert!(
            (name.starts_with("stickyd_") || name.starts_with("process_")) && series.contains('{') == labels.is_some(),
            "{line}"
        );
    }
    let at = format!("upstream=\"app\",worker=\"{}\"", worker.address);
    for series in [
        format!("stickyd_requests_total{{class=\"2xx\",{at}}} 1"),
        "stickyd_request_duration_seconds_count{upstream=\"app\"} 1".to_owned(),
        "stickyd_poll_duration_seconds_count{upstream=\"app\"} 0".to_owned(),
        "stickyd_affinity_total{source=\"address\",upstream=\"app\"} 1".to_owned(),
        "stickyd_affinity_total{source=\"sid\",upstream=\"app\"} 0".to_owned(),
        "stickyd_affinity_total{source=\"discovered\",upstream=\"app\"} 0".to_owned(),
        "stickyd_pins 0".to_owned(),
        "stickyd_refusals_total{fate=\"forwarded\",upstream=\"app\"} 0".to_owned(),
        "stickyd_refusals_total{fate=\"healed\",upstream=\"app\"} 0".to_owned(),
        "stickyd_discoveries_total{result=\"found\",upstream=\"app\"} 0".to_owned(),
        "stickyd_upgrades_total{step=\"asked\",upstream=\"app\"} 0".to_owned(),
        "stickyd_upgrades_total{step=\"granted\",upstream=\"app\"} 0".to_owned(),
        format!("stickyd_tunnels{{{at}}} 0"),
        format!("stickyd_sessions{{{at}}} 0"),
        "stickyd_bytes_total{direction=\"down\",upstream=\"app\"} 1".to_owned(),
        format!("stickyd_worker_health{{health=\"up\",{at}}} 1"),
        format!("stickyd_worker_admin{{admin=\"ready\",{at}}} 1"),
        format!("stickyd_worker_failures_total{{kind=\"connect\",{at}}} 0"),
        format!("stickyd_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(answer.text().lines().any(|line| line == series), "{series} is not in\n{}", answer.text());
    }
}

#[test]
fn promtool_reports_nothing_about_the_metrics() {
    let worker = RawWorker::named("a");
    let (proxy, _) = over_tcp(&worker, false);
    Raw::connect(proxy.address).get("/");
    let shared = proxy.server().shared();
    // Series of TLS listeners and of DNS names, of which this stickyd has none, are checked, too.
    shared.metrics.tls_handshake("l", "1.3", "ok", false);
    shared.metrics.certificates_expire([("l", "a.example", 1)].into_iter());
    shared.metrics.names.lookups.with_label_values(&["app", "ok"]).inc();
    shared.metrics.names.changes.with_label_values(&["app"]).inc();
    promtool(&stickyd::testing::admin::scrape(shared));
}

/// Fails with what Prometheus' own linter says about a scrape.
pub(super) fn promtool(text: &[u8]) {
    let local = crate::support::process::clients_dir().join(".prometheus/promtool");
    let tool = if local.exists() { local } else { "promtool".into() };
    let mut check = Command::new(tool);
    check.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut check = check.spawn().unwrap_or_else(|error| panic!("promtool: {error}; tests/run installs it"));
    check.stdin.take().unwrap().write_all(text).unwrap();
    let output = check.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.is_empty(), "{said}");
}
