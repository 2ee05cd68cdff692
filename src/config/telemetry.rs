//! `[telemetry]`: the receiver of OpenTelemetry traces, and which requests are traced.
//!
//! Only a build with the feature `otel` sends traces. Another build reports the key as an error, because silence would
//! look like a receiver that gets nothing.

use std::fmt;
use std::sync::Arc;

use hyper::header::{HeaderName, HeaderValue};
use hyper::{Uri, header};

use super::check::Context;
use super::file::{ConfigText, Section};
use super::notify::machine;
use super::{OutboundTarget, files, outbound, values, variables};

/// Whether this build can send traces.
const CAN_TRACE: bool = cfg!(feature = "otel");

/// Path of the traces at a receiver (OTLP 1.5, "OTLP/HTTP Request"); the default of the address.
const TRACES: &str = "/v1/traces";

/// Headers that belong to the request itself, so that a file of headers must not name them.
const OWN_HEADERS: [HeaderName; 5] =
    [header::CONTENT_LENGTH, header::CONTENT_TYPE, header::CONTENT_ENCODING, header::HOST, header::TRANSFER_ENCODING];

/// Where traces go. A reload applies it to requests that begin after it.
#[derive(Clone, PartialEq)]
pub(crate) struct Telemetry {
    /// Address of the receiver, with the path of traces.
    pub(crate) target: OutboundTarget,
    /// Headers of each request to the receiver; their values may be secrets.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// Name of the service that traces are of; default `stickyd`.
    pub(crate) service: String,
    /// Name of the machine that stickyd runs on.
    pub(crate) machine: String,
    /// Share in percent of the requests that are recorded, unless a trusted caller has decided; default 100.
    pub(crate) sample: u32,
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Telemetry({:?}, {} headers, {}%)", self.target, self.headers.len(), self.sample)
    }
}

/// Reads the `[telemetry]` table.
pub(crate) fn read(context: &Context<'_>, root: &mut Section<'_>) -> Option<Arc<Telemetry>> {
    let mut section = root.section("telemetry", "a table")?;
    let at = section.span.clone();
    let otlp = section.text("otlp", "an address such as \"http://127.0.0.1:4318\"");
    let service = section.text("service", "a name such as \"stickyd\"");
    let sample = section.take("sample").and_then(|item| values::percent(item, 1..=100));
    let headers = section.text("headers_file", "a path");
    let ca = section.text("ca", "a path");
    section.finish();
    let Some(otlp) = otlp else {
        let help = "write otlp = \"http://127.0.0.1:4318\"";
        context.report.error_help(&at, "[telemetry] needs `otlp`, the receiver of traces", help);
        return None;
    };
    if let Some(service) = &service {
        check_service(context, service);
    }
    let url = receiver(context, &otlp, CAN_TRACE || context.report.is_survey())?;
    let read = Telemetry {
        target: outbound::target(context, &otlp.span, url, ca.as_ref())?,
        headers: headers.map_or_else(|| Some(Vec::new()), |file| headers_of(context, &file))?,
        service: service.map_or_else(|| "stickyd".to_owned(), |service| service.value),
        machine: machine(),
        sample: sample.unwrap_or(100),
    };
    Some(Arc::new(read))
}

fn check_service(context: &Context<'_>, name: &ConfigText) {
    if name.value.is_empty() || name.value.chars().count() > 64 || name.value.chars().any(char::is_control) {
        let help = "use 1 to 64 characters, such as \"stickyd\"";
        context.report.error_help(&name.span, "`service` is empty, too long, or has control characters", help);
    }
}

/// Checks the address of the receiver, and completes its path. `can_trace` tells whether this build can send traces.
fn receiver(context: &Context<'_>, otlp: &ConfigText, can_trace: bool) -> Option<Uri> {
    if !can_trace {
        let message = "this build of stickyd cannot send traces: it was made without OpenTelemetry";
        let help = "use a build with the feature otel (docs/traces.md), or remove [telemetry]";
        context.report.error_help(&otlp.span, message, help);
    }
    let url = outbound::url(context, &otlp.span, &otlp.value)?;
    if url.path() != "/" {
        return Some(url);
    }
    let path = url.query().map_or_else(|| TRACES.to_owned(), |query| format!("{TRACES}?{query}"));
    let mut parts = url.into_parts();
    parts.path_and_query = path.parse().ok();
    Uri::from_parts(parts).ok()
}

