//! A viewer of the live stream: messages as they come over the admin socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;

use super::process::PATIENCE;

/// One message of the stream.
#[derive(Debug)]
pub(crate) struct LiveMessage {
    /// `hello`, `sample` or `event`.
    pub(crate) name: String,
    /// The id of `hello` and `event`.
    pub(crate) id: Option<u64>,
    /// The JSON of the message.
    pub(crate) data: Value,
}

/// One viewer of the stream.
pub(crate) struct Viewer {
    wire: BufReader<UnixStream>,
    /// The status of the answer, and its fields.
    pub(crate) head: String,
    text: String,
}

impl Viewer {
    /// Opens a stream; `fields` are further fields of the request, each with its line break.
    pub(crate) fn open(admin: &Path, query: &str, fields: &str) -> Self {
        let mut wire = UnixStream::connect(admin).unwrap();
        wire.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(wire, "GET /api/v1/live{query} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n").unwrap();
        let (mut wire, mut head) = (BufReader::new(wire), String::new());
        while !head.ends_with("\r\n\r\n") {
            assert!(wire.read_line(&mut head).unwrap() > 0, "closed within {head:?}");
        }
        Self { wire, head, text: String::new() }
    }

    /// Reads the next message, without comments; `None` at the end of the stream.
    pub(crate) fn next(&mut self) -> Option<LiveMessage> {
        loop {
            while let Some(end) = self.text.find("\n\n") {
                let message: String = self.text.drain(..end + 2).collect();
                let field = |name: &str| message.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                if let Some(name) = field("event") {
                    let data = serde_json::from_str(field("data").unwrap()).unwrap();
                    let id = field("id").map(|id| id.parse().unwrap());
                    return Some(LiveMessage { name: name.to_owned(), id, data });
                }
            }
            let mut size = String::new();
            self.wire.read_line(&mut size).ok().filter(|read| *read > 0)?;
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            let mut chunk = vec![0; size + 2];
            self.wire.read_exact(&mut chunk).unwrap();
            if size == 0 {
                return None;
            }
            self.text.push_str(std::str::from_utf8(&chunk[..size]).unwrap());
        }
    }

    /// Reads until a message of this name fits; panics at the end of the stream.
    pub(crate) fn until(&mut self, name: &str, mut fits: impl FnMut(&Value) -> bool) -> LiveMessage {
        let began = Instant::now();
        loop {
            let message = self.next().unwrap_or_else(|| panic!("the stream ended before a `{name}`"));
            if message.name == name && fits(&message.data) {
                return message;
            }
            assert!(began.elapsed() < PATIENCE, "no `{name}` fits; the last message: {message:?}");
        }
    }
}
