//! Errors and warnings of a configuration: the message, the place with the line itself, and what to write instead.
//!
//! A [`Report`] collects all findings while a file is read, so that one run shows all of them. Printing takes forty
//! lines of our own rather than a crate: a configuration needs only one file, one span and one hint per finding. Left
//! out: colours (in journals they are noise) and several spans in one message (the message names the other line).

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::Range;

use super::asked::{Asked, Questions};
use super::values::distance;
use crate::printable::blanked;

/// A range of bytes in the configuration's text.
pub(crate) type Span = Range<usize>;

/// Every error of one configuration, with the warnings between them, in the order of the file; has at least one error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors {
    found: Vec<Diagnostic>,
    /// Number of findings that were dropped because there are more than [`MAX_FOUND`].
    more: usize,
    /// Whether a certificate or key of a listener cannot be used.
    of_certificate: Option<String>,
}

/// Maximum number of findings kept. A log file given by mistake has one on every line, and for each the text is walked
/// to find the line.
const MAX_FOUND: usize = 100;

impl Errors {
    /// The findings, one by one.
    pub fn all(&self) -> &[Diagnostic] {
        &self.found
    }

    /// Why a certificate or key of a listener cannot be used, if one cannot.
    pub(crate) fn of_certificate(&self) -> Option<&str> {
        self.of_certificate.as_deref()
    }

    /// The same error with what helps, for one about a file as a whole.
    pub(crate) fn with_help(mut self, help: Option<String>) -> Self {
        if let Some(first) = self.found.first_mut() {
            first.help = help;
        }
        self
    }

    /// An error about the file as a whole, such as a file that cannot be read or is not text.
    pub(crate) fn of_file(message: String) -> Self {
        let found = vec![Diagnostic { severity: Severity::Error, message, place: None, help: None }];
        Self { found, more: 0, of_certificate: None }
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, one) in self.found.iter().enumerate() {
            let gap = if i == 0 { "" } else { "\n\n" };
            write!(f, "{gap}{one}")?;
        }
        if self.more > 0 { write!(f, "\n\nand {} more", self.more) } else { Ok(()) }
    }
}

impl std::error::Error for Errors {}

/// Maximum number of characters shown of a line.
const MAX_LINE: usize = 240;

/// Whether a finding stops the configuration from being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is rejected.
    Error,
    /// The configuration is used, but an operator should check it.
    Warning,
}

/// One finding. `Display` prints it as rustc does, over several lines and without a newline at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Whether the finding is an error or a warning.
    pub severity: Severity,
    /// What is wrong, in one sentence.
    pub message: String,
    /// Place that the finding is about; `None` if it is not about a place in a file.
    pub place: Option<FilePlace>,
    /// What to write instead.
    pub help: Option<String>,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePlace {
    /// The file's name as the caller gave it.
    pub file: String,
    /// The line with the marked part; `None` if the finding is about the file as a whole.
    pub line: Option<MarkedLine>,
}

/// A line of a file with a part of it marked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkedLine {
    /// Line number, counted from 1.
    pub number: usize,
    /// Column of the first marked character, in characters, counted from 1.
    pub column: usize,
    /// Text of the line, with control characters replaced and secrets hidden. A very long line is cut to the part
    /// around the column.
    pub text: String,
    /// Number of characters of `text` before the underlined ones.
    pub indent: usize,
    /// Number of characters to underline, at least 1.
    pub width: usize,
}

