//! Tokens as an issuer makes them, and clients that a guard may refuse.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::process::{Process, clients_dir};
use super::wait::patience;

/// The secret of every issuer here.
pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// The current second since 1970.
pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A token with these claims, signed with [`SECRET`]; it expires in an hour unless the claims say otherwise.
pub(crate) fn token(mut claims: Value) -> String {
    if claims.get("exp").is_none() {
        claims["exp"] = json!(now_s() + 3_600);
    }
    let key = EncodingKey::from_secret(SECRET.as_bytes()).unwrap();
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap()
}

/// A token of a user that expired ten minutes ago.
pub(crate) fn expired(user: &str) -> String {
    token(json!({"sub": user, "exp": now_s() - 600}))
}

/// A real Socket.IO client (`tests/clients/guarded.js` or `guarded.py`).
pub(crate) struct Guarded {
    process: Process,
    pub(crate) said: Vec<Value>,
}

impl Guarded {
    /// Starts socket.io-client with these options.
    pub(crate) fn start(options: &Value) -> Self {
        Self { process: Process::start("node", ["guarded.js", &options.to_string()]), said: Vec::new() }
    }

    /// Starts python-socketio with these options.
    pub(crate) fn start_python(options: &Value) -> Self {
        let python = clients_dir().join(".venv/bin/python");
        Self { process: Process::start(python, ["guarded.py", &options.to_string()]), said: Vec::new() }
    }

    /// Waits for the next event of this name.
    pub(crate) async fn event(&mut self, name: &str) -> Value {
        self.event_within(name, patience()).await
    }

    /// Waits for the next event of this name with another limit.
    pub(crate) async fn event_within(&mut self, name: &str, limit: Duration) -> Value {
        let found = timeout(limit, async {
            while let Some(line) = self.process.line().await {
                self.said.push(line.clone());
                if line["event"] == name {
                    return line;
                }
            }
            panic!("the client ended without {name}: {:?}", self.said)
        });
        let found = found.await;
        found.unwrap_or_else(|_| panic!("no {name}: {:?}", self.said))
    }

    /// Waits until each of these events has come, in any order.
    pub(crate) async fn events(&mut self, names: &[&str]) {
        let is_missing =
            |said: &[Value], name: &str| all(said, name).len() < names.iter().filter(|one| **one == name).count();
        while let Some(missing) = names.iter().find(|name| is_missing(&self.said, name)) {
            self.event(missing).await;
        }
    }

    /// Sends a command to the client.
    pub(crate) async fn command(&mut self, line: &str) {
        self.process.command(line).await;
    }

    /// Waits until the client has been quiet for a while; everything it said.
    pub(crate) async fn end(mut self) -> Vec<Value> {
        self.event("end").await;
        self.said
    }
}

/// The events of this name.
pub(crate) fn all<'s>(said: &'s [Value], name: &str) -> Vec<&'s Value> {
    said.iter().filter(|line| line["event"] == name).collect()
}
