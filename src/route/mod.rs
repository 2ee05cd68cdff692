//! Routing: maps a host and a path to an upstream. The first matching route wins (docs/reference/routing.md §10).
//!
//! Hosts are compared without port, case and final dot. A path is compared as workers read it, not as it is spelled
//! (`readings`): its normal form chooses the route, and where a worker may read another path, the guards of that
//! path's route apply as well. Paths are case-sensitive.

pub(crate) mod access;
pub(crate) mod basic;
pub(crate) mod forward_auth;
pub(crate) mod guard;
mod host;
pub(crate) mod jwt;
pub(crate) mod live_keys;
pub(crate) mod person;
pub(crate) mod spent;
pub(crate) mod users;

use std::borrow::Cow;
use std::sync::Arc;

use crate::config::Route;
use crate::readings::{self, Readings, Unreadable};
use crate::upstream::Upstream;
use guard::RouteGuard;
use host::HostRule;

pub(crate) use host::{bare, without_port};

/// A route and its live guard.
pub struct Guarded {
    /// The route as configured.
    pub route: Route,
    /// The route's host and path, as shown to operators.
    pub name: Arc<str>,
    /// The guard that may reject requests on this route; `None` if it has none.
    pub watch: Option<Arc<RouteGuard>>,
    host: HostRule,
    /// The normal form of the route's path, without a final slash.
    prefix: Vec<u8>,
}

/// Where a request goes: the result of [`find`].
pub struct RouteMatch<'a> {
    /// The upstream that serves it.
    pub upstream: &'a Arc<Upstream>,
    /// The guard of its route; `None` where the route has none.
    pub watch: Option<&'a Arc<RouteGuard>>,
    /// Guards of other routes that the worker may take the path for; empty for nearly every request.
    pub others: Vec<&'a RouteGuard>,
    /// The place of its route among the configured ones; `None` where no route is configured.
    pub place: Option<usize>,
    /// The route itself; `None` where no route is configured.
    pub route: Option<&'a Route>,
}

impl RouteMatch<'_> {
    /// Whether any guard or limit applies to the request.
    pub(crate) fn is_guarded(&self) -> bool {
        self.watch.is_some() || !self.others.is_empty() || self.upstream.limits.is_some()
    }

    /// Every guard that the request must pass.
    pub(crate) fn guards(&self) -> impl Iterator<Item = &RouteGuard> {
        self.watch.map(|watch| &**watch).into_iter().chain(self.others.iter().copied())
    }
}

impl Guarded {
    /// Prepares a route for matching.
    pub(crate) fn new(route: Route, watch: Option<Arc<RouteGuard>>) -> Self {
        let name = format!("{}{}", route.host.as_deref().unwrap_or_default(), route.path).into();
        let host = HostRule::of(route.host.as_deref());
        let prefix = prefix(&route.path).into_owned();
        Self { route, name, watch, host, prefix }
    }

    fn fits(&self, host: &str, path: &[u8]) -> bool {
        self.host.fits(host) && fits_path(&self.prefix, path)
    }
}

/// Finds the upstream for a request, the route's guard and the route's index. `host` is the value of the Host header.
///
/// # Errors
/// The path could mean anything, and there are routes that depend on it.
pub fn find<'a>(
    routes: &'a [Guarded],
    upstreams: &'a [Arc<Upstream>],
    host: &str,
    path: &str,
) -> Result<Option<RouteMatch<'a>>, Unreadable> {
    if routes.is_empty() {
        let first = upstreams.first();
        return Ok(first.map(|upstream| RouteMatch {
            upstream,
            watch: None,
            others: Vec::new(),
            place: None,
            route: None,
        }));
    }
    let host = bare(host);
    // Where all routes have the same path, it does not matter how it is read.
    if readings::is_plain(path.as_bytes()) || routes.iter().all(|one| one.prefix.is_empty()) {
        return Ok(matched(routes, upstreams, first(routes, host, path.as_bytes()), Vec::new()));
    }
    let readings = Readings::of(path.as_bytes())?;
    let place = first(routes, host, &readings.normal);
    let others = readings.all.iter().filter_map(|path| first(routes, host, path));
    Ok(matched(routes, upstreams, place, others.collect()))
}

/// The place of the first route that matches.
fn first(routes: &[Guarded], host: &str, path: &[u8]) -> Option<usize> {
    routes.iter().position(|one| one.fits(host, path))
}

fn matched<'a>(
    routes: &'a [Guarded],
    upstreams: &'a [Arc<Upstream>],
    place: Option<usize>,
    mut others: Vec<usize>,
) -> Option<RouteMatch<'a>> {
    let found = routes.get(place?)?;
    let upstream = upstreams.get(found.route.upstream)?;
    others.sort_unstable();
    others.dedup();
    let guard = |other: &usize| routes.get(*other)?.watch.as_deref();
    let others = others.iter().filter(|other| Some(**other) != place).filter_map(guard).collect();
    Some(RouteMatch { upstream, watch: found.watch.as_ref(), others, place, route: Some(&found.route) })
}

/// The path of a route as it is compared: its normal form, which `config` has checked, without a final slash.
fn prefix(path: &str) -> Cow<'_, [u8]> {
    let normal = match readings::is_plain(path.as_bytes()) {
        true => Cow::Borrowed(path.as_bytes()),
        false => Readings::of(path.as_bytes()).map_or(Cow::Borrowed(path.as_bytes()), |read| read.normal.into()),
    };
    match normal {
        Cow::Borrowed(path) => path.strip_suffix(b"/").unwrap_or(path).into(),
        Cow::Owned(mut path) => {
            path.pop_if(|last| *last == b'/');
            path.into()
        }
    }
}

/// Matches a path prefix on a segment boundary: `/chat` matches `/chat` and `/chat/x`, but not `/chatter`.
fn fits_path(prefix: &[u8], path: &[u8]) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_match_on_segment_boundaries() {
        for (rule, path, fit) in [
            ("/", "/", true),
            ("/", "/x", true),
            ("/chat", "/chat", true),
            ("/chat", "/chat/x", true),
            ("/chat/", "/chat", true),
            ("/chat", "/chatter", false),
            ("/chat", "/Chat", false),
            ("/caf%c3%a9", "/caf\u{e9}/x", true),
            ("/%7euser", "/~user", true),
            ("/", "*", false),
        ] {
            assert_eq!(fits_path(&prefix(rule), path.as_bytes()), fit, "{rule} {path}");
        }
    }
}
