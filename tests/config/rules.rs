//! `[affinity.NAME]`, and the entries of `affinity` and `follow`: what is accepted, and the errors with their places.

use std::path::Path;

use super::{HEAD, resolve};
use stickyd::testing::config::rules::{AnswerPlace, Protocol, Rule, Spot};
use stickyd::testing::config::{Affinity, parse_with};

/// Every finding of a text after the head's four lines, each on one line.
fn said(after_head: &str) -> Vec<String> {
    match parse_with(&format!("{HEAD}{after_head}"), Path::new("s.toml"), &resolve) {
        Ok((_, warnings)) => warnings.iter().map(|one| format!("warning: {}", one.one_line())).collect(),
        Err(errors) => errors.all().iter().map(|one| one.one_line()).collect(),
    }
}

fn rules(after_head: &str) -> Vec<Rule> {
    let text = format!("{HEAD}{after_head}");
    let (config, warnings) =
        parse_with(&text, Path::new("s.toml"), &resolve).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(warnings, [], "{after_head}");
    let rules = config.upstreams[0].affinity.iter().filter_map(|one| match one {
        Affinity::Rule(rule) => Some((**rule).clone()),
        Affinity::Cookie | Affinity::Address => None,
    });
    rules.collect()
}

const JOBS: &str = "affinity = [\"jobs\"]\n[affinity.jobs]\n";

#[test]
fn every_preset_is_found_by_its_name() {
    let words = ["socket.io", "sockjs", "signalr", "mcp", "phoenix", "cometd", "tus"];
    let found = rules(&format!("affinity = {words:?}\n"));
    assert_eq!(found.iter().map(|rule| rule.name.as_str()).collect::<Vec<_>>(), words);
    assert_eq!(found[0].protocol, Protocol::SocketIo);
    assert!(found[1].client_made && found[1].learn.is_empty());
}

#[test]
fn a_rule_with_every_key_is_read() {
    let found = rules(&format!(
        "{JOBS}learn = [{{ from = \"header:X-Job-Id\", method = \"POST\", path = \"/jobs\", status = 201 }}, \
         {{ from = \"set-cookie:job\" }}, {{ from = \"json:a.b.0\" }}, {{ from = \"prefix:id: {{id}}\" }}, {{ from = \"location\" }}]\n\
         lookup = [\"header:x-job-id\", \"query:job\", \"cookie:job\", \"path:/jobs/{{id}}\"]\n\
         refusal = [{{ status = 404, body = \"no such job\" }}, {{ status = 410, header = \"x-error: gone\" }}]\n\
         creates = [{{ method = \"PUT\" }}]\nttl = \"1h\"\nttl_from = \"json:ttl\"\n\
         ends = [{{ method = \"DELETE\", status = 200 }}]\nclient_made = false\n"
    ));
    let rule = &found[0];
    assert_eq!((rule.name.as_str(), rule.learn.len(), rule.lookup.len(), rule.refusal.len()), ("jobs", 5, 4, 2));
    assert!(matches!(&rule.learn[0].from, AnswerPlace::Header(name) if name == "x-job-id"));
    assert!(matches!(&rule.lookup[3].at, Spot::Path(path) if path.id("/jobs/42/log") == Some("42")));
    assert_eq!(rule.ttl.as_secs(), 3_600);
    assert_eq!(rules(&format!("{JOBS}lookup = [\"query:a\"]\nclient_made = true\n"))[0].ttl.as_secs(), 600);
}

#[test]
fn a_rule_that_can_never_match_is_reported() {
    assert_eq!(
        said(&format!("{JOBS}learn = [{{ from = \"header:a\" }}]\n")),
        ["s.toml:6:11: [affinity.jobs] can never match: `lookup` names no place for its id; \
          write lookup = [\"header:x-job-id\", \"path:/jobs/{id}\"]"]
    );
    let bodiless = "learn = [{ from = \"json:id\", status = 204 }]\nlookup = [\"query:id\"]\n";
    assert_eq!(said(&format!("{JOBS}{bodiless}")), ["s.toml:7:30: this can never match: such an answer has no body"]);
    let elsewhere = "learn = [{ from = \"location\" }]\nlookup = [\"path:/jobs/{id}\"]\n\
        [[route]]\npath = \"/api\"\nupstream = \"app\"\n";
    assert_eq!(
        said(&format!("{JOBS}{elsewhere}")),
        ["warning: s.toml:5:13: `jobs` can never match here: no route leads to /jobs/{id}; \
          the routes to this upstream begin at /api"]
    );
}

#[test]
fn a_lookup_without_a_source_of_ids_is_an_error() {
    assert_eq!(
        said(&format!("{JOBS}lookup = [\"query:job\"]\n")),
        ["s.toml:6:11: [affinity.jobs] never learns an id: it has only a `lookup`; \
          write learn = [{ from = \"header:x-job-id\" }], or write client_made = true if clients make the id"]
    );
    let both = "client_made = true\nlearn = [{ from = \"location\" }]\nlookup = [\"query:job\"]\n";
    assert_eq!(
        said(&format!("{JOBS}{both}")),
        ["s.toml:8:1: `learn` has no effect: by line 7, clients make the id; remove one of the two"]
    );
}

