//! TLS handshakes of a listener: versions, what workers and browsers are told, and clients that never finish.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, StreamOwned, SupportedProtocolVersion};

use crate::support::proxy::Proxy;
use crate::support::raw::{Raw, RawWorker, patient};
use crate::support::wait::{at_most, wait_for};

struct Secured {
    proxy: Proxy,
    certificate: CertificateDer<'static>,
    directory: PathBuf,
}

impl Drop for Secured {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn secured(worker: &RawWorker, more: &str) -> Secured {
    let directory = std::env::temp_dir().join(format!("stickyd-tls-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    std::fs::write(directory.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let toml = format!(
        "threads = 1\n[[listener]]\naddress = \"127.0.0.1:0\"\ntls = {{ certificate = \"cert.pem\", key = \"key.pem\" }}\n\
         [upstream.app]\nworkers = [\"{}\"]\n{more}",
        worker.address
    );
    let proxy = Proxy::with_files(&toml, &directory);
    Secured { proxy, certificate: made.cert.der().clone(), directory }
}

impl Secured {
    fn connection(&self, versions: &[&'static SupportedProtocolVersion], alpn: &[&[u8]]) -> ClientConnection {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        ClientConnection::new(Arc::new(config), ServerName::try_from("a.example").unwrap()).unwrap()
    }

    fn tcp(&self) -> std::net::TcpStream {
        patient(std::net::TcpStream::connect(self.proxy.address).unwrap())
    }

    fn client(&self) -> Raw {
        Raw::on(StreamOwned::new(self.connection(rustls::ALL_VERSIONS, &[]), self.tcp()))
    }

    fn address(&self) -> SocketAddr {
        self.proxy.address
    }
}

#[test]
fn both_versions_are_accepted() {
    let worker = RawWorker::named("a");
    let secured = secured(&worker, "");
    for (version, protocol) in
        [(&rustls::version::TLS12, ProtocolVersion::TLSv1_2), (&rustls::version::TLS13, ProtocolVersion::TLSv1_3)]
    {
        let mut connection = secured.connection(&[version], &[b"spdy/1", b"http/1.1"]);
        let mut tcp = secured.tcp();
        while connection.is_handshaking() {
            connection.complete_io(&mut tcp).unwrap();
        }
        assert_eq!(connection.protocol_version(), Some(protocol));
        assert_eq!(connection.alpn_protocol(), Some(&b"http/1.1"[..]));
        let mut client = Raw::on(StreamOwned::new(connection, tcp));
        for _ in 0..3 {
            assert_eq!(client.get("/").text(), "a");
        }
    }
}

#[test]
fn a_client_without_a_common_protocol_is_refused() {
    let worker = RawWorker::named("a");
    let secured = secured(&worker, "");
    let mut connection = secured.connection(rustls::ALL_VERSIONS, &[b"spdy/1"]);
    let mut tcp = secured.tcp();
    let ended = loop {
        match connection.complete_io(&mut tcp) {
            Ok(_) if connection.is_handshaking() => {}
            other => break other,
        }
    };
    assert!(ended.is_err());
}

#[test]
fn workers_and_browsers_are_told_about_tls() {
    let mut worker = RawWorker::named("a");
    let secured = secured(&worker, "");
    let answer = secured.client().get("/");
    let cookie = answer.header("set-cookie").unwrap();
    assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax; Secure"), "{cookie}");
    let (_, request) = worker.request();
    assert_eq!(request.header("x-forwarded-proto"), Some("https"));
    assert_eq!(request.header("x-forwarded-port"), Some(secured.address().port().to_string().as_str()));
}

#[test]
fn large_bodies_pass_both_ways() {
    let worker = RawWorker::answering(|request| crate::support::raw::ok(request.text()));
    let secured = secured(&worker, "");
    let body = "0123456789".repeat(300_000);
    let request = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    assert!(secured.client().ask(&request).text() == body);
}

#[test]
fn a_truncated_answer_ends_without_close_notify() {
    let worker = RawWorker::scripted(|leg| {
        leg.request();
        leg.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
    });
    let secured = secured(&worker, "");
    let mut client = secured.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    if let Some(mut head) = client.head().filter(|head| head.status() == 200) {
        assert!(!client.body(&mut head, true));
    }
}

#[test]
fn plain_bytes_do_not_hang() {
    let worker = RawWorker::named("a");
    let secured = secured(&worker, "");
    let mut client = Raw::connect(secured.address());
    // As nginx does: an answer that its client can read, then the end.
    let answer = client.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((answer.status(), answer.header("connection")), (400, Some("close")));
    assert!(answer.text().contains("plain HTTP request was sent to a port with TLS"), "{}", answer.text());
    client.closed();
    wait_for("the failed handshake is counted", || {
        secured.proxy.metric("stickyd_client_errors_total{kind=\"http_on_tls\"}") > 0.0
    });
    assert_eq!(worker.connections(), 0);
}

/// The first flight of a client: its ClientHello in one record.
fn hello(connection: &mut ClientConnection) -> Vec<u8> {
    let mut flight = Vec::new();
    connection.write_tls(&mut flight).unwrap();
    flight
}

/// The same handshake message in records with one byte each (RFC 8446 §5.1 allows any split).
fn in_small_records(flight: &[u8]) -> Vec<u8> {
    flight[5..].iter().flat_map(|&byte| [0x16, 3, 1, 0, 1, byte]).collect()
}

/// Clients that stop at any place of their handshake: without a byte, after one byte, in the middle of their
/// ClientHello, and after it.
fn unfinished(secured: &Secured, of_each: usize) -> Vec<std::net::TcpStream> {
    let mut clients = Vec::new();
    for _ in 0..of_each {
        let flight = hello(&mut secured.connection(rustls::ALL_VERSIONS, &[]));
        let small = in_small_records(&flight);
        for part in
            [&[][..], &flight[..1], &flight[..5], &flight[..flight.len() - 1], &small[..small.len() - 1], &flight]
        {
            let mut client = secured.tcp();
            std::io::Write::write_all(&mut client, part).unwrap();
            clients.push(client);
        }
    }
    clients
}

#[test]
fn unfinished_handshakes_keep_no_client_out() {
    let worker = RawWorker::named("a");
    let secured = secured(&worker, "[limits]\nhandshakes = 1");
    let unfinished = unfinished(&secured, 50);
    wait_for("all of them are connected", || {
        secured.proxy.metric("stickyd_client_connections") >= f64::from(u32::try_from(unfinished.len()).unwrap())
    });
    let began = std::time::Instant::now();
    for _ in 0..20 {
        assert_eq!(secured.client().get("/").text(), "a");
    }
    // If each of them had a turn of half a second, this would take minutes.
    assert!(began.elapsed() < at_most(std::time::Duration::from_secs(9)), "{:?}", began.elapsed());
}

#[test]
fn a_hello_in_many_records_or_segments_is_read() {
    let worker = RawWorker::named("a");
    let secured = secured(&worker, "");
    for (records, size) in [(1, 1), (1, 100), (2, 1), (2, 1_000)] {
        let mut connection = secured.connection(rustls::ALL_VERSIONS, &[]);
        let mut tcp = secured.tcp();
        tcp.set_nodelay(true).unwrap();
        let flight = hello(&mut connection);
        let flight = if records == 1 { flight } else { in_small_records(&flight) };
        for segment in flight.chunks(size) {
            std::io::Write::write_all(&mut tcp, segment).unwrap();
        }
        assert_eq!(Raw::on(StreamOwned::new(connection, tcp)).get("/").text(), "a", "{records} {size}");
    }
}

#[test]
fn a_hello_without_an_end_is_cut_off() {
    let worker = RawWorker::named("a");
    let secured = secured(&worker, "");
    let mut client = secured.tcp();
    // A message of 16 MB in the largest records.
    let mut record = vec![0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
    record.resize(5 + 0x4000, 7);
    let sent = (0..1_000).try_for_each(|_| std::io::Write::write_all(&mut client, &record));
    let ended = sent.is_err() || std::io::Read::read_to_end(&mut client, &mut Vec::new()).is_ok();
    assert!(ended);
    wait_for("it is counted", || secured.proxy.metric("stickyd_client_errors_total{kind=\"tls\"}") > 0.0);
}

#[test]
fn a_stop_does_not_wait_for_handshakes() {
    let worker = RawWorker::named("a");
    let mut secured = secured(&worker, "");
    let _silent = Raw::connect(secured.address());
    let mut begun = Raw::connect(secured.address());
    begun.send([0x16, 0x03, 0x01, 0x02, 0x00]);
    wait_for("both connections are open", || secured.proxy.metric("stickyd_client_connections") > 1.0);
    let began = std::time::Instant::now();
    let idle = Proxy::before(&[worker.address]);
    let ended = std::mem::replace(&mut secured.proxy, idle).stop();
    assert!(!ended.panicked);
    assert!(began.elapsed() < at_most(std::time::Duration::from_secs(4)), "{:?}", began.elapsed());
}
