//! Readers for single values: durations, percentages, sizes, words from a list, and the word that was probably meant.
//!
//! Each reports a value that it cannot read. Keys are not known here: ranges and defaults are given where a key is
//! read.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::asked::Asked;
use super::error::Report;
use super::file::{ConfigItem, ConfigText};

/// Reads a duration such as `"1m 30s"`, in `range`. A number without a unit is an error, because it could mean seconds
/// or milliseconds.
pub(crate) fn duration(item: ConfigItem<'_>, range: RangeInclusive<Duration>) -> Option<Duration> {
    item.report.ask(&item.span, || Asked::Duration(range.clone()));
    if item.is_integer() {
        item.report.error_help(&item.span, format!("{} needs a unit", item.label), "write a duration such as \"5s\"");
        return None;
    }
    let (report, label) = (item.report, item.label.clone());
    let text = item.text("a duration such as \"5s\"")?;
    let (min, max) = (*range.start(), *range.end());
    match humantime::parse_duration(text.value.trim()) {
        Ok(value) if range.contains(&value) => Some(value),
        Ok(_) => {
            let (min, max) = (humantime::format_duration(min), humantime::format_duration(max));
            report.error(&text.span, format!("{label} must be from {min} to {max}"));
            None
        }
        Err(error) => {
            report.error_help(
                &text.span,
                format!("{label} is not a valid duration: {error}"),
                "write a duration such as \"500ms\", \"5s\" or \"1m 30s\"",
            );
            None
        }
    }
}

/// Reads a percentage such as `"50%"`, in `range`. A number without `%` is an error, because a half could be written as
/// 0.5 or as 50.
pub(crate) fn percent(item: ConfigItem<'_>, range: RangeInclusive<u32>) -> Option<u32> {
    item.report.ask(&item.span, || Asked::Percent(range.clone()));
    let (report, label, at) = (item.report, item.label.clone(), item.span.clone());
    if item.is_integer() {
        report.error_help(&at, format!("{label} needs a `%`"), "write \"50%\"");
        return None;
    }
    let text = item.text("a share such as \"50%\"")?;
    let number = text.value.trim().strip_suffix('%').and_then(|number| number.trim_end().parse().ok());
    if let Some(percent) = number.filter(|percent| range.contains(percent)) {
        return Some(percent);
    }
    report.error(&text.span, format!("{label} must be from \"{}%\" to \"{}%\"", range.start(), range.end()));
    None
}

/// Reads a size in `range`: an integer of bytes, or a string such as `"64MB"`.
pub(crate) fn size(item: ConfigItem<'_>, range: RangeInclusive<u64>) -> Option<u64> {
    item.report.ask(&item.span, || Asked::Size(range.clone()));
    let (report, label, span) = (item.report, item.label.clone(), item.span.clone());
    let bytes = if item.is_integer() {
        item.integer(0..=u64::MAX)?
    } else {
        let text = item.text("a size such as \"64MB\"")?;
        let Some(bytes) = parse_size(&text.value) else {
            let help = "write bytes (65536), or a whole number with kB, MB, GB (1000) or KiB, MiB, GiB (1024)";
            report.error_help(&span, format!("{label} is not a valid size"), help);
            return None;
        };
        bytes
    };
    if range.contains(&bytes) {
        return Some(bytes);
    }
    let (min, max) = (digits(*range.start()), digits(*range.end()));
    report.error(&span, format!("{label} must be from {min} to {max} bytes"));
    None
}

/// Writes a number with `_` between groups of three digits, as TOML allows: `100_000_000`.
pub(crate) fn digits(number: u64) -> String {
    let plain = number.to_string();
    let mut out = String::new();
    for (i, digit) in plain.chars().enumerate() {
        if i > 0 && (plain.len() - i).is_multiple_of(3) {
            out.push('_');
        }
        out.push(digit);
    }
    out
}

/// Writes a text as a string of TOML: a basic string, whose escapes are those of JSON.
pub(crate) fn quoted(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    // JSON allows DEL as it is, TOML 1.0 does not.
    json.replace('\u{7f}', "\\u007f")
}

fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let unit = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// The meaning of a word; an unknown word is reported with the known ones.
pub(crate) fn word<T: Copy>(
    report: &Report<'_>,
    what: &str,
    text: &ConfigText,
    words: &[(&'static str, T)],
) -> Option<T> {
    report.ask(&text.span, || Asked::Words(words.iter().map(|(word, _)| *word).collect()));
    if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text.value) {
        return Some(*meaning);
    }
    let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
    report.error_help(&text.span, format!("unknown {what} `{}`", text.value), suggest_word(&text.value, &known));
    None
}

/// Maximum number of keys or names that a hint lists.
const LISTED: usize = 10;

/// Hint for an unknown key: the nearest known one, or all of them, or where they are.
pub(crate) fn suggest_key(wrong: &str, known: &[&str]) -> String {
    suggest_from(wrong, known, LISTED, "`stickyd reference keys` lists all")
}

/// Hint for a value that is not among the known words: the nearest of them, or all.
fn suggest_word(wrong: &str, known: &[&str]) -> String {
    suggest_from(wrong, known, usize::MAX, "")
}

/// Hint for a name that is not among those that the file defines: the nearest one, or all of them, or their number.
pub(crate) fn suggest(wrong: &str, known: &[&str]) -> String {
    suggest_from(wrong, known, LISTED, &format!("there are {}", known.len()))
}

fn suggest_from(wrong: &str, known: &[&str], most: usize, all: &str) -> String {
    let quoted = |words: &[&str]| words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    match nearest(wrong, known) {
        Some(right) => format!("did you mean `{right}`?"),
        None if known.is_empty() => "none is defined".to_owned(),
        None if known.len() <= most => format!("use one of {}", quoted(known)),
        None => {
            let mut nearest = known.to_vec();
            // Of equally distant words the first ones stay first.
            nearest.sort_by_key(|word| distance(wrong, word));
            let [first, second, third, ..] = nearest.as_slice() else { return all.to_owned() };
            format!("use for example `{first}`, `{second}` or `{third}`; {all}")
        }
    }
}

/// The known word nearest to `wrong`, if at most a third of its letters differ.
fn nearest<'k>(wrong: &str, known: &[&'k str]) -> Option<&'k str> {
    let wrong = wrong.to_lowercase().replace('-', "_");
    let measured = known.iter().map(|word| (distance(&wrong, &word.replace('-', "_")), *word));
    let (off, word) = measured.min_by_key(|(off, _)| *off)?;
    (off <= (word.chars().count() / 3).max(1)).then_some(word)
}

/// Number of edits (insert, delete, replace, swap of neighbours) from one word to the other.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    // A difference in length of more than 8 is not a typing mistake, and the walk is quadratic in the length of words
    // from an arbitrary file.
    if a.len().abs_diff(b.len()) > 8 {
        return usize::MAX;
    }
    strsim::osa_distance(a, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("64MB", Some(64_000_000)),
            ("64 mib", Some(64 << 20)),
            ("2GiB", Some(2 << 30)),
            ("12kB", Some(12_000)),
            ("3KiB", Some(3072)),
            ("1gb", Some(1_000_000_000)),
            ("5b", Some(5)),
            ("64M", None),
            ("MB", None),
            ("1.5MB", None),
            ("-1", None),
            ("99999999999999GB", None),
            ("", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
    }

    #[test]
    fn quoted_texts_are_strings_of_toml() {
        for text in ["", "plain", "a \"b\" \\ 'c'", "\u{0}\u{1}\u{7f}\n\t\r\u{8}\u{c}", "ü ☃ \u{2028}\u{1f600}"] {
            let table: toml::Table = toml::from_str(&format!("a = {}", quoted(text))).unwrap();
            assert_eq!(table["a"].as_str(), Some(text));
        }
    }

    #[test]
    fn digits_are_grouped_in_threes() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1_000"), (100_000_000, "100_000_000")] {
            assert_eq!(digits(number), text);
        }
    }

    #[test]
    fn distances_count_edits() {
        for (a, b, edits) in [
            ("workers", "workers", 0),
            ("wokers", "workers", 1),
            ("wrokers", "workers", 1),
            ("worker", "workers", 1),
            ("listen", "listener", 2),
            ("", "abc", 3),
            ("abc", "", 3),
        ] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
        }
    }

    #[test]
    fn suggestions_name_the_nearest_or_all_words() {
        assert_eq!(suggest("wokers", &["workers", "health"]), "did you mean `workers`?");
        assert_eq!(suggest("Same-Site", &["same_site"]), "did you mean `same_site`?");
        assert_eq!(suggest("balance", &["workers", "health"]), "use one of `workers`, `health`");
        assert_eq!(suggest("x", &[]), "none is defined");
    }

    #[test]
    fn of_many_words_three_are_named() {
        let many = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"];
        let said = "use for example `seven`, `eleven` or `five`; ";
        assert_eq!(suggest_key("severin", &many), format!("{said}`stickyd reference keys` lists all"));
        assert_eq!(suggest("severin", &many), format!("{said}there are 11"));
        assert!(suggest_word("severin", &many).ends_with("`ten`, `eleven`"));
        assert_eq!(suggest("sevn", &many), "did you mean `seven`?");
        assert!(suggest_key("severin", &many[..10]).starts_with("use one of `one`, "));
        let long = "z".repeat(10_000);
        assert!(suggest(&long, &many).contains("there are 11"));
    }
}
