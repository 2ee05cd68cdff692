//! TLS of clients and of workers: certificates by name, clients' own certificates, PROXY headers, the redirect to
//! https, and workers that speak TLS.

mod buffers;
mod certificates;
mod client_certificates;
mod handshakes;
mod proxy_protocol;
mod redirect;
mod rotation;
mod websockets;
mod workers;

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

/// A GET of `path` at a host.
fn get(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}
