//! Guards of a `[[route]]` that ask for a password or another service: `basic` and `auth`; and lists of networks in
//! files: `allow_file` and `deny_file`.
//!
//! Files are read and checked here, so that a bad line is an error with its number. Left out: how requests are judged
//! (`route::basic`, `route::forward_auth`).

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use argon2::Params;
use argon2::password_hash::phc::PasswordHash;
use hyper::header::HeaderName;
use ipnet::IpNet;

use super::check::Context;
use super::file::{ConfigItem, ConfigText, Section};
use super::files;
use super::listener::parse_network;
use super::outbound::{self, OutboundTarget};
use super::values::duration;
use crate::networks::NetworkSet;

/// Maximum number of errors that are reported of one file.
const MAX_ERRORS: usize = 10;

/// Passwords that a route asks for (RFC 7617).
#[derive(Debug, PartialEq, Eq)]
pub struct BasicAuth {
    /// What browsers show when they ask for the password.
    pub realm: String,
    /// The users, sorted by name.
    pub users: PasswordFile,
}

/// Users with the hashes of their passwords, sorted by name. Neither is shown by `Debug`.
#[derive(PartialEq, Eq)]
pub struct PasswordFile(pub(crate) Vec<(String, String)>);

impl fmt::Debug for PasswordFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} users", self.0.len())
    }
}

/// Another service that decides about handshakes and upgrades.
#[derive(Debug, PartialEq)]
pub struct ForwardAuth {
    /// The address of the service.
    pub(crate) target: OutboundTarget,
    /// Header fields of the client that the service gets.
    pub headers: Vec<HeaderName>,
    /// Header fields of the service's answer that the worker gets. No client can set them.
    pub copy: Vec<HeaderName>,
    /// Time limit for its answer.
    pub timeout: Duration,
    /// Time for which an answer holds for equal requests; zero: it is asked each time.
    pub cache: Duration,
}

impl Eq for ForwardAuth {}

const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(2);
const CACHES: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(300);
const CACHE: Duration = Duration::from_secs(10);

/// Maximum number of entries of `headers` and of `copy`.
const MAX_FIELDS: usize = 32;

/// Maximum number of users in a file.
const MAX_USERS: usize = 10_000;

/// Limits of a hash, so that the check of one password takes neither minutes nor gigabytes.
const MAX_BCRYPT_COST: u32 = 15;
const MAX_ARGON2_KIB: u32 = 256 * 1024;
const MAX_ARGON2_TIME: u32 = 16;
const MAX_ARGON2_LANES: u32 = 16;

/// Fields that belong to one connection or to stickyd: a service that got them would take the request for an upgrade,
/// or for another one.
const OF_CONNECTION: [&str; 12] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-request-id",
];

/// Fields that every client may send, so that they cannot be the service's own.
const OF_CLIENTS: [&str; 4] = ["authorization", "cookie", "origin", "forwarded"];

/// Reads `basic = { users_file = "htpasswd", realm = "chat" }`.
pub(crate) fn basic(context: &Context<'_>, route: &mut Section<'_>) -> Option<Arc<BasicAuth>> {
    let mut section = route.section("basic", "a table such as { users_file = \"htpasswd\" }")?;
    let file = section.required("users_file", "a path", "\"htpasswd\"");
    let realm = section.text("realm", "a string");
    section.finish();
    let realm = realm.map_or_else(
        || "stickyd".to_owned(),
        |text| {
            if text.value.is_empty()
                || !text.value.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\')
            {
                let help = "write words of ASCII letters, such as realm = \"Chat of the shop\"";
                context.report.error_help(&text.span, format!("`{}` is not a valid realm", text.value), help);
            }
            text.value
        },
    );
    let users = users(context, &file?)?;
    Some(Arc::new(BasicAuth { realm, users }))
}

