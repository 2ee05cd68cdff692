//! Routing: maps a host and a path to an upstream. The first matching route wins. Hosts are compared without port and
//! case.

pub(crate) mod guard;

use std::sync::Arc;

use crate::config::Route;
use crate::upstream::Upstream;
use guard::RouteGuard;

/// A route and its live guard.
pub struct Guarded {
    /// The route as configured.
    pub route: Route,
    /// The route's host and path, as shown to operators.
    pub name: Arc<str>,
    /// The guard that may reject requests on this route; `None` if it has none.
    pub watch: Option<Arc<RouteGuard>>,
}

/// Where a request goes: the result of [`find`].
pub(crate) struct RouteMatch<'a> {
    /// The upstream that serves it.
    pub(crate) upstream: &'a Arc<Upstream>,
    /// The guard of its route; `None` where the route has none.
    pub(crate) watch: Option<&'a RouteGuard>,
    /// The place of its route among the configured ones; `None` where no route is configured.
    pub(crate) place: Option<usize>,
}

/// Finds the upstream for a request, the route's guard and the route's index. `host` is the value of the Host header.
pub(crate) fn find<'a>(
    routes: &'a [Guarded],
    upstreams: &'a [Arc<Upstream>],
    host: &str,
    path: &str,
) -> Option<RouteMatch<'a>> {
    if routes.is_empty() {
        return upstreams.first().map(|upstream| RouteMatch { upstream, watch: None, place: None });
    }
    let host = without_port(host);
    let mut numbered = routes.iter().enumerate();
    let (place, found) = numbered.find(|(_, guarded)| fits(&guarded.route, host, path))?;
    upstreams.get(found.route.upstream).map(|upstream| RouteMatch {
        upstream,
        watch: found.watch.as_deref(),
        place: Some(place),
    })
}

fn fits(route: &Route, host: &str, path: &str) -> bool {
    route.host.as_deref().is_none_or(|rule| fits_host(rule, host)) && fits_path(&route.path, path)
}

fn fits_host(rule: &str, host: &str) -> bool {
    match rule.strip_prefix('*') {
        Some(suffix) => {
            host.len() > suffix.len()
                && host.get(host.len() - suffix.len()..).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
        }
        None => host.eq_ignore_ascii_case(rule),
    }
}

/// Matches a path prefix on a segment boundary: `/chat` matches `/chat` and `/chat/x`, but not `/chatter`.
fn fits_path(rule: &str, path: &str) -> bool {
    let rule = rule.strip_suffix('/').unwrap_or(rule);
    path.strip_prefix(rule).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Cuts the port off a host; an IPv6 address keeps its brackets.
pub(crate) fn without_port(host: &str) -> &str {
    if host.starts_with('[') {
        return host.find(']').and_then(|end| host.get(..=end)).unwrap_or(host);
    }
    host.split(':').next().unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn route_rules_match_hosts_and_paths() {
        for (rule, host, fit) in [
            ("a.example", "A.example", true),
            ("a.example", "b.example", false),
            ("*.example", "a.example", true),
            ("*.example", "example", false),
            ("*.example", ".example", false),
            ("*.example", "xexample", false),
        ] {
            assert_eq!(fits_host(rule, host), fit, "{rule} {host}");
        }
        for (rule, path, fit) in [
            ("/", "/", true),
            ("/", "/x", true),
            ("/chat", "/chat", true),
            ("/chat", "/chat/x", true),
            ("/chat/", "/chat", true),
            ("/chat", "/chatter", false),
            ("/", "*", false),
        ] {
            assert_eq!(fits_path(rule, path), fit, "{rule} {path}");
        }
        assert_eq!(without_port("[::1]:80"), "[::1]");
        assert_eq!(without_port("a:80"), "a");
    }
}
