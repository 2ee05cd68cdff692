//! Sessions whose client still owes a CONNECT packet with a token: any stickyd of the fleet may get the packet, and the
//! one that waits for it asks here whether it has come elsewhere.
//!
//! Redis has a key while the packet is owed, and none otherwise. So whatever Redis loses never ends a session.

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::queue::{Lookup, Write};
use super::seal::base64url;
use super::{Fleet, QUESTION};
use crate::keys::Key;

/// How long a packet is owed, in seconds: 10 s from when a session is first seen on any stickyd, and some more.
pub(super) const OWED_S: u64 = 30;

/// What the key contains.
pub(super) const OWES: &[u8] = b"owes CONNECT";

impl Fleet {
    /// Notes that the client of a new session owes a CONNECT packet. Nothing is noted while Redis does not answer: a
    /// note that came later could come after the packet.
    pub(crate) fn owes_connect(&self, key: Key) {
        if let Some(shard) = self.shard_of(key).filter(|shard| shard.is_usable()) {
            let _ = shard.add(|queue| queue.write(Write::Owes(self.owing_name(key))));
        }
    }

    /// Notes that the CONNECT packet has come.
    pub(crate) fn has_come(&self, key: Key) {
        if let Some(shard) = self.shard_of(key) {
            let _ = shard.add(|queue| queue.write(Write::Forget(self.owing_name(key))));
        }
    }

    /// Whether the client of a session still owes a CONNECT packet, as far as Redis says.
    pub(crate) async fn still_owes_connect(&self, key: Key) -> bool {
        let Some(shard) = self.shard_of(key).filter(|shard| shard.is_usable()) else { return false };
        let name = self.owing_name(key);
        let (answer, reply) = oneshot::channel();
        if !shard.add(|queue| queue.look_up(Lookup { name: name.clone(), answer })) {
            return false;
        }
        let Ok(Ok(Some(sealed))) = timeout(QUESTION, reply).await else { return false };
        self.seals.open(&name, &sealed).is_some_and(|plain| plain == OWES)
    }

    fn owing_name(&self, key: Key) -> String {
        format!("{}:w:{}", self.settings.prefix, base64url(&key.to_bytes()))
    }
}