/// Reads a file of lines `name:hash`.
fn users(context: &Context<'_>, path: &ConfigText) -> Option<PasswordFile> {
    const HELP: &str = "add a user with: htpasswd -B FILE NAME";
    let mut users: Vec<(String, String)> = Vec::new();
    let sound = each_line(context, path, HELP, |line| {
        let (name, hash) = line.split_once(':').ok_or("it is not of the form name:hash")?;
        if name.is_empty() {
            return Err("the name is empty".to_owned());
        }
        check_hash(hash)?;
        if users.len() >= MAX_USERS {
            return Err(format!("the file has more than {MAX_USERS} users"));
        }
        users.push((name.to_owned(), hash.to_owned()));
        Ok(())
    })?;
    files::warn_if_public(context, &path.span, &context.base.join(&path.value));
    users.sort();
    let twice = users.windows(2).find(|pair| matches!(pair, [one, other] if one.0 == other.0));
    if let Some([(name, _), _]) = twice {
        return files::unusable(context, path, &format!("it has the user `{name}` twice"), "remove one of the lines");
    }
    if users.is_empty() && sound {
        return files::unusable(context, path, "it has no user", HELP);
    }
    sound.then_some(PasswordFile(users))
}

/// Checks that a hash can be verified, at a bounded cost.
fn check_hash(hash: &str) -> Result<(), String> {
    let is_bcrypt = ["$2a$", "$2b$", "$2x$", "$2y$"].iter().any(|start| hash.starts_with(start));
    if is_bcrypt {
        let parts: bcrypt::HashParts = hash.parse().map_err(|_| "its bcrypt hash is damaged".to_owned())?;
        return match parts.get_cost() {
            ..=MAX_BCRYPT_COST => Ok(()),
            cost => Err(format!("its bcrypt cost is {cost}; the largest is {MAX_BCRYPT_COST}")),
        };
    }
    if !hash.starts_with("$argon2") {
        return Err("its hash is neither bcrypt nor argon2".to_owned());
    }
    let damaged = |_| "its argon2 hash is damaged".to_owned();
    let parsed = PasswordHash::new(hash).map_err(damaged)?;
    let params = Params::try_from(&parsed).map_err(|_| "its argon2 hash is damaged".to_owned())?;
    if parsed.hash.is_none() || parsed.salt.is_none() {
        return Err("its argon2 hash is damaged".to_owned());
    }
    let fits =
        params.m_cost() <= MAX_ARGON2_KIB && params.t_cost() <= MAX_ARGON2_TIME && params.p_cost() <= MAX_ARGON2_LANES;
    let most = format!("m={MAX_ARGON2_KIB},t={MAX_ARGON2_TIME},p={MAX_ARGON2_LANES}");
    if fits { Ok(()) } else { Err(format!("its argon2 parameters are too large; the largest are {most}")) }
}

/// Reads a file of networks, one per line.
pub(crate) fn networks(context: &Context<'_>, section: &mut Section<'_>, key: &'static str) -> Option<Arc<NetworkSet>> {
    let path = section.text(key, "a path")?;
    let mut networks: Vec<IpNet> = Vec::new();
    let help = "write one network per line, such as 10.0.0.0/8, 192.0.2.7 or fd00::/8; # begins a comment";
    let sound = each_line(context, &path, help, |line| {
        let network = parse_network(line).ok_or_else(|| format!("`{line}` is not a valid network"))?;
        networks.push(network);
        Ok(())
    })?;
    sound.then(|| Arc::new(NetworkSet::new(&networks)))
}

/// Calls `read` for each line of a file that is neither empty nor a comment, and reports what is wrong with its number.
/// Returns whether all lines are right; `None` if the file cannot be read.
fn each_line(
    context: &Context<'_>,
    path: &ConfigText,
    help: &str,
    mut read: impl FnMut(&str) -> Result<(), String>,
) -> Option<bool> {
    let bytes = files::named(context, path)?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let Ok(text) = std::str::from_utf8(bytes) else {
        return files::unusable(context, path, "it is not UTF-8 text", help);
    };
    let mut wrong = 0;
    for (line, number) in text.lines().zip(1_u32..) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        if let Err(why) = read(line) {
            wrong += 1;
            if wrong <= MAX_ERRORS {
                context.report.error_help(&path.span, format!("{}, line {number}: {why}", path.value), help);
            }
        }
    }
    Some(wrong == 0)
}

