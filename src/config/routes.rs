//! `[[route]]`: the upstream for a host and a path, and whether the routes together reach every upstream.
//!
//! Routes keep the order of the file: the first that matches wins. Left out: matching requests; that is in
//! `proxy::route`.

use super::check::Context;
use super::error::Span;
use super::file::{ConfigItem, ConfigText, Section};
use super::guards::{self, Guards, UserSource};
use super::jwt::TokenPlace;
use super::labels::{LabelRule, LabelSource};
use super::rules::{Affinity, Protocol};
use super::upstream::ReadUpstream;
use super::values::suggest;
use super::workers::is_name;
use crate::readings::Readings;

/// A rule that sends requests for a host and a path to an upstream. A reload applies it to requests that begin later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Exact host (lower case, no port) or `*.example.com`; `None` matches every host.
    pub host: Option<String>,
    /// Path prefix that ends on a segment boundary and begins with `/`; `/` matches every path.
    pub path: String,
    /// Index of the route's upstream in [`Config::upstreams`](super::Config::upstreams).
    pub upstream: usize,
    /// Checks that reject requests before they reach a worker.
    pub guards: Guards,
    /// Whether operators may send texts and events to the sockets of this route; `None`: the setting of its upstream. A
    /// reload applies it at once, also to open sockets.
    pub broadcast: Option<bool>,
    /// Path at which pages learn whether the application can be reached: ok, degraded or down. `None`: nowhere.
    pub status: Option<String>,
}

/// Reads all routes and checks them against the upstreams.
pub(crate) fn read(context: &Context<'_>, root: &mut Section<'_>, upstreams: &[ReadUpstream]) -> Vec<Route> {
    let report = context.report;
    let item = root.take("route");
    if item.is_none() {
        if let Some(second) = upstreams.get(1) {
            let help = format!("write [[route]] with path = \"/\" and upstream = \"{}\"", second.upstream.name);
            report.error_help(&second.name, "there are several upstreams and no route", help);
        }
        return Vec::new();
    }
    let Some(items) = item.and_then(|item| item.list("a list of tables, each headed [[route]]", "a route")) else {
        return Vec::new();
    };
    let written = items.len();
    let read: Vec<_> = items.into_iter().filter_map(|item| route(context, item, upstreams)).collect();
    check_order(context, &read);
    let routes: Vec<_> = read.into_iter().map(|(route, _)| route).collect();
    check_claim_labels(context, &routes, upstreams);
    // A route that could not be read may be the one that leads to the upstream.
    let complete = routes.len() == written;
    for (i, upstream) in upstreams.iter().enumerate().filter(|_| complete) {
        if !routes.is_empty() && !routes.iter().any(|route| route.upstream == i) {
            let message = format!("no route leads to upstream `{}`", upstream.upstream.name);
            report.warn(&upstream.name, message, "its workers are health-checked, but get no requests");
        }
    }
    routes
}

/// Reads a route; returns it with the place of its header.
fn route(context: &Context<'_>, item: ConfigItem<'_>, upstreams: &[ReadUpstream]) -> Option<(Route, Span)> {
    let mut section = item.section("[[route]]", "a table")?;
    let at = section.span.clone();
    let host = section.text("host", "a string such as \"chat.example.com\"");
    let path = section.text("path", "a path such as \"/\"");
    let example = upstreams.first().map_or("app", |read| read.upstream.name.as_str());
    let upstream = section.required("upstream", "the name of an upstream", &format!("\"{example}\""));
    let guards = guards::read(context, &mut section);
    let broadcast = section.take("broadcast").and_then(ConfigItem::boolean);
    let status = section.text("status", "a path such as \"/status.json\"");
    section.finish();
    if let Some(path) = &path {
        check_path(context, path);
    }
    if let Some(status) = &status {
        check_status(context, status, path.as_ref().map_or("/", |path| &path.value));
    }
    let host = host.map(|host| check_host(context, &host));
    let path = path.map_or_else(|| "/".to_owned(), |path| path.value);
    let upstream = find(context, &upstream?, upstreams)?;
    let status = status.map(|status| status.value);
    check_users(context, &at, &guards, upstreams.get(upstream));
    Some((Route { host, path, upstream, guards, broadcast, status }, at))
}