impl Diagnostic {
    /// The finding on one line, for the log.
    pub fn one_line(&self) -> String {
        let place = match &self.place {
            Some(FilePlace { file, line: Some(line) }) => format!("{file}:{}:{}: ", line.number, line.column),
            Some(FilePlace { file, line: None }) => format!("{file}: "),
            None => String::new(),
        };
        let help = self.help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
        format!("{place}{}{help}", self.message)
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{word}: {}", self.message)?;
        let mut gutter = " ".to_owned();
        if let Some(FilePlace { file, line }) = &self.place {
            if let Some(MarkedLine { number, column, text, indent, width }) = line {
                gutter = " ".repeat(number.to_string().len());
                write!(f, "\n{gutter}--> {file}:{number}:{column}\n{gutter} |\n{number} | {text}\n{gutter} | ")?;
                write!(f, "{}{}", " ".repeat(*indent), "^".repeat(*width))?;
            } else {
                write!(f, "\n{gutter}--> {file}")?;
            }
        }
        match &self.help {
            Some(help) => write!(f, "\n{gutter} = help: {help}"),
            None => Ok(()),
        }
    }
}

/// Collects the findings of one pass over a text.
///
/// A reader that meets a bad value reports it and continues with a default, so that the checks after it still run. Such
/// a default is never used: [`Report::finish`] succeeds only if there was no error.
pub(crate) struct Report<'a> {
    file: String,
    text: &'a str,
    found: RefCell<Vec<(usize, Diagnostic)>>,
    more: Cell<usize>,
    failed: Cell<bool>,
    /// First reason that a certificate or key cannot be used.
    of_certificate: RefCell<Option<String>>,
    /// What the readers ask, if it is to be noted.
    questions: Option<&'a Questions>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(file: String, text: &'a str) -> Self {
        Self {
            file,
            text,
            found: RefCell::default(),
            more: Cell::new(0),
            failed: Cell::new(false),
            of_certificate: RefCell::default(),
            questions: None,
        }
    }

    /// A report that also notes what the readers ask.
    pub(crate) fn surveying(file: String, text: &'a str, questions: &'a Questions) -> Self {
        Self { questions: Some(questions), ..Self::new(file, text) }
    }

    /// Whether the readers are asked for their keys only, and nothing will run.
    pub(crate) fn is_survey(&self) -> bool {
        self.questions.is_some()
    }

    /// Notes what a reader asks of the table or value at a place.
    pub(crate) fn ask(&self, at: &Span, asked: impl FnOnce() -> Asked) {
        if let Some(questions) = self.questions {
            questions.note(at, asked());
        }
    }

    /// Notes that a certificate or key of a listener cannot be used; the last error reported is the reason.
    pub(crate) fn certificate_failed(&self) {
        let found = self.found.borrow();
        let last = found.iter().rev().find(|(_, one)| one.severity == Severity::Error);
        let reason = || last.map_or_else(String::new, |(_, one)| one.message.clone());
        self.of_certificate.borrow_mut().get_or_insert_with(reason);
    }

    pub(crate) fn error(&self, at: &Span, message: impl Into<String>) {
        self.add(Severity::Error, Some(at), message.into(), None);
    }

    pub(crate) fn error_help(&self, at: &Span, message: impl Into<String>, help: impl Into<String>) {
        self.add(Severity::Error, Some(at), message.into(), Some(help.into()));
    }

    /// Reports an error about something that is missing in the file.
    pub(crate) fn missing(&self, message: impl Into<String>, help: impl Into<String>) {
        self.add(Severity::Error, None, message.into(), Some(help.into()));
    }

    pub(crate) fn warn(&self, at: &Span, message: impl Into<String>, help: impl Into<String>) {
        self.add(Severity::Warning, Some(at), message.into(), Some(help.into()));
    }

    /// The text that the spans point into.
    pub(crate) fn text(&self) -> &'a str {
        self.text
    }

    /// Line number of a span, for messages that refer to another place.
    pub(crate) fn line_of(&self, at: &Span) -> usize {
        self.text.get(..at.start).map_or(1, |before| before.matches('\n').count() + 1)
    }

    /// The warnings if there was no error, else every error with the warnings between them.
    pub(crate) fn finish(self) -> Result<Vec<Diagnostic>, Errors> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|(start, _)| *start);
        let found = found.into_iter().map(|(_, one)| one).collect();
        if !self.failed.get() {
            return Ok(found);
        }
        Err(Errors { found, more: self.more.get(), of_certificate: self.of_certificate.into_inner() })
    }

    fn add(&self, severity: Severity, at: Option<&Span>, message: String, help: Option<String>) {
        // Recorded before the bound is checked: an error past it must still reject the configuration.
        self.failed.set(self.failed.get() || severity == Severity::Error);
        if self.found.borrow().len() >= MAX_FOUND {
            self.more.set(self.more.get() + 1);
            return;
        }
        let line = at.map(|span| self.line(span));
        let place = Some(FilePlace { file: self.file.clone(), line });
        // Findings without a place in the file are printed last.
        let start = at.map_or(usize::MAX, |span| span.start);
        let message = blanked(&message);
        self.found.borrow_mut().push((start, Diagnostic { severity, message, place, help }));
    }

    fn line(&self, at: &Span) -> MarkedLine {
        let start = self.floor(at.start);
        let end = self.floor(at.end).max(start);
        let before = self.text.get(..start).unwrap_or_default();
        let begin = before.rfind('\n').map_or(0, |i| i + 1);
        let line = self.text.get(begin..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        let chars = |part: Option<&str>| part.unwrap_or_default().chars().count();
        let column = chars(self.text.get(begin..start)) + 1;
        let shown = hide_secret(line);
        // A line that is too long to read is cut; an ellipsis as its first character marks the cut.
        let skip = if shown.chars().count() > MAX_LINE { (column - 1).saturating_sub(MAX_LINE / 2) } else { 0 };
        let mut text: String = shown.chars().skip(skip).take(MAX_LINE).collect();
        if skip > 0 {
            text = format!("…{}", text.chars().skip(1).collect::<String>());
        }
        let indent = column - 1 - skip;
        // A span over several lines is underlined on its first line only; a span at the end of a line still gets a
        // caret.
        let room = text.chars().count().saturating_sub(indent);
        let width = chars(self.text.get(start..end)).min(room).max(1);
        MarkedLine { number: before.matches('\n').count() + 1, column, text, indent, width }
    }

    /// The nearest character boundary at or before `at`.
    fn floor(&self, at: usize) -> usize {
        (0..=at.min(self.text.len())).rev().find(|i| self.text.is_char_boundary(*i)).unwrap_or(0)
    }
}