/// Reads a file of headers, one per line: `Authorization: Bearer …`. Messages name lines by number, because what a line
/// holds may be a secret.
fn headers_of(context: &Context<'_>, file: &ConfigText) -> Option<Vec<(HeaderName, HeaderValue)>> {
    const HELP: &str = "write one header per line, such as Authorization: Bearer TOKEN";
    let bytes = files::named(context, file)?;
    files::warn_if_public(context, &file.span, &context.base.join(&file.value));
    let mut all = Vec::new();
    let lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).enumerate();
    for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with(b"#")) {
        if variables::has_reference(&String::from_utf8_lossy(line)) {
            let reason = format!("line {}: {}", number + 1, variables::IN_FILE);
            return files::unusable(context, file, &reason, variables::WRITE_VALUE);
        }
        match header_of(line) {
            Some((name, _)) if OWN_HEADERS.contains(&name) => {
                return files::unusable(context, file, &format!("line {} names {name}", number + 1), HELP);
            }
            Some(header) => all.push(header),
            None => return files::unusable(context, file, &format!("line {} is not a header", number + 1), HELP),
        }
    }
    Some(all)
}

fn header_of(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = line.split_at_checked(colon)?;
    let mut value = HeaderValue::from_bytes(value.strip_prefix(b":")?.trim_ascii()).ok()?;
    value.set_sensitive(true);
    Some((HeaderName::from_bytes(name.trim_ascii()).ok()?, value))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::error::Report;
    use super::super::sources::Noted;
    use super::*;

    fn asked(text: &str, can_trace: bool) -> (Option<Uri>, String) {
        let report = Report::new("s.toml".to_owned(), text);
        let (resolve, noted) = (|_: &str| Ok(Vec::new()), Noted::default());
        let context = Context::new(&report, PathBuf::from("/nonexistent"), &resolve, &noted);
        let url = receiver(&context, &ConfigText { value: text.to_owned(), span: 0..text.len() }, can_trace);
        let said = report.finish().map_or_else(|errors| errors.to_string(), |_| String::new());
        (url, said)
    }

    #[test]
    fn the_path_of_traces_is_the_default() {
        for (text, url) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
            ("http://127.0.0.1:4318?tenant=7", "http://127.0.0.1:4318/v1/traces?tenant=7"),
            ("http://127.0.0.1:4318/?a=b&c=%2F", "http://127.0.0.1:4318/v1/traces?a=b&c=%2F"),
            ("https://otel.example/otlp/v1/traces", "https://otel.example/otlp/v1/traces"),
            ("https://otel.example/x?y=z", "https://otel.example/x?y=z"),
        ] {
            assert_eq!(asked(text, true), (Some(url.parse().unwrap()), String::new()), "{text}");
        }
    }

    #[test]
    fn a_long_service_is_counted_in_characters() {
        for (text, is_fine) in [("\u{fc}".repeat(64), true), ("\u{fc}".repeat(65), false), (String::new(), false)] {
            let report = Report::new("s.toml".to_owned(), &text);
            let (resolve, noted) = (|_: &str| Ok(Vec::new()), Noted::default());
            let context = Context::new(&report, PathBuf::from("/nonexistent"), &resolve, &noted);
            check_service(&context, &ConfigText { value: text.clone(), span: 0..text.len() });
            assert_eq!(report.finish().is_ok(), is_fine, "{}", text.len());
        }
    }

    #[test]
    fn a_header_that_names_an_environment_variable_is_refused() {
        let file = std::env::temp_dir().join(format!("stickyd-headers-{:016x}", crate::random::u64()));
        std::fs::write(&file, "X-Tenant: a\nAuthorization: Bearer ${TOKEN}\n").unwrap();
        let report = Report::new("s.toml".to_owned(), "headers");
        let (resolve, noted) = (|_: &str| Ok(Vec::new()), Noted::default());
        let context = Context::new(&report, PathBuf::from("/nonexistent"), &resolve, &noted);
        let read = headers_of(&context, &ConfigText { value: file.display().to_string(), span: 0..7 });
        std::fs::remove_file(&file).unwrap();
        let said = report.finish().unwrap_err().to_string();
        assert!(read.is_none() && said.contains("line 2: it has the name of an environment variable"), "{said}");
    }

    #[test]
    fn a_build_without_opentelemetry_says_so() {
        let (_, said) = asked("http://127.0.0.1:4318", false);
        assert!(said.contains("this build of stickyd cannot send traces") && said.contains("feature otel"), "{said}");
    }
}
