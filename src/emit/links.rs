//! Connections to the Redis servers of the applications, and a command that is executed there at most once.
//!
//! All messages of an upstream share a connection, so that many at once need no more. What a server of a cluster has
//! refused, because another one has the slot by now, was not executed and goes to that one. After any other error the
//! fate of a message is unknown: it is not sent again, and the next one gets a new connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redis::{Cmd, RedisError, ServerError, ServerErrorKind, Value as RedisValue};

use crate::config::EmitRedis;
use crate::fleet::connect::{Connector, LinkError, RedisLink};
use crate::locks::lock;

/// Time without use after which a connection is tried with a PING before it gets a message.
const IDLE: Duration = Duration::from_secs(1);
/// How often a message follows its slot, and the pause before that: the servers tell each other of the change.
const MOVES: u32 = 4;
const MOVE_PAUSE: Duration = Duration::from_millis(50);

/// The connections, by upstream.
#[derive(Default)]
pub(crate) struct EmitLinks(Mutex<HashMap<String, EmitLink>>);

#[derive(Clone)]
struct EmitLink {
    of: Arc<EmitRedis>,
    link: RedisLink,
    used: Instant,
    /// Tells this connection from a later one.
    is: Arc<()>,
}

impl EmitLinks {
    /// Sends a command to the Redis of an upstream.
    ///
    /// # Errors
    /// Redis cannot be reached, or refuses the command. After a time-out, it may have been executed.
    pub(super) async fn send(&self, upstream: &str, to: &Arc<EmitRedis>, command: &Cmd) -> Result<(), LinkError> {
        let mut link = match self.usable(upstream, to).await {
            Some(link) => link,
            None => self.open(upstream, to).await?,
        };
        let sent = send(&mut link.link, command).await;
        self.used(upstream, &link, sent.is_ok());
        sent
    }

    /// Closes the connections of all other upstreams.
    pub(crate) fn retain(&self, is_kept: impl Fn(&str) -> bool) {
        lock(&self.0).retain(|upstream, _| is_kept(upstream));
    }

    async fn open(&self, upstream: &str, to: &Arc<EmitRedis>) -> Result<EmitLink, LinkError> {
        // The library would send a command again although it may have been executed.
        let link = Connector { address: to.address.clone(), tls: to.tls.clone() }.open_without_retries().await?;
        let link = EmitLink { of: to.clone(), link, used: Instant::now(), is: Arc::default() };
        lock(&self.0).insert(upstream.to_owned(), link.clone());
        Ok(link)
    }

    /// Returns the upstream's open connection.
    async fn usable(&self, upstream: &str, to: &Arc<EmitRedis>) -> Option<EmitLink> {
        let mut kept = lock(&self.0).get(upstream).filter(|kept| kept.of == *to)?.clone();
        if kept.used.elapsed() > IDLE {
            let replies = kept.link.run(vec![redis::cmd("PING")]).await;
            let answers = replies.is_ok_and(|replies| !replies.iter().any(|reply| error_of(reply).is_some()));
            self.used(upstream, &kept, answers);
            return answers.then_some(kept);
        }
        Some(kept)
    }

    /// Notes whether a connection still works.
    fn used(&self, upstream: &str, link: &EmitLink, works: bool) {
        let mut all = lock(&self.0);
        let Some(kept) = all.get_mut(upstream).filter(|kept| Arc::ptr_eq(&kept.is, &link.is)) else { return };
        if works {
            kept.used = Instant::now();
        } else {
            all.remove(upstream);
        }
    }
}

/// Sends a command, and again to another server of the cluster as long as one has refused it for that.
async fn send(link: &mut RedisLink, command: &Cmd) -> Result<(), LinkError> {
    let (mut at, mut moves) = (None, 0);
    loop {
        let replies = match at.take() {
            Some(server) => link.run_at(server, command.clone()).await?,
            None => link.run(vec![command.clone()]).await?,
        };
        let Some(error) = replies.iter().find_map(error_of) else { return Ok(()) };
        let (kind, refused) = (error.kind(), RedisError::from(error.clone()));
        use ServerErrorKind::{Ask, Moved, ReadOnly, TryAgain};
        let has_moved = matches!(kind, Some(Moved | Ask | ReadOnly | TryAgain));
        if !has_moved || !matches!(link, RedisLink::Cluster(_)) || moves == MOVES {
            return Err(LinkError::Failed(refused));
        }
        moves += 1;
        // With ASK, only this command goes there; with MOVED, the library reads anew which server has which slots.
        at = refused.redirect_node().filter(|_| kind == Some(Ask)).and_then(|(server, _)| server_of(server));
        if at.is_none() {
            tokio::time::sleep(MOVE_PAUSE).await;
        }
    }
}

fn error_of(reply: &RedisValue) -> Option<&ServerError> {
    match reply {
        RedisValue::ServerError(error) => Some(error),
        _ => None,
    }
}

/// Host and port of a server, as servers write them.
fn server_of(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    Some((host.to_owned(), port.parse().ok()?))
}
