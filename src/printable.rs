//! Makes text that peers wrote safe to show: on a terminal, in a log, in JSON that a person reads.
//!
//! A peer chooses session ids, user agents, labels, paths and answers of workers. Raw, their control characters command
//! a terminal (ECMA-48 §5.4), their line separators forge log lines, and their bidi controls and zero-width characters
//! make one text look like another (Unicode TR36 §2.5, TR9 §2). Each such character is shown as its escape instead.
//! This is the one place that knows which characters these are; every output for people goes through it. Left out:
//! letters that look alike, because a person can still copy and compare them.

use std::borrow::Cow;
use std::fmt::{self, Write};

/// Whether a character must not reach a person as it is: C0 and C1 controls, DEL, separators of lines and paragraphs,
/// bidi controls, and characters that are invisible or have no width (default-ignorable ones in Unicode's DerivedCore
/// properties, without the variation selectors, which only choose a glyph).
pub(crate) fn is_unprintable(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    c.is_control()
        || matches!(c,
            '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}'..='\u{1160}' | '\u{17B4}'..='\u{17B5}'
            | '\u{180B}'..='\u{180F}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}' | '\u{3164}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF0}'..='\u{FFFB}'
            | '\u{1BCA0}'..='\u{1BCA3}' | '\u{1D173}'..='\u{1D17A}' | '\u{E0000}'..='\u{E00FF}'
            | '\u{E01F0}'..='\u{E0FFF}')
}

/// Returns the text on one line, with unprintable characters as escapes such as `\u{1b}`.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

/// Like [`printable`], for a text that has lines of its own.
pub(crate) fn printable_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c == '\n')
}

/// Replaces each unprintable character by one space, for a text whose columns must not move.
pub(crate) fn blanked(text: &str) -> String {
    text.replace(is_unprintable, " ")
}

/// Returns the same JSON with unprintable characters inside strings as `\u001b`. The line breaks of indented JSON stay.
pub(crate) fn printable_json(json: &str) -> Cow<'_, str> {
    if !json.contains(|c| c != '\n' && is_unprintable(c)) {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if c == '\n' || !is_unprintable(c) {
            out.push(c);
            continue;
        }
        // RFC 8259 §7: a character outside of the first plane is written as a surrogate pair.
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\u{unit:04x}");
        }
    }
    Cow::Owned(out)
}

fn escaped(text: &str, keeps: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(|c| is_unprintable(c) && !keeps(c)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unprintable(c) && !keeps(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// Writes what is formatted into it as [`printable`] text, without a copy of the whole.
pub(crate) struct PrintableWriter<'w, W: Write> {
    out: &'w mut W,
    /// Whether line breaks stay as they are.
    lines: bool,
}

impl<'w, W: Write> PrintableWriter<'w, W> {
    /// A writer of texts on one line.
    pub(crate) fn line(out: &'w mut W) -> Self {
        Self { out, lines: false }
    }

    /// A writer of texts that have lines of their own.
    pub(crate) fn lines(out: &'w mut W) -> Self {
        Self { out, lines: true }
    }
}

impl<W: Write> Write for PrintableWriter<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.out.write_str(&if self.lines { printable_lines(text) } else { printable(text) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Characters that act on a terminal, forge a line or hide, of every kind.
    const HOSTILE: [char; 22] = [
        '\0',
        '\u{7}',
        '\u{8}',
        '\t',
        '\n',
        '\r',
        '\u{1b}',
        '\u{7f}',
        '\u{80}',
        '\u{85}',
        '\u{9b}',
        '\u{9d}',
        '\u{ad}',
        '\u{61c}',
        '\u{200b}',
        '\u{200e}',
        '\u{2028}',
        '\u{2029}',
        '\u{202e}',
        '\u{2066}',
        '\u{feff}',
        '\u{e0041}',
    ];

    #[test]
    fn hostile_characters_are_shown_as_escapes() {
        for c in HOSTILE {
            let text = format!("a{c}b");
            let escape = format!("a\\u{{{:x}}}b", u32::from(c));
            assert_eq!(printable(&text), escape);
            assert_eq!(printable_lines(&text), if c == '\n' { text.clone() } else { escape });
            assert_eq!(blanked(&text), "a b");
            let json = serde_json::to_string(&text).unwrap();
            let shown = printable_json(&json);
            assert!(shown.is_ascii() && !shown.contains(|c: char| c.is_ascii_control()), "{shown}");
            assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text, "the value is the same");
        }
    }

    #[test]
    fn ordinary_text_of_any_language_is_not_changed() {
        for text in ["", "abc ~!\\", "Größe 5 µs", "浏览器", "עברית", "नमस्ते", "👍🏽", "\u{2764}\u{fe0f}"]
        {
            assert!(matches!(printable(text), Cow::Borrowed(same) if same == text), "{text}");
            assert!(matches!(printable_json(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_unprintable_is_left(text in "\\PC*|.*|[\\x00-\\u{ff}\\u{2000}-\\u{2070}]*", cut in 0usize..8) {
            prop_assert!(!printable(&text).contains(is_unprintable));
            prop_assert!(!printable_lines(&text).contains(|c| c != '\n' && is_unprintable(c)));
            let json = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(&serde_json::from_str::<String>(&printable_json(&json)).unwrap(), &text);
            // A text that is written in pieces gives the same.
            let at = text.char_indices().nth(cut).map_or(text.len(), |(at, _)| at);
            let mut out = String::new();
            let mut writer = PrintableWriter::line(&mut out);
            writer.write_str(&text[..at]).unwrap();
            writer.write_str(&text[at..]).unwrap();
            prop_assert_eq!(out, printable(&text).into_owned());
        }
    }
}
