//! What a trusted proxy tells of its client's request: scheme, host and port, as single values, lists and several
//! lines; and that the same fields of others count for nothing, with one warning.

use crate::support::proxy::{Binary, Proxy};
use crate::support::raw::{Message, Raw, RawWorker, ok};

const POLL: &str = "GET /socket.io/?EIO=4&transport=polling";

fn worker() -> RawWorker {
    RawWorker::answering(|_| ok("a"))
}

fn config(worker: &RawWorker, listener: &str, rest: &str) -> String {
    format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n{listener}\n[upstream.app]\nworkers = [\"{}\"]\n{rest}",
        worker.address
    )
}

fn trusting(worker: &RawWorker, rest: &str) -> Proxy {
    Proxy::with(&config(worker, "trusted_proxies = [\"127.0.0.0/8\"]", rest))
}

fn ask(proxy: &Proxy, line: &str, fields: &str) -> Message {
    Raw::connect(proxy.address).ask(&format!("{line} HTTP/1.1\r\n{fields}\r\n"))
}

/// The first value of a list is the client's (RFC 9110 §5.3, RFC 7239 §4); `wss` is secure (RFC 6455 §3).
#[test]
fn the_scheme_that_a_trusted_proxy_tells_is_read_in_every_form() {
    let mut worker = worker();
    let proxy = trusting(&worker, "forwarded = true");
    for (told, secure) in [
        ("X-Forwarded-Proto: https\r\n", true),
        ("X-Forwarded-Proto: wss\r\n", true),
        ("X-Forwarded-Proto: WSS\r\n", true),
        ("X-Forwarded-Proto: https, http\r\n", true),
        ("X-Forwarded-Proto: https,http,http\r\n", true),
        ("X-Forwarded-Proto: wss, ws\r\n", true),
        ("X-Forwarded-Proto: https\r\nX-Forwarded-Proto: http\r\n", true),
        ("X-Forwarded-Proto: \r\nX-Forwarded-Proto: https\r\n", true),
        ("X-Forwarded-Proto: , https\r\n", true),
        ("X-Forwarded-Proto: http, https\r\n", false),
        ("X-Forwarded-Proto: ws\r\n", false),
        ("X-Forwarded-Proto: httpsx\r\n", false),
        ("", false),
    ] {
        let fields = format!("Host: a.example\r\nX-Forwarded-For: 192.0.2.9\r\n{told}");
        assert_eq!(ask(&proxy, "GET /", &fields).status(), 200);
        let (_, request) = worker.request();
        let forwarded = request.header("forwarded").unwrap();
        assert_eq!(forwarded.contains("proto=https"), secure, "{told}: {forwarded}");
        let port = request.header("x-forwarded-port").unwrap();
        assert_eq!(port == "443", secure, "{told}: {port}");
    }
}

#[test]
fn the_port_follows_from_what_a_trusted_proxy_tells() {
    let mut worker = worker();
    let proxy = trusting(&worker, "");
    let own = proxy.address.port().to_string();
    for (fields, port) in [
        ("Host: x\r\nX-Forwarded-Proto: https\r\n", "443"),
        ("Host: x\r\nX-Forwarded-Proto: wss\r\n", "443"),
        ("Host: x\r\nX-Forwarded-Proto: http\r\n", "80"),
        ("Host: x:8443\r\nX-Forwarded-Proto: https\r\n", "8443"),
        ("Host: x:8443\r\n", "8443"),
        ("Host: [::1]:8443\r\nX-Forwarded-Proto: https\r\n", "8443"),
        ("Host: [::1]\r\nX-Forwarded-Proto: https\r\n", "443"),
        ("Host: backend:3000\r\nX-Forwarded-Host: x\r\nX-Forwarded-Proto: https\r\n", "443"),
        ("Host: backend\r\nX-Forwarded-Host: x:8443, y:1\r\nX-Forwarded-Proto: https\r\n", "8443"),
        ("Host: x\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 9443\r\n", "9443"),
        ("Host: x\r\n", &own),
    ] {
        assert_eq!(ask(&proxy, "GET /", fields).status(), 200);
        assert_eq!(worker.request().1.header("x-forwarded-port"), Some(port), "{fields}");
    }
    // A client that is not a trusted proxy tells nothing.
    let proxy = Proxy::with(&config(&worker, "", ""));
    assert_eq!(ask(&proxy, "GET /", "Host: x:8443\r\nX-Forwarded-Proto: https\r\n").status(), 200);
    let (_, request) = worker.request();
    let own = proxy.address.port().to_string();
    assert_eq!(request.header("x-forwarded-port"), Some(own.as_str()));
    assert_eq!(request.header("x-forwarded-proto"), Some("http"));
}

