//! `drain` and `removed`: their values and defaults, and the errors for wrong values.

use std::time::Duration;

use stickyd::testing::config::{Drain, RemovedPolicy, Upstream};

use super::{HEAD, errors, good};

fn upstream(text: &str) -> Upstream {
    good(&format!("{HEAD}{text}")).upstreams.remove(0)
}

#[test]
fn every_key_is_read_and_has_its_default() {
    let plain = upstream("");
    assert_eq!((plain.drain, plain.removed), (Drain::default(), RemovedPolicy::Keep));
    assert_eq!((Drain::default().grace, Drain::default().farewell.code.get()), (None, 1012));
    let drain = upstream("drain = { grace = \"1m 30s\", code = 4000, reason = \"moving\" }").drain;
    assert_eq!(drain.grace, Some(Duration::from_secs(90)));
    assert_eq!((drain.farewell.code.get(), drain.farewell.reason.as_str()), (4000, "moving"));
    assert_eq!(upstream("removed = \"close\"").removed, RemovedPolicy::Close);
    assert_eq!(upstream("removed = \"drain\"").removed, RemovedPolicy::Drain);
}

#[test]
fn all_mistakes_are_reported_with_their_places() {
    let said = errors(&format!(
        "drain = {{ grace = \"500ms\", code = 1000, reason = \"{}\", graze = 1 }}\nremoved = \"kep\"",
        "x".repeat(124)
    ));
    for words in [
        "`grace` must be from 1s to 1day",
        "1000 is not allowed as the close code of a drain",
        "1012 (service restart)",
        "`reason` must have at most 123 bytes",
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
