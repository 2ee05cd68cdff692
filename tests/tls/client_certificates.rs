//! Certificates of clients: which clients are accepted, what workers are told, and that no client can pretend to have
//! one.

use super::{get, proxy};
use crate::support::proxy::Proxy;
use crate::support::raw::{Raw, RawWorker};
use crate::support::tls::{Certificates, openssl};

/// `a.example` asks for no certificate, `b.example` requires one, and for `c.example` it is optional.
fn three_policies(files: &Certificates, worker: &RawWorker) -> Proxy {
    for name in ["a", "b", "c"] {
        files.issue(name, &[&format!("{name}.example")]);
    }
    files.issue_client("bob", "bob");
    let tls = "tls = { certificates = [{ certificate = \"a.pem\", key = \"a.key\" }, \
        { certificate = \"b.pem\", key = \"b.key\", client_auth = { mode = \"required\", ca = \"ca.pem\" } }, \
        { certificate = \"c.pem\", key = \"c.key\", client_auth = { mode = \"optional\", ca = \"ca.pem\" } }] }";
    proxy(files, worker, tls, "")
}

/// Every field in which a client may claim to have a certificate.
const CLAIMS: &str = "X-Client-Verify: SUCCESS\r\nX-Client-Subject: CN=admin\r\nX-Client-Fingerprint: 00\r\n\
    X_Client_Verify: SUCCESS\r\nX-Client_Subject: CN=admin\r\nx_client_fingerprint: 00\r\n\
    X-SSL-Client-Verify: SUCCESS\r\n\
    SSL-Client-Cert: x\r\nSSL_CLIENT_VERIFY: SUCCESS\r\nX-Forwarded-Client-Cert: x\r\nClient-Cert: :AA==:\r\n\
    Client_Cert: :AA==:\r\n";

fn claims_of(request: &crate::support::raw::Message) -> Vec<&str> {
    let names = request.headers.iter().map(|(name, _)| name.as_str());
    names.filter(|name| name.contains("client") || name.contains("ssl")).collect()
}

#[test]
fn policies_decide_which_clients_are_accepted() {
    let (worker, files) = (RawWorker::named("a"), Certificates::new());
    let proxy = three_policies(&files, &worker);
    // A client of another authority.
    let strangers = Certificates::new();
    strangers.issue_client("eve", "eve");
    for name in ["eve.pem", "eve.key"] {
        std::fs::copy(strangers.directory.join(name), files.directory.join(name)).unwrap();
    }
    let served = |client: &str, host: &str| {
        let mut client = if client.is_empty() { files.client() } else { files.client_with(client) };
        client.is_served(proxy.address, host)
    };
    assert!(served("", "a.example") && served("bob", "a.example") && served("eve", "a.example"));
    assert!(!served("", "b.example") && served("bob", "b.example") && !served("eve", "b.example"));
    assert!(served("", "c.example") && served("bob", "c.example") && !served("eve", "c.example"));
}

#[test]
fn a_worker_is_told_and_clients_cannot_forge_it() {
    let (mut worker, files) = (RawWorker::named("a"), Certificates::new());
    let proxy = three_policies(&files, &worker);
    let fingerprint = openssl(&files.directory, "x509 -in bob.pem -noout -fingerprint -sha256", "");
    let fingerprint = fingerprint.trim().rsplit('=').next().unwrap().replace(':', "").to_lowercase();
    let subject = openssl(&files.directory, "x509 -in bob.pem -noout -subject -nameopt RFC2253", "");
    let subject = subject.trim().strip_prefix("subject=").unwrap().to_owned();
    assert_eq!(subject, r"CN=bob,O=Example\, Ltd.");
    for (host, client, told) in [
        ("a.example", Some("bob"), None),
        ("b.example", Some("bob"), Some("SUCCESS")),
        ("c.example", Some("bob"), Some("SUCCESS")),
        ("c.example", None, Some("NONE")),
    ] {
        let mut client = client.map_or_else(|| files.client(), |name| files.client_with(name));
        let mut made = client.connect(proxy.address, host);
        // The second connection resumes the session of the first, together with its certificate.
        for resumed in [false, true] {
            assert_eq!(made.resumed, resumed, "{host}");
            let ask = format!(
                "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: x-client-verify, x-client-subject\r\n{CLAIMS}\r\n"
            );
            assert_eq!(made.raw.ask(&ask).text(), "a");
            let (_, request) = worker.request();
            assert_eq!(request.header("x-client-verify"), told, "{host}");
            let shown = told == Some("SUCCESS");
            assert_eq!(request.header("x-client-subject"), shown.then_some(subject.as_str()));
            assert_eq!(request.header("x-client-fingerprint"), shown.then_some(fingerprint.as_str()));
            assert_eq!(claims_of(&request).len(), if shown { 3 } else { usize::from(told.is_some()) }, "{request:?}");
            made = client.connect(proxy.address, host);
        }
    }
}