#[test]
fn the_own_origin_is_the_one_that_a_trusted_proxy_tells() {
    let worker = worker();
    let route = "[[route]]\nupstream = \"app\"\norigins = [\"same\"]";
    let proxy = trusting(&worker, route);
    let https = "X-Forwarded-Proto: https\r\n";
    for (origin, told, status) in [
        ("https://app.example", "X-Forwarded-Host: app.example\r\n", 200),
        ("https://app.example", "X-Forwarded-Host: App.Example, proxy.internal\r\n", 200),
        ("https://app.example", "X-Forwarded-Host: app.example\r\nX-Forwarded-Host: proxy.internal\r\n", 200),
        ("https://app.example", "X-Forwarded-Host: app.example:443\r\n", 200),
        ("https://app.example", "X-Forwarded-Host: app.example\r\nX-Forwarded-Port: 443\r\n", 200),
        ("https://app.example:8443", "X-Forwarded-Host: app.example:8443\r\n", 200),
        ("https://app.example:8443", "X-Forwarded-Host: app.example\r\nX-Forwarded-Port: 8443\r\n", 200),
        ("https://app.example:8443", "X-Forwarded-Host: app.example\r\nX-Forwarded-Port: 8443, 80\r\n", 200),
        ("https://app.example:8444", "X-Forwarded-Host: app.example\r\nX-Forwarded-Port: 8443\r\n", 403),
        ("https://app.example:8443", "X-Forwarded-Host: app.example\r\n", 403),
        ("http://app.example", "X-Forwarded-Host: app.example\r\n", 403),
        ("https://evil.example", "X-Forwarded-Host: app.example, evil.example\r\n", 403),
        ("https://evil.example", "X-Forwarded-Host: app.example\r\n", 403),
        ("http://backend:3000", "X-Forwarded-Host: app.example\r\n", 403),
        // What is not a host tells nothing.
        ("https://backend:3000", "X-Forwarded-Host: a b\r\n", 200),
        ("https://backend:3000", "", 200),
    ] {
        let fields = format!("Host: backend:3000\r\n{https}{told}Origin: {origin}\r\n");
        assert_eq!(ask(&proxy, POLL, &fields).status(), status, "{origin} {told}");
    }
    let strange = Proxy::with(&config(&worker, "", route));
    let fields = "Host: backend:3000\r\nX-Forwarded-Host: evil.example\r\nOrigin: https://evil.example\r\n";
    assert_eq!(ask(&strange, POLL, fields).status(), 403, "of a stranger");
}

#[test]
fn a_secure_client_of_a_trusted_proxy_is_not_redirected() {
    let worker = worker();
    let redirect = "redirect = \"https\"\ntrusted_proxies = [\"127.0.0.1\"]";
    let proxy = Proxy::with(&config(&worker, redirect, ""));
    for proto in ["https", "wss", "https, http", "HTTPS"] {
        let fields = format!("Host: a.example\r\nX-Forwarded-Proto: {proto}\r\n");
        assert_eq!(ask(&proxy, "GET /x", &fields).status(), 200, "{proto}");
    }
    for (told, location) in [
        ("", "https://backend/x"),
        ("X-Forwarded-Proto: http\r\n", "https://backend/x"),
        ("X-Forwarded-Proto: http, https\r\n", "https://backend/x"),
        ("X-Forwarded-Proto: http\r\nX-Forwarded-Host: app.example:80\r\n", "https://app.example/x"),
    ] {
        let answer = ask(&proxy, "GET /x", &format!("Host: backend:3000\r\n{told}"));
        assert_eq!((answer.status(), answer.header("location")), (308, Some(location)), "{told}");
    }
    let strange = Proxy::with(&config(&worker, "redirect = \"https\"", ""));
    let told = "Host: a.example\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.example\r\n";
    let answer = ask(&strange, "GET /x", told);
    assert_eq!((answer.status(), answer.header("location")), (308, Some("https://a.example/x")), "of a stranger");
}

