//! `[log] format`, and `forwarded` and `debug_header` of an upstream: their values, and the errors for wrong values.

use insta::assert_snapshot;
use stickyd::testing::config::{LogFormat, check_level};

use super::{HEAD, errors, good};

#[test]
fn every_key_is_read_into_its_field() {
    let config = good(&format!("{HEAD}forwarded = true\ndebug_header = true\n[log]\nformat = \"json\""));
    assert!(config.upstreams[0].forwarded && config.upstreams[0].debug_header);
    assert_eq!(config.log.format, LogFormat::Json);
    let plain = good(HEAD);
    assert!(!plain.upstreams[0].forwarded && !plain.upstreams[0].debug_header);
    assert_eq!(plain.needs_restart(&good(&format!("{HEAD}[log]\nformat = \"json\""))), ["[log] format"]);
    // What is read once, at start.
    for key in ["pins", "sockets", "handshakes", "reserved_descriptors"] {
        let changed = good(&format!("{HEAD}[limits]\n{key} = 12345"));
        assert_eq!(plain.needs_restart(&changed), [format!("[limits] {key}")]);
    }
    assert!(plain.needs_restart(&good(&format!("{HEAD}debug_header = true\n[log]\nlevel = \"warn\""))).is_empty());
}

#[test]
fn wrong_values_are_errors() {
    assert_snapshot!(errors("[log]\nformat = \"jsno\""), @r#"
    error: unknown log format `jsno`
     --> s.toml:6:10
      |
    6 | format = "jsno"
      |          ^^^^^^
      = help: did you mean `json`?
    "#);
    assert_snapshot!(errors("forwarded = \"yes\""), @r#"
    error: `forwarded` must be true or false, not a string
     --> s.toml:5:13
      |
    5 | forwarded = "yes"
      |             ^^^^^
    "#);
}

#[test]
fn levels_set_at_run_time_are_checked() {
    assert_eq!(check_level("info,stickyd::affinity=debug"), Ok(()));
    assert_eq!(check_level("inof"), Err("`inof` is not a log level: did you mean `info`?".to_owned()));
    assert!(check_level("info,a=b=c").unwrap_err().contains("`level` is not a valid log filter"));
}
