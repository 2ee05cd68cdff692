//! The files of the repository, for tests that check rules about them.

use std::path::{Path, PathBuf};

/// Folders without files of the project: build output and packages.
const SKIPPED: &[&str] =
    &["target", "node_modules", ".venv", ".git", ".prometheus", ".fail2ban", "corpus", "artifacts"];

/// The files below `folder` whose name ends in one of `.extensions` (separated by `|`), with their texts, sorted by
/// path.
pub(crate) fn below(folder: &str, extensions: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    walk(Path::new(folder), &extensions.split('|').collect::<Vec<_>>(), &mut found);
    found.sort();
    found
}

fn walk(folder: &Path, extensions: &[&str], found: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !SKIPPED.contains(&&*name) {
                walk(&path, extensions, found);
            }
        } else if path.extension().is_some_and(|own| extensions.contains(&&*own.to_string_lossy()))
            && let Ok(text) = std::fs::read_to_string(&path)
        {
            found.push((path, text));
        }
    }
}

/// The parts of a line of Rust that tests of language and of imports tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Code outside of comments and strings.
    Code,
    /// A comment of any kind, its slashes included.
    Comment,
    /// The inside of a string literal.
    String,
}

/// Calls `see` for each character of Rust source with the part it belongs to. Good enough for our own sources: nested
/// block comments do not occur in them.
pub(crate) fn parts(text: &str, mut see: impl FnMut(char, Part)) {
    let chars: Vec<char> = text.chars().collect();
    let (mut i, starts) = (0, |i: usize, word: &str| chars[i..].iter().take(word.len()).copied().eq(word.chars()));
    while i < chars.len() {
        if starts(i, "//") {
            while i < chars.len() && chars[i] != '\n' {
                see(chars[i], Part::Comment);
                i += 1;
            }
        } else if chars[i] == '"' {
            // The hashes of a raw string come right before its quote.
            let hashes = chars[..i].iter().rev().take_while(|c| **c == '#').count();
            let is_raw = chars[..i - hashes].last() == Some(&'r');
            see('"', Part::Code);
            i += 1;
            let end = if is_raw { format!("\"{}", "#".repeat(hashes)) } else { "\"".to_owned() };
            while i < chars.len() && !starts(i, &end) {
                let escaped = !is_raw && chars[i] == '\\' && i + 1 < chars.len();
                for _ in 0..=usize::from(escaped) {
                    see(chars[i], Part::String);
                    i += 1;
                }
            }
            if i < chars.len() {
                see('"', Part::Code);
                i += 1;
            }
        } else if chars[i] == '\'' && (starts(i, "'\"'") || starts(i, "'\\\"'") || starts(i, "'\\''")) {
            let length = if chars[i + 1] == '\\' { 4 } else { 3 };
            (0..length).for_each(|_| see(' ', Part::Code));
            i += length;
        } else {
            see(chars[i], Part::Code);
            i += 1;
        }
    }
}

/// Rust source with comments and the insides of strings blanked out; lines keep their numbers.
pub(crate) fn without_comments_and_strings(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    parts(text, |c, part| {
        if part == Part::Code || c == '\n' {
            code.push(c)
        }
    });
    code
}
