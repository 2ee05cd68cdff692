//! TLS over buffers the thread shares and over buffers of each connection: the same to every client, and changed by a
//! reload for those that come after it.
//!
//! All other tests of TLS run over the first; `STICKYD_TEST_TLS_BUFFERS=own` has them run over the second.

use std::io::{Read, Write};
use std::net::TcpStream;

use rustls::version::{TLS12, TLS13};

use super::{get, proxy};
use crate::support::proxy::Binary;
use crate::support::raw::{Raw, RawWorker, ok, patient};
use crate::support::tls::{Certificates, openssl};

/// A listener whose connections have these buffers; one policy, or two, so that a ClientHello is looked into first.
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
fn both_kinds_pass_large_bodies_and_tell_why_they_refuse() {
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
        // An alert, not a reset: no cipher in common, and what is no TLS at all.
        let address = proxy.address;
        let told = openssl(&files.directory, &format!("s_client -connect {address} -tls1_2 -cipher AES128-SHA"), "");
        assert!(told.contains("alert handshake failure") || told.contains("alert number 40"), "{buffers}: {told}");
        let mut plain = Raw::connect(address);
        plain.send(get("a.example", "/"));
        let alert = plain.rest();
        assert_eq!((alert.first(), alert.len()), (Some(&21), 7), "{buffers}, {policies}: {alert:?}");
    }
}

/// Sends a few bytes at a time.
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
fn a_hello_in_pieces_chooses_its_policy() {
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
fn a_reload_changes_it_for_new_connections_only() {
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
    assert!(after.resumed, "its ticket holds");
    for made in [&mut before, &mut after] {
        assert_eq!(made.raw.ask(&get("a.example", "/")).text(), "w");
    }
}
