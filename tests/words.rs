//! The language of everything a person reads: comments, docs, log lines, errors, names of tests, and Markdown.
//!
//! `CONTRIBUTING.md` has the rules with right and wrong forms. Here they are held as far as a pattern can: habits that
//! name no thing, public docs too short to be understood alone, and lines that are too long. A pattern is a net, not a
//! judge: what it misses may still be a riddle. Left out: text between ```` ```text,wrong ```` fences, which shows
//! wrong forms.

use regex::Regex;

use super::support::sources::{self, Part};

/// Columns of a line of Rust, TOML and units.
const OTHER_COLUMNS: usize = 120;

/// Columns of a line of Markdown, tables and lines with an address excepted.
const MARKDOWN_COLUMNS: usize = 100;

/// Words of a doc comment, at least: fewer are no sentence that is understood on hover.
const DOC_WORDS: usize = 4;

/// What each habit is called, and how it is found.
const HABITS: &[(&str, &str)] = &[
    (
        "a person instead of the thing",
        r"(?i)\b(nobody|whoever|whom|whomever|somebody|thereof|therein|whereof|whence)\b",
    ),
    ("`he` or `his` for a role", r"\b([Hh]e|[Hh]is|[Hh]im|[Hh]imself)\b"),
    (
        "`who` with a verb instead of a noun",
        r"(?i)\bwho (polls?|has|have|had|comes?|came|waits?|sends?|reads?|closes?|asks?|is|are|was|wants?|may|owes?|uses?|does|do|gets?|says?|knows?)\b",
    ),
    ("`besides` for `also` or `except`", r"(?i)\bbesides\b"),
    ("`is no X` for `is not an X`", r"\b(is|are|was|were) (no|none)\b ?(?P<what>\w*)"),
    (
        "`a` for `per`",
        r"\b(bytes|[KMG]i?B|B|µs|us|ms|ns|requests|connections|sockets|lines|messages|handshakes|entries|files|bits|copies|allocations|streams|workers|sessions|tries|clients|series|tokens|packets|instructions) an? (second|minute|hour|day|request|connection|message|socket|worker|thread|bucket|stream|session|slot|address|tunnel|client|operation|pin|list|frame|handshake|core|upstream|route|listener|machine|network)\b",
    ),
    ("`behind` for `after`", r"(?i)\bbehind\b(?P<what>(?:[ -][^ ]+){0,5})"),
];

/// What something may honestly be behind.
const BEHIND: &[&str] = &[
    "proxy",
    "proxies",
    "nginx",
    "balancer",
    "balancers",
    "cdn",
    "nat",
    "nats",
    "cloudflare",
    "firewall",
    "haproxy",
    "router",
    "stickyd",
    "feature",
    "flag",
    "caddy",
    "traefik",
    "gateway",
    "ingress",
    "alb",
    "alb,",
    "nlb",
    "load",
    "facade",
    "lock",
    "locks",
    "pointer",
    "interface",
    "arc",
    "mutex",
    "front",
    "another",
    "address",
    "addresses",
    "l4",
    "tcp",
    "http",
    "trusted_proxies",
    "socket's",
    "socket's lock",
];

/// What something may honestly be, after `is no`.
const IS_NO: &[&str] = &[
    "longer",
    "more",
    "less",
    "fewer",
    "later",
    "earlier",
    "greater",
    "larger",
    "smaller",
    "matter",
    "different",
    "worse",
    "better",
    "such",
    "slower",
    "faster",
];

/// What may stand around a word.
const PUNCTUATION: &[char] = &[',', ';', ':', '(', ')', '[', ']', '`', '"', '*', '\''];

/// One place that breaks a rule.
struct Fault {
    line: usize,
    what: String,
}

/// Texts of one file, line by line: what a person reads, without code.
fn readable(path: &str, text: &str) -> Vec<String> {
    if !path.ends_with(".rs") {
        let mut wrong_form = false;
        let keep = |line: &str| {
            if line.trim_start().starts_with("```") {
                wrong_form = line.contains("text,wrong");
            }
            if wrong_form { String::new() } else { line.to_owned() }
        };
        return text.lines().map(keep).collect();
    }
    let (mut lines, mut now) = (Vec::new(), String::new());
    sources::parts(text, |c, part| match part {
        _ if c == '\n' => lines.push(std::mem::take(&mut now)),
        Part::Comment | Part::String => now.push(c),
        Part::Code => now.push(if c == '"' { '"' } else { ' ' }),
    });
    lines.push(now);
    lines
}

fn habits() -> Vec<(&'static str, Regex)> {
    HABITS.iter().map(|(what, pattern)| (*what, Regex::new(pattern).unwrap())).collect()
}

