//! The admin listener against requests it has to refuse: pages of other sites, the network, clients of the proxy.

use std::net::SocketAddr;
use std::path::Path;

use crate::support::proxy::{Binary, Proxy};
use crate::support::raw::{Raw, RawWorker};
use crate::support::temp::TempDirectory;

const TOKEN: &str = "0123456789abcdef-token";
const BEARER: &str = "Authorization: Bearer 0123456789abcdef-token\r\n";
const JSON: &str = "Content-Type: application/json\r\n";
const OWN: &str = "X-Stickyd: 1\r\n";

fn over_tcp(worker: &RawWorker, at: &str) -> (Proxy, SocketAddr) {
    let file = std::env::temp_dir().join(format!("stickyd-admin-token-{}", std::process::id()));
    std::fs::write(&file, TOKEN).unwrap();
    let proxy = Proxy::with(&format!(
        "[upstream.app]\nworkers = [{{ address = \"{}\", name = \"w\" }}]\n[admin]\naddress = \"{at}\"\ntoken_file = \"{}\"",
        worker.address,
        file.display()
    ));
    let _ = std::fs::remove_file(&file);
    let stickyd::testing::config::AdminAddress::Tcp(address) = proxy.server().admin else {
        panic!("TCP was asked for")
    };
    (proxy, SocketAddr::from(([127, 0, 0, 1], address.port())))
}