#[test]
fn claims_are_dropped_on_plain_listeners_and_upgrades() {
    let mut worker = RawWorker::named("a");
    let files = Certificates::new();
    let proxy = proxy(&files, &worker, "", "");
    let mut client = Raw::connect(proxy.address);
    client.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\n{CLAIMS}\r\n"));
    assert_eq!(claims_of(&worker.request().1), Vec::<&str>::new());
    client.ask(&format!(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{CLAIMS}\r\n"
    ));
    let (_, request) = worker.request();
    assert_eq!((claims_of(&request), request.header("upgrade")), (Vec::new(), Some("websocket")));
}

#[test]
fn a_trusted_proxys_claims_never_replace_our_own() {
    let mut worker = RawWorker::named("a");
    let files = Certificates::new();
    let proxy = proxy(&files, &worker, "trusted_proxies = [\"127.0.0.1\"]", "");
    Raw::connect(proxy.address).ask(&format!("GET / HTTP/1.1\r\nHost: a\r\n{CLAIMS}\r\n"));
    let (_, request) = worker.request();
    assert!(!claims_of(&request).iter().any(|name| name.replace('_', "-").starts_with("x-client-")), "{request:?}");
    assert_eq!(request.header("client-cert"), Some(":AA==:"));
}

#[test]
fn a_connection_serves_the_hosts_of_its_own_policy() {
    let (worker, files) = (RawWorker::named("a"), Certificates::new());
    let proxy = three_policies(&files, &worker);
    for (name, host, status) in [
        ("a.example", "a.example", 200),
        ("a.example", "A.example.:443", 200),
        ("a.example", "unknown.example", 200),
        ("a.example", "b.example", 421),
        ("a.example", "B.Example:8443", 421),
        ("a.example", "b.example.", 421),
        ("a.example", "c.example", 421),
        ("b.example", "b.example", 200),
        ("b.example", "a.example", 421),
        ("b.example", "unknown.example", 421),
        ("c.example", "b.example", 421),
    ] {
        let mut made = files.client_with("bob").connect(proxy.address, name);
        let answer = made.raw.ask(&get(host, "/"));
        assert_eq!(answer.status(), status, "{name} {host}");
        if status == 421 {
            made.raw.closed();
        }
    }
    // The authority in the target counts as a host, too.
    let mut made = files.client().connect(proxy.address, "a.example");
    assert_eq!(made.raw.ask("GET http://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n").status(), 421);
    assert_eq!(worker.connections(), 1, "none of these requests reached the worker");
}

/// Over HTTP/2, where one connection is meant for many hosts; with curl as an independent client.
#[test]
fn a_stream_is_served_by_its_connections_policy() {
    let (worker, files) = (RawWorker::named("a"), Certificates::new());
    let proxy = three_policies(&files, &worker);
    let port = proxy.address.port();
    let curl = |version: &str, host: &str| {
        let mut curl = std::process::Command::new("curl");
        curl.args(["--silent", "--show-error", "--insecure", version, "--header", &format!("Host: {host}")]);
        curl.args([
            "--resolve",
            &format!("a.example:{port}:127.0.0.1"),
            "--write-out",
            " %{http_version} %{http_code}",
        ]);
        let asked = curl.arg(format!("https://a.example:{port}/")).output().unwrap();
        assert!(asked.status.success(), "{asked:?}");
        String::from_utf8(asked.stdout).unwrap()
    };
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        assert_eq!(curl(flag, "a.example"), format!("a {version} 200"));
        assert_eq!(curl(flag, "unknown.example"), format!("a {version} 200"));
        assert!(curl(flag, "b.example").ends_with(&format!(" {version} 421")));
    }
}

#[test]
fn a_session_opens_no_other_host() {
    let (worker, files) = (RawWorker::named("a"), Certificates::new());
    let proxy = three_policies(&files, &worker);
    for version in ["-tls1_2", "-tls1_3"] {
        let shake = |host: &str, more: &str| {
            let arguments = format!("s_client -connect {} -servername {host} {version} -ign_eof {more}", proxy.address);
            let ask = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            openssl(&files.directory, &arguments, &ask)
        };
        let first = shake("c.example", "-sess_out c.sess");
        assert!(first.contains("New, TLSv1") && first.contains("200 OK"), "{first}");
        let again = shake("c.example", "-sess_in c.sess");
        assert!(again.contains("Reused, TLSv1") && again.contains("200 OK"), "{again}");
        // Without a certificate, resuming the session of a host that needs none.
        let elsewhere = shake("b.example", "-sess_in c.sess");
        assert!(!elsewhere.contains("Reused") && !elsewhere.contains("200 OK"), "{elsewhere}");
        let shown = shake("b.example", "-sess_in c.sess -cert bob.pem -key bob.key");
        assert!(!shown.contains("Reused") && shown.contains("200 OK"), "{shown}");
    }
}