/// The line as it may be shown: a secret (also under a misspelt key) must not reach a journal.
fn hide_secret(line: &str) -> String {
    let shown = match line.split_once('=') {
        Some((key, _)) if distance(key.trim().trim_matches(['"', '\'']), "secret") <= 2 => format!("{key}= …"),
        _ => hide_values(line.trim_end()),
    };
    // A tab becomes one space, so that carets stay aligned.
    blanked(&shown)
}

/// Keys whose values are secrets wherever they stand in a line, or would be if they existed.
const SECRET_KEYS: [&str; 6] = ["url", "secret", "password", "pass", "token", "key_id"];

/// Replaces the characters of quoted values of [`SECRET_KEYS`] by `*`, one by one, so that carets stay aligned.
fn hide_values(line: &str) -> String {
    let mut shown = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('=') {
        let key = before.trim_end().trim_end_matches(['"', '\'']);
        let key =
            key.rsplit(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-')).next().unwrap_or_default();
        let value = after.trim_start_matches([' ', '\t']);
        let (space, _) = after.split_at(after.len() - value.len());
        shown.push_str(&format!("{before}={space}"));
        rest = value;
        let Some(quote) = value.chars().next().filter(|c| SECRET_KEYS.contains(&key) && matches!(c, '"' | '\'')) else {
            continue;
        };
        let inner = value.trim_start_matches(quote);
        let length = inner.find(quote).unwrap_or(inner.len());
        let (hidden, after) = inner.split_at(length);
        shown.extend(value.chars().take_while(|c| *c == quote));
        shown.extend(hidden.chars().map(|_| '*'));
        rest = after;
    }
    shown + rest
}

#[cfg(test)]
mod tests;
