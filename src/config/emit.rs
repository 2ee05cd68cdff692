//! `emit = { via = … }` of an upstream: the way on which messages of the backend (`POST /api/v1/emit`) reach clients.
//!
//! Left out: what is sent on each way (`crate::emit`, `crate::bus`, `crate::admin`).

use std::sync::Arc;

use super::check::Context;
use super::file::{ConfigText, Section};
use super::fleet::{self, RedisAddress, RedisTls};
use super::values::word;

/// The way of messages from the backend to the clients of an upstream. A reload applies it at once.
#[derive(Debug, Clone, PartialEq)]
pub enum EmitWay {
    /// Over the Redis that the application's own Socket.IO adapter uses.
    Redis(Arc<EmitRedis>),
    /// Over the bus, to workers that are linked to it.
    Bus,
    /// As frames that stickyd inserts into the WebSockets with a label.
    Frames,
}

/// The Redis of the application's Socket.IO adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct EmitRedis {
    /// Address, with user and password.
    pub address: RedisAddress,
    /// TLS, for an address that begins with `rediss`.
    pub tls: RedisTls,
    /// The adapter that the application uses.
    pub adapter: EmitAdapter,
    /// First part of the adapter's channels, or name of its stream; default `socket.io`.
    pub key: String,
    /// Number of streams of the streams adapter, 1 to 1,024; default 1.
    pub streams: u32,
}

/// Adapters of Socket.IO that use Redis.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EmitAdapter {
    /// The one that `createAdapter` of `@socket.io/redis-adapter` makes.
    #[default]
    Classic,
    /// The one that `createShardedAdapter` of `@socket.io/redis-adapter` makes.
    Sharded,
    /// The adapter of `@socket.io/redis-streams-adapter`.
    Streams,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Via {
    Redis,
    Bus,
    Frames,
}

const VIAS: [(&str, Via); 3] = [("redis-adapter", Via::Redis), ("bus", Via::Bus), ("frames", Via::Frames)];
const ADAPTERS: [(&str, EmitAdapter); 3] =
    [("classic", EmitAdapter::Classic), ("sharded", EmitAdapter::Sharded), ("streams", EmitAdapter::Streams)];
/// Keys that only the way over Redis has.
const OF_REDIS: [&str; 7] = ["redis", "username", "password_file", "tls", "adapter", "key", "streams"];

/// Reads `emit` of an upstream whose workers may use the bus or not.
pub(crate) fn read(context: &Context<'_>, section: &mut Section<'_>, has_bus: bool) -> Option<EmitWay> {
    let mut table = section.section("emit", "a table such as { via = \"bus\" }")?;
    let at = table.span.clone();
    let Some(text) = table.text("via", "\"redis-adapter\", \"bus\" or \"frames\"") else {
        context.report.error_help(&at, "`emit` needs `via`", "write \"redis-adapter\", \"bus\" or \"frames\"");
        OF_REDIS.iter().for_each(|key| _ = table.take(key));
        table.finish();
        return None;
    };
    let via = word(context.report, "value of `via`", &text, &VIAS);
    let way = match via {
        Some(Via::Redis) => redis(context, &mut table).map(|redis| EmitWay::Redis(Arc::new(redis))),
        Some(Via::Bus) | Some(Via::Frames) | None => {
            for key in OF_REDIS {
                if let Some(item) = table.take(key)
                    && via.is_some()
                {
                    let message = format!("`{key}` has no effect with via = \"{}\"", text.value);
                    context.report.error_help(&item.span, message, "remove it, or write via = \"redis-adapter\"");
                }
            }
            via.map(|via| if via == Via::Bus { EmitWay::Bus } else { EmitWay::Frames })
        }
    };
    table.finish();
    if way == Some(EmitWay::Bus) && !has_bus {
        let help = "remove bus = false, or write another `via`";
        context.report.error_help(&text.span, "messages cannot go over the bus: the upstream has bus = false", help);
    }
    way
}

fn redis(context: &Context<'_>, table: &mut Section<'_>) -> Option<EmitRedis> {
    let at = table.span.clone();
    let address = table.text("redis", fleet::EXAMPLE);
    if address.is_none() {
        let help = "write redis = \"redis://127.0.0.1:6379\": the Redis of the application's adapter";
        context.report.error_help(&at, "`emit` needs `redis` with via = \"redis-adapter\"", help);
    }
    let address = address.and_then(|text| fleet::address(context, &text));
    let username = table.text("username", "a name").filter(|name| !fleet::refuse_variable(context, name));
    let password = table.text("password_file", "a path").and_then(|path| fleet::password(context, &path));
    let tls_at = table.key("tls");
    let with_tls = address.as_slice();
    let tls = table.section("tls", "a table").and_then(|section| fleet::redis_tls(context, section, with_tls));
    if let Some(at) = tls_at.filter(|_| address.as_ref().is_some_and(|address| !address.tls)) {
        context.report.error_help(&at, "`tls` has no effect without TLS", "write redis = \"rediss://…\"");
    }
    let adapter = table.text("adapter", "\"classic\", \"sharded\" or \"streams\"");
    let adapter = adapter.and_then(|text| word(context.report, "value of `adapter`", &text, &ADAPTERS));
    let adapter = adapter.unwrap_or_default();
    let key = table.text("key", "a text such as \"socket.io\"").and_then(|text| key(context, text));
    let streams_at = table.key("streams");
    let streams = table.integer("streams", 1..=1_024);
    if let Some(at) = streams_at.filter(|_| adapter != EmitAdapter::Streams) {
        context.report.error_help(&at, "`streams` has no effect here", "write adapter = \"streams\", or remove it");
    }
    let mut address = address?;
    address.username = address.username.take().or_else(|| username.map(|name| name.value));
    address.password = address.password.take().or(password);
    let key = key.unwrap_or_else(|| "socket.io".to_owned());
    Some(EmitRedis { address, tls: tls.unwrap_or_default(), adapter, key, streams: streams.unwrap_or(1) })
}

fn key(context: &Context<'_>, text: ConfigText) -> Option<String> {
    if text.value.is_empty() || text.value.len() > 128 || text.value.contains(char::is_control) {
        context.report.error(&text.span, "`key` must have 1 to 128 bytes and no control characters");
        return None;
    }
    Some(text.value)
}
