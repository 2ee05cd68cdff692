//! `[fleet]`: the Redis or Valkey over which several stickyds share pins and see one another.
//!
//! Left out: how it is used (`crate::fleet`). Of an address only the hosts are ever shown: user and password may be
//! part of it.

mod address;

use std::ops::RangeInclusive;
use std::time::Duration;

use super::check::Context;
use super::error::Span;
use super::file::{ConfigItem, ConfigText, Section};
use super::upstream::ReadUpstream;
use super::{Address, Secret, files, tls, values, variables};
use address::parse;
pub(crate) use address::{RedisAddress, RedisPlace};

/// Range of the key `lookup_timeout`.
const LOOKUPS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(1);

/// Example for messages about `redis`.
pub(crate) const EXAMPLE: &str = "an address such as \"redis://redis.internal:6379\"";

/// Maximum number of Redis servers in a list.
const MOST_SHARDS: usize = 64;

/// The table `[fleet]`. A change needs a restart.
#[derive(Debug, Clone, PartialEq)]
pub struct Fleet {
    /// The Redis servers; pins are spread over them.
    pub redis: Vec<RedisAddress>,
    /// TLS to all of them, for addresses that begin with `rediss`.
    pub tls: RedisTls,
    /// Name of this stickyd among the others, at most 64 characters; default: the host's name.
    pub name: String,
    /// First part of every key and channel, so that several fleets can use one Redis; default `stickyd`.
    pub prefix: String,
    /// Maximum time that a request waits for Redis, 1 ms to 1 s; default 20 ms.
    pub lookup_timeout: Duration,
    /// Whether pins are shared; default true.
    pub pins: bool,
    /// Whether this stickyd does what operators order over the fleet; default true.
    pub control: bool,
    /// Whether the keys of TLS session tickets are shared; default true.
    pub tickets: bool,
    /// Whether the bus reaches the workers of the other stickyds; default true.
    pub bus: bool,
}

/// TLS to Redis, as PEM texts.
#[derive(Clone, Default, PartialEq)]
pub struct RedisTls {
    /// Trusted authorities; `None`: those of the system.
    pub ca: Option<Vec<u8>>,
    /// Certificate chain and key for a Redis that asks for them.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// Name that is requested and verified in the certificate; `None`: the host of the address.
    pub server_name: Option<String>,
}

impl std::fmt::Debug for RedisTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// Reads `[fleet]`, and checks what a fleet asks of the rest of the file.
pub(crate) fn read(
    context: &Context<'_>,
    root: &mut Section<'_>,
    has_secret: bool,
    upstreams: &[ReadUpstream],
) -> Option<Fleet> {
    let mut section = root.section("fleet", "a table")?;
    let at = section.span.clone();
    if !has_secret {
        let message =
            "a fleet needs `secret` or `secret_file`, the same on every stickyd: one made in `state_dir` differs";
        context.report.error_help(&at, message, "make one with: openssl rand -hex 32");
    }
    let redis = section.take("redis");
    if redis.is_none() {
        context.report.error_help(&at, "[fleet] needs `redis`", "write redis = \"redis://redis.internal:6379\"");
    }
    let mut redis = redis.map(|item| addresses(context, item)).unwrap_or_default();
    let username = section.text("username", "a name").filter(|name| !refuse_variable(context, name));
    let password = section.text("password_file", "a path").and_then(|path| password(context, &path));
    for address in &mut redis {
        address.username = address.username.take().or_else(|| username.as_ref().map(|name| name.value.clone()));
        address.password = address.password.take().or_else(|| password.clone());
    }
    let tls_at = section.key("tls");
    let tls = section.section("tls", "a table").and_then(|section| redis_tls(context, section, &redis));
    if let Some(at) = tls_at.filter(|_| !redis.is_empty() && redis.iter().all(|address| !address.tls)) {
        context.report.error_help(&at, "`tls` has no effect without TLS", "write redis = \"rediss://…\"");
    }
    let name = section.text("name", "a name such as \"edge-1\"").and_then(|text| name(context, text));
    let prefix = section.text("prefix", "a word such as \"stickyd\"").and_then(|text| prefix(context, text));
    let lookup_timeout = section.take("lookup_timeout").and_then(|item| values::duration(item, LOOKUPS));
    let pins = section.take("pins").and_then(ConfigItem::boolean).unwrap_or(true);
    let control = section.take("control").and_then(ConfigItem::boolean).unwrap_or(true);
    let bus = section.take("bus").and_then(ConfigItem::boolean).unwrap_or(true);
    let tickets = section.take("tickets").and_then(ConfigItem::boolean).unwrap_or(true);
    section.finish();
    upstreams.iter().for_each(|read| have_names(context, read));
    Some(Fleet {
        redis,
        tls: tls.unwrap_or_default(),
        name: name.unwrap_or_else(host_name),
        prefix: prefix.unwrap_or_else(|| "stickyd".to_owned()),
        lookup_timeout: lookup_timeout.unwrap_or(Duration::from_millis(20)),
        pins,
        control,
        tickets,
        bus,
    })
}

/// Reads `redis`: one address, or a list of them.
fn addresses(context: &Context<'_>, item: ConfigItem<'_>) -> Vec<RedisAddress> {
    if !item.is_list() {
        return item.text(EXAMPLE).and_then(|text| address(context, &text)).into_iter().collect();
    }
    let at = item.span.clone();
    let items = item.list(EXAMPLE, "an address").unwrap_or_default();
    if items.is_empty() || items.len() > MOST_SHARDS {
        context.report.error(&at, format!("`redis` must list 1 to {MOST_SHARDS} addresses"));
    }
    let mut all: Vec<RedisAddress> = Vec::new();
    for text in items.into_iter().filter_map(|item| item.text(EXAMPLE)) {
        let Some(new) = address(context, &text) else { continue };
        if all.iter().any(|known| known.to_string() == new.to_string()) {
            context.report.error(&text.span, format!("{new} is listed twice"));
        }
        all.push(new);
    }
    if all.len() > 1 && all.iter().any(|one| matches!(one.place, RedisPlace::Cluster(_))) {
        context.report.error(&at, "a cluster spreads the keys itself: list no other address with it");
    }
    all
}

