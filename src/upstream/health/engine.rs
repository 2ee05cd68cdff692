//! Whether a worker speaks Socket.IO, and which version: for the first line that a new user reads. Left out: deciding
//! anything by it.
//!
//! The questions make no session and run no handler of the application: a request with a session id that does not exist
//! (docs/reference/protocols.md §1.4), then the beginning of the client script that most servers serve, in which the
//! version stands.

use std::sync::Arc;
use std::time::Duration;

use hyper::{Method, StatusCode};

use super::checks::engine_path;
use super::client::{CheckClient, Fault};
use crate::engine_io::is_refusal;
use crate::random;
use crate::upstream::worker::Worker;

/// Path at which Socket.IO is looked for.
pub(crate) const PATH: &str = "/socket.io/";

/// Time limit for both questions together.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of the script that are read: its version is in the comment at its beginning.
const SCRIPT: usize = 512;

/// Asks a worker for Socket.IO. Returns words such as `Socket.IO 4 at /socket.io/`; `None` if it does not speak it.
pub(crate) async fn socket_io(worker: &Arc<Worker>) -> Option<String> {
    tokio::time::timeout(PATIENCE, ask(worker)).await.ok()?.ok()?
}

async fn ask(worker: &Arc<Worker>) -> Result<Option<String>, Fault> {
    let mut client = CheckClient::new(worker, None);
    let sid = format!("{:016x}", random::u64());
    let request = client.request(Method::GET, &engine_path(PATH, 4, Some(&sid)), "")?;
    let answer = client.ask(request, |_| false).await?;
    if !is_refusal(answer.code(), &answer.body) {
        return Ok(None);
    }
    let request = client.request(Method::GET, &format!("{PATH}socket.io.js"), "")?;
    let version = match client.ask(request, |body| body.len() >= SCRIPT).await {
        Ok(script) if script.status == StatusCode::OK => version(&script.body),
        Ok(_) | Err(_) => None,
    };
    Ok(Some(version.map_or_else(|| format!("Socket.IO at {PATH}"), |version| format!("Socket.IO {version} at {PATH}"))))
}

/// Returns the major version in the script's first comment, `Socket.IO v4.8.1`.
fn version(script: &[u8]) -> Option<u32> {
    let text = String::from_utf8_lossy(script.get(..SCRIPT.min(script.len()))?).into_owned();
    let (_, after) = text.split_once("Socket.IO v")?;
    after.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_the_clients_script() {
        assert_eq!(version(b"/*!\n * Socket.IO v4.8.1\n * (c) 2014-2024\n"), Some(4));
        assert_eq!(version(b"/*!\n * Socket.IO v2.5.0\n"), Some(2));
        assert_eq!(version(b"<!doctype html>"), None);
        assert_eq!(version(b"Socket.IO v"), None);
    }
}
