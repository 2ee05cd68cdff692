//! The paths at which sessions are looked for with requests that no client sent.
//!
//! An Engine.IO request is recognised by its query, on any path. A probe for it is a `PUT`, which means something else
//! to an application that does not speak Engine.IO at this path. So probes go only to paths at which the upstream's
//! workers have shown that they know sessions (`upstream::session_paths`), and to those that Engine.IO has by default,
//! where a `HEAD` with a random sid precedes the first `PUT`. The paths of the other protocols' probes end in a word of
//! the protocol, or the probe is a `HEAD`.

use hyper::Uri;

use crate::config::rules::{Protocol, Spot};
use crate::keys::Key;
use crate::proxy::Job;

/// Paths at which Engine.IO listens unless an application sets another one (docs/reference/protocols.md §1.8).
const DEFAULT: [&str; 4] = ["/socket.io/", "/engine.io/", "/socket.io", "/engine.io"];

/// Sets paths apart from ids; no rule can have a name that contains this.
const PATH: &str = "/path";

/// Key of the place of a session's request among the paths at which sessions live. For ids that are in the path, the
/// place is what precedes them: the first segment.
pub(crate) fn session_path(job: &Job, uri: &Uri) -> Key {
    let live = job.ask.rule(&job.upstream).or_else(|| job.upstream.socket_io());
    let (name, has_path) = live.map_or(("socket.io", false), |live| {
        (live.rule.name.as_str(), live.rule.lookup.iter().any(|lookup| matches!(lookup.at, Spot::Path(_))))
    });
    let path = uri.path();
    let place = if has_path { path.split('/').nth(1).unwrap_or_default() } else { path };
    job.conn.thread.shared.sessions.keys.of_rule(&job.upstream.config.name, &format!("{name}{PATH}"), place.as_bytes())
}

/// Whether sessions of this request's protocol are known to live at its path, or do so by default.
pub(crate) fn is_session_path(job: &Job, uri: &Uri) -> bool {
    is_default(job, uri) || job.upstream.carried.paths.is_known(session_path(job, uri))
}

fn is_default(job: &Job, uri: &Uri) -> bool {
    let protocol = job.ask.rule(&job.upstream).map_or(Protocol::SocketIo, |live| live.rule.protocol);
    protocol == Protocol::SocketIo && DEFAULT.contains(&uri.path())
}
