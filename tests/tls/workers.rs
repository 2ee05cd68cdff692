//! Workers that speak TLS: which of them are trusted, what they get, and that a failed check never falls back to plain
//! HTTP.

use std::sync::Arc;

use serde_json::json;

use crate::support::load::Load;
use crate::support::node::NodeServer;
use crate::support::proxy::{Binary, Proxy};
use crate::support::raw::{Leg, Raw, RawWorker, ok};
use crate::support::tls::{Certificates, openssl};
use crate::support::wait::wait_for;

/// A script that answers with the name of a worker and keeps its connection.
fn named(name: &'static str) -> impl Fn(&mut Leg) + Send + Sync + 'static {
    move |leg| while leg.request().is_some_and(|_| leg.send(ok(name))) {}
}

fn proxy(files: &Certificates, worker: &str, tls: &str) -> Proxy {
    let toml = format!("threads = 1\n[upstream.app]\nworkers = [\"{worker}\"]\n{tls}\n");
    Proxy::with_files(&toml, &files.directory)
}

/// Whether a worker answers a GET, instead of stickyd with an error.
fn served(proxy: &Proxy) -> bool {
    match Raw::connect(proxy.address).get("/").status() {
        200 => true,
        502 | 503 => false,
        other => panic!("{other}"),
    }
}

#[test]
fn the_certificate_of_a_worker_is_verified() {
    let (files, strangers) = (Certificates::new(), Certificates::new());
    files.issue("named", &["app.internal"]);
    files.issue("numbered", &["127.0.0.1"]);
    strangers.issue("named", &["app.internal"]);
    strangers.issue("numbered", &["127.0.0.1"]);
    let of = |files: &Certificates, name| RawWorker::secured(files.server(name, false), named("a"));
    let (by_name, by_number) = (of(&files, "named"), of(&files, "numbered"));
    let (false_name, false_number) = (of(&strangers, "named"), of(&strangers, "numbered"));
    for (worker, tls, expected) in [
        (&by_name, "tls = { ca = \"ca.pem\", server_name = \"app.internal\" }", true),
        (&by_number, "tls = { ca = \"ca.pem\" }", true),
        (&by_name, "tls = { ca = \"ca.pem\", server_name = \"other.internal\" }", false),
        (&by_name, "tls = { ca = \"ca.pem\" }", false),
        (&by_number, "tls = { ca = \"ca.pem\", server_name = \"app.internal\" }", false),
        (&false_name, "tls = { ca = \"ca.pem\", server_name = \"app.internal\" }", false),
        (&false_number, "tls = { ca = \"ca.pem\" }", false),
        // The machine's own authorities have signed none of these certificates.
        (&by_name, "tls = { server_name = \"app.internal\" }", false),
        (&false_number, "tls = { verify = false }", true),
        (&by_name, "tls = { verify = false, server_name = \"other.internal\" }", true),
        // Plain HTTP to a TLS worker, and TLS to a plain one, fail.
        (&by_number, "", false),
    ] {
        let proxy = proxy(&files, &worker.address.to_string(), tls);
        assert_eq!(served(&proxy), expected, "{tls}");
    }
}

#[test]
fn the_name_of_the_worker_is_sent_as_sni() {
    let files = Certificates::new();
    for name in ["a", "b"] {
        files.issue(name, &[&format!("{name}.internal")]);
    }
    // A server with a certificate for one name and none for others.
    let mut by_name = rustls::server::ResolvesServerCertUsingSni::new();
    let config = files.server("a", false);
    let provider = config.crypto_provider().clone();
    for name in ["a", "b"] {
        let (chain, key) = files.identity(name);
        let key = rustls::sign::CertifiedKey::from_der(chain, key, &provider).unwrap();
        by_name.add(&format!("{name}.internal"), key).unwrap();
    }
    let mut config = Arc::unwrap_or_clone(config);
    config.cert_resolver = Arc::new(by_name);
    let worker = RawWorker::secured(Arc::new(config), named("a")).address.to_string();
    for (name, expected) in [("a.internal", true), ("b.internal", true), ("c.internal", false)] {
        let tls = format!("tls = {{ ca = \"ca.pem\", server_name = \"{name}\" }}");
        assert_eq!(served(&proxy(&files, &worker, &tls)), expected, "{name}");
    }
}

#[test]
fn a_worker_that_asks_gets_a_client_certificate() {
    let files = Certificates::new();
    files.issue("worker", &["127.0.0.1"]);
    files.issue_client("stickyd", "stickyd");
    let worker = RawWorker::secured(files.server("worker", true), named("a")).address.to_string();
    assert!(!served(&proxy(&files, &worker, "tls = { ca = \"ca.pem\" }")));
    let shown = "tls = { ca = \"ca.pem\", certificate = \"stickyd.pem\", key = \"stickyd.key\" }";
    let proxy = proxy(&files, &worker, shown);
    let mut client = Raw::connect(proxy.address);
    for _ in 0..5 {
        assert_eq!(client.get("/").text(), "a");
    }
}

#[test]
fn connections_are_kept_and_bodies_complete() {
    let files = Certificates::new();
    files.issue("worker", &["127.0.0.1"]);
    let worker = RawWorker::secured(files.server("worker", false), |leg| {
        while let Some(request) = leg.request() {
            leg.send(ok(request.text()));
        }
    });
    let proxy = proxy(&files, &worker.address.to_string(), "tls = { ca = \"ca.pem\" }");
    let mut client = Raw::connect(proxy.address);
    for size in [1, 100, 100_000, 3_000_000] {
        let body = "0123456789".repeat(size / 10 + 1);
        let ask = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        assert!(client.ask(&ask).text() == body);
    }
    assert_eq!(worker.connections(), 1);
}

#[test]
fn checks_use_tls_too_and_the_log_explains_failures() {
    let (files, strangers) = (Certificates::new(), Certificates::new());
    files.issue("good", &["127.0.0.1"]);
    strangers.issue("bad", &["127.0.0.1"]);
    let good = RawWorker::secured(files.server("good", false), named("good"));
    let bad = RawWorker::secured(strangers.server("bad", false), named("bad"));
    let health = "health = { path = \"/\", interval = \"100ms\", timeout = \"2s\", rise = 1, fall = 1 }";
    let toml = format!(
        "state_dir = \".\"\n[upstream.app]\nworkers = [\"{}\", \"{}\"]\n{health}\ntls = {{ ca = \"{}\" }}\n",
        good.address,
        bad.address,
        files.directory.join("ca.pem").display()
    );
    let binary = Binary::with(&toml);
    let said = binary.says(&["TLS handshake with worker failed", &bad.address.to_string()]);
    assert!(said.contains("invalid peer certificate") && said.contains("name=127.0.0.1"), "{said}");
    wait_for("only the good worker is up", || {
        let metrics = Raw::connect_unix(&binary.admin()).get("/metrics");
        let state = |health: &str, address| {
            let series =
                format!("stickyd_worker_health{{health=\"{health}\",upstream=\"app\",worker=\"{address}\"}} 1");
            metrics.text().contains(&series)
        };
        state("up", good.address) && !state("up", bad.address)
    });
    for _ in 0..8 {
        assert_eq!(Raw::connect(binary.address).get("/").text(), "good");
    }
}

#[tokio::test]
async fn real_clients_on_workers_with_tls() {
    let files = Certificates::new();
    files.issue("worker", &["localhost"]);
    let tls = ["worker.pem", "worker.key"].map(|name| files.directory.join(name).display().to_string()).join(",");
    let workers = NodeServer::start_many(2, &["--tls", &tls]).await;
    let list: Vec<_> = workers.iter().map(|worker| worker.address()).collect();
    let toml = format!(
        "[upstream.app]\nworkers = {list:?}\nhealth = {{ kind = \"socket.io\" }}\n\
         tls = {{ ca = \"ca.pem\", server_name = \"localhost\" }}\n"
    );
    let proxy = Proxy::with_files(&toml, &files.directory);
    let result = Load::run(json!({ "urls": [proxy.url("")], "n": 10, "messages": 30 })).await;
    assert_eq!((&result["ever_connected"], &result["upgraded"]), (&json!(10), &json!(10)), "{result}");
    assert_eq!(result["echoes"], json!({ "sent": 300, "ok": 300, "lost": 0, "duplicated": 0, "reordered": 0 }));
    assert_eq!((&result["refusals"]["total"], &result["reconnects"]), (&json!(0), &json!(0)), "{result}");
    assert_eq!(result["workers"].as_object().unwrap().len(), 2, "{result}");
}

#[test]
fn a_reload_changes_which_workers_are_trusted() {
    let (files, others) = (Certificates::new(), Certificates::new());
    files.issue("worker", &["127.0.0.1"]);
    let worker = RawWorker::secured(files.server("worker", false), named("a"));
    let tls = |ca: &Certificates| format!("tls = {{ ca = \"{}\" }}", ca.directory.join("ca.pem").display());
    let text = |tls: &str| format!("[upstream.app]\nworkers = [\"{}\"]\n{tls}\n", worker.address);
    let binary = Binary::with(&text(&tls(&files)));
    let file = binary.directory.join("stickyd.toml");
    let written = std::fs::read_to_string(&file).unwrap();
    let mut client = Raw::connect(binary.address);
    assert_eq!(client.get("/").status(), 200);
    std::fs::write(&file, written.replace(&tls(&files), &tls(&others))).unwrap();
    binary.signal("HUP");
    // The connection from before is not used again, although it is idle and young.
    wait_for("the worker is no longer trusted", || client.get("/").status() == 503);
    std::fs::write(&file, &written).unwrap();
    binary.signal("HUP");
    wait_for("the worker is trusted again", || client.get("/").status() == 200);
}

/// Old scripts make certificates of version 1 (no extensions), which rustls cannot read.
#[test]
fn without_verification_any_certificate_will_do() {
    let files = Certificates::new();
    openssl(&files.directory, "req -new -newkey rsa:2048 -nodes -subj /CN=old -keyout v1.key -out v1.csr", "");
    openssl(&files.directory, "x509 -req -in v1.csr -signkey v1.key -days 30 -out v1.pem", "");
    let text = openssl(&files.directory, "x509 -noout -text -in v1.pem", "");
    assert!(text.contains("Version: 1 (0x0)"), "{text}");
    let (chain, key) = files.identity("v1");
    files.issue("other", &["127.0.0.1"]);
    let provider = files.server("other", false).crypto_provider().clone();
    let key = rustls::sign::CertifiedKey::new(chain, provider.key_provider.load_private_key(key).unwrap());
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone());
        let builder = builder.with_protocol_versions(&[version]).unwrap().with_no_client_auth();
        let config = builder.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key.clone())));
        let worker = RawWorker::secured(Arc::new(config), named("a")).address.to_string();
        assert!(served(&proxy(&files, &worker, "tls = { verify = false }")), "{version:?}");
        assert!(!served(&proxy(&files, &worker, "tls = { ca = \"ca.pem\" }")), "{version:?}");
    }
    // As a listener's own certificate it is named as what it is.
    let own = "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = { certificate = \"v1.pem\", key = \"v1.key\" }\n\
               [upstream.app]\nworkers = [\"127.0.0.1:1\"]\n";
    let refused = stickyd::testing::config::parse(own, &files.directory.join("s.toml")).unwrap_err().to_string();
    assert!(refused.contains("cannot use v1.pem: its first certificate has X.509 version 1"), "{refused}");
}
