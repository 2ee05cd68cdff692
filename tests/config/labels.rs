//! `labels`: what they mean, and what wrong ones are told.

use stickyd::sockets::From;

use super::{HEAD, errors, good};

#[test]
fn each_place_a_label_can_be_read_from() {
    let text = "labels = { store = \"query:storeId\", user = \"cookie: uid\", tenant = \"header:X-Tenant\" }";
    let labels = good(&format!("{HEAD}{text}")).upstreams.remove(0).labels;
    let places: Vec<_> = labels.iter().map(|label| (label.name.as_str(), label.from.clone())).collect();
    assert_eq!(
        places,
        [
            ("store", From::Query("storeId".to_owned())),
            ("user", From::Cookie("uid".to_owned())),
            ("tenant", From::Header("x-tenant".parse().unwrap())),
        ]
    );
    assert!(good(HEAD).upstreams.remove(0).labels.is_empty());
}

#[test]
fn wrong_ones_are_told_all_at_once() {
    let said = errors(
        "[upstream.app.labels]\nStore = \"query:a\"\nb = \"body:x\"\nc = \"query:\"\nd = 1\ne = \"header:a b\"\nf = \"storeId\"",
    );
    for words in [
        "`Store` is no name for a label",
        "`body:x` is no place a label can be read from",
        "`query:` is no place",
        "`header:a b` is no place",
        "`storeId` is no place",
        "write \"query:KEY\", \"cookie:NAME\" or \"header:NAME\"",
        "s.toml:6:1",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(said.contains("`d` must be a place such as") || said.contains("`d`"), "{said}");
    let nine: Vec<_> = (0..9).map(|n| format!("l{n} = \"query:q\"")).collect();
    assert!(errors(&format!("labels = {{ {} }}", nine.join(", "))).contains("9 labels, and 8 are the most"));
}

/// What proves who somebody is must not be shown to whoever may read a list.
#[test]
fn secrets_are_no_labels() {
    for secret in ["authorization", "Cookie", "set-cookie", "Proxy-Authorization", "sec-websocket-key"] {
        assert!(errors(&format!("labels = {{ a = \"header:{secret}\" }}")).contains("carries secrets"), "{secret}");
    }
    for cookie in ["stickyd_app", "STICKYD_app"] {
        assert!(errors(&format!("labels = {{ a = \"cookie:{cookie}\" }}")).contains("the affinity cookie"), "{cookie}");
    }
}
