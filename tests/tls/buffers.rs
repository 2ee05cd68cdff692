//! TLS with buffers shared by a thread and with buffers of each connection: alike for clients, and a reload changes new
//! connections only.
//!
//! All other tests of TLS use shared buffers; `STICKYD_TEST_TLS_BUFFERS=own` runs them with the other kind.

use std::io::{Read, Write};
use std::net::TcpStream;

use rustls::version::{TLS12, TLS13};

use super::{get, proxy};
use crate::support::proxy::Binary;
use crate::support::raw::{Raw, RawWorker, ok, patient};
use crate::support::tls::{Certificates, openssl};

/// A listener with these buffers; with two policies the ClientHello has to be read before one is chosen.
fn tls(files: &Certificates, buffers: &str, policies: usize) -> String {
    files.issue("a", &["a.example"]);
    files.issue("b", &["b.example"]);
    let second = "{ certificate = \"b.pem\", key = \"b.key\", client_auth = { mode = \"optional\", ca = \"ca.pem\" } }";
    let second = if policies == 2 { second } else { "" };
    format!(
        "tls = {{ buffers = \"{buffers}\", certificates = [{{ certificate = \"a.pem\", key = \"a.key\" }}, {second}] }}"
    )
    .replace(", ]", "]")
}

#[test]
fn both_kinds_pass_large_bodies_and_send_alerts() {
    for (buffers, policies) in [("shared", 1), ("shared", 2), ("own", 1), ("own", 2)] {
        let (worker, files) = (RawWorker::answering(|request| ok(request.text())), Certificates::new());
        let proxy = proxy(&files, &worker, &tls(&files, buffers, policies), "");
        let body = "0123456789".repeat(100_000);
        for version in [&TLS12, &TLS13] {
            let mut made = files.client().version(version).connect(proxy.address, "a.example");
            let request = format!("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            assert!(made.raw.ask(&request).text() == body, "{buffers}, {policies}");
        }
        if policies == 2 {
            let [a, b] = ["a.example", "b.example"].map(|host| files.client().connect(proxy.address, host).certificate);
            assert_ne!(a, b);
        }
        // An alert, not a reset: for a client without a common cipher, and for bytes that are not TLS.
        let address = proxy.address;
        let told = openssl(&files.directory, &format!("s_client -connect {address} -tls1_2 -cipher AES128-SHA"), "");
        assert!(told.contains("alert handshake failure") || told.contains("alert number 40"), "{buffers}: {told}");
        let mut plain = Raw::connect(address);
        plain.send(format!("\x16{}", get("a.example", "/")));
        let alert = plain.rest();
        assert_eq!((alert.first(), alert.len()), (Some(&21), 7), "{buffers}, {policies}: {alert:?}");
    }
}

/// A stream that sends a few bytes at a time.
struct Crumbs(TcpStream);

impl Read for Crumbs {
    fn read(&mut self, room: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(room)
    }
}

impl Write for Crumbs {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(&bytes[..bytes.len().min(7)])
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_client_hello_in_pieces_chooses_its_policy() {
    let (worker, files) = (RawWorker::named("w"), Certificates::new());
    let proxy = proxy(&files, &worker, &tls(&files, "shared", 2), "");
    let expected = files.client().connect(proxy.address, "b.example").certificate;
    let tcp = patient(TcpStream::connect(proxy.address).unwrap());
    tcp.set_nodelay(true).unwrap();
    let mut made = files.client().try_on(Crumbs(tcp), "b.example").unwrap();
    assert_eq!(made.certificate, expected);
    assert_eq!(made.raw.ask(&get("b.example", "/")).text(), "w");
}

#[test]
fn a_reload_changes_buffers_for_new_connections_only() {
    let (worker, files) = (RawWorker::named("w"), Certificates::new());
    files.issue("site", &["a.example"]);
    let binary = Binary::with(&format!(
        "state_dir = \".\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
         tls = {{ buffers = \"own\", certificate = \"{0}/site.pem\", key = \"{0}/site.key\" }}\n[upstream.app]\nworkers = [\"{1}\"]\n",
        files.directory.display(),
        worker.address
    ));
    let mut client = files.client();
    let mut before = client.connect(binary.address, "a.example");
    assert_eq!(before.raw.ask(&get("a.example", "/")).text(), "w");
    let path = binary.directory.join("stickyd.toml");
    let text = std::fs::read_to_string(&path).unwrap().replace("\"own\"", "\"shared\"");
    std::fs::write(&path, text).unwrap();
    binary.says(&[": reloaded"]);
    let mut after = client.connect(binary.address, "a.example");
    assert!(after.resumed, "its ticket is still valid");
    for made in [&mut before, &mut after] {
        assert_eq!(made.raw.ask(&get("a.example", "/")).text(), "w");
    }
}
