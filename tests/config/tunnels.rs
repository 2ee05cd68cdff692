//! `round_trip`, `tunnel_ping`, `tunnel_ping_timeout` and `broadcast`: the errors for wrong values, and the setting of
//! a route.

use super::{HEAD, errors, good};
use insta::assert_snapshot;

#[test]
fn an_excellent_round_trip_is_shorter_than_a_good_one() {
    assert_snapshot!(errors("round_trip = { excellent = \"300ms\" }"), @r#"
    error: `excellent` must be shorter than `good`
     --> s.toml:5:14
      |
    5 | round_trip = { excellent = "300ms" }
      |              ^^^^^^^^^^^^^^^^^^^^^^^
      = help: the defaults are { excellent = "80ms", good = "250ms" }
    "#);
}

#[test]
fn pings_have_a_range_and_their_timeout_needs_them() {
    assert_snapshot!(errors("tunnel_ping = \"500ms\"\nround_trip = { good = \"7s\" }\nbroadcast = \"yes\""), @r#"
    error: `tunnel_ping` must be from 1s to 1day
     --> s.toml:5:15
      |
    5 | tunnel_ping = "500ms"
      |               ^^^^^^^

    error: `good` must be from 1ms to 6s
     --> s.toml:6:23
      |
    6 | round_trip = { good = "7s" }
      |                       ^^^^

    error: `broadcast` must be true or false, not a string
     --> s.toml:7:13
      |
    7 | broadcast = "yes"
      |             ^^^^^
    "#);
    assert_snapshot!(errors("tunnel_ping_timeout = \"5s\""), @r#"
    error: `tunnel_ping_timeout` has no effect without `tunnel_ping`
     --> s.toml:5:23
      |
    5 | tunnel_ping_timeout = "5s"
      |                       ^^^^
      = help: add tunnel_ping = "20s", or remove this
    "#);
}

/// A route may set its own `broadcast`; leaving it out differs from `false`.
#[test]
fn a_route_may_override_broadcast() {
    for (line, said) in [("", None), ("broadcast = true", Some(true)), ("broadcast = false", Some(false))] {
        let config = good(&format!("{HEAD}[[route]]\nupstream = \"app\"\n{line}"));
        assert_eq!(config.routes[0].broadcast, said, "{line}");
    }
    assert_snapshot!(errors("[[route]]\nupstream = \"app\"\nbroadcast = 1"), @r#"
    error: `broadcast` must be true or false, not an integer
     --> s.toml:7:13
      |
    7 | broadcast = 1
      |             ^
    "#);
}