/// Reads the address of one Redis.
pub(crate) fn address(context: &Context<'_>, text: &ConfigText) -> Option<RedisAddress> {
    const HELP: &str = "write the address itself, and password_file = \"redis.password\": a file with the password";
    if variables::refuse_in_address(context, &text.span, &text.value, HELP) {
        return None;
    }
    match parse(&text.value) {
        Ok(address) => Some(address),
        Err(why) => {
            let help = "write redis://HOST:PORT, rediss://HOST:PORT for TLS, redis+sentinel://A,B,C/MASTER, \
                        redis+cluster://A,B,C or unix:/PATH";
            context.report.error_help(&text.span, format!("`redis` is not a valid address: {why}"), help);
            None
        }
    }
}

/// Reports a user's name that is that of an environment variable; returns whether it is one.
pub(crate) fn refuse_variable(context: &Context<'_>, name: &ConfigText) -> bool {
    variables::refuse(context, "`username`", name, "write the name itself")
}

/// Reads the file of a password.
pub(crate) fn password(context: &Context<'_>, path: &ConfigText) -> Option<Secret> {
    let bytes = files::named(context, path)?;
    let trimmed = bytes.trim_ascii();
    if str::from_utf8(trimmed).is_ok_and(variables::is_reference) {
        return files::unusable(context, path, variables::IN_FILE, variables::WRITE_VALUE);
    }
    if trimmed.is_empty() || std::str::from_utf8(trimmed).is_err() {
        context.report.error(&path.span, format!("{} holds no password in UTF-8", path.value));
        return None;
    }
    files::warn_if_public(context, &path.span, &context.base.join(&path.value));
    Some(Secret(trimmed.to_vec()))
}

/// Reads the TLS settings for these addresses.
pub(crate) fn redis_tls(context: &Context<'_>, mut section: Section<'_>, redis: &[RedisAddress]) -> Option<RedisTls> {
    let ca = section.text("ca", "a path");
    let server_name = section.text("server_name", "a name such as \"redis.internal\"");
    let certificate = section.text("certificate", "a path");
    let key = section.text("key", "a path");
    section.finish();
    if let (Some(one), None) | (None, Some(one)) = (&certificate, &key) {
        context.report.error(&one.span, "`certificate` and `key` must be given together, and one of them is missing");
    }
    if let Some(name) = &server_name
        && redis.iter().any(|address| !matches!(address.place, RedisPlace::Server(..)))
    {
        context.report.error(&name.span, "`server_name` has no effect on Sentinels and clusters: they name the hosts");
    }
    let pem = |path: &ConfigText| files::named(context, path);
    let identity = match certificate.zip(key) {
        Some((certificate, key)) => {
            let (chain, _) = files::chain(context, &certificate)?;
            let key_der = files::private_key(context, &key)?;
            files::matched(context, &certificate, &key, &chain, &key_der)?;
            Some((pem(&certificate)?, pem(&key)?))
        }
        None => None,
    };
    let ca = match ca {
        Some(ca) => tls::authorities(context, &ca).and_then(|_| pem(&ca)),
        None => None,
    };
    Some(RedisTls { ca, identity, server_name: server_name.map(|name| name.value) })
}

fn name(context: &Context<'_>, text: ConfigText) -> Option<String> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if text.value.is_empty() || text.value.len() > 64 || !text.value.chars().all(is_fine) {
        let message = "`name` must have 1 to 64 letters, digits, dots, `-` or `_`";
        context.report.error_help(&text.span, message, "write name = \"edge-1\"");
        return None;
    }
    Some(text.value)
}

fn prefix(context: &Context<'_>, text: ConfigText) -> Option<String> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if text.value.is_empty() || text.value.len() > 32 || !text.value.chars().all(is_fine) {
        let message = "`prefix` must have 1 to 32 letters, digits, dots, `-` or `_`";
        context.report.error_help(&text.span, message, "write prefix = \"stickyd\"");
        return None;
    }
    Some(text.value)
}

/// The name of this machine, as far as it can be a name in a fleet.
fn host_name() -> String {
    let is_fine = |c: &char| c.is_ascii_alphanumeric() || "-._".contains(*c);
    let system = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = system.chars().filter(is_fine).take(64).collect();
    if name.is_empty() { "stickyd".to_owned() } else { name }
}

/// Reports workers that look alike on every machine: their names make the ids that the fleet shares.
fn have_names(context: &Context<'_>, read: &ReadUpstream) {
    if read.upstream.spawn.is_some() {
        return;
    }
    let mut said: Option<&Span> = None;
    for (worker, at) in read.upstream.workers.iter().zip(&read.entries) {
        let is_local = match &worker.address {
            Address::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Address::Unix(_) => true,
        };
        if is_local && worker.name == worker.address.to_string() && said != Some(at) {
            said = Some(at);
            let message = format!("worker {} needs a `name` in a fleet", worker.address);
            let help = "every machine has such an address: write { address = \"…\", name = \"edge-1-w1\" }, with a \
                        name that no other machine uses";
            context.report.error_help(at, message, help);
        }
    }
}
