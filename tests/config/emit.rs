//! `emit` of an upstream: the way of the backend's messages, and the errors for wrong ones.

use super::{HEAD, errors, good};

#[test]
fn each_way_is_read() {
    let emit = |text: &str| {
        let upstream = good(&format!("{HEAD}{text}")).upstreams.remove(0);
        upstream.emit.map(|way| format!("{way:?}")).unwrap_or_default()
    };
    assert_eq!(emit(""), "");
    assert_eq!(emit("emit = { via = \"bus\" }"), "Bus");
    assert_eq!(emit("emit = { via = \"frames\" }"), "Frames");
    let said = emit("emit = { via = \"redis-adapter\", redis = \"redis://ann:secret@a:1/2\" }");
    for words in ["Server(\"a\", 1)", "database: 2", "Classic", "key: \"socket.io\"", "streams: 1", "ann"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains("secret@"), "{said}");
    let rest = "adapter = \"streams\", key = \"app\", streams = 4, username = \"bob\"";
    let said = emit(&format!("emit = {{ via = \"redis-adapter\", redis = \"redis://a\", {rest} }}"));
    for words in ["Streams", "key: \"app\"", "streams: 4", "bob"] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn wrong_ways_are_named() {
    for (emit, words) in [
        ("emit = {}", "`emit` needs `via`"),
        ("emit = { via = \"mail\" }", "value of `via`"),
        ("emit = { via = \"redis-adapter\" }", "needs `redis`"),
        ("emit = { via = \"redis-adapter\", redis = \"a\" }", "it has no scheme"),
        ("emit = { via = \"bus\", redis = \"redis://a\" }", "`redis` has no effect with via = \"bus\""),
        ("emit = { via = \"redis-adapter\", redis = \"redis://a\", streams = 2 }", "`streams` has no effect here"),
        ("emit = { via = \"redis-adapter\", redis = \"redis://a\", tls = {} }", "no effect without TLS"),
        ("emit = { via = \"redis-adapter\", redis = \"redis://a\", key = \"\" }", "1 to 128 bytes"),
        ("emit = { via = \"redis-adapter\", redis = \"redis://a\", password_file = \"none\" }", "none"),
        ("bus = false\nemit = { via = \"bus\" }", "the upstream has bus = false"),
    ] {
        let said = errors(emit);
        assert!(said.contains(words), "{emit}: {said}");
    }
}
