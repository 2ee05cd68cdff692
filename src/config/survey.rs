//! Every key of the configuration with its type, range and default, and whether a change needs a restart.
//!
//! There is no second list of keys: the readers themselves are asked. Each key that a reader looks for is written with
//! several values, and what the reader asks of them (`asked`) is its type. A default is the value with which the
//! checked configuration equals the one without the key, and a restart is what [`Config::needs_restart`] says about two
//! values. So a new key is in the reference as soon as it is read. Left out: what a key is for; `conf/stickyd.toml` and
//! the pages in docs/ describe that.

mod frame;
mod guess;

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::Path;

use super::asked::{Asked, Questions};
use super::check::{Context, base, read};
use super::error::Report;
use super::file;
use super::sources::Noted;
use super::values::digits;
use super::{Config, check};
use frame::PathStep;

/// What is known about one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyFacts {
    /// The table that the key is in, as in the file: empty for the top, else such as `upstream.NAME`, with `[]` for
    /// each element of a list.
    pub(crate) table: String,
    /// The key, with the inline tables around it: `health.interval`.
    pub(crate) key: String,
    /// Type of the value, in words.
    pub(crate) kind: String,
    /// Range of the value, in words; empty if it has none.
    pub(crate) range: String,
    /// The default as written in the file, or in words; empty if the key is required.
    pub(crate) default: String,
    /// Whether a change of the key needs a restart; otherwise a reload applies it.
    pub(crate) restart: bool,
}

/// Shown as the default of a key whose table cannot be tried alone, because it needs files or other keys.
const UNTOLD: &str = "see conf/stickyd.toml";

/// The largest number of steps from the top to a key; far above the deepest one.
const DEEPEST: usize = 12;

/// Returns the facts of every key, in the order in which the readers look for them.
pub(crate) fn keys() -> Vec<KeyFacts> {
    let mut all = Vec::new();
    table(&[], &mut all);
    all
}

/// Adds the keys of the table at a path, and those of the tables in it.
fn table(path: &[PathStep], all: &mut Vec<KeyFacts>) {
    let mut seen = BTreeSet::new();
    let (alone, framed) = (questions(path, "{}"), questions(path, &frame::of(path)));
    let required: Vec<(&str, String)> = alone
        .iter()
        .filter_map(
            |asked| if let Asked::Required(key, example) = asked { Some((*key, example.clone())) } else { None },
        )
        .collect();
    let keys = alone.iter().chain(&framed).filter_map(|asked| match asked {
        Asked::Key(key) => Some(*key),
        _ => None,
    });
    for key in keys {
        if seen.insert(key) {
            let path = [path, &[PathStep::Key(key, required.clone())]].concat();
            value(&path, &required, all);
        }
    }
}

/// Adds the key at a path, and the keys of the tables that its value may have.
fn value(path: &[PathStep], required: &[(&str, String)], all: &mut Vec<KeyFacts>) {
    let item = [path, &[PathStep::Item]].concat();
    let named = [path, &[PathStep::Name]].concat();
    let (asked, elements) = (shapes(path), shapes(&item));
    let has_keys = |asked: &[Asked]| asked.iter().any(|asked| matches!(asked, Asked::Key(_)));
    let inner = questions(path, "{}");
    let has_names = inner.contains(&Asked::Names);
    let is_only_table = |asked: &[Asked]| asked.iter().all(|asked| matches!(asked, Asked::Table | Asked::List(_)));
    let of_names = if has_names { shapes(&named) } else { Vec::new() };
    let holds_tables = has_keys(&inner) || has_keys(&questions(&item, "{}")) || of_names.contains(&Asked::Table);
    if !(holds_tables && is_only_table(&asked) && is_only_table(&elements)) {
        all.push(facts(path, &asked, &elements, &of_names, required));
    }
    if path.len() >= DEEPEST {
        return;
    }
    if has_keys(&inner) {
        table(path, all);
    }
    if has_keys(&questions(&item, "{}")) {
        table(&item, all);
    }
    if of_names.contains(&Asked::Table) {
        table(&named, all);
    }
}

