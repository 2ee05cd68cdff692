//! What README.md and docs/ tell users to write is valid: configurations, commands, names of metrics, and quoted texts.
//!
//! Configurations go through the real `stickyd check`, with generated certificates and secrets beside them. Commands
//! are parsed and never run. Left out: links and sections (`tests/references.rs`), columns and language
//! (`tests/words.rs`), and the JavaScript of docs/messages.md, which `tests/messages.rs` runs.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use clap::{CommandFactory as _, Parser as _};
use rcgen::{CertificateParams, KeyPair};
use regex::Regex;
use stickyd::testing::cli::Cli;

use super::support::sources::{self, Part};

/// What a ```` ```toml,fragment ```` block is appended to; such a block continues the table `[upstream.app]`.
const BASE: &str =
    "[[listener]]\naddress = \"127.0.0.1:8080\"\n\n[upstream.app]\nworkers = [\"127.0.0.1:3001-3004\"]\n";

/// Names that look like metrics and are not: a file of alert rules, the default name of the cookie.
const NO_METRICS: &[&str] = &["stickyd_test", "stickyd_app"];

/// Quotes in docs/symptoms.md that are not stickyd's own texts, and where they come from.
const FOREIGN_QUOTES: &[(&str, &str)] = &[
    ("WebSocket connection failed", "browsers"),
    ("transport close", "socket.io-client"),
    ("transport error", "socket.io-client"),
    ("self-signed certificate", "Node and OpenSSL"),
    ("unable to verify the first certificate", "Node and OpenSSL"),
];

/// A fenced block of a page.
pub(super) struct Block {
    line: usize,
    pub(super) info: String,
    pub(super) text: String,
}

/// README.md and every page below docs/, with their texts.
fn pages() -> Vec<(PathBuf, String)> {
    let mut pages = sources::below("docs", "md");
    pages.push(("README.md".into(), std::fs::read_to_string("README.md").unwrap()));
    assert!(pages.len() > 10, "the pages are not found");
    pages
}

/// Applies `faults` to all pages, and fails with what it finds.
fn check_pages(faults: impl Fn(&str) -> Vec<String>) {
    let mut all = Vec::new();
    for (path, text) in pages() {
        all.extend(faults(&text).into_iter().map(|fault| format!("{}:{fault}", path.display())));
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}

/// The fenced blocks of a page, and the page without them.
pub(super) fn blocks(page: &str) -> (Vec<Block>, String) {
    let (mut blocks, mut prose, mut open) = (Vec::new(), String::new(), None::<Block>);
    for (index, line) in page.lines().enumerate() {
        match (line.trim_start().strip_prefix("```"), open.as_mut()) {
            (Some(info), None) => open = Some(Block { line: index + 1, info: info.to_owned(), text: String::new() }),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.text.extend([line, "\n"]),
            (None, None) => prose.extend([line, "\n"]),
        }
    }
    assert!(open.is_none(), "a fence is not closed");
    (blocks, prose)
}

/// A folder with the files that the configurations of the pages name; removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("stickyd-docs-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["app.example".to_owned()]).unwrap().self_signed(&key).unwrap();
        let secret = "0123456789abcdef0123456789abcdef\n".to_owned();
        for (name, text) in [
            ("fullchain.pem", certificate.pem()),
            ("ca.pem", certificate.pem()),
            ("privkey.pem", key.serialize_pem()),
            ("secret", secret.clone()),
            ("jwt.secret", secret.replace('1', "e")),
            ("token", secret.clone()),
            ("admin.token", secret.clone()),
            ("emit.token", secret.replace('0', "f")),
            ("htpasswd", format!("ann:{}\n", bcrypt::hash("secret", 4).unwrap())),
            ("offices.txt", "10.0.0.0/8\n".to_owned()),
            ("drop.txt", "192.0.2.0/24\n".to_owned()),
            ("discord.url", "https://discord.com/api/webhooks/1/x".to_owned()),
            ("beat.url", "http://watcher.example/ping/x".to_owned()),
        ] {
            std::fs::write(folder.join(name), text).unwrap();
            std::fs::set_permissions(folder.join(name), PermissionsExt::from_mode(0o600)).unwrap();
        }
        Self(folder)
    }

    /// What `stickyd check` complains about, warnings included; empty if it accepts the text.
    fn complaints(&self, toml: &str) -> String {
        std::fs::write(self.0.join("stickyd.toml"), toml).unwrap();
        let mut check = Command::new(env!("CARGO_BIN_EXE_stickyd"));
        let output = check.args(["check", "stickyd.toml"]).current_dir(&self.0).output().unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), !complaints.contains("error"), "{complaints}");
        complaints
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Configurations of a page that `stickyd check` does not accept, or warns about.
fn bad_configurations(page: &str) -> Vec<String> {
    let folder = Folder::new();
    let complaint = |block: Block| {
        let text = match &*block.info {
            "toml" => block.text,
            "toml,fragment" => format!("{BASE}{}", block.text),
            _ => return None,
        };
        let complaints = folder.complaints(&text);
        (!complaints.is_empty()).then(|| format!("{}: {complaints}\n{text}", block.line))
    };
    blocks(page).0.into_iter().filter_map(complaint).collect()
}

