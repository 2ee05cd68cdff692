//! Clients that stop reading and go on: meanwhile stickyd reads no more from the worker, and no byte is lost.

use std::time::Duration;

use crate::support::proxy::Proxy;
use crate::support::raw::{Raw, RawWorker};
use crate::support::tls::Certificates;

const BYTES: usize = 6_000_000;

/// A body in which no two neighbouring chunks, reads or records are alike.
fn body() -> Vec<u8> {
    (0..BYTES).map(|at| u8::try_from((at / 3 + at / 70_001) % 251).unwrap()).collect()
}

/// A worker that answers with a length, with chunks, or up to the end of the connection.
fn worker() -> RawWorker {
    RawWorker::scripted(|leg| {
        while let Some(request) = leg.request() {
            let (all, target) = (body(), request.target().to_owned());
            match target.as_str() {
                "/length" => {
                    leg.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n"));
                    leg.send(&all);
                }
                "/chunks" => {
                    leg.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                    for chunk in all.chunks(50_000) {
                        leg.send([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
                    }
                    leg.send("0\r\n\r\n");
                }
                _ => {
                    leg.send("HTTP/1.1 200 OK\r\n\r\n");
                    leg.send(&all);
                    return;
                }
            }
        }
    })
}

/// Reads everything, with repeated pauses that are long enough for all buffers on the way to fill.
fn takes_all(mut client: Raw, way: &str) {
    for target in ["/length", "/chunks", "/close"] {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        for _ in 0..8 {
            std::thread::park_timeout(Duration::from_millis(30));
            client.fill();
        }
        let answer = client.answer();
        assert!(answer.body == body(), "{way} {target}: {} bytes", answer.body.len());
    }
}

#[test]
fn a_client_that_stops_and_goes_on_gets_everything() {
    let worker = worker();
    let proxy = Proxy::before(&[worker.address]);
    takes_all(Raw::connect(proxy.address), "plain");
}

#[test]
fn the_same_holds_over_tls_with_either_kind_of_buffers() {
    let worker = worker();
    for buffers in ["shared", "own"] {
        let files = Certificates::new();
        files.issue("site", &["a"]);
        let toml = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n\
             tls = {{ buffers = \"{buffers}\", certificate = \"site.pem\", key = \"site.key\" }}\n\
             [upstream.app]\nworkers = [\"{}\"]\n",
            worker.address
        );
        let proxy = Proxy::with_files(&toml, &files.directory);
        takes_all(files.client().connect(proxy.address, "a").raw, buffers);
    }
}

/// A client that has ended its side is taken to be gone after five seconds without a write, but not while the kernel
/// holds bytes for it: `min_rate` limits that time.
#[test]
fn a_client_that_ended_its_side_may_read_slowly() {
    let worker = worker();
    let proxy = Proxy::before(&[worker.address]);
    let stream = std::net::TcpStream::connect(proxy.address).unwrap();
    let mut client = Raw::on(crate::support::raw::patient(stream.try_clone().unwrap()));
    client.send("GET /length HTTP/1.1\r\nHost: a\r\n\r\n");
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    std::thread::park_timeout(Duration::from_secs(7));
    let answer = client.answer();
    assert!(answer.body == body(), "{} bytes", answer.body.len());
    client.closed();
}