/// Networks of IPv4 mapped into IPv6 (RFC 4291 §2.5.5.2) are networks of IPv4, wherever networks are listed.
#[test]
fn mapped_networks_count_as_ipv4() {
    let worker = worker();
    let status = |listener: &str, route: &str| {
        let proxy = Proxy::with(&config(&worker, listener, &format!("[[route]]\nupstream = \"app\"\n{route}")));
        ask(&proxy, "GET /", "Host: a\r\nX-Forwarded-For: 192.0.2.9\r\n").status()
    };
    assert_eq!(status("", "deny = [\"::ffff:127.0.0.0/104\"]"), 403);
    assert_eq!(status("", "deny = [\"::ffff:7f00:1\"]"), 403);
    assert_eq!(status("", "allow = [\"::ffff:127.0.0.0/104\"]"), 200);
    assert_eq!(status("", "allow = [\"::ffff:10.0.0.0/104\"]"), 403);
    assert_eq!(status("trusted_proxies = [\"::ffff:127.0.0.1/128\"]", "deny = [\"::ffff:192.0.2.0/120\"]"), 403);
    assert_eq!(status("trusted_proxies = [\"::ffff:127.0.0.1/128\"]", "deny = [\"127.0.0.1\"]"), 200);
    // A listener for both families sees the mapped address.
    let both = config(&worker, "", "[[route]]\nupstream = \"app\"\ndeny = [\"::ffff:127.0.0.0/104\"]");
    let proxy = Proxy::with(&both.replace("127.0.0.1:0\"", "[::]:0\""));
    let client = std::net::SocketAddr::from(([127, 0, 0, 1], proxy.address.port()));
    // Without IPV6_V6ONLY only.
    if std::net::TcpStream::connect(client).is_ok() {
        assert_eq!(Raw::connect(client).get("/").status(), 403);
    }
}

/// Pages of Electron, Cordova, Capacitor, Tauri and of extensions have origins of their own.
#[test]
fn origins_of_programs_can_be_listed() {
    let worker = worker();
    let status =
        |proxy: &Proxy, origin: &str| ask(proxy, POLL, &format!("Host: a.example\r\nOrigin: {origin}\r\n")).status();
    let with = |listed: &str| trusting(&worker, &format!("[[route]]\nupstream = \"app\"\norigins = [{listed}]"));
    let all = [
        "null",
        "file://",
        "capacitor://localhost",
        "ionic://localhost",
        "tauri://localhost",
        "app://.",
        "app://obsidian.md",
        "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
        "moz-extension://6e5bd5a7-0000-4c8e-a3a1-0123456789ab",
        "vscode-webview://0a1b2c3d",
    ];
    let listed = with(&all.map(|one| format!("\"{one}\"")).join(", "));
    for origin in all {
        assert_eq!(status(&listed, origin), 200, "{origin}");
    }
    for origin in ["null", "file://", "app://.", "capacitor://localhost"] {
        let alone = with(&format!("\"{origin}\""));
        for other in all {
            assert_eq!(status(&alone, other) == 200, origin == other, "{origin} {other}");
        }
    }
    for foreign in ["file://evil.example", "app://", "app://..", "chrome-extension://evil", "https://localhost", ""] {
        assert_eq!(status(&listed, foreign), 403, "{foreign}");
    }
}

#[test]
fn names_of_applications_reach_the_worker() {
    let mut worker = worker();
    let proxy = Proxy::with(&config(&worker, "", ""));
    let own = ["X-Original-Filename", "X-Original-Name", "X-Real-Name", "X-Real-Time", "X-Ssl-Labs", "X-Host-Id"];
    let identity =
        ["X-Original-URL", "X-Original-Host", "X-Original-For", "X-Real-IP", "X-SSL-Client-Cert", "X_Real_IP"];
    let line = |name: &&str| format!("{name}: 1\r\n");
    let fields: String = own.iter().chain(&identity).map(line).collect();
    assert_eq!(ask(&proxy, "GET /", &format!("Host: a\r\n{fields}")).status(), 200);
    let (_, request) = worker.request();
    for name in own {
        assert_eq!(request.header(&name.to_lowercase()), Some("1"), "{name}");
    }
    for name in identity {
        assert_eq!(request.header(&name.to_lowercase()), None, "{name}");
    }
}

#[test]
fn a_proxy_that_is_not_trusted_is_told_of_once() {
    let worker = worker();
    let binary = Binary::with(&format!("[upstream.app]\nworkers = [\"{}\"]", worker.address));
    for _ in 0..3 {
        let request = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\n\r\n";
        assert_eq!(Raw::connect(binary.address).ask(request).status(), 200);
    }
    binary.says(&["WARN", "not among trusted_proxies", "peer=127.0.0.1"]);
    let log = binary.log();
    assert_eq!(log.matches("not among trusted_proxies").count(), 1, "{log}");
}
