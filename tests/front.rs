//! TLS both ways and what stands in front: certificates by name, clients' own certificates, PROXY headers, the way to
//! https, workers that speak TLS.

#[path = "front/buffers.rs"]
mod buffers;
#[path = "front/certificates.rs"]
mod certificates;
#[path = "front/clients.rs"]
mod clients;
#[path = "front/proxy_protocol.rs"]
mod proxy_protocol;
#[path = "front/redirect.rs"]
mod redirect;
#[path = "front/rotation.rs"]
mod rotation;
#[path = "front/workers.rs"]
mod workers;
#[path = "front/wss.rs"]
mod wss;

use crate::support::proxy::Proxy;
use crate::support::raw::RawWorker;
use crate::support::tls::Certificates;

/// A proxy with one thread and a listener with these keys, in front of `worker`.
fn proxy(files: &Certificates, worker: &RawWorker, listener: &str, more: &str) -> Proxy {
    let toml = format!(
        "threads = 1\n[[listener]]\naddress = \"127.0.0.1:0\"\n{listener}\n[upstream.app]\nworkers = [\"{}\"]\n{more}",
        worker.address
    );
    Proxy::with_files(&toml, &files.directory)
}

/// A GET for a host.
fn get(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}
