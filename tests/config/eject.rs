//! `eject` and the other keys for failing and full workers: their values, and the errors for wrong values.

use std::time::Duration;

use insta::assert_snapshot;
use stickyd::testing::config::{Eject, Upstream};

use super::{HEAD, errors, good};

fn upstream(keys: &str) -> Upstream {
    good(&format!("{HEAD}{keys}")).upstreams[0].clone()
}

#[test]
fn every_key_is_read_into_its_field() {
    let all = "eject = { failures = 3, errors = \"25%\", volume = 7, window = \"30s\", time = \"1s\", max_time = \"1m\", \
               max_share = \"34%\" }";
    let expected = Eject {
        on: true,
        failures: 3,
        errors: 25,
        volume: 7,
        window: Duration::from_secs(30),
        time: Duration::from_secs(1),
        max_time: Duration::from_secs(60),
        max_share: 34,
    };
    assert_eq!(upstream(all).eject, expected);
    assert_eq!(upstream("eject = false").eject, Eject { on: false, ..Eject::default() });
    assert_eq!(upstream("eject = true").eject, Eject::default());
    assert_eq!(upstream("eject = { errors = \"0%\" }").eject.errors, 0);
    assert_eq!(upstream("eject = { time = \"10m\" }").eject.max_time, Duration::from_secs(600), "never shorter");
    let bounds = upstream(
        "slow_start = \"0s\"\nretry_budget = \"0%\"\nretry_after = \"1s\"\nmax_connections = 9\nqueue = 0\nqueue_timeout = \"1s\"",
    );
    assert_eq!((bounds.slow_start, bounds.retry_budget), (Duration::ZERO, 0));
    assert_eq!(bounds.retry_after, Duration::from_secs(1));
    assert_eq!((bounds.max_connections, bounds.queue, bounds.queue_timeout), (Some(9), 0, Duration::from_secs(1)));
}

#[test]
fn wrong_values_are_errors() {
    assert_snapshot!(errors("eject = { errors = 50, max_share = \"101%\" }"), @r#"
    error: `errors` needs a `%`
     --> s.toml:5:20
      |
    5 | eject = { errors = 50, max_share = "101%" }
      |                    ^^
      = help: write "50%"

    error: `max_share` must be from "1%" to "100%"
     --> s.toml:5:36
      |
    5 | eject = { errors = 50, max_share = "101%" }
      |                                    ^^^^^^
    "#);
    assert_snapshot!(errors("eject = { time = \"2s\", max_time = \"1s\" }"), @r#"
    error: `max_time` must not be shorter than `time` (2s)
     --> s.toml:5:35
      |
    5 | eject = { time = "2s", max_time = "1s" }
      |                                   ^^^^
    "#);
    assert_snapshot!(errors("eject = \"off\""), @r#"
    error: `eject` must be false or a table such as { failures = 5, errors = "50%" }, not a string
     --> s.toml:5:9
      |
    5 | eject = "off"
      |         ^^^^^
    "#);
    assert_snapshot!(errors("retry_budget = \"half\"\nmax_connections = 0"), @r#"
    error: `retry_budget` must be from "0%" to "100%"
     --> s.toml:5:16
      |
    5 | retry_budget = "half"
      |                ^^^^^^

    error: `max_connections` must be an integer from 1 to 1_000_000
     --> s.toml:6:19
      |
    6 | max_connections = 0
      |                   ^
    "#);
}
