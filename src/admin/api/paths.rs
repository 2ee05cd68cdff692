//! Paths of the admin API: each is written here once, for the router and for the command line.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

pub const BROADCAST: &str = "/api/v1/broadcast";
pub const EMIT: &str = "/api/v1/emit";
pub const EVENTS: &str = "/api/v1/events";
pub const EXPLAIN: &str = "/api/v1/explain";
pub const FLEET: &str = "/api/v1/fleet";
pub const FLEET_ORDERS: &str = "/api/v1/fleet/orders";
pub const HEALTH: &str = "/api/v1/health";
pub const HISTORY: &str = "/api/v1/history";
pub const LIVE: &str = "/api/v1/live";
pub const LOG: &str = "/api/v1/log";
pub const LOGS: &str = "/api/v1/logs";
pub const NOTIFY: &str = "/api/v1/notify";
pub const NOTIFY_TEST: &str = "/api/v1/notify/test";
pub const OPENAPI: &str = "/api/v1/openapi.json";
pub const PINS: &str = "/api/v1/pins";
pub const QUEUE: &str = "/api/v1/queue";
pub const QUEUE_DELETE: &str = "/api/v1/queue/delete";
pub const QUEUE_SHOW: &str = "/api/v1/queue/show";
pub const RELOAD: &str = "/api/v1/reload";
pub const SOCKETS: &str = "/api/v1/sockets";
pub const SOCKETS_CLOSE: &str = "/api/v1/sockets/close";
pub const SOCKET: &str = "/api/v1/sockets/{id}";
pub const SOCKET_CLOSE: &str = "/api/v1/sockets/{id}/close";
pub const SOCKET_LABELS: &str = "/api/v1/sockets/by-sid/{sid}";
pub const SPAWN: &str = "/api/v1/spawn";
pub const SPAWN_WISH: &str = "/api/v1/spawn/{upstream}/{word}";
pub const STATS: &str = "/api/v1/stats";
pub const STATUS: &str = "/api/v1/status";
pub const WORKERS: &str = "/api/v1/workers";
pub const WORKER_STATE: &str = "/api/v1/workers/{upstream}/{worker}/{word}";
pub const METRICS: &str = "/metrics";

/// Every path with its methods, as listed in `conf/openapi.json`.
pub const PATHS: [(&str, &[&str]); 31] = [
    (BROADCAST, &["post"]),
    (EMIT, &["post"]),
    (EVENTS, &["get"]),
    (EXPLAIN, &["get"]),
    (FLEET, &["get"]),
    (FLEET_ORDERS, &["get", "post"]),
    (HEALTH, &["get"]),
    (HISTORY, &["get"]),
    (LIVE, &["get"]),
    (LOG, &["get", "put"]),
    (LOGS, &["get"]),
    (NOTIFY, &["get"]),
    (NOTIFY_TEST, &["post"]),
    (OPENAPI, &["get"]),
    (PINS, &["get"]),
    (QUEUE, &["get", "post"]),
    (QUEUE_DELETE, &["post"]),
    (QUEUE_SHOW, &["post"]),
    (RELOAD, &["post"]),
    (SOCKETS, &["get"]),
    (SOCKETS_CLOSE, &["get", "post"]),
    (SOCKET, &["get"]),
    (SOCKET_CLOSE, &["post"]),
    (SOCKET_LABELS, &["put"]),
    (SPAWN, &["get"]),
    (SPAWN_WISH, &["post"]),
    (STATS, &["get"]),
    (STATUS, &["get"]),
    (WORKERS, &["get"]),
    (WORKER_STATE, &["post"]),
    (METRICS, &["get"]),
];

/// Returns a path as logs and events may show it: without the session that it names, which lets its holder take over
/// the session.
pub(crate) fn without_session(path: &str) -> &str {
    let beginning = SOCKET_LABELS.trim_end_matches("{sid}");
    if path.starts_with(beginning) { SOCKET_LABELS } else { path }
}

/// Whether a path is for the application, which asks for it as often as clients come or messages are sent.
pub(crate) fn is_of_backend(path: &str) -> bool {
    path == EMIT || without_session(path) == SOCKET_LABELS
}

/// Bytes that are percent-encoded in a part of a path or query: all except RFC 3986's unreserved characters.
const RESERVED_BYTES: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED_BYTES).to_string()
}

/// Returns the path of one socket.
pub fn socket(id: &str) -> String {
    SOCKET.replace("{id}", &encoded(id))
}

/// Returns the path that closes one socket.
pub fn socket_close(id: &str) -> String {
    SOCKET_CLOSE.replace("{id}", &encoded(id))
}

/// Returns the path of the labels of the socket with a session.
pub fn socket_labels(sid: &str) -> String {
    SOCKET_LABELS.replace("{sid}", &encoded(sid))
}

/// Returns the path that sets the admin state of one worker.
pub fn worker_state(upstream: &str, worker: &str, word: &str) -> String {
    // A brace in a name is encoded, so no name can be taken for a placeholder.
    let path = WORKER_STATE.replace("{upstream}", &encoded(upstream));
    path.replace("{worker}", &encoded(worker)).replace("{word}", &encoded(word))
}

/// Returns the path of an order for workers that stickyd starts.
pub fn spawn_wish(upstream: &str, word: &str) -> String {
    SPAWN_WISH.replace("{upstream}", &encoded(upstream)).replace("{word}", &encoded(word))
}

/// Returns the path that asks every stickyd of the fleet for what is at `path`, or the one with the name `at`.
pub fn of_fleet(at: Option<&str>, path: &str) -> String {
    with_query(FLEET_ORDERS, at.map(|name| ("at", name)).into_iter().chain([("path", path)]))
}

/// Returns a path with query parameters.
pub fn with_query<N: AsRef<str>, V: AsRef<str>>(path: &str, parameters: impl IntoIterator<Item = (N, V)>) -> String {
    let pair = |(name, value): (N, V)| format!("{}={}", encoded(name.as_ref()), encoded(value.as_ref()));
    let given = parameters.into_iter().map(pair).collect::<Vec<_>>().join("&");
    if given.is_empty() { path.to_owned() } else { format!("{path}?{given}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_paths_and_queries_are_encoded() {
        assert_eq!(with_query("/p", [("sid", "a b&c"), ("x~", "ü")]), "/p?sid=a%20b%26c&x~=%C3%BC");
        assert_eq!(with_query("/p", Vec::<(&str, &str)>::new()), "/p");
        assert_eq!(
            worker_state("{worker}", "unix:/run/a.sock", "drain"),
            "/api/v1/workers/%7Bworker%7D/unix%3A%2Frun%2Fa.sock/drain"
        );
        assert_eq!(socket_close("a/b"), "/api/v1/sockets/a%2Fb/close");
    }
}
