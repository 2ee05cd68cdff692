//! `[affinity.NAME]`, and the words of `affinity` and `follow`: what is taken, and what a wrong rule is told, where.

use std::path::Path;

use super::{HEAD, resolve};
use stickyd::config::rules::{Place, Protocol, Rule, Spot};
use stickyd::config::{Affinity, parse_with};

/// Every finding behind the head's four lines, on a line each.
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
fn every_preset_by_its_word() {
    let words = ["socket.io", "sockjs", "signalr", "mcp", "phoenix", "cometd", "tus"];
    let found = rules(&format!("affinity = {words:?}\n"));
    assert_eq!(found.iter().map(|rule| rule.name.as_str()).collect::<Vec<_>>(), words);
    assert_eq!(found[0].protocol, Protocol::SocketIo);
    assert!(found[1].client_made && found[1].learn.is_empty());
}

#[test]
fn a_rule_with_everything() {
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
    assert!(matches!(&rule.learn[0].from, Place::Header(name) if name == "x-job-id"));
    assert!(matches!(&rule.lookup[3].at, Spot::Path(path) if path.id("/jobs/42/log") == Some("42")));
    assert_eq!(rule.ttl.as_secs(), 3_600);
    assert_eq!(rules(&format!("{JOBS}lookup = [\"query:a\"]\nclient_made = true\n"))[0].ttl.as_secs(), 600);
}

#[test]
fn a_rule_that_can_never_match() {
    assert_eq!(
        said(&format!("{JOBS}learn = [{{ from = \"header:a\" }}]\n")),
        ["s.toml:6:11: [affinity.jobs] can never match: it looks nowhere for its id; \
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
fn a_lookup_without_a_source() {
    assert_eq!(
        said(&format!("{JOBS}lookup = [\"query:job\"]\n")),
        ["s.toml:6:11: [affinity.jobs] has a lookup without a source: it never knows a session; \
          write learn = [{ from = \"header:x-job-id\" }], or client_made = true where the client makes it"]
    );
    let both = "client_made = true\nlearn = [{ from = \"location\" }]\nlookup = [\"query:job\"]\n";
    assert_eq!(
        said(&format!("{JOBS}{both}")),
        ["s.toml:8:1: `learn` says nothing: by line 7 the client makes the id; leave one of the two out"]
    );
}

#[test]
fn two_rules_that_claim_the_same_place() {
    let two = "affinity = [\"a\", \"b\"]\n[affinity.a]\nclient_made = true\nlookup = [\"query:x\", \"header:id\"]\n\
        [affinity.b]\nclient_made = true\nlookup = [\"header:ID\"]\n";
    assert_eq!(
        said(two),
        ["s.toml:5:18: `a` and `b` both claim header:id; \
          an id that is found there would be the first one's: look elsewhere for one of them"]
    );
    let sid = "affinity = [\"socket.io\", \"b\"]\n[affinity.b]\nclient_made = true\nlookup = [\"query:sid\"]\n";
    assert!(said(sid)[0].contains("both claim query:sid"), "{:?}", said(sid));
    let id = "affinity = [\"signalr\", \"b\"]\n[affinity.b]\nclient_made = true\nlookup = [\"query:id\"]\n";
    assert!(said(id)[0].contains("both claim query:id"), "{:?}", said(id));
    let twice = "affinity = [\"b\"]\n[affinity.b]\nclient_made = true\nlookup = [\"query:id\", \"query:id\"]\n";
    assert_eq!(said(twice), ["s.toml:8:23: `query:id` stands here twice"]);
}

#[test]
fn words_nobody_knows() {
    assert_eq!(said("affinity = [\"sokjs\"]\n"), ["s.toml:5:13: unknown affinity `sokjs`; did you mean `sockjs`?"]);
    let custom = "affinity = [\"jbs\"]\n[affinity.jobs]\nclient_made = true\nlookup = [\"query:id\"]\n";
    assert!(said(custom).contains(&"s.toml:5:13: unknown affinity `jbs`; did you mean `jobs`?".to_owned()));
    let taken = "[affinity.mcp]\nclient_made = true\nlookup = [\"query:id\"]\n";
    assert!(said(taken)[0].contains("`mcp` is a word of stickyd's own"), "{:?}", said(taken));
    let unused = "[affinity.jobs]\nclient_made = true\nlookup = [\"query:id\"]\n";
    assert!(
        said(unused)[0].starts_with("warning: s.toml:5:11: no upstream uses [affinity.jobs]"),
        "{:?}",
        said(unused)
    );
}

#[test]
fn places_that_are_none() {
    for (line, what) in [
        ("lookup = [\"path:/jobs\"]", "does not say where the id stands"),
        ("lookup = [\"path:jobs/{id}\"]", "a path begins with /"),
        ("lookup = [\"path:/{id}/{id}\"]", "once"),
        ("lookup = [\"body:x\"]", "is no place in a request"),
        ("lookup = [\"header:a b\"]", "is no name of a field"),
        ("lookup = [\"header:cookie\"]", "a cookie has a place of its own"),
        ("lookup = [\"cookie:a=b\"]", "is no name of a cookie"),
        ("learn = [{ from = \"json:a.b.c.d.e.f.g.h.i\" }]", "8 is the most"),
        ("learn = [{ from = \"json:\" }]", "names of fields"),
        ("learn = [{ from = \"prefix:abc\" }]", "{id}"),
        ("learn = [{ from = \"header:set-cookie\" }]", "a cookie has a place of its own"),
        ("learn = [{ from = \"nowhere\" }]", "is no place"),
        ("learn = [{ from = \"location\", path = \"/a/{id}\" }]", "stands in `lookup` only"),
        ("learn = [{ from = \"location\", method = \"post\" }]", "is no method"),
        ("learn = [{ from = \"location\", status = 101 }]", "from 200 to 599"),
        ("learn = [{}]", "needs `from`"),
        ("refusal = [{ body = \"x\" }]", "needs `status`"),
        ("refusal = [{ status = 200 }]", "every answer of this status would be a refusal"),
        ("ends = [{}]", "every request would end its session"),
        ("ttl = \"0s\"", "must be from 1s"),
        ("ttl_from = \"location\"", "no number of seconds"),
    ] {
        let all = said(&format!("{JOBS}{line}\n"));
        assert!(all.iter().any(|one| one.starts_with("s.toml:7:") && one.contains(what)), "{line}: {all:?}");
    }
}

#[test]
fn follow_follows_sockets() {
    let text = format!("{HEAD}follow = [\"header:X-Socket-Id\", \"query:socketId\"]\n");
    let (config, warnings) = parse_with(&text, Path::new("s.toml"), &resolve).unwrap();
    assert_eq!((config.upstreams[0].follow.len(), warnings.len()), (2, 0));
    let alone = "affinity = [\"mcp\", \"address\"]\nfollow = [\"query:a\"]\n";
    assert!(said(alone)[0].contains("`follow` has nothing to follow"), "{:?}", said(alone));
    assert!(said("follow = [\"cookie:a\"]\n")[0].contains("header:NAME and query:NAME"));
    let both = "affinity = [\"socket.io\", \"b\"]\nfollow = [\"query:x\"]\n[affinity.b]\nclient_made = true\nlookup = [\"query:x\"]\n";
    assert!(said(both)[0].contains("`follow` and `b` both claim query:x"), "{:?}", said(both));
}
