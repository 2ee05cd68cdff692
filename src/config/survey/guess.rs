//! What happens with a key: its default, and whether a change of it needs a restart.
//!
//! Values are guessed from what the reader asks, and tried: a default counts only if the checked configuration with it
//! is the one without the key.

use super::super::Config;
use super::super::asked::Asked;
use super::frame::{self, PathStep};
use super::parsed;

/// What was found out about a key.
#[derive(Debug, Default)]
pub(super) struct GuessedKey {
    /// The default as written in the file; `None`: it was not found out.
    pub(super) default: Option<String>,
    /// Whether a change needs a restart.
    pub(super) restart: bool,
}

/// Defaults that depend on the machine or on other keys, or that need files to be tried: table, key, default, and
/// whether a change needs a restart.
const BY_HAND: &[(&str, &str, &str, bool)] = &[
    ("", "threads", "one per core", true),
    ("", "secret", "made once and kept in `state_dir`", true),
    ("", "secret_file", "none", true),
    ("listener[]", "http2", "true with `tls`", false),
    ("listener[]", "websocket_over_http2", "true with `http2`", false),
    ("listener[]", "tls.hosts", "the names in the certificate", false),
    ("listener[]", "tls.certificates[].hosts", "the names in the certificate", false),
    ("listener[]", "tls.certificates[].client_auth.ca", "required unless `mode` is \"off\"", false),
    ("listener[]", "tls.client_auth.ca", "required unless `mode` is \"off\"", false),
    ("listener[]", "tls.buffers", "\"shared\"", false),
    ("listener[]", "tls.hsts.max_age", "", false),
    ("listener[]", "tls.hsts.include_subdomains", "false", false),
    ("listener[]", "tls.hsts.preload", "false", false),
    ("affinity.NAME", "learn[].method", "any", false),
    ("affinity.NAME", "learn[].path", "any", false),
    ("affinity.NAME", "learn[].status", "200 to 299", false),
    ("affinity.NAME", "lookup", "", false),
    ("affinity.NAME", "refusal[].status", "any", false),
    ("affinity.NAME", "refusal[].body", "any", false),
    ("affinity.NAME", "refusal[].header", "any", false),
    ("affinity.NAME", "creates[].method", "any", false),
    ("affinity.NAME", "creates[].path", "any", false),
    ("affinity.NAME", "ends[].method", "any", false),
    ("affinity.NAME", "ends[].path", "any", false),
    ("affinity.NAME", "ends[].status", "200 to 299", false),
    ("upstream.NAME", "spawn.command", "", false),
    ("upstream.NAME", "spawn.directory", "the folder of the file", false),
    ("upstream.NAME", "spawn.env_file", "none", false),
    ("upstream.NAME", "spawn.env", "{}", false),
    ("upstream.NAME", "spawn.ports", "free ports", false),
    ("upstream.NAME", "spawn.bus", "\"auto\"", false),
    ("upstream.NAME", "allow_empty", "false", false),
    ("upstream.NAME", "workers", "required unless there is `spawn`", false),
    ("upstream.NAME", "workers[].name", "the address", false),
    ("upstream.NAME", "health.kind", "\"http\", and without `health` \"tcp\"", false),
    ("upstream.NAME", "health.path", "required for \"http\" and \"websocket\", else \"/socket.io/\"", false),
    ("upstream.NAME", "health.host", "the address of the worker", false),
    ("upstream.NAME", "health.fast_interval", "a quarter of `interval`", false),
    ("upstream.NAME", "health.timeout", "`interval`, at most 5s", false),
    ("upstream.NAME", "tls.ca", "the authorities that the machine trusts", false),
    ("upstream.NAME", "tls.server_name", "the name in the address of the worker", false),
    ("upstream.NAME", "tls.certificate", "none", false),
    ("upstream.NAME", "tls.key", "none", false),
    ("upstream.NAME", "labels", "{}", false),
    ("upstream.NAME", "bus", "\"auto\"", false),
    ("upstream.NAME", "rate.requests_burst", "the number in `requests`", false),
    ("upstream.NAME", "rate.handshakes_burst", "the number in `handshakes`", false),
    ("route[]", "host", "every host", false),
    ("route[]", "origins", "every page", false),
    ("route[]", "rate.requests_burst", "the number in `requests`", false),
    ("route[]", "rate.handshakes_burst", "the number in `handshakes`", false),
    ("route[]", "broadcast", "as in the upstream", false),
    ("route[]", "allow_file", "none", false),
    ("route[]", "deny_file", "none", false),
    ("route[]", "basic.users_file", "", false),
    ("route[]", "basic.realm", "\"stickyd\"", false),
    ("route[]", "auth.url", "", false),
    ("route[]", "auth.ca", "the authorities that the machine trusts", false),
    ("route[]", "auth.headers", "[\"authorization\", \"cookie\"]", false),
    ("route[]", "auth.copy", "[]", false),
    ("route[]", "auth.timeout", "\"2s\"", false),
    ("route[]", "auth.cache", "\"10s\"", false),
    ("route[]", "origins.allow", "", false),
    ("route[]", "origins.refuse", "\"http\"", false),
    ("route[]", "rate.by", "the address of the client", false),
    ("route[]", "users.sockets", "", false),
    ("route[]", "users.over", "\"oldest\"", false),
    ("route[]", "users.refuse", "\"told\"", false),
    ("route[]", "jwt.keys", "none", false),
    ("route[]", "jwt.ca", "the authorities that the machine trusts", false),
    ("route[]", "jwt.secret_file", "none", false),
    ("route[]", "jwt.secret", "none", false),
    ("route[]", "jwt.from", "[\"auth:token\", \"header:authorization\"]", false),
    ("route[]", "jwt.algorithms", "those of the keys", false),
    ("route[]", "jwt.issuer", "any", false),
    ("route[]", "jwt.audience", "any", false),
    ("route[]", "jwt.claims", "{}", false),
    ("route[]", "jwt.headers", "{}", false),
    ("route[]", "jwt.refuse", "\"told\"", false),
    ("route[]", "jwt.expire", "\"keep\"", false),
    ("route[]", "jwt.on", "\"handshakes\"", false),
    ("route[]", "jwt.leeway", "\"30s\"", false),
    ("route[]", "jwt.unreadable", "\"refuse\"", false),
    ("upstream.NAME", "alarm.labels", "{}", false),
    ("log", "access_file", "none", false),
    ("log", "skip", "[]", false),
    ("notify", "name", "the name of the machine", false),
    ("notify", "heartbeat.url", "required unless there is `url_file`", false),
    ("notify", "heartbeat.url_file", "required unless there is `url`", false),
    ("notify", "heartbeat.ca", "the authorities that the machine trusts", false),
    ("notify", "to[].webhook.url", "required unless there is `url_file`", false),
    ("notify", "to[].webhook.url_file", "required unless there is `url`", false),
    ("notify", "to[].webhook.ca", "the authorities that the machine trusts", false),
    ("notify", "to[].discord.url", "required unless there is `url_file`", false),
    ("notify", "to[].discord.url_file", "required unless there is `url`", false),
    ("notify", "to[].discord.ca", "the authorities that the machine trusts", false),
    ("notify", "to[].slack.url", "required unless there is `url_file`", false),
    ("notify", "to[].slack.url_file", "required unless there is `url`", false),
    ("notify", "to[].slack.ca", "the authorities that the machine trusts", false),
    ("notify", "to[].ntfy.url", "required unless there is `url_file`", false),
    ("notify", "to[].ntfy.url_file", "required unless there is `url`", false),
    ("notify", "to[].ntfy.ca", "the authorities that the machine trusts", false),
    ("notify", "heartbeat.every", "\"60s\"", false),
    ("notify", "to[].name", "its kind, numbered from the second one on", false),
    ("notify", "to[].events", "all", false),
    ("notify", "to[].webhook.secret_file", "none", false),
    ("notify", "to[].ntfy.token_file", "none", false),
    ("notify", "to[].mail.tls", "\"starttls\", at port 465 \"tls\"", false),
    ("notify", "to[].mail.user", "none", false),
    ("notify", "to[].mail.password_file", "none", false),
    ("notify", "to[].mail.ca", "the authorities that the machine trusts", false),
    ("notify", "to[].mail.to", "", false),
    ("upstream.NAME", "alarm.labels.NAME.sockets_below", "none", false),
    ("upstream.NAME", "alarm.labels.NAME.sockets_drop", "none", false),
    ("fleet", "redis", "", true),
    ("fleet", "username", "none", true),
    ("fleet", "password_file", "none", true),
    ("fleet", "tls.ca", "the authorities that the machine trusts", true),
    ("fleet", "tls.server_name", "the host", true),
    ("fleet", "tls.certificate", "none", true),
    ("fleet", "tls.key", "none", true),
    ("fleet", "name", "the name of the machine", true),
    ("fleet", "prefix", "\"stickyd\"", true),
    ("fleet", "lookup_timeout", "\"20ms\"", true),
    ("fleet", "pins", "true", true),
    ("fleet", "control", "true", true),
    ("fleet", "tickets", "true", true),
    ("fleet", "bus", "true", true),
    ("admin", "address", "the socket in `state_dir` alone", true),
    ("admin", "token_file", "none", true),
    ("admin", "read_token_file", "none", true),
    ("admin", "emit_token_file", "none", true),
    ("admin", "group", "none", true),
];

