//! `drain` and `removed`: what they mean, and what wrong ones are told.

use std::time::Duration;

use stickyd::config::{Drain, Removed, Upstream};

use super::{HEAD, errors, good};

fn upstream(text: &str) -> Upstream {
    good(&format!("{HEAD}{text}")).upstreams.remove(0)
}

#[test]
fn defaults_and_keys() {
    let plain = upstream("");
    assert_eq!((plain.drain, plain.removed), (Drain::default(), Removed::Keep));
    assert_eq!((Drain::default().grace, Drain::default().farewell.code.get()), (None, 1012));
    let drain = upstream("drain = { grace = \"1m 30s\", code = 4000, reason = \"moving\" }").drain;
    assert_eq!(drain.grace, Some(Duration::from_secs(90)));
    assert_eq!((drain.farewell.code.get(), drain.farewell.reason.as_str()), (4000, "moving"));
    assert_eq!(upstream("removed = \"close\"").removed, Removed::Close);
    assert_eq!(upstream("removed = \"drain\"").removed, Removed::Drain);
}

#[test]
fn wrong_ones_are_told_all_at_once_and_where() {
    let said = errors(&format!(
        "drain = {{ grace = \"500ms\", code = 1000, reason = \"{}\", graze = 1 }}\nremoved = \"kep\"",
        "x".repeat(124)
    ));
    for words in [
        "`grace` must be from 1s to 1day",
        "1000 is no code to end a drained session with",
        "1012 (service restart)",
        "a close frame has room for 123 bytes of reason",
        "unknown key `graze` in `drain`",
        "did you mean `grace`?",
        "unknown policy `kep`",
        "did you mean `keep`?",
        "s.toml:5:19",
        "s.toml:6:11",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    for code in ["1006", "2999", "5000", "70000", "-1"] {
        assert!(errors(&format!("drain = {{ code = {code} }}")).contains("code"), "{code}");
    }
}