/// Warns of labels that no route can fill, because none asks for tokens.
fn check_claim_labels(context: &Context<'_>, routes: &[Route], upstreams: &[ReadUpstream]) {
    for (i, read) in upstreams.iter().enumerate() {
        let mut sources = read.upstream.labels.iter().map(|label| &label.from);
        let has_tokens = routes.iter().any(|route| route.upstream == i && route.guards.jwt.is_some());
        if sources.any(|from| matches!(from, LabelSource::Claim(_))) && !has_tokens {
            let message = "a label is read from a token, but no route to this upstream has [route.jwt]";
            context.report.warn(&read.name, message, "add [route.jwt] to a route, or the label stays empty");
        }
    }
}

/// Whether this is the rule of a label that is not known yet when a socket opens.
fn is_late(label: &LabelRule, name: &str) -> bool {
    label.name == name && label.from == LabelSource::Backend
}

/// Checks that what names users exists: a claim needs tokens, and a label one of the upstream's.
fn check_users(context: &Context<'_>, at: &Span, guards: &Guards, upstream: Option<&ReadUpstream>) {
    let labels = upstream.map(|read| &read.upstream.labels);
    let limits =
        [guards.users.as_ref().map(|limit| ("users", &limit.by)), guards.rate_by.as_ref().map(|by| ("rate", by))];
    for (key, by) in limits.into_iter().flatten() {
        match by {
            UserSource::Claim(_) if guards.jwt.is_none() => {
                let message = format!("`{key}` is by a claim, but the route has no [route.jwt]");
                context.report.error_help(at, message, "add [route.jwt], or use a label");
            }
            UserSource::Label(name) if labels.is_some_and(|all| all.iter().any(|label| is_late(label, name))) => {
                let message = format!("`{key}` is by the label `{name}`, which the application sets only later");
                context.report.error_help(at, message, "use a label of the request, or jwt:CLAIM");
            }
            UserSource::Label(name) if !labels.is_some_and(|all| all.iter().any(|label| label.name == *name)) => {
                let known: Vec<_> = labels.iter().flat_map(|all| all.iter()).map(|label| label.name.as_str()).collect();
                let message = format!("`{key}` is by the unknown label `{name}`");
                context.report.error_help(at, message, suggest(name, &known));
            }
            UserSource::Claim(_) | UserSource::Label(_) => {}
        }
    }
    let by_packets =
        guards.jwt.as_ref().is_some_and(|jwt| jwt.from.iter().all(|place| matches!(place, TokenPlace::Auth(_))));
    if by_packets && matches!(guards.rate_by, Some(UserSource::Claim(_))) {
        let help =
            "the claim is known only after the handshake: add \"header:authorization\" to `from`, or use `users`";
        context.report.error_help(at, "`rate` by a claim has no effect with nothing but `auth:` in `from`", help);
    }
    let is_socket_io = |one: &Affinity| matches!(one, Affinity::Rule(rule) if rule.protocol == Protocol::SocketIo);
    let pins_sids = upstream.is_some_and(|read| read.upstream.affinity.iter().any(is_socket_io));
    if guards.jwt.as_ref().is_some_and(|jwt| jwt.reads_packets()) && !pins_sids {
        let help = "add \"socket.io\" to `affinity` of the upstream, or take `auth:` out of `from`";
        context.report.error_help(
            at,
            "`auth:` needs sessions of Socket.IO, which the upstream does not recognise",
            help,
        );
    }
    let reads_field = guards.jwt.as_ref().is_some_and(|jwt| {
        jwt.from.iter().any(|place| matches!(place, TokenPlace::Header(name) if *name == hyper::header::AUTHORIZATION))
    });
    if guards.basic.is_some() && reads_field {
        let message = "`basic` and [route.jwt] both read the Authorization field";
        let help = "take the token from elsewhere, such as from = [\"auth:token\"], or remove one of the two";
        context.report.error_help(at, message, help);
    }
    let claims_unused = guards.jwt.as_ref().is_some_and(|jwt| !jwt.is_for_all);
    if claims_unused && guards.rate.requests.is_some() && matches!(guards.rate_by, Some(UserSource::Claim(_))) {
        let help = "write on = \"all\" in [route.jwt], or limit `handshakes` only";
        context.report.error_help(at, "`requests` by a claim needs the token of every request", help);
    }
}

fn find(context: &Context<'_>, name: &ConfigText, upstreams: &[ReadUpstream]) -> Option<usize> {
    let found = upstreams.iter().position(|read| read.upstream.name == name.value);
    if found.is_none() {
        let known: Vec<_> = upstreams.iter().map(|read| read.upstream.name.as_str()).collect();
        context.report.error_help(
            &name.span,
            format!("unknown upstream `{}`", name.value),
            suggest(&name.value, &known),
        );
    }
    found
}

