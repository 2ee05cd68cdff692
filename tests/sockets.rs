//! The list of live sockets: every column and filter with real clients, closing sockets, and that no entry is left.

mod close;
mod list;
mod websocket_first;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::support::proxy::Proxy;
use crate::support::raw::Raw;

/// A stickyd of this process with its admin listener.
struct Watched {
    proxy: Proxy,
    admin: PathBuf,
}

impl Watched {
    fn with(toml: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("stickyd-sockets-{}-{number}.sock", std::process::id());
        let admin = std::env::temp_dir().join(name);
        let proxy = Proxy::with(&format!("{toml}\n[admin]\naddress = \"unix:{}\"\n", admin.display()));
        Self { proxy, admin }
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-Stickyd: 1\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let answer = Raw::connect_unix(&self.admin).ask(&request);
        (answer.status(), serde_json::from_slice(&answer.body).unwrap_or_else(|_| answer.text().into()))
    }

    /// All sockets that match a filter.
    fn sockets(&self, filter: &str) -> Vec<Value> {
        let (status, said) = self.ask("GET", &format!("/api/v1/sockets?limit=10000&{filter}"), "");
        assert_eq!(status, 200, "{filter}: {said}");
        let sockets = said["sockets"].as_array().unwrap().clone();
        assert_eq!(said["total"], sockets.len(), "{said}");
        sockets
    }

    fn count(&self, filter: &str) -> usize {
        self.sockets(filter).len()
    }

    fn close(&self, path: &str, body: &Value) -> (u16, Value) {
        self.ask("POST", path, &body.to_string())
    }
}
