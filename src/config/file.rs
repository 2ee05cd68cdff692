//! The file as written: TOML with the place of every key and value, read key by key.
//!
//! A [`Section`] is a table being read. Each key is taken out once; keys left at the end are unknown and are reported
//! with the list of known keys. This is a walk over toml's spanned tree rather than serde, because serde stops at the
//! first error of a table and loses the place inside a value that may be a string or a table (a worker). Left out: what
//! values mean; that is in `check`.

use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::asked::Asked;
use super::error::{Report, Span};
use super::values;

/// Parses the text. If it has syntax errors, only these are reported, all of them: after a broken table header every
/// key would be reported as unknown in the wrong table.
pub(crate) fn root<'a>(report: &'a Report<'a>) -> Option<Section<'a>> {
    let (table, errors) = DeTable::parse_recoverable(report.text());
    let mut last = None;
    for error in &errors {
        let at = error.span().unwrap_or_default();
        let line = report.text().get(..at.start).and_then(|before| before.rfind('\n'));
        // The parser reports one mistake several times.
        if last != Some(line) {
            report.error(&at, error.message());
        }
        last = Some(line);
    }
    errors.is_empty().then(|| Section::new(report, "the file".to_owned(), table.span(), table.into_inner()))
}

/// A string with its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ConfigText {
    pub(crate) value: String,
    pub(crate) span: Span,
}

impl ConfigText {
    /// The place of `part`, a range of bytes of the value; the place of the whole value if it contains escapes.
    pub(crate) fn inside(&self, report: &Report<'_>, part: Span) -> Span {
        let written = report.text().get(self.span.clone()).unwrap_or_default();
        match written.find(&self.value) {
            Some(offset) => self.span.start + offset + part.start..self.span.start + offset + part.end,
            None => self.span.clone(),
        }
    }
}

/// A value with its place and its name for messages.
pub(crate) struct ConfigItem<'a> {
    pub(crate) report: &'a Report<'a>,
    /// Name of the value in messages: `` `threads` `` or "a worker".
    pub(crate) label: String,
    pub(crate) span: Span,
    value: DeValue<'a>,
}

impl<'a> ConfigItem<'a> {
    fn new(report: &'a Report<'a>, label: String, value: Spanned<DeValue<'a>>) -> Self {
        Self { report, label, span: value.span(), value: value.into_inner() }
    }

    pub(crate) fn is_integer(&self) -> bool {
        self.value.is_integer()
    }

    pub(crate) fn is_boolean(&self) -> bool {
        self.value.is_bool()
    }

    pub(crate) fn is_list(&self) -> bool {
        self.value.is_array()
    }

    pub(crate) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    /// Reads a string; `expected` describes it in messages ("a path").
    pub(crate) fn text(self, expected: &str) -> Option<ConfigText> {
        self.report.ask(&self.span, || Asked::Text(expected.to_owned()));
        match self.value {
            DeValue::String(value) => Some(ConfigText { value: value.into_owned(), span: self.span }),
            other => Self::wrong(self.report, &self.label, &self.span, expected, &other),
        }
    }