/// Checks a host (without a port), or `*.` and a host; returns it in lower case.
pub(crate) fn check_host(context: &Context<'_>, host: &ConfigText) -> String {
    let lower = host.value.to_ascii_lowercase();
    let name = lower.strip_prefix("*.").unwrap_or(&lower);
    let help = if !lower.is_ascii() {
        "write an international name in its ASCII form (xn--…)"
    } else if name.contains(':') && !name.starts_with('[') {
        "write the host without a port or scheme"
    } else if name.contains('*') {
        "a `*` stands for the first label only: \"*.example.com\""
    } else {
        "write \"chat.example.com\" or \"*.example.com\""
    };
    let ip = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let fits = ip.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_ipv4() || name.starts_with('['));
    if !fits && (!is_name(name) || name.ends_with('.')) {
        context.report.error_help(&host.span, format!("`{}` is not a valid host", host.value), help);
    }
    lower
}

/// Reports a path that no request can have.
pub(crate) fn check_path(context: &Context<'_>, path: &ConfigText) {
    let visible = path.value.bytes().all(|b| b.is_ascii_graphic() && !b"?#*".contains(&b));
    let help = if !path.value.starts_with('/') || !visible {
        "write \"/\" or \"/socket.io\": a path begins with / and matches everything below it"
    } else if !Readings::of(path.value.as_bytes()).is_ok_and(|readings| readings.all.len() == 1) {
        "write the path that workers see in the end: without //, dot segments, `;`, `\\`, and encodings of these"
    } else {
        return;
    };
    context.report.error_help(&path.span, format!("`{}` is not a valid path", path.value), help);
}

/// Reports a path of a status that its route does not match.
fn check_status(context: &Context<'_>, status: &ConfigText, path: &str) {
    check_path(context, status);
    let prefix = path.strip_suffix('/').unwrap_or(path);
    let is_below = status.value.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
    if !is_below && status.value.starts_with('/') {
        let message = format!("the route does not match `{}`, so its status could not be asked for", status.value);
        context.report.error_help(&status.span, message, format!("write \"{prefix}/status.json\""));
    }
}

/// Warns of routes that are never reached, because an earlier route matches everything they match.
fn check_order(context: &Context<'_>, routes: &[(Route, Span)]) {
    for (i, (route, at)) in routes.iter().enumerate() {
        let covering = routes.iter().take(i).find(|(earlier, _)| covers(earlier, route));
        if let Some((_, first)) = covering {
            let line = context.report.line_of(first);
            let message = format!("this route is never reached: the one on line {line} matches all its requests");
            context.report.warn(at, message, "the first route that matches wins: put the narrower one first");
        }
    }
}

fn covers(earlier: &Route, later: &Route) -> bool {
    let host = match (&earlier.host, &later.host) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(earlier), Some(later)) => {
            let below = earlier.strip_prefix('*').is_some_and(|tail| later.ends_with(tail) && !later.starts_with('*'));
            earlier == later || below
        }
    };
    let normal = |route: &Route| Readings::of(route.path.as_bytes()).map_or_else(|_| Vec::new(), |read| read.normal);
    let earlier = normal(earlier);
    let rest = normal(later).strip_prefix(&*earlier).map(<[u8]>::to_vec);
    let path = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/") || earlier.ends_with(b"/"));
    host && path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_covers_narrower_hosts_and_paths() {
        let route = |host: &str, path: &str| Route {
            host: (!host.is_empty()).then(|| host.to_owned()),
            path: path.to_owned(),
            upstream: 0,
            guards: Guards::default(),
            broadcast: None,
            status: None,
        };
        for (earlier, later, expected) in [
            (("", "/"), ("a.b.com", "/x"), true),
            (("", "/api"), ("", "/api"), true),
            (("", "/api"), ("", "/api/v2"), true),
            (("", "/api/"), ("", "/api/v2"), true),
            (("", "/api"), ("", "/apis"), false),
            (("", "/api/v2"), ("", "/api"), false),
            (("a.b.com", "/"), ("", "/"), false),
            (("a.b.com", "/"), ("a.b.com", "/"), true),
            (("*.b.com", "/"), ("a.b.com", "/"), true),
            (("*.b.com", "/"), ("b.com", "/"), false),
            (("*.b.com", "/"), ("ab.com", "/"), false),
            (("a.b.com", "/"), ("*.b.com", "/"), false),
            (("*.b.com", "/"), ("*.b.com", "/x"), true),
        ] {
            let covered = covers(&route(earlier.0, earlier.1), &route(later.0, later.1));
            assert_eq!(covered, expected, "{earlier:?} {later:?}");
        }
    }
}
