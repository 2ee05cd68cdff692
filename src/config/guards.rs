//! Guards, which reject requests before they reach a worker: `origins`, `allow`, `deny`, `rate` and `users` of a
//! `[[route]]`, and `rate` of an `[upstream.NAME]`; tokens are read in `jwt`, passwords, other services and files of
//! networks in `access`.
//!
//! They are read here and brought into a form that can be compared; how requests are judged by them is in
//! `proxy::guard`.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::access::{self, BasicAuth, ForwardAuth};
use super::check::Context;
use super::file::{ConfigItem, ConfigText, Section};
use super::jwt::Jwt;
use super::listener;
use super::routes::check_host;
use super::values::word;
use crate::networks::NetworkSet;

/// The guards of a route. By default, all requests pass. A reload applies them, and keeps the counts if the rates are
/// unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Guards {
    /// Origins whose pages may open WebSockets and Engine.IO sessions. `None`: all.
    pub origins: Option<Vec<Origin>>,
    /// Networks from which clients may connect. Empty: all.
    pub allow: Vec<IpNet>,
    /// Networks from which clients are rejected, even if `allow` contains them.
    pub deny: Vec<IpNet>,
    /// Further networks from which clients may connect, of `allow_file`. `None`: there is no such file.
    pub allow_list: Option<Arc<NetworkSet>>,
    /// Further networks from which clients are rejected, of `deny_file`.
    pub deny_list: Option<Arc<NetworkSet>>,
    /// How requests of other origins are refused; default: by HTTP.
    pub refuse_origins: Refuse,
    /// Rate limits for each client address (IPv6 by /64), or for each user.
    pub rate: Rates,
    /// By what `rate` counts; `None`: by the client's address.
    pub rate_by: Option<UserSource>,
    /// Tokens that the route asks for; `None`: none.
    pub jwt: Option<Arc<Jwt>>,
    /// Limit of the sockets of one user; `None`: no limit.
    pub users: Option<UserLimit>,
    /// Passwords that the route asks for; `None`: none.
    pub basic: Option<Arc<BasicAuth>>,
    /// Another service that decides about handshakes and upgrades.
    pub forward: Option<Arc<ForwardAuth>>,
}

/// How a guard refuses a client for which trying again cannot help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Refuse {
    /// By a status of HTTP: Engine.IO clients see a connection error, and try again.
    #[default]
    Http,
    /// In the client's protocol: Socket.IO clients get `connect_error` with a code, and do not try again.
    Told,
}

pub(crate) const REFUSE: [(&str, Refuse); 2] = [("told", Refuse::Told), ("http", Refuse::Http)];

/// What names the user of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserSource {
    /// A claim of the token.
    Claim(String),
    /// A label of the upstream's sockets.
    Label(String),
}

impl UserSource {
    /// The name of the claim; `None` for a label.
    pub(crate) fn claim(&self) -> Option<&str> {
        match self {
            Self::Claim(name) => Some(name),
            Self::Label(_) => None,
        }
    }
}

/// Limit of the sockets of one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserLimit {
    /// What names the user. Sockets without a user are not limited.
    pub by: UserSource,
    /// Number of sockets that a user may have, 1..=10,000.
    pub sockets: u32,
    /// What happens to a socket beyond the limit.
    pub over: OverLimit,
    /// How a socket beyond the limit is refused; default: told.
    pub refuse: Refuse,
}

/// What happens when a user opens one socket too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverLimit {
    /// The user's oldest socket is closed, with code 4409.
    ClosesOldest,
    /// The new socket is refused.
    Refuses,
}

/// An entry of `origins`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `same`: the host that the request itself is for.
    Same,
    /// `null`: the origin of sandboxed frames and files.
    Null,
    /// A site, such as `https://example.com`, `https://*.example.com:8443`, `file://` or `capacitor://localhost`.
    Site {
        /// Scheme in lower case, such as `https`.
        scheme: String,
        /// Host in lower case; for `*.example.com` it is `.example.com`, and empty for `file://`.
        host: String,
        /// Whether every name below `host` matches, but not `host` itself.
        below: bool,
        /// The port in the entry, else the scheme's default port; `None`: the scheme has no default port.
        port: Option<u16>,
    },
}

/// The default port of a scheme.
pub fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "https" | "wss" => Some(443),
        "http" | "ws" => Some(80),
        _ => None,
    }
}

/// Rate limits; `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// Limit for requests of every kind, including handshakes.
    pub requests: Option<ConfiguredRate>,
    /// Limit for new Engine.IO sessions and WebSockets.
    pub handshakes: Option<ConfiguredRate>,
}

/// A rate: a number of requests per unit of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfiguredRate {
    /// Number of requests per `per`, 1..=1,000,000.
    pub count: u32,
    /// Unit of time: a second, a minute or an hour.
    pub per: Duration,
    /// Number of requests allowed at once after a pause, 1..=1,000,000; by default `count`.
    pub burst: u32,
}