    /// The value if it is true or false; nothing is reported.
    pub(crate) fn as_boolean(&self) -> Option<bool> {
        self.report.ask(&self.span, || Asked::Boolean);
        match self.value {
            DeValue::Boolean(value) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn boolean(self) -> Option<bool> {
        self.report.ask(&self.span, || Asked::Boolean);
        match self.value {
            DeValue::Boolean(value) => Some(value),
            other => Self::wrong(self.report, &self.label, &self.span, "true or false", &other),
        }
    }

    pub(crate) fn integer<T: TryFrom<u64>>(self, range: RangeInclusive<u64>) -> Option<T> {
        self.report.ask(&self.span, || Asked::Integer(range.clone()));
        let expected =
            format!("an integer from {} to {}", values::digits(*range.start()), values::digits(*range.end()));
        let DeValue::Integer(written) = &self.value else {
            return Self::wrong(self.report, &self.label, &self.span, &expected, &self.value);
        };
        let value = u64::from_str_radix(written.as_str(), written.radix()).ok().filter(|value| range.contains(value));
        let value = value.and_then(|value| T::try_from(value).ok());
        if value.is_none() {
            self.report.error(&self.span, format!("{} must be {expected}", self.label));
        }
        value
    }

    /// Reads a list; messages about its items call each of them `one`.
    pub(crate) fn list(self, expected: &str, one: &str) -> Option<Vec<Self>> {
        self.report.ask(&self.span, || Asked::List(expected.to_owned()));
        match self.value {
            DeValue::Array(items) => {
                Some(items.into_iter().map(|item| Self::new(self.report, one.to_owned(), item)).collect())
            }
            other => Self::wrong(self.report, &self.label, &self.span, expected, &other),
        }
    }

    /// Reads a table; messages about it call it `label`.
    pub(crate) fn section(self, label: &str, expected: &str) -> Option<Section<'a>> {
        self.report.ask(&self.span, || Asked::Table);
        match self.value {
            DeValue::Table(table) => Some(Section::new(self.report, label.to_owned(), self.span, table)),
            other => Self::wrong(self.report, &self.label, &self.span, expected, &other),
        }
    }

    fn wrong<T>(report: &Report<'_>, label: &str, at: &Span, expected: &str, value: &DeValue<'_>) -> Option<T> {
        let found = match value.type_str() {
            kind @ ("integer" | "array") => format!("an {kind}"),
            kind => format!("a {kind}"),
        };
        report.error(at, format!("{label} must be {expected}, not {found}"));
        None
    }
}

/// A table being read.
pub(crate) struct Section<'a> {
    pub(crate) report: &'a Report<'a>,
    /// Name of the table in messages: `[limits]` or "a worker".
    pub(crate) label: String,
    /// Place of the table's header, or of an inline table with its braces.
    pub(crate) span: Span,
    entries: DeTable<'a>,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    fn new(report: &'a Report<'a>, label: String, span: Span, entries: DeTable<'a>) -> Self {
        Self { report, label, span, entries, known: Vec::new() }
    }

    /// Takes a key out of the table and marks it as known.
    pub(crate) fn take(&mut self, key: &'static str) -> Option<ConfigItem<'a>> {
        self.known.push(key);
        self.report.ask(&self.span, || Asked::Key(key));
        let value = self.entries.remove(key)?;
        Some(ConfigItem::new(self.report, format!("`{key}`"), value))
    }

    /// Place of a key in the file.
    pub(crate) fn key(&self, key: &str) -> Option<Span> {
        self.entries.get_key_value(key).map(|(key, _)| key.span())
    }

    pub(crate) fn text(&mut self, key: &'static str, expected: &str) -> Option<ConfigText> {
        self.take(key)?.text(expected)
    }

    /// Reads a string that must be present.
    pub(crate) fn required(&mut self, key: &'static str, expected: &str, example: &str) -> Option<ConfigText> {
        let item = self.take(key);
        self.report.ask(&self.span, || Asked::Required(key, example.to_owned()));
        if item.is_none() {
            let message = format!("{} needs `{key}`", self.label);
            self.report.error_help(&self.span, message, format!("write {key} = {example}"));
        }
        item?.text(expected)
    }

    pub(crate) fn integer<T: TryFrom<u64>>(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<T> {
        self.take(key)?.integer(range)
    }

    /// Reads the sub-table `key`; messages call it by its key.
    pub(crate) fn section(&mut self, key: &'static str, expected: &str) -> Option<Self> {
        self.take(key)?.section(&format!("`{key}`"), expected)
    }

    /// All entries of a table whose keys are names chosen by the user, in the order of the file.
    pub(crate) fn named(self) -> Vec<(ConfigText, ConfigItem<'a>)> {
        let report = self.report;
        report.ask(&self.span, || Asked::Names);
        let mut all: Vec<_> = self.entries.into_iter().collect();
        all.sort_by_key(|(key, _)| key.span().start);
        let name =
            |key: &Spanned<_>| ConfigText { value: AsRef::<str>::as_ref(key.get_ref()).to_owned(), span: key.span() };
        let item = |(key, value): (Spanned<toml::de::DeString<'a>>, _)| {
            let name = name(&key);
            let label = format!("`{}`", name.value);
            (name, ConfigItem::new(report, label, value))
        };
        all.into_iter().map(item).collect()
    }

    /// Reports every key that was not taken out as unknown.
    pub(crate) fn finish(self) {
        for key in self.entries.keys() {
            let (word, at) = (key.get_ref(), key.span());
            let help = values::suggest_key(word, &self.known);
            self.report.error_help(&at, format!("unknown key `{word}` in {}", self.label), help);
        }
    }
}
