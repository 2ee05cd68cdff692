//! `stickyd reference` and `stickyd man`: what they print agrees with the sources, the shipped file, the docs and a
//! scrape.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use regex::Regex;
use serde_json::Value;

use crate::support::proxy::Proxy;
use crate::support::sources;
use crate::support::temp::TempDirectory;

fn stickyd(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_stickyd")).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn reference(part: &str) -> Vec<BTreeMap<String, Value>> {
    let all: Value = serde_json::from_str(&stickyd(&["reference", part, "--json"])).unwrap();
    serde_json::from_value(all[part].clone()).unwrap()
}

/// Keys by table and name, such as `upstream.NAME` and `health.interval`.
fn keys() -> BTreeMap<(String, String), BTreeMap<String, Value>> {
    let text = |key: &BTreeMap<String, Value>, name: &str| key[name].as_str().unwrap().to_owned();
    reference("keys").into_iter().map(|key| ((text(&key, "table"), text(&key, "key")), key)).collect()
}

fn shipped() -> String {
    std::fs::read_to_string("conf/stickyd.toml").unwrap()
}

#[test]
fn the_facts_of_known_keys_are_right() {
    let keys = keys();
    assert!(keys.len() > 120, "{}", keys.len());
    for (table, key, kind, range, default, applied_by) in [
        ("", "threads", "integer", "1 to 256", "one per core", "restart"),
        ("listener[]", "tls.hsts.preload", "true or false", "", "false", "reload"),
        ("upstream.NAME", "connect_timeout", "duration", "1ms to 1day", "\"5s\"", "reload"),
        ("upstream.NAME", "eject.max_share", "percentage", "1% to 100%", "\"50%\"", "reload"),
        ("upstream.NAME", "max_connections", "integer", "1 to 1_000_000", "none", "reload"),
        ("upstream.NAME", "removed", "\"keep\" or \"drain\" or \"close\"", "", "\"keep\"", "reload"),
        ("limits", "pins", "integer", "1_000 to 100_000_000", "1_000_000", "restart"),
        ("limits", "head_bytes", "size", "8_192 to 1_048_576 bytes", "\"32KiB\"", "reload"),
        ("log", "format", "\"text\" or \"json\"", "", "\"text\"", "restart"),
    ] {
        let facts = &keys[&(table.to_owned(), key.to_owned())];
        let fact = |name: &str| facts[name].as_str().unwrap_or_default();
        let found = (fact("type"), fact("range"), fact("default"), fact("applied_by"));
        assert_eq!(found, (kind, range, default, applied_by), "{table} {key}");
    }
    let required = &keys[&("listener[]".to_owned(), "address".to_owned())];
    assert_eq!(required["default"], Value::Null);
}

#[test]
fn every_key_has_a_type() {
    for ((table, key), facts) in keys() {
        assert_ne!(facts["type"], "", "{table} {key}: no value was accepted; see config/survey/frame.rs");
    }
}

/// The last part of a key, without the tables and lists around it.
fn last(key: &str) -> &str {
    key.rsplit('.').next().unwrap().trim_end_matches("[]")
}

#[test]
fn the_shipped_file_names_every_key_and_no_other() {
    let (text, keys) = (shipped(), keys());
    let mut known: BTreeSet<&str> = keys.keys().flat_map(|(_, key)| key.split('.')).map(last).collect();
    let mut missing = Vec::new();
    for (_, key) in keys.keys() {
        let word = last(key);
        let is_shown = Regex::new(&format!(r"(?m)(\b{word} = |^# *{word} |\b{word}: |\b{word}(,| and) )")).unwrap();
        if !is_shown.is_match(&text) {
            missing.push(key);
        }
    }
    assert!(missing.is_empty(), "conf/stickyd.toml does not name {missing:?}");
    // Names of the user's choice.
    known.extend(["store", "user", "tenant", "NODE_ENV", "role"]);
    let written = Regex::new(r"(?m)(?:^#? *|\{ |, )([a-z_0-9]+) = ").unwrap();
    for found in written.captures_iter(&text) {
        assert!(known.contains(&found[1]), "conf/stickyd.toml names `{}`, which no reader knows", &found[1]);
    }
}