/// The default, and whether a change needs a restart, of a key in the list above.
pub(super) fn by_hand(table: &str, key: &str) -> Option<(&'static str, bool)> {
    let found = BY_HAND.iter().find(|(its_table, its_key, ..)| *its_table == table && *its_key == key);
    found.map(|(_, _, default, restart)| (*default, *restart))
}

/// Whether every key of a table needs a restart.
pub(super) fn is_restart_table(table: &str) -> bool {
    table == "admin"
}

/// Tries values for the key at the end of a path.
pub(super) fn outcome(path: &[PathStep], asked: &[Asked]) -> GuessedKey {
    let Some(without) = parsed(&frame::without(path)) else { return GuessedKey::default() };
    let mut outcome = GuessedKey::default();
    let mut shown = None;
    for value in candidates(asked) {
        let Some(with) = parsed(&frame::text(path, &value).0) else { continue };
        if with == without {
            outcome.default.get_or_insert(value);
            continue;
        }
        outcome.restart |= !without.needs_restart(&with).is_empty();
        shown = shown.or_else(|| field(&without, &with, path));
    }
    if let (None, Some(shown)) = (&outcome.default, shown) {
        outcome.default = spellings(&shown, asked)
            .into_iter()
            .find(|value| value == "none" || parsed(&frame::text(path, value).0).is_some_and(|with| with == without));
    }
    outcome
}