/// Splits a line into words as a shell does, up to the end of the first command (`|`, `;`, `&`, `<`, `>`, `#`).
fn shell_words(line: &str) -> Result<Vec<String>, &'static str> {
    let (mut words, mut word) = (Vec::new(), None::<String>);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '|' | ';' | '&' | '<' | '>' => break,
            '#' if word.is_none() => break,
            '\\' => word.get_or_insert_default().extend(chars.next()),
            '\'' | '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or("a quote is not closed")? {
                        end if end == c => break,
                        '\\' if c == '"' => word.extend(chars.next()),
                        inside => word.push(inside),
                    }
                }
            }
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Command lines of a page that stickyd does not understand, and command lines outside of ```` ```console ````.
fn bad_commands(page: &str) -> Vec<String> {
    let (blocks, prose) = blocks(page);
    let mut faults = Vec::new();
    for block in blocks {
        for line in block.text.replace("\\\n", " ").lines() {
            let Some(line) = line.trim_start().strip_prefix("$ ") else { continue };
            let is_ours = line.starts_with("stickyd ") || line.starts_with("sudo stickyd ");
            let fault = match shell_words(line) {
                Err(fault) => Some(fault.to_owned()),
                Ok(_) if is_ours && block.info != "console" => Some("the block is not `console`".to_owned()),
                Ok(words) if is_ours => {
                    let words = words.iter().skip_while(|word| *word == "sudo");
                    Cli::try_parse_from(words).err().map(|error| error.to_string())
                }
                Ok(_) => None,
            };
            faults.extend(fault.map(|fault| format!("{}: {line}: {fault}", block.line)));
        }
    }
    let known = Cli::command();
    let command = Regex::new(r"`stickyd ([a-z]+)[^`]*`").unwrap();
    for found in command.captures_iter(&prose) {
        if known.find_subcommand(&found[1]).is_none() {
            faults.push(format!(" {}: there is no such command", &found[0]));
        }
    }
    faults
}

/// Names of metrics in a page that do not exist.
fn bad_metrics(page: &str) -> Vec<String> {
    let literal = Regex::new("\"(stickyd_[a-z0-9_]+)\"").unwrap();
    let known: BTreeSet<String> = sources::below("src/metrics", "rs")
        .iter()
        .flat_map(|(_, text)| literal.captures_iter(text).map(|found| found[1].to_owned()).collect::<Vec<_>>())
        .collect();
    assert!(known.len() > 30, "the names of the metrics are not found");
    let name = Regex::new(r"\bstickyd_[a-z0-9_]+").unwrap();
    let is_known = |name: &str| {
        let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        known.contains(name) || of_histogram.is_some_and(|name| known.contains(name)) || NO_METRICS.contains(&name)
    };
    name.find_iter(page)
        .map(|found| found.as_str())
        .filter(|name| !is_known(name))
        .map(|name| format!(" {name}: there is no such metric"))
        .collect()
}

/// The string literals of src/ outside of tests, one after the other, with continued lines joined.
fn texts_of_stickyd() -> String {
    let mut texts = String::new();
    for (_, text) in sources::below("src", "rs").iter().filter(|(path, _)| !path.ends_with("tests.rs")) {
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        sources::parts(text, |c, part| texts.push(if part == Part::String { c } else { '\n' }));
    }
    let continued = Regex::new(r"\\\n\s*").unwrap();
    continued.replace_all(&texts, "").into_owned()
}

/// The texts that docs/symptoms.md quotes: in quotation marks, as the answer of an error, and in tables of answers.
fn quotes(page: &str) -> Vec<String> {
    let prose = blocks(page).1;
    let tidy = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut quotes = Vec::new();
    let mut is_answers = false;
    for line in prose.lines() {
        let first = line.strip_prefix("| ").and_then(|row| row.split(" |").next());
        is_answers = first.is_some_and(|cell| cell == "reason in the body") || is_answers && line.starts_with('|');
        quotes.extend(first.filter(|cell| is_answers && *cell != "reason in the body").map(str::to_owned));
    }
    let answer = Regex::new(r"`[45]\d\d [A-Z][A-Za-z ]+: ([a-z][^`]+)`").unwrap();
    quotes.extend(answer.captures_iter(&prose).map(|found| tidy(&found[1])));
    let code = Regex::new("`[^`]*`").unwrap();
    let quote = Regex::new("\"([^\"]+)\"").unwrap();
    quotes.extend(quote.captures_iter(&code.replace_all(&prose, "")).map(|found| tidy(&found[1])));
    quotes
}

