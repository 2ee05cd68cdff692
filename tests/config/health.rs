//! `health`: every key of every kind is read, and the errors for wrong values.

use std::time::Duration;

use insta::assert_snapshot;
use stickyd::testing::config::{CheckTarget, Expected, Health, HealthKind};

use super::{HEAD, errors, good};

/// A health check's target without a host.
pub(crate) fn at(path: &str) -> CheckTarget {
    CheckTarget { path: path.to_owned(), host: None }
}

fn health(keys: &str) -> Health {
    good(&format!("{HEAD}health = {{ {keys} }}")).upstreams[0].health.clone()
}

#[test]
fn times_have_their_defaults() {
    let (ms, tcp) = (Duration::from_millis(1), |keys: &str| health(&format!("kind = \"tcp\", {keys}")));
    assert_eq!(health("kind = \"tcp\""), Health::default());
    assert_eq!((tcp("interval = \"1s\"").timeout, tcp("interval = \"30s\"").timeout), (1_000 * ms, 5_000 * ms));
    assert_eq!(tcp("interval = \"1s\"").fast_interval, 250 * ms);
    assert_eq!(tcp("interval = \"200ms\"").fast_interval, 100 * ms, "at least");
    let both = tcp("interval = \"1s\", fast_interval = \"1s\", start_grace = \"1m\"");
    assert_eq!((both.fast_interval, both.start_grace), (1_000 * ms, 60_000 * ms));
}

#[test]
fn every_kind_is_read_with_its_keys() {
    assert_eq!(health("path = \"/up\"").kind, HealthKind::Http(at("/up"), Expected::default()));
    assert_eq!(health("kind = \"socket.io\"").kind, HealthKind::SocketIo(at("/socket.io/")));
    assert_eq!(health("kind = \"websocket\", path = \"/ws?a=1\"").kind, HealthKind::WebSocket(at("/ws?a=1")));
    let host = CheckTarget { path: "/x/".to_owned(), host: Some("a.test:80".to_owned()) };
    let keys = "kind = \"socket.io\", path = \"/x/\", host = \"a.test:80\"";
    assert_eq!(health(keys).kind, HealthKind::SocketIo(host));
    for (status, ranges) in [
        ("204", vec![204..=204]),
        ("\"200-299\"", vec![200..=299]),
        ("\"204\"", vec![204..=204]),
        ("[200, \"300 - 399\"]", vec![200..=200, 300..=399]),
    ] {
        let HealthKind::Http(_, expected) = health(&format!("path = \"/\", body = \"ok\", status = {status}")).kind
        else {
            panic!("{status}")
        };
        assert_eq!(expected, Expected { status: ranges, body: Some("ok".to_owned()) });
    }
}

#[test]
fn checks_by_http_and_websocket_need_a_path() {
    assert_snapshot!(errors("health = { rise = 1 }"), @r#"
    error: a health check of kind "http" needs `path`
     --> s.toml:5:10
      |
    5 | health = { rise = 1 }
      |          ^^^^^^^^^^^^
      = help: write path = "/health", or kind = "tcp" to only connect
    "#);
    assert_snapshot!(errors("health = { kind = \"websocket\" }"), @r#"
    error: a health check of kind "websocket" needs `path`
     --> s.toml:5:10
      |
    5 | health = { kind = "websocket" }
      |          ^^^^^^^^^^^^^^^^^^^^^^
      = help: write path = "/ws": a path the application upgrades
    "#);
}

#[test]
fn a_path_of_the_wrong_type_is_one_mistake() {
    let said = errors("health = { kind = \"websocket\", path = 5 }");
    assert_eq!(said.matches("error:").count(), 1, "{said}");
}

#[test]
fn keys_of_other_kinds_are_errors() {
    assert_snapshot!(errors("health = { kind = \"tcp\", path = \"/\", host = \"a\" }"), @r#"
    error: `path` is only for checks of kind "http", "socket.io" or "websocket"
     --> s.toml:5:33
      |
    5 | health = { kind = "tcp", path = "/", host = "a" }
      |                                 ^^^

    error: `host` is only for checks of kind "http", "socket.io" or "websocket"
     --> s.toml:5:45
      |
    5 | health = { kind = "tcp", path = "/", host = "a" }
      |                                             ^^^
    "#);
    assert_snapshot!(errors("health = { kind = \"socket.io\", status = 200, body = \"ok\" }"), @r#"
    error: `status` is only for checks of kind "http"
     --> s.toml:5:41
      |
    5 | health = { kind = "socket.io", status = 200, body = "ok" }
      |                                         ^^^

    error: `body` is only for checks of kind "http"
     --> s.toml:5:53
      |
    5 | health = { kind = "socket.io", status = 200, body = "ok" }
      |                                                     ^^^^
    "#);
}

#[test]
fn an_unknown_kind_and_an_invalid_path_are_errors() {
    assert_snapshot!(errors("[upstream.app.health]\nkind = \"https\"\npath = \"health\""), @r#"
    error: unknown kind of health check `https`
     --> s.toml:6:8
      |
    6 | kind = "https"
      |        ^^^^^^^
      = help: did you mean `http`?

    error: the path of the health check is not valid
     --> s.toml:7:8
      |
    7 | path = "health"
      |        ^^^^^^^^
      = help: write a path such as "/health": it begins with / and is percent-encoded
    "#);
}

#[test]
fn invalid_values_are_errors() {
    assert_snapshot!(errors("health = { path = \"/\", status = [99, \"400-300\", true], body = \"\" }"), @r#"
    error: a status must be an integer from 200 to 599
     --> s.toml:5:34
      |
    5 | health = { path = "/", status = [99, "400-300", true], body = "" }
      |                                  ^^

    error: `400-300` is not a valid range of statuses
     --> s.toml:5:38
      |
    5 | health = { path = "/", status = [99, "400-300", true], body = "" }
      |                                      ^^^^^^^^^
      = help: write 200, "200-399" or [200, 204]; statuses are from 200 to 599

    error: a status must be an integer such as 200 or a range such as "200-399", not a boolean
     --> s.toml:5:49
      |
    5 | health = { path = "/", status = [99, "400-300", true], body = "" }
      |                                                 ^^^^

    error: `body` must have from 1 to 1024 bytes
     --> s.toml:5:63
      |
    5 | health = { path = "/", status = [99, "400-300", true], body = "" }
      |                                                               ^^
    "#);
    assert_snapshot!(errors("health = { path = \"/\", status = [], host = \"http://a/\" }"), @r#"
    error: `status` is empty: no answer would pass
     --> s.toml:5:33
      |
    5 | health = { path = "/", status = [], host = "http://a/" }
      |                                 ^^
      = help: write "200-399", the default

    error: `http://a/` is not a valid host
     --> s.toml:5:44
      |
    5 | health = { path = "/", status = [], host = "http://a/" }
      |                                            ^^^^^^^^^^^
      = help: write "example.com" or "example.com:8080", without http://
    "#);
    assert_snapshot!(errors("health = { path = \"/\", interval = \"1s\", fast_interval = \"2s\", start_grace = \"2h\" }"), @r#"
    error: `fast_interval` must not be longer than `interval` (1s)
     --> s.toml:5:57
      |
    5 | health = { path = "/", interval = "1s", fast_interval = "2s", start_grace = "2h" }
      |                                                         ^^^^

    error: `start_grace` must be from 0s to 1h
     --> s.toml:5:77
      |
    5 | health = { path = "/", interval = "1s", fast_interval = "2s", start_grace = "2h" }
      |                                                                             ^^^^
    "#);
}
