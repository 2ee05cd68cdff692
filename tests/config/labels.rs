//! `labels`: the places they are read from, and the errors for wrong ones.

use std::path::Path;

use stickyd::testing::config::labels::{CertificatePart, LabelSource};
use stickyd::testing::config::parse_with;

use super::{HEAD, errors, good, resolve};

#[test]
fn labels_are_read_from_queries_cookies_and_headers() {
    let text = "labels = { store = \"query:storeId\", user = \"cookie: uid\", tenant = \"header:X-Tenant\", buyer = \"backend\" }";
    let labels = good(&format!("{HEAD}{text}")).upstreams.remove(0).labels;
    let places: Vec<_> = labels.iter().map(|label| (label.name.as_str(), label.from.clone())).collect();
    assert_eq!(
        places,
        [
            ("store", LabelSource::Query("storeId".to_owned())),
            ("user", LabelSource::Cookie("uid".to_owned())),
            ("tenant", LabelSource::Header("x-tenant".parse().unwrap())),
            ("buyer", LabelSource::Backend),
        ]
    );
    assert!(good(HEAD).upstreams.remove(0).labels.is_empty());
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let said = errors(
        "[upstream.app.labels]\nStore = \"query:a\"\nb = \"body:x\"\nc = \"query:\"\nd = 1\ne = \"header:a b\"\nf = \"storeId\"\n\
         g = \"certificate:issuer\"",
    );
    for words in [
        "`Store` is not a valid label name",
        "`body:x` is not a place to read a label from",
        "`query:` is not a place",
        "`header:a b` is not a place",
        "`storeId` is not a place",
        "write \"query:KEY\", \"cookie:NAME\", \"header:NAME\", \"jwt:CLAIM\", \"certificate:subject\", ",
        "`issuer` is not a part of a client certificate",
        "s.toml:6:1",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(said.contains("`d` must be a place such as") || said.contains("`d`"), "{said}");
    let nine: Vec<_> = (0..9).map(|n| format!("l{n} = \"query:q\"")).collect();
    assert!(errors(&format!("labels = {{ {} }}", nine.join(", "))).contains("there are 9 labels; the maximum is 8"));
}

/// Credentials must not be shown in the list of sockets.
#[test]
fn secrets_cannot_be_labels() {
    for secret in ["authorization", "Cookie", "set-cookie", "Proxy-Authorization", "sec-websocket-key"] {
        assert!(errors(&format!("labels = {{ a = \"header:{secret}\" }}")).contains("carries secrets"), "{secret}");
    }
    for cookie in ["stickyd_app", "STICKYD_app"] {
        assert!(errors(&format!("labels = {{ a = \"cookie:{cookie}\" }}")).contains("the affinity cookie"), "{cookie}");
    }
}

/// Limits act when a socket opens, before the application can say whose it is.
#[test]
fn labels_of_the_backend_cannot_limit_users() {
    let route = "[[route]]\nupstream = \"app\"\nusers = { by = \"user\", sockets = 1 }";
    let said = errors(&format!("labels = {{ user = \"backend\" }}\n{route}"));
    assert!(said.contains("`users` is by the label `user`, which the application sets only later"), "{said}");
}

#[test]
fn a_label_of_certificates_needs_a_listener_that_asks() {
    let labels = "labels = { device = \"certificate:subject\", print = \"certificate: fingerprint\" }";
    let (config, warnings) =
        parse_with(&format!("{HEAD}{labels}"), Path::new("/etc/stickyd/s.toml"), &resolve).unwrap();
    let from: Vec<_> = config.upstreams[0].labels.iter().map(|label| label.from.clone()).collect();
    let parts = [CertificatePart::Subject, CertificatePart::Fingerprint];
    assert_eq!(from, parts.map(LabelSource::Certificate));
    let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
    let said = warning.to_string();
    assert!(said.contains("a label is read from client certificates, but no listener has `client_auth`"), "{said}");
}