/// Reads `auth = { url = "http://127.0.0.1:4180/auth", copy = ["x-user"] }`.
pub(crate) fn forward(context: &Context<'_>, route: &mut Section<'_>) -> Option<Arc<ForwardAuth>> {
    let mut section = route.section("auth", "a table such as { url = \"http://127.0.0.1:4180/auth\" }")?;
    let at = section.span.clone();
    let url =
        section.required("url", "an address such as \"http://127.0.0.1:4180/auth\"", "\"http://127.0.0.1:4180/auth\"");
    let ca = section.text("ca", "a path");
    let headers = section.take("headers").map(|item| fields(context, item, &[]));
    let copy = section.take("copy").map(|item| fields(context, item, &OF_CLIENTS)).unwrap_or_default();
    let timeout = section.take("timeout").and_then(|item| duration(item, TIMEOUTS)).unwrap_or(TIMEOUT);
    let cache = section.take("cache").and_then(|item| duration(item, CACHES)).unwrap_or(CACHE);
    section.finish();
    let url = url?;
    let uri = outbound::url(context, &url.span, &url.value)?;
    let target = outbound::target(context, &at, uri, ca.as_ref())?;
    let headers = headers.unwrap_or_else(|| vec![hyper::header::AUTHORIZATION, hyper::header::COOKIE]);
    Some(Arc::new(ForwardAuth { target, headers, copy, timeout, cache }))
}

fn fields(context: &Context<'_>, item: ConfigItem<'_>, reserved: &[&str]) -> Vec<HeaderName> {
    let at = item.span.clone();
    let items = item.list("a list such as [\"cookie\"]", "a header field").unwrap_or_default();
    if items.len() > MAX_FIELDS {
        context.report.error(&at, format!("at most {MAX_FIELDS} fields can be named"));
    }
    let texts = items.into_iter().filter_map(|item| item.text("the name of a header field"));
    texts.filter_map(|text| field(context, &text, reserved)).collect()
}

fn field(context: &Context<'_>, text: &ConfigText, reserved: &[&str]) -> Option<HeaderName> {
    let name = HeaderName::try_from(text.value.to_ascii_lowercase()).ok();
    let is_own = |name: &HeaderName| {
        let name = name.as_str();
        OF_CONNECTION.contains(&name)
            || reserved.contains(&name)
            || name.starts_with("x-forwarded-")
            || name.starts_with("sec-websocket-")
    };
    match name {
        Some(name) if !is_own(&name) => Some(name),
        Some(_) => {
            let message = format!("the field `{}` cannot be passed on", text.value);
            let help = "it belongs to the connection, or clients or stickyd set it: remove it";
            context.report.error_help(&text.span, message, help);
            None
        }
        None => {
            let help = "write the name of a header field, such as \"cookie\"";
            context.report.error_help(&text.span, format!("`{}` is not the name of a header field", text.value), help);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_of_bounded_cost_are_accepted() {
        // Of `secret`, by htpasswd -B and by argon2(1).
        let bcrypt = "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC";
        let argon2 = "$argon2id$v=19$m=4096,t=3,p=1$c29tZXNhbHQ$iWh06vD8Fy27wf9npn6FXWiCX4K6pW6Ue1Bnzz07Z8A";
        assert_eq!([check_hash(bcrypt), check_hash(argon2)], [Ok(()), Ok(())]);
        for (wrong, why) in [
            ("", "neither bcrypt nor argon2"),
            ("secret", "neither"),
            ("$apr1$lZL6V/ci$eIMz/iKDkbtys/uU7LEK00", "neither"),
            ("{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", "neither"),
            ("$2y$05$short", "damaged"),
            ("$argon2id$v=19$m=4096,t=3,p=1$c29tZXNhbHQ", "damaged"),
            (&bcrypt.replace("$05$", "$31$"), "cost is 31"),
            (&argon2.replace("m=4096", "m=1048576"), "too large"),
        ] {
            let said = check_hash(wrong).unwrap_err();
            assert!(said.contains(why), "{wrong}: {said}");
        }
    }
}