/// What is wrong with the language of one file.
fn faults(path: &str, text: &str, habits: &[(&'static str, Regex)]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (index, line) in readable(path, text).iter().enumerate() {
        // A value of the API, which keeps its name.
        let line = &line.replace("\"nobody\"", "");
        for (what, habit) in habits {
            for found in habit.captures_iter(line) {
                let before = &line[..found.get(0).unwrap().start()];
                let there = before.trim_end().to_lowercase().ends_with("there");
                let honest = found.name("what").is_some_and(|word| {
                    let text = word.as_str().to_lowercase();
                    let mut words = text.split([' ', '-', '/', '.']).map(|word| word.trim_matches(PUNCTUATION));
                    text.is_empty() || there || words.any(|word| BEHIND.contains(&word) || IS_NO.contains(&word))
                });
                if !honest {
                    faults.push(Fault { line: index + 1, what: format!("{what}: {}", line.trim()) });
                }
            }
        }
    }
    let in_strings = if path.ends_with(".rs") { lines_in_strings(text) } else { Vec::new() };
    let limit = if path.ends_with(".md") { MARKDOWN_COLUMNS } else { OTHER_COLUMNS };
    for (index, line) in text.lines().enumerate() {
        let columns = line.chars().count();
        let excepted = path.ends_with(".md") && (line.trim_start().starts_with('|') || line.contains("http"));
        // A string that is data, a capture or a JSON text, cannot be broken.
        let in_string = in_strings.get(index).is_some_and(|inside| *inside);
        let is_data = !path.ends_with(".md") && (is_literal(line) || in_string);
        if columns > limit && !excepted && !is_data {
            faults.push(Fault { line: index + 1, what: format!("{columns} columns, {limit} are the most") });
        }
    }
    if path.ends_with(".rs") {
        faults.extend(short_docs(text));
    }
    faults
}

/// Whether a line is code around a string that reaches beyond the limit by itself.
fn is_literal(line: &str) -> bool {
    let (first, last) = (line.find('"'), line.rfind('"'));
    !line.trim_start().starts_with("//") && matches!((first, last), (Some(first), Some(last)) if last - first > 60)
}

/// Of each line of Rust, whether it lies in a string of several lines, such as a snapshot.
fn lines_in_strings(text: &str) -> Vec<bool> {
    let (mut lines, mut from) = (Vec::new(), false);
    sources::parts(text, |c, part| {
        if c == '\n' {
            lines.push(from || part == Part::String);
            from = part == Part::String;
        }
    });
    lines.push(from);
    lines
}

/// Doc comments of fewer than [`DOC_WORDS`] words.
fn short_docs(text: &str) -> Vec<Fault> {
    let (mut faults, mut words, mut from) = (Vec::new(), 0, None);
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if let Some(doc) = line.strip_prefix("///") {
            from = from.or(Some(index + 1));
            words += doc.split_whitespace().count();
        } else if !line.starts_with("#[") {
            if let Some(line) = from.filter(|_| words < DOC_WORDS) {
                faults.push(Fault { line, what: format!("a doc comment of {words} words, {DOC_WORDS} are the least") });
            }
            (words, from) = (0, None);
        }
    }
    faults
}

#[test]
fn texts_are_plain_english() {
    let habits = habits();
    let mut all = Vec::new();
    let folders = [
        ("src", "rs"),
        ("tests", "rs|md"),
        ("examples", "rs|md"),
        ("conf", "toml|md"),
        ("docs", "md"),
        ("systemd", "service|socket"),
    ];
    let mut files: Vec<_> = folders.iter().flat_map(|(folder, ends)| sources::below(folder, ends)).collect();
    for page in ["README.md", "CHANGELOG.md", "SECURITY.md", "ARCHITECTURE.md", "CONTRIBUTING.md"] {
        files.push((page.into(), std::fs::read_to_string(page).unwrap()));
    }
    for (path, text) in files {
        let path = path.to_string_lossy();
        // The patterns themselves.
        if path == "tests/words.rs" {
            continue;
        }
        let found = faults(&path, &text, &habits);
        all.extend(found.into_iter().map(|fault| format!("{path}:{}: {}", fault.line, fault.what)));
    }
    assert!(all.is_empty(), "{} texts to mend (CONTRIBUTING.md, English):\n{}", all.len(), all.join("\n"));
}

#[test]
fn planted_habits_are_found() {
    let habits = habits();
    let found = |path: &str, text: &str| faults(path, text, &habits).len();
    for (path, text) in [
        ("a.rs", "// nobody waits"),
        ("a.rs", "fn f() { log(\"whoever asks\") }"),
        ("a.rs", "// the operator and his words"),
        ("a.rs", "// counts who polls"),
        ("a.rs", "// 16 bytes a slot"),
        ("a.rs", "// `10.0.0.0/33` is no network"),
        ("a.rs", "// what comes behind the head"),
        ("a.rs", "/// Then.\npub fn f() {}"),
        ("a.md", "and besides, it is fast"),
    ] {
        assert!(found(path, text) > 0, "not found: {text}");
    }
    assert!(found("a.md", &"x ".repeat(60)) > 0 && found("a.rs", &format!("// {}", "x".repeat(130))) > 0);
    for (path, text) in [
        ("a.rs", "// There is no worker. It is no longer asked once a second, behind a proxy."),
        ("a.rs", "fn nobody() {}"),
        ("a.rs", "/// Deadline for the last byte of the response.\npub fn f() {}"),
        ("a.md", "```text,wrong\nnobody\n```"),
    ] {
        assert_eq!(found(path, text), 0, "found: {text}");
    }
}
