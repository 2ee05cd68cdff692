//! What operators learn of one Redis: errors, slow answers and evicted pins, each logged at most once per minute. Left
//! out: what happens because of them (the parent module).

use std::time::{Duration, Instant};

use redis::{Value, cmd};

use super::Driver;
use crate::fleet::connect::RedisLink;
use crate::locks::lock;

/// Warning for operators whose Redis drops pins.
const EVICTS: &str = "pins are evicted: give the Redis more memory (maxmemory)";

impl Driver {
    /// Looks whether Redis drops pins for want of memory.
    pub(super) async fn look_at_memory(&self, link: &mut RedisLink) {
        let mut info = cmd("INFO");
        info.arg("stats");
        let Ok(replies) = link.run(vec![info]).await else { return };
        let text = match replies.into_iter().next() {
            Some(Value::BulkString(text)) => String::from_utf8_lossy(&text).into_owned(),
            Some(Value::VerbatimString { text, .. }) => text,
            _ => return,
        };
        let Some(evicted) = text.lines().find_map(|line| line.strip_prefix("evicted_keys:")?.trim().parse().ok())
        else {
            return;
        };
        let mut health = lock(&self.shard.health);
        // The first number tells nothing: those keys were evicted before stickyd looked.
        let more = health.evicted.replace(evicted).is_some_and(|before| evicted > before);
        if more {
            health.error = Some(EVICTS.to_owned());
            self.series.error("evicted");
            tracing::warn!(redis = %self.shard.shown, evicted, "the fleet's Redis: {EVICTS}");
        } else if health.error.as_deref() == Some(EVICTS) {
            health.error = None;
        }
    }

    /// Logs at most once per minute that answers take longer than requests wait.
    pub(super) fn say_slow(&mut self, took: Duration) {
        if self.try_say("slow") {
            let latency_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(redis = %self.shard.shown, latency_ms, "the fleet's Redis is slow: requests do not wait");
        }
    }

    /// Whether this kind of line may be logged, because it was not within the last minute; it then counts as logged.
    fn try_say(&mut self, kind: &'static str) -> bool {
        let now = Instant::now();
        let says = self.said.get(kind).is_none_or(|said| now.duration_since(*said) >= Duration::from_secs(60));
        if says {
            self.said.insert(kind, now);
        }
        says
    }

    /// Counts an error, shows it to operators, and logs it at most once per minute.
    pub(super) fn failed(&mut self, kind: &'static str, words: &str) {
        self.series.error(kind);
        let user = self.shard.user.as_deref().unwrap_or("default");
        let help = match kind {
            "auth" => format!("; user `{user}`: check password_file, and the rights that `stickyd fleet --acl` prints"),
            "oom" => "; give the Redis more memory (maxmemory), or let it evict (maxmemory-policy)".to_owned(),
            "misconf" => "; the Redis cannot save to its disk, and refuses writes".to_owned(),
            _ => String::new(),
        };
        let error = format!("{words}{help}");
        let mut health = lock(&self.shard.health);
        health.error = Some(error.clone());
        if !self.shard.is_usable() || matches!(kind, "auth" | "oom" | "misconf" | "readonly") {
            health.state = kind;
        }
        drop(health);
        if self.try_say(kind) {
            tracing::warn!(redis = %self.shard.shown, kind, %error, "the fleet's Redis has failed");
        }
    }
}
