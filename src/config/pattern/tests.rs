//! Tests of patterns with paths and with bodies, complete and in parts.

use proptest::prelude::*;

use super::*;

fn path(text: &str) -> PathPattern {
    PathPattern::parse(text).unwrap()
}

#[test]
fn path_patterns_match_and_find_ids() {
    for (pattern, target, id) in [
        ("/jobs/{id}", "/jobs/42", Some(Some("42"))),
        ("/jobs/{id}", "/jobs/42/log", None),
        ("/jobs/{id}", "/jobs/", None),
        ("/jobs/{id}", "/jobs", None),
        ("/jobs/{id}/**", "/jobs/42/log/1", Some(Some("42"))),
        ("/jobs/{id}/**", "/jobs/42", Some(Some("42"))),
        ("/*/jobs/{id}", "/a/jobs/7", Some(Some("7"))),
        ("/*/jobs/{id}", "//jobs/7", None),
        ("/jobs", "/jobs", Some(None)),
        ("/jobs", "/jobs/", None),
        ("/", "/", Some(None)),
        ("/", "/a", None),
        ("/**", "/a/b", Some(None)),
        ("/**/negotiate", "/hub/negotiate", Some(None)),
        ("/**/negotiate", "/negotiate", Some(None)),
        ("/**/negotiate", "/negotiate/x", None),
        ("/**/*/{id}/xhr|xhr_send", "/a/b/000/abc/xhr_send", Some(Some("abc"))),
        ("/**/*/{id}/xhr|xhr_send", "/000/abc/xhr", Some(Some("abc"))),
        ("/**/*/{id}/xhr|xhr_send", "/abc/xhr", None),
        ("/**/*/{id}/xhr|xhr_send", "/000/abc/info", None),
        ("/jobs", "*", None),
        ("/jobs/{id}", "/%6aobs/4%32", Some(Some("4%32"))),
        ("/**/negotiate", "/hub/neg%6ftiate", Some(None)),
        ("/**/*/{id}/xhr|xhr_send", "/000/abc/xhr%5fsend", Some(Some("abc"))),
        ("/jobs", "/job%zz", None),
        ("/a/b", "/a%2fb", None),
    ] {
        assert_eq!(path(pattern).walk(target), id, "{pattern} {target}");
    }
    assert_eq!(path("/jobs/{id}").and_below().id("/jobs/42/log"), Some("42"));
    assert_eq!(path("/**/{id}").and_below().id("/a/42/log"), Some("log"), "a leading `/**` has nothing below");
    assert_eq!(path("/a/b/{id}").fixed().as_deref(), Some("/a/b"));
    assert_eq!(path("/**/a").fixed(), None);
}

#[test]
fn malformed_path_patterns_are_rejected() {
    for text in ["", "jobs", "/a b", "/a?b", "/{id}/{id}", "/{name}", "/a{id}", "/a*", "/a/**/b", "/**/a/**", "/é"] {
        assert!(PathPattern::parse(text).is_err(), "{text}");
    }
}

#[test]
fn json_paths_are_parsed() {
    assert_eq!(JsonPath::parse("0.clientId").unwrap().steps(), ["0", "clientId"]);
    assert!(JsonPath::parse("a.b.c.d.e.f.g.h").is_ok());
    for text in ["", ".", "a.", ".a", "a..b", "a.b.c.d.e.f.g.h.i"] {
        assert!(JsonPath::parse(text).is_err(), "{text}");
    }
}

#[test]
fn templates_find_ids_in_bodies() {
    let endpoint = Template::parse("event: endpoint\ndata: *sessionId={id}").unwrap();
    for line in ["\n", "\r\n"] {
        let body = format!("event: endpoint{line}data: /messages?a=1&sessionId=0f-9{line}{line}");
        assert_eq!(endpoint.find(body.as_bytes()), PatternMatch::Found(&b"0f-9"[..]));
        for cut in 0..body.find("0f-9").unwrap() + 4 {
            assert_eq!(endpoint.find(&body.as_bytes()[..cut]), PatternMatch::NeedMore, "{cut}");
        }
    }
    for never in ["event: message\n", "event: endpoint\ndata: /messages\nx", "event: endpoint\ndata: sessionId=\n", "x"]
    {
        assert_eq!(endpoint.find(never.as_bytes()), PatternMatch::Never, "{never}");
    }
    let quoted = Template::parse("<job id='{id}'").unwrap();
    assert_eq!(quoted.find(b"<job id='a b'>"), PatternMatch::Found(&b"a b"[..]));
    assert_eq!(Template::parse("*a*b{id}").unwrap().find(b"xxaxxbid "), PatternMatch::Found(&b"id"[..]));
    for text in ["", "no id", "{id}{id}", "a**{id}", "a*{id}"] {
        assert!(Template::parse(text).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn an_id_is_always_a_segment_of_the_path(
        pattern in "/(\\*\\*/)?([a-c*]/){0,3}\\{id\\}(/[a-c])?", target in "/?([a-c]{0,2}/){0,5}[a-c]{0,2}",
    ) {
        if let Ok(pattern) = PathPattern::parse(&pattern)
            && let Some(id) = pattern.id(&target)
        {
            prop_assert!(!id.is_empty() && target.split('/').any(|segment| segment == id));
        }
    }

    #[test]
    fn more_of_a_body_never_changes_a_result(
        template in "[a*]{0,4}b?\\{id\\}c?", body in proptest::collection::vec(prop::sample::select(&b"abc\r\n &"[..]), 0..24),
    ) {
        let Ok(template) = Template::parse(&template) else { return Ok(()) };
        let mut known = PatternMatch::NeedMore;
        for cut in 0..=body.len() {
            let seen = template.find(&body[..cut]);
            if known != PatternMatch::NeedMore {
                prop_assert_eq!(&seen, &known);
            }
            known = match seen {
                PatternMatch::Found(id) => {
                    let at = body[..cut].windows(id.len()).position(|w| w == id).unwrap();
                    PatternMatch::Found(&body[at..][..id.len()])
                }
                other => other,
            };
        }
    }
}
