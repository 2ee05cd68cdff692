//! Keeps what peers wrote from acting through the log: in text, values are shown by `printable`, so that none can
//! command a terminal or forge a line; in JSON, the same characters become escapes of their strings.

use std::fmt::{self, Debug, Write as _};
use std::io;

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FormatFields, MakeWriter};

use crate::printable::{PrintableWriter, printable_json};

/// Formats the fields of an event as `message name=value`, like tracing's own format, but shows only printable
/// characters. A message is a constant phrase of stickyd's, which may have several lines (the errors of a file).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ShownFields;

impl<'writer> FormatFields<'writer> for ShownFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = ShownVisitor { writer, first: true, result: Ok(()) };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct ShownVisitor<'writer> {
    writer: Writer<'writer>,
    first: bool,
    result: fmt::Result,
}

impl ShownVisitor<'_> {
    fn write(&mut self, field: &Field, value: &dyn Debug) -> fmt::Result {
        let gap = if std::mem::take(&mut self.first) { "" } else { " " };
        self.writer.write_str(gap)?;
        if field.name() == "message" {
            return write!(PrintableWriter::lines(&mut self.writer), "{value:?}");
        }
        match self.writer.has_ansi_escapes() {
            true => write!(self.writer, "\x1b[3m{}\x1b[0m\x1b[2m=\x1b[0m", field.name())?,
            false => write!(self.writer, "{}=", field.name())?,
        }
        write!(PrintableWriter::line(&mut self.writer), "{value:?}")
    }
}

impl Visit for ShownVisitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.record_debug(field, &format_args!("{value}"));
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if self.result.is_ok() {
            self.result = self.write(field, value);
        }
    }
}

/// Gives JSON lines to another writer, with unprintable characters inside strings as escapes.
#[derive(Debug, Clone)]
pub(crate) struct ShownJson<M>(pub(crate) M);

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for ShownJson<M> {
    type Writer = ShownJsonLine<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        ShownJsonLine(self.0.make_writer())
    }
}

/// Writes one line; the subscriber writes each event with one call.
pub(crate) struct ShownJsonLine<W>(W);

impl<W: io::Write> io::Write for ShownJsonLine<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let has_unprintable = line.iter().any(|byte| !(b' '..=b'~').contains(byte) && *byte != b'\n');
        match std::str::from_utf8(line) {
            Ok(text) if has_unprintable => self.0.write_all(printable_json(text).as_bytes())?,
            _ => self.0.write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::subscriber::with_default;

    use super::*;
    use crate::printable::is_unprintable;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Kept {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    const HOSTILE: &str = "x\u{1b}[2J\u{9b}1A\n2026 INFO forged\u{202e}\u{200b}\u{7f}";

    fn say() {
        tracing::info!(quoted = HOSTILE, plain = %HOSTILE, debug = ?HOSTILE, number = 7, "two\nlines");
    }

    #[test]
    fn values_in_text_lines_are_printable() {
        for ansi in [false, true] {
            let kept = Kept::default();
            let out = kept.clone();
            let log = tracing_subscriber::fmt().fmt_fields(ShownFields).with_ansi(ansi).without_time();
            with_default(log.with_writer(move || out.clone()).finish(), say);
            let text = kept.text();
            assert_eq!(text.lines().count(), 2, "only the message has two lines: {text:?}");
            let text = if ansi { text.replace("\x1b[", "").replace('\n', "") } else { text.replace('\n', "") };
            assert!(!text.contains(is_unprintable), "{text:?}");
            assert!(
                text.contains("number") && text.contains(r"\u{1b}[2J\u{9b}1A\u{a}2026 INFO forged\u{202e}"),
                "{text}"
            );
        }
    }

    #[test]
    fn values_in_json_lines_are_escaped_and_the_same() {
        let kept = Kept::default();
        let out = kept.clone();
        let log = tracing_subscriber::fmt().json().flatten_event(true).with_writer(ShownJson(move || out.clone()));
        with_default(log.finish(), say);
        let text = kept.text();
        assert!(!text.trim_end().contains(is_unprintable), "{text:?}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((value["plain"].as_str(), value["quoted"].as_str()), (Some(HOSTILE), Some(HOSTILE)));
    }
}