#[test]
fn a_page_cannot_write_over_tcp() {
    let worker = RawWorker::named("a");
    let (proxy, admin) = over_tcp(&worker, "127.0.0.1:0");
    let drain = |fields: &str| {
        let request = "POST /api/v1/workers/app/w/drain HTTP/1.1\r\n";
        Raw::connect(admin).ask(&format!("{request}Host: 127.0.0.1\r\nContent-Length: 0\r\n{fields}\r\n"))
    };
    for (fields, status) in [
        (format!("{JSON}{OWN}"), 401),
        (format!("{BEARER}{OWN}"), 415),
        (format!("{BEARER}{OWN}Content-Type: text/plain\r\n"), 415),
        (format!("{BEARER}{OWN}Content-Type: application/x-www-form-urlencoded\r\n"), 415),
        (format!("{BEARER}{OWN}Content-Type: text/plain; x=application/json\r\n"), 415),
        (format!("{BEARER}{JSON}"), 403),
        (format!("{BEARER}{JSON}X-Stickyd: 0\r\n"), 403),
        (format!("{BEARER}{JSON}{OWN}Origin: https://evil.example\r\n"), 403),
        (format!("{BEARER}{JSON}{OWN}Origin: null\r\n"), 403),
        (format!("{BEARER}{JSON}{OWN}Sec-Fetch-Site: cross-site\r\n"), 403),
        (format!("{BEARER}{JSON}{OWN}Host: 127.0.0.1\r\n"), 403),
        (format!("{BEARER}{JSON}{OWN}Cookie: a=b\r\nHost: evil.example\r\n"), 403),
    ] {
        let answer = drain(&fields);
        assert_eq!(answer.status(), status, "{fields} {answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
        assert_eq!(proxy.worker("w").admin.word(), "ready");
    }
    // The preflight's answer has nothing that a browser takes as permission.
    let preflight = "OPTIONS /api/v1/reload HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: https://evil.example\r\n\
        Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: x-stickyd\r\n\r\n";
    let answer = Raw::connect(admin).ask(preflight);
    assert_eq!((answer.status(), answer.header("access-control-allow-headers")), (403, None));
    assert_eq!(drain(&format!("{BEARER}{JSON}{OWN}")).status(), 200);
    assert_eq!(proxy.worker("w").admin.word(), "drain");
    assert_eq!(drain(&format!("{BEARER}Content-Type: Application/JSON; charset=utf-8\r\n{OWN}")).status(), 200);
}

#[test]
fn on_the_network_reads_need_the_token_too() {
    let worker = RawWorker::named("a");
    let (_proxy, admin) = over_tcp(&worker, "0.0.0.0:0");
    for path in ["/metrics", "/api/v1/status", "/api/v1/workers", "/nothing"] {
        let get = |fields: &str| {
            Raw::connect(admin).ask(&format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}\r\n")).status()
        };
        assert_eq!((get(""), get("Authorization: Bearer 0123456789abcdef-tokem\r\n")), (401, 401), "{path}");
        assert_eq!(get(BEARER), if path == "/nothing" { 404 } else { 200 }, "{path}");
    }
}

#[test]
fn a_page_of_another_site_on_this_machine_reads_nothing() {
    let worker = RawWorker::named("a");
    let (_proxy, admin) = over_tcp(&worker, "127.0.0.1:0");
    let get = |fields: &str| {
        Raw::connect(admin).ask(&format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")).status()
    };
    assert_eq!([get(""), get("Sec-Fetch-Site: none\r\n"), get("Origin: http://localhost\r\n")], [200, 200, 200]);
    assert_eq!([get("Sec-Fetch-Site: same-site\r\n"), get("Origin: http://localhost:3000\r\n")], [403, 403]);
    // DNS rebinding: the browser sends the host name of the attacker's page.
    let lured = "GET /metrics HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://evil.example\r\n\r\n";
    assert_eq!(Raw::connect(admin).ask(lured).status(), 403);
}

#[test]
fn heads_and_bodies_are_bounded() {
    let worker = RawWorker::named("a");
    let (_proxy, admin) = over_tcp(&worker, "127.0.0.1:0");
    let long = format!("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024));
    let mut client = Raw::connect(admin);
    let _ = client.try_send(long);
    assert!(client.head().is_none_or(|answer| answer.status() == 431));
    let head = format!("POST /api/v1/workers/app/w/drain HTTP/1.1\r\nHost: 127.0.0.1\r\n{BEARER}{JSON}{OWN}");
    let answer = Raw::connect(admin).ask(&format!("{head}Content-Length: 1000000000\r\n\r\n"));
    assert_eq!(answer.status(), 413);
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    let chunks = chunk.repeat(9);
    let answer = Raw::connect(admin).ask(&format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunks}"));
    assert_eq!(answer.status(), 413);
    // A body that never comes is not waited for.
    let answer = Raw::connect(admin).ask(&format!("{head}Content-Length: 10\r\n\r\n"));
    assert_eq!(answer.status(), 408);
}

#[test]
fn no_route_leads_to_the_admin_listener() {
    let parse = |text: &str| {
        let text = format!("[[listener]]\naddress = \"0.0.0.0:80\"\n{text}");
        stickyd::testing::config::parse(&text, Path::new("/etc/stickyd/s.toml")).map_err(|errors| errors.to_string())
    };
    for (worker, admin) in [
        ("127.0.0.1:9145", "[admin]\naddress = \"127.0.0.1:9145\""),
        ("127.0.0.1:9144-9146", "[admin]\naddress = \"127.0.0.1:9145\""),
        ("unix:/run/stickyd/a.sock", "[admin]\naddress = \"unix:/run/stickyd/a.sock\""),
    ] {
        let said = parse(&format!("[upstream.app]\nworkers = [\"{worker}\"]\n{admin}")).unwrap_err();
        assert!(said.contains("is stickyd's own admin listener") && said.contains(":4:"), "{said}");
    }
    let text = "[upstream.app]\nworkers = [\"127.0.0.1:9146\"]\n[admin]\naddress = \"127.0.0.1:9145\"";
    assert!(parse(text).is_ok());
}

/// `ssh -L 9145:/var/lib/stickyd/admin.sock host` gives the socket to a browser: its file's mode stands for the token,
/// and for nothing else.
#[test]
fn a_page_cannot_write_or_read_over_the_unix_socket() {
    let worker = RawWorker::named("a");
    let binary = Binary::with(&format!(
        "state_dir = \".\"\n[upstream.app]\nworkers = [{{ address = \"{}\", name = \"w\" }}]",
        worker.address
    ));
    let ask = |start: &str, fields: &str| {
        Raw::connect_unix(&binary.admin())
            .ask(&format!("{start} HTTP/1.1\r\n{fields}Content-Length: 0\r\n\r\n"))
            .status()
    };
    let host = "Host: localhost\r\n";
    for (fields, status) in [
        (host.to_owned(), 403),
        (format!("{host}X-Stickyd: 0\r\n"), 403),
        (format!("{host}{OWN}Origin: https://evil.example\r\n"), 403),
        (format!("{host}{OWN}Origin: null\r\n"), 403),
        (format!("{host}{OWN}Sec-Fetch-Site: cross-site\r\n"), 403),
        (format!("{host}{OWN}Sec-Fetch-Site: same-site\r\n"), 403),
        (format!("{host}{OWN}Content-Type: text/plain\r\n"), 415),
        (format!("{host}{OWN}{host}"), 403),
        (format!("Host: evil.example\r\n{OWN}"), 403),
        (format!("Host: evil.example\r\n{OWN}Origin: http://evil.example\r\n"), 403),
        (OWN.to_owned(), 403),
        (format!("{host}{OWN}"), 200),
        (format!("Host: 127.0.0.1:9145\r\n{OWN}{JSON}Origin: http://127.0.0.1:9145\r\n"), 200),
    ] {
        assert_eq!(ask("POST /api/v1/workers/app/w/drain", &fields), status, "{fields}");
        let left = if status == 200 { "drain" } else { "ready" };
        assert_eq!(crate::support::admin::worker(&binary, "w")["admin"], left, "{fields}");
        assert_eq!(ask("POST /api/v1/workers/app/w/ready", &format!("{host}{OWN}")), 200);
    }
    for (fields, status) in [(host, 200), ("Host: evil.example\r\n", 403), ("Host: localhost\r\nOrigin: null\r\n", 403)]
    {
        assert_eq!(ask("GET /metrics", fields), status, "{fields}");
    }
    assert_eq!(
        ask("GET http://evil.example/metrics", host),
        403,
        "the authority of the target counts (RFC 9112 §3.2.2)"
    );
}

/// A page that was lured here by DNS does not know the token, so a request that bears it may name any Host.
#[test]
fn with_the_token_any_host_is_right_and_names_can_be_allowed() {
    let worker = RawWorker::named("a");
    let directory = TempDirectory::new("admin-hosts");
    directory.write("token", TOKEN);
    let proxy = Proxy::with_files(
        &format!(
            "[upstream.app]\nworkers = [\"{}\"]\n[admin]\naddress = [\"127.0.0.1:0\", \"0.0.0.0:0\", \"unix:{}\"]\n\
             hosts = [\"Stickyd\"]\ntoken_file = \"token\"",
            worker.address,
            directory.path("a.sock").display()
        ),
        directory.root(),
    );
    let admins: Vec<_> = proxy.server().admins.iter().map(ToString::to_string).collect();
    assert_eq!(admins.len(), 3, "{admins:?}");
    let port = |at: &String| SocketAddr::from(([127, 0, 0, 1], at.rsplit(':').next().unwrap().parse().unwrap()));
    let (loopback, network) = (port(&admins[0]), port(&admins[1]));
    let get =
        |at: SocketAddr, fields: &str| Raw::connect(at).ask(&format!("GET /metrics HTTP/1.1\r\n{fields}\r\n")).status();
    for at in [loopback, network] {
        assert_eq!(get(at, &format!("Host: prometheus.example:9145\r\n{BEARER}")), 200);
        assert_eq!(get(at, &format!("Host: a\r\nHost: b\r\n{BEARER}")), 403);
        assert_eq!(get(at, &format!("Host: a\r\nOrigin: https://evil.example\r\n{BEARER}")), 403);
    }
    assert_eq!([get(loopback, "Host: stickyd:9145\r\n"), get(loopback, "Host: other:9145\r\n")], [200, 403]);
    let wrong = "Authorization: Bearer 0123456789abcdef-tokem\r\n";
    assert_eq!(get(loopback, &format!("Host: other:9145\r\n{wrong}")), 403);
    assert_eq!([get(network, "Host: stickyd:9145\r\n"), get(network, wrong)], [401, 401]);
    let over_unix = |fields: &str| {
        Raw::connect_unix(&directory.path("a.sock")).ask(&format!("GET /metrics HTTP/1.1\r\n{fields}\r\n")).status()
    };
    assert_eq!([over_unix("Host: stickyd\r\n"), over_unix("Host: other\r\n")], [200, 403]);
    assert_eq!(over_unix(&format!("Host: other\r\n{BEARER}")), 200);
    let write =
        format!("POST /api/v1/reload HTTP/1.1\r\nHost: any.example\r\n{BEARER}{JSON}{OWN}Content-Length: 0\r\n\r\n");
    assert_eq!(Raw::connect(network).ask(&write).status(), 422, "it got as far as a reload without a file");
}

/// Balancers and kubelets have no token, and their Host is whatever they were given.
#[test]
fn health_needs_no_token_and_no_host() {
    let worker = RawWorker::named("a");
    let (_proxy, admin) = over_tcp(&worker, "0.0.0.0:0");
    let ask =
        |start: &str, fields: &str| Raw::connect(admin).ask(&format!("{start} HTTP/1.1\r\n{fields}\r\n")).status();
    let health = "/api/v1/health";
    for fields in ["Host: 10.1.2.3\r\n", "Host: stickyd.internal:9145\r\n", "Host: a\r\nAuthorization: Bearer x\r\n"] {
        assert_eq!(ask(&format!("GET {health}"), fields), 200, "{fields}");
        assert_eq!(ask(&format!("HEAD {health}"), fields), 200, "{fields}");
        assert_eq!(ask("GET /api/v1/health/", fields), 401, "{fields}");
        assert_eq!(ask("GET /api/v1/status", fields), 401, "{fields}");
    }
    assert_eq!(ask(&format!("GET {health}"), "Host: a\r\nSec-Fetch-Site: cross-site\r\n"), 403);
    assert_eq!(ask(&format!("GET {health}?upstream=none"), "Host: a\r\n"), 404);
    assert_eq!(ask(&format!("POST {health}"), "Host: a\r\nContent-Length: 0\r\n"), 401);
}

/// One address for Prometheus does not take the operator's socket away.
#[test]
fn the_socket_in_the_state_directory_is_always_there() {
    let worker = RawWorker::named("a");
    let binary = Binary::with(&format!(
        "state_dir = \".\"\n[upstream.app]\nworkers = [\"{}\"]\n[admin]\naddress = [\"127.0.0.9:0\"]",
        worker.address
    ));
    assert_eq!(Raw::connect_unix(&binary.admin()).get("/api/v1/status").status(), 200);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_stickyd"))
        .args(["drain", &format!("app/{}", worker.address), "--config", "stickyd.toml"])
        .current_dir(&binary.directory)
        .output()
        .unwrap();
    assert!(output.status.success(), "no token is needed on this machine: {output:?}");
}