const COUNTS: RangeInclusive<u64> = 1..=1_000_000;

/// Reads the guards of a route.
pub(crate) fn read(context: &Context<'_>, section: &mut Section<'_>) -> Guards {
    let (origins, refuse_origins) = match section.take("origins") {
        Some(item) if item.is_table() => refusing_origins(context, item),
        Some(item) => (origins(context, item), Refuse::Http),
        None => (None, Refuse::Http),
    };
    let (rate, rate_by) = rates_by(section, true);
    Guards {
        origins,
        refuse_origins,
        allow: networks(section, "allow"),
        deny: networks(section, "deny"),
        allow_list: access::networks(context, section, "allow_file"),
        deny_list: access::networks(context, section, "deny_file"),
        rate,
        rate_by,
        jwt: super::jwt::read(context, section),
        users: users(context, section),
        basic: access::basic(context, section),
        forward: access::forward(context, section),
    }
}

/// Reads `origins = { allow = ["same"], refuse = "told" }`.
fn refusing_origins(context: &Context<'_>, item: ConfigItem<'_>) -> (Option<Vec<Origin>>, Refuse) {
    let Some(mut table) = item.section("`origins`", "a list or a table") else { return (None, Refuse::Http) };
    let (at, has_list) = (table.span.clone(), table.key("allow").is_some());
    if !has_list {
        context.report.error_help(&at, "`origins` needs `allow`", "write origins = { allow = [\"same\"] }");
    }
    let allow = table.take("allow").and_then(|item| origins(context, item));
    let refuse =
        table.text("refuse", "a string").and_then(|text| word(context.report, "way to refuse", &text, &REFUSE));
    table.finish();
    (allow, refuse.unwrap_or_default())
}

/// Reads `users = { by = "jwt:sub", sockets = 3, over = "oldest" }`.
fn users(context: &Context<'_>, section: &mut Section<'_>) -> Option<UserLimit> {
    const OVER: [(&str, OverLimit); 2] = [("oldest", OverLimit::ClosesOldest), ("refuse", OverLimit::Refuses)];
    let mut table = section.section("users", "a table such as { by = \"jwt:sub\", sockets = 3 }")?;
    let by = table.required("by", "\"jwt:CLAIM\" or the name of a label", "\"jwt:sub\"");
    let (at, has_limit) = (table.span.clone(), table.key("sockets").is_some());
    let sockets = table.integer("sockets", 1..=10_000);
    if !has_limit {
        context.report.error_help(&at, "`users` needs `sockets`", "write sockets = 3");
    }
    let over = table.text("over", "a string").and_then(|text| word(context.report, "value of `over`", &text, &OVER));
    let refuse =
        table.text("refuse", "a string").and_then(|text| word(context.report, "way to refuse", &text, &REFUSE));
    table.finish();
    let over = over.unwrap_or(OverLimit::ClosesOldest);
    Some(UserLimit { by: user_source(&by?)?, sockets: sockets?, over, refuse: refuse.unwrap_or(Refuse::Told) })
}

/// Reads what names a user; that it exists is checked with the route (`routes`).
fn user_source(text: &ConfigText) -> Option<UserSource> {
    match text.value.strip_prefix("jwt:") {
        Some(claim) => Some(UserSource::Claim(claim.to_owned())),
        None => Some(UserSource::Label(text.value.clone())),
    }
}

fn networks(section: &mut Section<'_>, key: &'static str) -> Vec<IpNet> {
    let list = section.take(key).and_then(|item| item.list("a list such as [\"10.0.0.0/8\"]", "a network"));
    list.unwrap_or_default().into_iter().filter_map(listener::network).collect()
}

/// Reads `rate = { requests = "100/s", handshakes = "10/s" }`.
pub(crate) fn rates(section: &mut Section<'_>) -> Rates {
    rates_by(section, false).0
}

/// Reads `rate`, with `by` if it can count by user.
fn rates_by(section: &mut Section<'_>, by_user: bool) -> (Rates, Option<UserSource>) {
    let mut rates = Rates::default();
    let Some(mut table) = section.section("rate", "a table such as { handshakes = \"10/s\" }") else {
        return (rates, None);
    };
    let by = if by_user { table.text("by", "\"jwt:CLAIM\" or the name of a label") } else { None };
    let mut one = |key, burst_key| {
        let rate = table.take(key).and_then(rate);
        let at = table.key(burst_key);
        let burst = table.integer(burst_key, COUNTS);
        if let (None, Some(at)) = (rate, at) {
            let help = format!("write {key} = \"100/s\" next to it");
            table.report.error_help(&at, format!("`{burst_key}` has no effect without `{key}`"), help);
        }
        rate.map(|rate| ConfiguredRate { burst: burst.unwrap_or(rate.burst), ..rate })
    };
    rates.requests = one("requests", "requests_burst");
    rates.handshakes = one("handshakes", "handshakes_burst");
    table.finish();
    (rates, by.as_ref().and_then(user_source))
}

