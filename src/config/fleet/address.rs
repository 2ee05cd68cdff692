//! The address of a Redis: one server, a socket, Sentinels or a cluster. Left out: whether it can be reached.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;

use crate::config::Secret;

/// Ports of Redis and of its Sentinel where an address names none.
const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// Address of one Redis, or of the Sentinels or the cluster through which one is found.
#[derive(Debug, Clone, PartialEq)]
pub struct RedisAddress {
    /// What the address leads to.
    pub place: RedisPlace,
    /// Whether connections use TLS.
    pub tls: bool,
    /// Number of the database.
    pub database: i64,
    /// Name of the user; `None`: the default user.
    pub username: Option<String>,
    /// Password of the user.
    pub password: Option<Secret>,
}

/// What the address of a Redis leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisPlace {
    /// One server, by host and port.
    Server(String, u16),
    /// The socket of one server.
    Unix(PathBuf),
    /// Sentinels, and the name of the master they watch.
    Sentinel(Vec<(String, u16)>, String),
    /// Some of the servers of a cluster.
    Cluster(Vec<(String, u16)>),
}

impl std::fmt::Display for RedisAddress {
    /// Writes the address without user and password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "rediss" } else { "redis" };
        let list = |nodes: &[(String, u16)]| {
            nodes.iter().map(|(host, port)| format!("{host}:{port}")).collect::<Vec<_>>().join(",")
        };
        match &self.place {
            RedisPlace::Server(host, port) => write!(f, "{scheme}://{host}:{port}"),
            RedisPlace::Unix(path) => write!(f, "unix:{}", path.display()),
            RedisPlace::Sentinel(nodes, master) => write!(f, "{scheme}+sentinel://{}/{master}", list(nodes)),
            RedisPlace::Cluster(nodes) => write!(f, "{scheme}+cluster://{}", list(nodes)),
        }
    }
}

/// Parses an address. An error never contains the text, which may hold a password.
pub(super) fn parse(text: &str) -> Result<RedisAddress, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        if !path.starts_with('/') {
            return Err("the path of a socket must begin with /".to_owned());
        }
        let place = RedisPlace::Unix(path.into());
        return Ok(RedisAddress { place, tls: false, database: 0, username: None, password: None });
    }
    let (scheme, rest) = text.split_once("://").ok_or("it has no scheme")?;
    let (tls, kind) = match scheme {
        "redis" | "valkey" => (false, ""),
        "rediss" | "valkeys" => (true, ""),
        "redis+sentinel" => (false, "sentinel"),
        "rediss+sentinel" => (true, "sentinel"),
        "redis+cluster" => (false, "cluster"),
        "rediss+cluster" => (true, "cluster"),
        _ => return Err("its scheme is unknown".to_owned()),
    };
    let (user, rest) = rest.rsplit_once('@').map_or((None, rest), |(user, rest)| (Some(user), rest));
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (username, password) = credentials(user)?;
    let port = if kind == "sentinel" { SENTINEL_PORT } else { REDIS_PORT };
    let mut nodes = hosts.split(',').map(|host| node(host, port)).collect::<Result<Vec<_>, _>>()?;
    let mut database = path;
    let place = match kind {
        "sentinel" => {
            let (master, number) = path.split_once('/').unwrap_or((path, ""));
            database = number;
            if master.is_empty() {
                return Err("the name of the master is missing after the Sentinels".to_owned());
            }
            RedisPlace::Sentinel(nodes, master.to_owned())
        }
        "cluster" if !path.is_empty() => return Err("a cluster has no database numbers".to_owned()),
        "cluster" => RedisPlace::Cluster(nodes),
        _ => match (nodes.pop(), nodes.is_empty()) {
            (Some((host, port)), true) => RedisPlace::Server(host, port),
            _ => return Err("it names several hosts: write a list of addresses".to_owned()),
        },
    };
    let database = match database {
        "" => 0,
        number => {
            number.parse().ok().filter(|number| (0..=65_535).contains(number)).ok_or("its database is not a number")?
        }
    };
    Ok(RedisAddress { place, tls, database, username, password })
}

fn credentials(user: Option<&str>) -> Result<(Option<String>, Option<Secret>), String> {
    let Some(user) = user else { return Ok((None, None)) };
    let decoded = |text: &str| {
        let text = percent_decode_str(text).decode_utf8().map_err(|_| "its user or password is not UTF-8".to_owned());
        text.map(std::borrow::Cow::into_owned)
    };
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let (name, password) = (decoded(name)?, decoded(password)?);
    Ok(((!name.is_empty()).then_some(name), (!password.is_empty()).then(|| Secret(password.into_bytes()))))
}

fn node(text: &str, usual: u16) -> Result<(String, u16), String> {
    let no_port = || "the port of a host is not a number from 1 to 65535".to_owned();
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or("an IPv6 address needs a closing bracket")?;
            (host, port.strip_prefix(':'))
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Ok(usual), |port| port.parse().ok().filter(|port| *port > 0).ok_or_else(no_port))?;
    let is_host = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    if host.is_empty() || !host.chars().all(is_host) {
        return Err("a host is missing or has characters that no host has".to_owned());
    }
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_their_passwords() {
        let all = [
            ("redis://a", "redis://a:6379"),
            ("rediss://me:p%40ss@a:1/2", "rediss://a:1"),
            ("redis+sentinel://a,b:1,[::1]:2/mymaster/3", "redis+sentinel://a:26379,b:1,::1:2/mymaster"),
            ("redis+cluster://:pw@a,b", "redis+cluster://a:6379,b:6379"),
            ("unix:/run/redis.sock", "unix:/run/redis.sock"),
        ];
        for (written, shown) in all {
            assert_eq!(parse(written).unwrap().to_string(), shown);
        }
        let with = parse("rediss://me:p%40ss@a:1/2").unwrap();
        assert_eq!((with.username.as_deref(), with.password), (Some("me"), Some(Secret(b"p@ss".to_vec()))));
        assert_eq!((with.database, with.tls), (2, true));
        assert_eq!(parse("redis+sentinel://a/m/3").unwrap().database, 3);
    }

    #[test]
    fn wrong_addresses_are_explained_without_their_text() {
        let wrong = [
            ("redis.internal", "scheme"),
            ("http://secret@a", "scheme"),
            ("redis://", "host"),
            ("redis://a:0", "port"),
            ("redis://a,b", "several"),
            ("redis://a/x", "database"),
            ("redis+sentinel://a", "master"),
            ("redis+cluster://a/1", "cluster"),
            ("unix:redis.sock", "begin with /"),
        ];
        for (written, why) in wrong {
            let error = parse(written).unwrap_err();
            assert!(error.contains(why) && !error.contains("secret"), "{written}: {error}");
        }
    }
}