/// Whether stickyd has this text; an ellipsis, and `{}` in the source, stand for values.
fn is_said(quote: &str, texts: &str) -> bool {
    // An answer's status line is written by another place than its reason.
    let reason = Regex::new(r"^[45]\d\d [A-Z][A-Za-z ]+: ").unwrap().replace(quote, "").into_owned();
    let pattern = regex::escape(reason.trim_end_matches([' ', '…']));
    // A name of a file is a value.
    let pattern = Regex::new(r"[a-z]+\\\.pem").unwrap().replace_all(&pattern, r"\{[^}]*\}").into_owned();
    Regex::new(&pattern).unwrap().is_match(texts)
}

/// Quotes of a page that are neither in src/ nor foreign.
fn bad_quotes(page: &str, texts: &str) -> Vec<String> {
    let is_foreign = |quote: &String| FOREIGN_QUOTES.iter().any(|(foreign, _)| quote == foreign);
    quotes(page).into_iter().filter(|quote| !is_foreign(quote) && !is_said(quote, texts)).collect()
}

#[test]
fn configurations_in_the_docs_are_valid() {
    check_pages(bad_configurations);
}

#[test]
fn commands_in_the_docs_are_valid() {
    check_pages(bad_commands);
}

#[test]
fn metrics_in_the_docs_exist() {
    check_pages(bad_metrics);
}

#[test]
fn quotes_in_the_symptoms_are_stickyds_own_texts() {
    let page = std::fs::read_to_string("docs/symptoms.md").unwrap();
    let bad = bad_quotes(&page, &texts_of_stickyd());
    assert!(bad.is_empty(), "not in src/: {bad:#?}");
    let quotes = quotes(&page);
    assert!(quotes.len() > 20, "{quotes:?}");
    for (foreign, _) in FOREIGN_QUOTES {
        assert!(quotes.iter().any(|quote| quote == foreign), "no longer quoted: {foreign}");
    }
}

#[test]
fn planted_bad_configurations_are_found() {
    let good = format!("```toml\n{BASE}```\n  ```toml,fragment\n  request_timeout = \"5s\"\n  ```\n");
    assert_eq!(bad_configurations(&good), [] as [&str; 0]);
    for bad in [
        "```toml\n[[listener]]\naddress = \"127.0.0.1:8080\"\n```".to_owned(),
        "```toml,fragment\nno_such_key = 1\n```".to_owned(),
        "```toml,fragment\nrequest_timeout = 5\n```".to_owned(),
        format!("```toml\n{BASE}tls = {{ ca = \"absent.pem\" }}\n```"),
    ] {
        assert_eq!(bad_configurations(&bad).len(), 1, "not found: {bad}");
    }
}

#[test]
fn planted_bad_commands_are_found() {
    let good = "```console\n$ stickyd broadcast --all --text \"back | soon\" | tee log\n$ PORT=1 node app.js &\n\
        $ sudo stickyd status # a comment\n$ stickyd close --label store=7 \\\n  --dry-run\n```\n`stickyd top` shows";
    assert_eq!(bad_commands(good), [] as [&str; 0]);
    for bad in [
        "```console\n$ stickyd no-such-command\n```",
        "```console\n$ stickyd drain app/w7 --no-such-flag\n```",
        "```console\n$ stickyd broadcast --all --text back soon\n```",
        "```console\n$ stickyd broadcast --all --text 'back soon\n```",
        "```text\n$ stickyd status\n```",
        "with `stickyd forget ID`",
    ] {
        assert_eq!(bad_commands(bad).len(), 1, "not found: {bad}");
    }
}

#[test]
fn planted_bad_metrics_are_found() {
    assert_eq!(
        bad_metrics("`stickyd_pins`, stickyd_request_duration_seconds_bucket{}, stickyd_app=x"),
        [] as [&str; 0]
    );
    assert_eq!(bad_metrics("`stickyd_no_such_total`, stickyd_pins_bucke").len(), 2);
}

#[test]
fn planted_bad_quotes_are_found() {
    let good = "says \"worker changed\nstate\", `504 Gateway Timeout: the worker did not respond in time`, or\n\
        | reason in the body | cause |\n|---|---|\n| no file descriptor is left … | few |\n\n| other | x |";
    let texts = texts_of_stickyd();
    assert_eq!(bad_quotes(good, &texts), [] as [&str; 0]);
    for bad in [
        "\"worker has changed its state\"",
        "`504 Gateway Timeout: the worker was slow`",
        "| reason in the body | cause |\n|---|---|\n| no worker likes this request | x |",
    ] {
        assert_eq!(bad_quotes(bad, &texts).len(), 1, "not found: {bad}");
    }
}

#[test]
fn shell_words_are_split_as_by_a_shell() {
    let split = |line| shell_words(line).unwrap().join("␣");
    assert_eq!(split(r#"a "b c" d'e f'g h\ i  --arg '{"a":1}'"#), "a␣b c␣de fg␣h i␣--arg␣{\"a\":1}");
    assert_eq!(split("a '' \"|\" | b"), "a␣␣|");
    assert!(shell_words("a 'b").is_err());
}