/// Reads a rate such as `"100/s"`.
fn rate(item: ConfigItem<'_>) -> Option<ConfiguredRate> {
    const HELP: &str = "write \"100/s\", \"30/m\" or \"500/h\": from 1 to 1_000_000 per second, minute or hour";
    let (report, label) = (item.report, item.label.clone());
    let text = item.text("a rate such as \"100/s\"")?;
    let read = parse_rate(&text.value);
    if read.is_none() {
        report.error_help(&text.span, format!("{label} is not a valid rate: `{}`", text.value), HELP);
    }
    read
}

fn parse_rate(text: &str) -> Option<ConfiguredRate> {
    let (count, unit) = text.split_once('/')?;
    let seconds = match unit.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return None,
    };
    let count = count.trim().parse::<u32>().ok().filter(|count| COUNTS.contains(&u64::from(*count)))?;
    Some(ConfiguredRate { count, per: Duration::from_secs(seconds), burst: count })
}

fn origins(context: &Context<'_>, item: ConfigItem<'_>) -> Option<Vec<Origin>> {
    let items = item.list("a list such as [\"same\", \"https://example.com\"]", "an origin")?;
    Some(items.into_iter().filter_map(|item| origin(context, &item.text("a string")?)).collect())
}

fn origin(context: &Context<'_>, text: &ConfigText) -> Option<Origin> {
    const HELP: &str = "write \"https://example.com\", \"https://*.example.com\", \"file://\", \"same\" or \"null\"";
    match text.value.as_str() {
        "same" => return Some(Origin::Same),
        "null" => return Some(Origin::Null),
        _ => {}
    }
    let wrong = |help: &str| {
        context.report.error_help(&text.span, format!("`{}` is not a valid origin", text.value), help);
        None
    };
    if text.value == "*" {
        return wrong("to let every page connect, leave `origins` out");
    }
    let Some((scheme, rest)) = text.value.split_once("://") else { return wrong(HELP) };
    let is_scheme = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
    if scheme.is_empty() || !scheme.bytes().all(is_scheme) {
        return wrong(HELP);
    }
    if rest.contains(['/', '?', '#', '@']) {
        return wrong("an origin ends with its host and port: no path, not even a /");
    }
    let scheme = scheme.to_ascii_lowercase();
    let (host, port) = split_port(rest);
    let port = match port.map(str::parse) {
        None => default_port(&scheme),
        Some(Ok(port)) => Some(port),
        Some(Err(_)) => return wrong(HELP),
    };
    // Pages of programs have origins of other schemes, whose hosts need not be names: `file://`, `app://.`.
    let is_local = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    if default_port(&scheme).is_none() && port.is_none() && host.bytes().all(is_local) {
        return Some(Origin::Site { scheme, host: host.to_ascii_lowercase(), below: false, port });
    }
    let start = text.value.len() - rest.len();
    let host = ConfigText { value: host.to_owned(), span: text.inside(context.report, start..start + host.len()) };
    let host = check_host(context, &host);
    let below = host.starts_with("*.");
    Some(Origin::Site { scheme, host: host.trim_start_matches('*').to_owned(), below, port })
}

/// Splits an authority into its host and its port; an IPv6 address keeps its brackets.
pub fn split_port(authority: &str) -> (&str, Option<&str>) {
    let end = authority.rfind(']').map_or(0, |end| end + 1);
    match authority.get(end..).and_then(|rest| rest.find(':')) {
        Some(colon) => (authority.get(..end + colon).unwrap_or_default(), authority.get(end + colon + 1..)),
        None => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_parsed() {
        let read = |text: &str| parse_rate(text).map(|rate| (rate.count, rate.per.as_secs(), rate.burst));
        assert_eq!(read("100/s"), Some((100, 1, 100)));
        assert_eq!(read(" 30 / m "), Some((30, 60, 30)));
        assert_eq!(read("1000000/h"), Some((1_000_000, 3_600, 1_000_000)));
        for wrong in ["", "100", "/s", "0/s", "-1/s", "1.5/s", "1000001/s", "100/d", "100/s/s", "100/2s"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn authorities_are_split_at_their_port() {
        assert_eq!(split_port("a.example"), ("a.example", None));
        assert_eq!(split_port("a.example:1"), ("a.example", Some("1")));
        assert_eq!(split_port("[::1]"), ("[::1]", None));
        assert_eq!(split_port("[::1]:80"), ("[::1]", Some("80")));
        assert_eq!(split_port("a:"), ("a", Some("")));
    }
}