#[test]
fn the_shipped_file_marks_what_needs_a_restart() {
    let text = shipped();
    let paragraphs: Vec<&str> = text.split("\n\n").collect();
    for ((table, key), facts) in keys() {
        let needs = facts["applied_by"] == "restart";
        let (word, line) = (last(&key), format!("{} = ", last(&key)));
        // A key of this name in another table is described elsewhere.
        if key.contains('.') || table == "admin" || ["address", "name", "hosts", "upstream", "bus"].contains(&word) {
            continue;
        }
        let of_key =
            paragraphs.iter().find(|one| one.lines().any(|l| l.trim_start_matches(['#', ' ']).starts_with(&line)));
        let Some(paragraph) = of_key else { continue };
        let marked = paragraph.contains("(restart)") || word == "spawner";
        assert_eq!(marked, needs || (word == "secret_file"), "{table} {key}");
    }
}

#[test]
fn every_metric_of_the_sources_is_in_the_reference() {
    let all: BTreeSet<String> =
        reference("metrics").into_iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect();
    let name = Regex::new("\"((?:stickyd|process)_[a-z0-9_]+)\"").unwrap();
    for (path, text) in sources::below("src/metrics", "rs") {
        let code = text.split("#[cfg(test)]").next().unwrap();
        if path.ends_with("tests.rs") {
            continue;
        }
        for found in name.captures_iter(code) {
            assert!(all.contains(&found[1]), "{}: {} is not in `stickyd reference`", path.display(), &found[1]);
        }
    }
}

#[test]
fn the_pages_of_the_reference_are_as_printed() {
    for part in ["keys", "metrics", "events"] {
        let page = format!("docs/reference/{part}.md");
        let written = std::fs::read_to_string(&page).unwrap_or_default();
        assert!(written == stickyd(&["reference", part]), "{page} is old: packaging/docs reference writes it anew");
    }
}

#[test]
fn a_scrape_has_the_kinds_and_labels_of_the_reference() {
    let proxy =
        Proxy::with("[upstream.app]\nworkers = [\"127.0.0.1:1\"]\nhealth = { kind = \"tcp\", interval = \"1h\" }\n");
    let text = String::from_utf8(stickyd::testing::admin::scrape(proxy.server().shared())).unwrap();
    let known: BTreeMap<String, BTreeMap<String, Value>> =
        reference("metrics").into_iter().map(|one| (one["name"].as_str().unwrap().to_owned(), one)).collect();
    let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
    let label = Regex::new("([a-z_]+)=\"").unwrap();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            assert_eq!(known[name]["type"], kind, "{name}");
            kinds.insert(name, kind);
        } else if !line.starts_with('#') {
            let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap());
            if !kinds.contains_key(name) {
                continue; // a bucket, a sum or a count
            }
            let has: BTreeSet<&str> = label.captures_iter(rest).map(|found| found.get(1).unwrap().as_str()).collect();
            let labels: BTreeSet<&str> =
                known[name]["labels"].as_array().unwrap().iter().map(|label| label.as_str().unwrap()).collect();
            // Restarts have a reason only if stickyd starts the worker.
            let is_restart = name == "stickyd_worker_restarts_total";
            assert!(has == labels || is_restart && has.is_subset(&labels), "{name}: {has:?}, told are {labels:?}");
        }
    }
    assert!(kinds.len() > 50, "{kinds:?}");
}

#[test]
fn the_reference_is_markdown_with_whole_tables() {
    let text = stickyd(&["reference"]);
    assert!(text.contains("## `[upstream.NAME]`") && text.contains("# Metrics"), "{text}");
    let mut columns = 0;
    for line in text.lines() {
        let bars = line.replace("\\|", "").matches('|').count();
        assert!(columns == 0 || bars == 0 || bars == columns, "{line}");
        columns = bars;
    }
    assert_eq!(stickyd(&["reference", "metrics"]).lines().next(), Some("# Metrics"));
}

#[test]
fn every_visible_command_has_a_manual_page() {
    let folder = TempDirectory::new("man");
    stickyd(&["man", folder.root().to_str().unwrap()]);
    let help = stickyd(&["--help"]);
    let commands = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let command = Regex::new(r"(?m)^  ([a-z]+) ").unwrap();
    let mut count = 0;
    for found in command.captures_iter(commands).filter(|found| &found[1] != "help") {
        let page = std::fs::read_to_string(folder.root().join(format!("stickyd-{}.1", &found[1]))).unwrap();
        assert!(page.contains(".SH NAME") && page.contains(&format!("stickyd\\-{}", &found[1])), "{page}");
        count += 1;
    }
    assert!(count > 20, "{count}");
    assert!(folder.root().join("stickyd.1").exists() && folder.root().join("stickyd-workers-restart.1").exists());
    assert!(!folder.root().join("stickyd-man.1").exists(), "a hidden command has no page");
}