/// Values that the reader probably accepts, as written in the file.
fn candidates(asked: &[Asked]) -> Vec<String> {
    let mut all = Vec::new();
    for asked in asked {
        match asked {
            Asked::Boolean => all.extend(["true".to_owned(), "false".to_owned()]),
            Asked::Integer(range) => {
                all.extend([range.start().to_string(), range.end().to_string(), "1012".to_owned(), "301".to_owned()]);
            }
            Asked::Duration(range) => {
                let written = |time| format!("\"{}\"", humantime::format_duration(time));
                all.extend([written(*range.start()), written(*range.end())]);
            }
            Asked::Percent(range) => all.extend([format!("\"{}%\"", range.start()), format!("\"{}%\"", range.end())]),
            Asked::Size(range) => all.extend([range.start().to_string(), range.end().to_string()]),
            Asked::Words(words) => all.extend(words.iter().map(|word| format!("\"{word}\""))),
            Asked::Text(expected) => all.extend(examples(expected)),
            Asked::List(expected) => {
                all.push("[]".to_owned());
                all.extend(expected.split_once("such as ").map(|(_, example)| example.to_owned()));
            }
            Asked::Key(_) | Asked::Required(..) | Asked::Names | Asked::Table => {}
        }
    }
    all
}

/// The strings in quotation marks in a description, and plain ones.
fn examples(expected: &str) -> Vec<String> {
    let quoted = expected.split('"').skip(1).step_by(2).map(|word| format!("\"{word}\""));
    quoted.chain(["\"\"", "\"/\"", "\"x\"", "\"a.example\"", "\"0123456789abcdef\""].map(str::to_owned)).collect()
}

/// The value of a key's field in the configuration without the key, as `Debug` shows it.
fn field(without: &Config, with: &Config, path: &[PathStep]) -> Option<String> {
    let (without, with) = (format!("{without:#?}"), format!("{with:#?}"));
    let (old, new): (Vec<&str>, Vec<&str>) = (without.lines().collect(), with.lines().collect());
    let same = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let left = old.len().min(new.len()) - same;
    let end = old.iter().rev().zip(new.iter().rev()).take(left).take_while(|(old, new)| old == new).count();
    let differing = old.get(same..(old.len() - end).max(same + 1))?;
    let Some(PathStep::Key(key, _)) = path.last() else { return None };
    let of_key = differing.iter().find(|line| line.trim().split_once(": ").is_some_and(|(name, _)| name == *key));
    let line = of_key.or_else(|| differing.first())?;
    let value = line.trim().trim_end_matches(',');
    let value = value.split_once(": ").map_or(value, |(_, value)| value);
    Some(value.to_owned())
}

/// Ways in which the file may write a value that `Debug` shows.
fn spellings(shown: &str, asked: &[Asked]) -> Vec<String> {
    let mut all = Vec::new();
    if shown == "None" {
        return vec!["none".to_owned()];
    }
    for asked in asked {
        match asked {
            Asked::Duration(_) => {
                let seconds = shown
                    .strip_suffix("ms")
                    .map(|ms| (ms, 0.001))
                    .or_else(|| shown.strip_suffix('s').map(|s| (s, 1.0)));
                let time = seconds.and_then(|(number, unit)| Some(number.parse::<f64>().ok()? * unit));
                let time = time.and_then(|time| std::time::Duration::try_from_secs_f64(time).ok());
                all.extend(time.map(|time| match time.as_secs() {
                    seconds @ 1..=120 if time.subsec_nanos() == 0 => format!("\"{seconds}s\""),
                    _ => format!("\"{}\"", humantime::format_duration(time)),
                }));
            }
            Asked::Percent(_) => all.push(format!("\"{shown}%\"")),
            Asked::Size(_) => all.extend(shown.parse().ok().map(size)),
            Asked::Integer(_) => all.extend(shown.parse::<u64>().ok().map(super::digits)),
            _ => {}
        }
    }
    all.extend([shown.to_owned(), format!("\"{shown}\"")]);
    all
}

/// A size as people write it.
fn size(bytes: u64) -> String {
    match bytes {
        1.. if bytes.is_multiple_of(1_000_000) => format!("\"{}MB\"", bytes / 1_000_000),
        1.. if bytes.is_multiple_of(1_024) => format!("\"{}KiB\"", bytes / 1_024),
        _ => super::digits(bytes),
    }
}