fn facts(
    path: &[PathStep],
    asked: &[Asked],
    elements: &[Asked],
    named: &[Asked],
    required: &[(&str, String)],
) -> KeyFacts {
    let (table, key) = frame::names(path);
    let known = guess::outcome(path, &[asked, elements].concat());
    let is_required = matches!(path.last(), Some(PathStep::Key(key, _)) if required.iter().any(|(one, _)| one == key));
    let (default, restart) = match guess::by_hand(&table, &key) {
        Some((default, restart)) => (default.to_owned(), restart),
        None if is_required => (String::new(), known.restart),
        None => (known.default.unwrap_or_else(|| UNTOLD.to_owned()), known.restart),
    };
    let (mut kinds, mut ranges) = (kinds(asked), ranges(asked));
    let inside = if elements.is_empty() { named } else { elements };
    for range in self::ranges(inside) {
        ranges.push(format!("each: {range}"));
    }
    if !named.is_empty() {
        kinds.retain(|kind| kind != "table");
        kinds.push(format!("table from names to: {}", self::kinds(named).join(" or ")));
    }
    let restart = restart || guess::is_restart_table(&table);
    KeyFacts { table, key, kind: kinds.join(" or "), range: ranges.join("; "), default, restart }
}

/// Values of every type, to learn what a reader asks of them.
const PROBES: [&str; 6] = ["true", "1", "\"x\"", "[]", "{}", "[\"x\"]"];

/// What the readers ask of the value at a path, whatever it is.
fn shapes(path: &[PathStep]) -> Vec<Asked> {
    let mut all = Vec::new();
    for probe in PROBES {
        for asked in questions(path, probe) {
            let is_shape = !matches!(asked, Asked::Key(_) | Asked::Required(..) | Asked::Names);
            if is_shape && !all.contains(&asked) {
                all.push(asked);
            }
        }
    }
    // A duration, a share, a size or a word is read as a string, and a size as any integer, too.
    let is_read =
        |asked: &Asked| matches!(asked, Asked::Duration(_) | Asked::Percent(_) | Asked::Size(_) | Asked::Words(_));
    let has_better = all.iter().any(is_read);
    all.retain(|asked| match asked {
        Asked::Text(_) => !has_better,
        Asked::Integer(range) => *range != (0..=u64::MAX),
        _ => true,
    });
    all
}

/// What the readers ask about the table or value at a path, if it is the given text.
fn questions(path: &[PathStep], leaf: &str) -> Vec<Asked> {
    let (text, mut at) = frame::text(path, leaf);
    if path.is_empty() {
        at = toml::de::DeTable::parse_recoverable(&text).0.span();
    }
    let (questions, noted) = (Questions::default(), Noted::default());
    let report = Report::surveying(FILE.to_owned(), &text, &questions);
    let resolve = no_names;
    let context = Context::new(&report, base(Path::new(FILE).parent()), &resolve, &noted);
    if let Some(root) = file::root(&report) {
        read(&context, root, Path::new(FILE));
    }
    questions.about(&at)
}

/// The configuration of a text without errors.
fn parsed(text: &str) -> Option<Config> {
    check::parse_noting(text, Path::new(FILE), &no_names, &Noted::default()).ok().map(|(config, _)| config)
}

/// Name of the file in which the keys are tried; nothing reads or writes it.
const FILE: &str = "/stickyd.toml";

/// Looks up no names: the reference must not depend on a network.
fn no_names(_: &str) -> io::Result<Vec<std::net::IpAddr>> {
    Err(io::ErrorKind::NotFound.into())
}

/// The types of a value, in words.
fn kinds(asked: &[Asked]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for asked in asked {
        let kind = match asked {
            Asked::Boolean => "true or false".to_owned(),
            Asked::Integer(_) => "integer".to_owned(),
            Asked::Duration(_) => "duration".to_owned(),
            Asked::Percent(_) => "percentage".to_owned(),
            Asked::Size(_) => "size".to_owned(),
            Asked::Words(words) => words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or "),
            Asked::Table => "table".to_owned(),
            Asked::Text(expected) | Asked::List(expected) => expected.clone(),
            Asked::Key(_) | Asked::Required(..) | Asked::Names => continue,
        };
        // One reader says of a value that it is a list, and another one says more.
        if !all.iter().any(|other| other.contains(&kind)) {
            all.push(kind);
        }
    }
    all
}

/// The ranges of a value, in words.
fn ranges(asked: &[Asked]) -> Vec<String> {
    let time = |time: &std::time::Duration| humantime::format_duration(*time).to_string();
    let range = |asked: &Asked| match asked {
        Asked::Integer(range) => Some(format!("{} to {}", digits(*range.start()), digits(*range.end()))),
        Asked::Duration(range) => Some(format!("{} to {}", time(range.start()), time(range.end()))),
        Asked::Percent(range) => Some(format!("{}% to {}%", range.start(), range.end())),
        Asked::Size(range) => Some(format!("{} to {} bytes", digits(*range.start()), digits(*range.end()))),
        _ => None,
    };
    asked.iter().filter_map(range).collect()
}

/// A place in a text.
type Place = Range<usize>;