#[test]
fn two_rules_cannot_claim_the_same_place() {
    let two = "affinity = [\"a\", \"b\"]\n[affinity.a]\nclient_made = true\nlookup = [\"query:x\", \"header:id\"]\n\
        [affinity.b]\nclient_made = true\nlookup = [\"header:ID\"]\n";
    assert_eq!(
        said(two),
        ["s.toml:5:18: `a` and `b` both claim header:id; \
          ids found there would all belong to the first rule: use another place for one of them"]
    );
    let sid = "affinity = [\"socket.io\", \"b\"]\n[affinity.b]\nclient_made = true\nlookup = [\"query:sid\"]\n";
    assert!(said(sid)[0].contains("both claim query:sid"), "{:?}", said(sid));
    let id = "affinity = [\"signalr\", \"b\"]\n[affinity.b]\nclient_made = true\nlookup = [\"query:id\"]\n";
    assert!(said(id)[0].contains("both claim query:id"), "{:?}", said(id));
    let twice = "affinity = [\"b\"]\n[affinity.b]\nclient_made = true\nlookup = [\"query:id\", \"query:id\"]\n";
    assert_eq!(said(twice), ["s.toml:8:23: `query:id` is listed twice"]);
}

#[test]
fn unknown_taken_and_unused_names_are_reported() {
    assert_eq!(said("affinity = [\"sokjs\"]\n"), ["s.toml:5:13: unknown affinity `sokjs`; did you mean `sockjs`?"]);
    let custom = "affinity = [\"jbs\"]\n[affinity.jobs]\nclient_made = true\nlookup = [\"query:id\"]\n";
    assert!(said(custom).contains(&"s.toml:5:13: unknown affinity `jbs`; did you mean `jobs`?".to_owned()));
    let taken = "[affinity.mcp]\nclient_made = true\nlookup = [\"query:id\"]\n";
    assert!(said(taken)[0].contains("`mcp` is the name of a built-in affinity"), "{:?}", said(taken));
    let unused = "[affinity.jobs]\nclient_made = true\nlookup = [\"query:id\"]\n";
    assert!(
        said(unused)[0].starts_with("warning: s.toml:5:11: no upstream uses [affinity.jobs]"),
        "{:?}",
        said(unused)
    );
}

#[test]
fn invalid_values_are_reported_with_their_place() {
    for (line, what) in [
        ("lookup = [\"path:/jobs\"]", "the path needs {id}"),
        ("lookup = [\"path:jobs/{id}\"]", "a path begins with /"),
        ("lookup = [\"path:/{id}/{id}\"]", "once"),
        ("lookup = [\"body:x\"]", "is not a place in a request"),
        ("lookup = [\"header:a b\"]", "is not a valid header name"),
        ("lookup = [\"header:cookie\"]", "cookies cannot be read as a header"),
        ("lookup = [\"cookie:a=b\"]", "is not a valid cookie name"),
        ("learn = [{ from = \"json:a.b.c.d.e.f.g.h.i\" }]", "the maximum is 8"),
        ("learn = [{ from = \"json:\" }]", "names of fields"),
        ("learn = [{ from = \"prefix:abc\" }]", "{id}"),
        ("learn = [{ from = \"header:set-cookie\" }]", "cookies cannot be read as a header"),
        ("learn = [{ from = \"nowhere\" }]", "is not a place"),
        ("learn = [{ from = \"location\", path = \"/a/{id}\" }]", "is allowed only in `lookup`"),
        ("learn = [{ from = \"location\", method = \"post\" }]", "is not a supported method"),
        ("learn = [{ from = \"location\", status = 101 }]", "from 200 to 599"),
        ("learn = [{}]", "needs `from`"),
        ("refusal = [{ body = \"x\" }]", "needs `status`"),
        ("refusal = [{ status = 200 }]", "every answer with this status would be a refusal"),
        ("ends = [{}]", "every request would end its session"),
        ("ttl = \"0s\"", "must be from 1s"),
        ("ttl_from = \"location\"", "cannot hold a number of seconds"),
    ] {
        let all = said(&format!("{JOBS}{line}\n"));
        assert!(all.iter().any(|one| one.starts_with("s.toml:7:") && one.contains(what)), "{line}: {all:?}");
    }
}

#[test]
fn follow_needs_socket_io_and_places_of_its_own() {
    let text = format!("{HEAD}follow = [\"header:X-Socket-Id\", \"query:socketId\"]\n");
    let (config, warnings) = parse_with(&text, Path::new("s.toml"), &resolve).unwrap();
    assert_eq!((config.upstreams[0].follow.len(), warnings.len()), (2, 0));
    let alone = "affinity = [\"mcp\", \"address\"]\nfollow = [\"query:a\"]\n";
    assert!(said(alone)[0].contains("`follow` needs \"socket.io\""), "{:?}", said(alone));
    assert!(said("follow = [\"cookie:a\"]\n")[0].contains("header:NAME or query:NAME"));
    let both = "affinity = [\"socket.io\", \"b\"]\nfollow = [\"query:x\"]\n[affinity.b]\nclient_made = true\nlookup = [\"query:x\"]\n";
    assert!(said(both)[0].contains("`follow` and `b` both claim query:x"), "{:?}", said(both));
}
