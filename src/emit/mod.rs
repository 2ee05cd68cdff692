//! Messages of the backend for the application's own Socket.IO adapter: what `@socket.io/redis-emitter` publishes.
//!
//! The Redis is the one that the application's adapter uses, with an address and a user of its own; nothing of a fleet
//! is there. A message is published once and never again: if its connection breaks meanwhile, its fate is unknown, and
//! the caller is told. Left out: the other ways (`crate::bus`, frames in `crate::admin`), and the rights to publish.

mod links;
mod msgpack;
mod rates;

use std::sync::Arc;

use redis::Cmd;
use serde_json::json;

use crate::bus::EmitMessage;
use crate::config::{EmitAdapter, EmitRedis};
use crate::fleet::connect::LinkError;
pub(crate) use links::EmitLinks;
pub(crate) use rates::EmitRates;
pub(crate) use rates::PER_SECOND;

/// Sender's name in every message: the one that `@socket.io/redis-emitter` has, which no adapter counts as a server.
const SENDER: &str = "emitter";
/// Type of a broadcast in the messages of Socket.IO's cluster adapters (`MessageType.BROADCAST`).
const BROADCAST: u32 = 3;
/// Type of an event in Socket.IO's packets.
const EVENT: u32 = 2;
/// Approximate length to which a stream is trimmed: the default of the streams adapter.
const STREAM_LENGTH: u32 = 10_000;
impl EmitLinks {
    /// Publishes a message of an upstream.
    ///
    /// # Errors
    /// Redis cannot be reached, or refuses the command. After a time-out the message may have been published.
    pub(crate) async fn publish(
        &self,
        upstream: &str,
        to: &Arc<EmitRedis>,
        message: &EmitMessage,
    ) -> Result<(), LinkError> {
        self.send(upstream, to, &command(to, message)).await
    }
}

/// The command that hands a message to the application's adapter.
fn command(to: &EmitRedis, message: &EmitMessage) -> Cmd {
    let EmitMessage { namespace, rooms, except, .. } = message;
    let packet = json!({ "type": EVENT, "data": message.data(), "nsp": namespace });
    let opts = json!({ "rooms": rooms, "except": except, "flags": {} });
    match to.adapter {
        EmitAdapter::Classic => {
            let channel = match &rooms[..] {
                // Servers without a client in the room do not even decode the message.
                [room] => format!("{}#{namespace}#{room}#", to.key),
                _ => format!("{}#{namespace}#", to.key),
            };
            let mut command = redis::cmd("PUBLISH");
            command.arg(channel).arg(msgpack::encode(&json!([SENDER, packet, opts])));
            command
        }
        EmitAdapter::Sharded => {
            // Every server is subscribed to this channel in all modes of subscription; channels of rooms depend on it.
            let message = json!({
                "uid": SENDER, "nsp": namespace, "type": BROADCAST, "data": { "packet": packet, "opts": opts },
            });
            let mut command = redis::cmd("SPUBLISH");
            command.arg(format!("{}#{namespace}#", to.key)).arg(message.to_string());
            command
        }
        EmitAdapter::Streams => {
            let data = json!({ "packet": packet, "opts": opts }).to_string();
            let mut command = redis::cmd("XADD");
            command.arg(stream(to, namespace)).arg("MAXLEN").arg("~").arg(STREAM_LENGTH).arg("*");
            command.arg("uid").arg(SENDER).arg("nsp").arg(namespace).arg("type").arg(BROADCAST);
            command.arg("data").arg(data);
            command
        }
    }
}

/// The stream of a namespace, as the streams adapter chooses it.
fn stream(to: &EmitRedis, namespace: &str) -> String {
    if to.streams == 1 {
        return to.key.clone();
    }
    let step = |hash: i32, unit: u16| hash.wrapping_mul(31).wrapping_add(i32::from(unit));
    let hash = namespace.encode_utf16().fold(0, step);
    // The remainder has the sign of the hash, in JavaScript, too.
    let number = i64::from(hash) % i64::from(to.streams);
    format!("{}-{number}", to.key)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn to(adapter: EmitAdapter, streams: u32) -> EmitRedis {
        let place = crate::config::RedisPlace::Server("127.0.0.1".to_owned(), 6379);
        let address = crate::config::RedisAddress { place, tls: false, database: 0, username: None, password: None };
        EmitRedis { address, tls: Default::default(), adapter, key: "socket.io".to_owned(), streams }
    }

    fn message(rooms: &[&str]) -> EmitMessage {
        EmitMessage {
            namespace: "/chat".to_owned(),
            rooms: rooms.iter().map(|room| (*room).to_owned()).collect(),
            except: Vec::new(),
            event: "order".to_owned(),
            args: vec![Value::from(7)],
        }
    }

    fn arguments(command: &Cmd) -> Vec<String> {
        let text = |one: redis::Arg<&[u8]>| match one {
            redis::Arg::Simple(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            _ => String::new(),
        };
        command.args_iter().map(text).collect()
    }

    #[test]
    fn one_room_has_a_channel_of_its_own_in_the_classic_adapter() {
        let redis = to(EmitAdapter::Classic, 1);
        let channel = |rooms: &[&str]| arguments(&command(&redis, &message(rooms)))[1].clone();
        assert_eq!(channel(&["a"]), "socket.io#/chat#a#");
        assert_eq!([channel(&[]), channel(&["a", "b"])], ["socket.io#/chat#", "socket.io#/chat#"]);
    }

    #[test]
    fn the_sharded_adapter_gets_json_on_the_channel_of_all_servers() {
        let said = arguments(&command(&to(EmitAdapter::Sharded, 1), &message(&["a"])));
        assert_eq!(said[..2], ["SPUBLISH", "socket.io#/chat#"]);
        assert_eq!(
            serde_json::from_str::<Value>(&said[2]).unwrap(),
            json!({"uid": "emitter", "nsp": "/chat", "type": 3, "data": {
                "packet": {"type": 2, "data": ["order", 7], "nsp": "/chat"},
                "opts": {"rooms": ["a"], "except": [], "flags": {}},
            }})
        );
    }

    /// The numbers are those of `hashCode(nsp) % streamCount` of the adapter, computed with Node.js.
    #[test]
    fn namespaces_are_spread_over_the_streams_as_the_adapter_does() {
        assert_eq!(stream(&to(EmitAdapter::Streams, 1), "/chat"), "socket.io");
        for (namespace, number) in [("/", "3"), ("/chat", "3"), ("/namespace-with-a-long-name", "-2")] {
            assert_eq!(stream(&to(EmitAdapter::Streams, 4), namespace), format!("socket.io-{number}"));
        }
    }
}
