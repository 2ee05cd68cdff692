//! Forms of a line of the access log. Pure.
//!
//! `text` is what the log itself writes. `combined` is what web servers write and goaccess and fail2ban read (Apache,
//! "Combined Log Format"), with nginx's escapes. `json` has Caddy's names where Caddy has the field (Caddy, "Access
//! logs"), so tools that read Caddy's logs read it. `ecs` has the names of the Elastic Common Schema 8.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::config::AccessFormat;

/// The fields of a line. Texts are printable and cut; `-` stands for a value that there is not.
pub(super) struct AccessFields<'a> {
    pub(super) at: SystemTime,
    pub(super) client: String,
    pub(super) http: u8,
    pub(super) method: &'a str,
    pub(super) path: Cow<'a, str>,
    pub(super) status: u16,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
    pub(super) ms: u64,
    pub(super) us: u64,
    pub(super) ttfb_ms: Option<u64>,
    pub(super) upstream: &'a str,
    pub(super) worker: &'a str,
    pub(super) why: &'a str,
    pub(super) cut: bool,
    pub(super) request_id: Cow<'a, str>,
    pub(super) host: Cow<'a, str>,
    pub(super) protocol: &'a str,
    pub(super) tls: bool,
    pub(super) user_agent: Cow<'a, str>,
    pub(super) referer: Cow<'a, str>,
    pub(super) attempts: u32,
    pub(super) reason: &'a str,
    pub(super) trace_id: &'a str,
}

/// Writes a line, with its newline.
pub(super) fn line(format: AccessFormat, fields: &AccessFields<'_>) -> String {
    let mut line = match format {
        AccessFormat::Text => text(fields),
        AccessFormat::Combined => combined(fields),
        AccessFormat::Json => caddy(fields).to_string(),
        AccessFormat::Ecs => ecs(fields).to_string(),
    };
    line.push('\n');
    line
}

fn text(f: &AccessFields<'_>) -> String {
    let ttfb = f.ttfb_ms.map(|ms| format!(" ttfb_ms={ms}")).unwrap_or_default();
    format!(
        "{} INFO access: client={} http={} method={} path={} status={} bytes={} ms={} upstream={:?} worker={:?} \
         why={:?} cut={} request_id={:?} host={:?} protocol={:?} tls={} user_agent={:?} referer={:?} bytes_up={} \
         bytes_down={}{ttfb} attempts={} reason={:?} trace_id={:?}",
        humantime::format_rfc3339_micros(f.at),
        f.client,
        f.http,
        f.method,
        f.path,
        f.status,
        f.bytes_down,
        f.ms,
        f.upstream,
        f.worker,
        f.why,
        f.cut,
        f.request_id,
        f.host,
        f.protocol,
        f.tls,
        f.user_agent,
        f.referer,
        f.bytes_up,
        f.bytes_down,
        f.attempts,
        f.reason,
        f.trace_id,
    )
}

fn combined(f: &AccessFields<'_>) -> String {
    format!(
        "{} - - [{}] \"{} {} {}\" {} {} \"{}\" \"{}\"",
        f.client,
        clf_date(f.at),
        f.method,
        escaped(&f.path),
        f.protocol,
        f.status,
        f.bytes_down,
        escaped(&f.referer),
        escaped(&f.user_agent),
    )
}

/// The two characters that would end a quoted field, as nginx writes them.
fn escaped(text: &str) -> Cow<'_, str> {
    match text.contains(['"', '\\']) {
        true => text.replace('\\', "\\x5C").replace('"', "\\x22").into(),
        false => text.into(),
    }
}

/// A date as in `28/Nov/2026:20:00:31 +0000`, from the one of HTTP (`Sat, 28 Nov 2026 20:00:31 GMT`).
fn clf_date(at: SystemTime) -> String {
    let date = httpdate::fmt_http_date(at);
    let parts: Vec<_> = date.split(' ').collect();
    match parts.as_slice() {
        [_, day, month, year, time, ..] => format!("{day}/{month}/{year}:{time} +0000"),
        _ => date,
    }
}

/// The value, or null for `-`.
fn known(text: &str) -> Value {
    if text == "-" { Value::Null } else { Value::from(text) }
}

/// A header field as Caddy shows it: a list, or nothing.
fn header(headers: &mut Map<String, Value>, name: &str, value: &str) {
    if value != "-" {
        headers.insert(name.to_owned(), json!([value]));
    }
}

#[allow(clippy::cast_precision_loss, reason = "seconds of a request, and since 1970 in microseconds, fit 53 bits")]
fn caddy(f: &AccessFields<'_>) -> Value {
    let since = f.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut headers = Map::new();
    header(&mut headers, "User-Agent", &f.user_agent);
    header(&mut headers, "Referer", &f.referer);
    let mut request = json!({
        "client_ip": f.client,
        "headers": headers,
        "host": f.host,
        "method": f.method,
        "proto": f.protocol,
        "remote_ip": f.client,
        "uri": f.path,
    });
    if let (true, Some(request)) = (f.tls, request.as_object_mut()) {
        request.insert("tls".to_owned(), json!({ "server_name": f.host }));
    }
    json!({
        "attempts": f.attempts,
        "bytes_read": f.bytes_up,
        "cut": f.cut,
        "duration": f.us as f64 / 1e6,
        "level": "info",
        "logger": "http.log.access",
        "msg": "handled request",
        "reason": known(f.reason),
        "request": request,
        "request_id": known(&f.request_id),
        "size": f.bytes_down,
        "status": f.status,
        "trace_id": known(f.trace_id),
        "ts": since.as_micros() as f64 / 1e6,
        "ttfb": f.ttfb_ms.map(|ms| ms as f64 / 1e3),
        "upstream": known(f.upstream),
        "why": known(f.why),
        "worker": known(f.worker),
    })
}

fn ecs(f: &AccessFields<'_>) -> Value {
    let mut line = json!({
        "@timestamp": humantime::format_rfc3339_millis(f.at).to_string(),
        "client.ip": f.client,
        "ecs.version": "8.11.0",
        "event.dataset": "stickyd.access",
        "event.duration": f.us.saturating_mul(1_000),
        "event.kind": "event",
        "event.outcome": if f.status < 400 { "success" } else { "failure" },
        "http.request.body.bytes": f.bytes_up,
        "http.request.method": f.method,
        "http.response.body.bytes": f.bytes_down,
        "http.response.status_code": f.status,
        "http.version": f.protocol.trim_start_matches("HTTP/"),
        "log.level": "info",
        "message": format!("{} {} {}", f.method, f.path, f.status),
        "service.name": "stickyd",
        "stickyd.attempts": f.attempts,
        "stickyd.cut": f.cut,
        "url.path": f.path,
        "url.scheme": if f.tls { "https" } else { "http" },
    });
    let more = [
        ("http.request.id", &*f.request_id),
        ("http.request.referrer", &*f.referer),
        ("stickyd.reason", f.reason),
        ("stickyd.upstream", f.upstream),
        ("stickyd.why", f.why),
        ("stickyd.worker", f.worker),
        ("trace.id", f.trace_id),
        ("url.domain", &*f.host),
        ("user_agent.original", &*f.user_agent),
    ];
    if let Some(line) = line.as_object_mut() {
        for (name, value) in more.into_iter().filter(|(_, value)| *value != "-") {
            line.insert(name.to_owned(), Value::from(value));
        }
        if let Some(ms) = f.ttfb_ms {
            line.insert("stickyd.ttfb_ms".to_owned(), Value::from(ms));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> AccessFields<'static> {
        AccessFields {
            at: humantime::parse_rfc3339("2026-11-28T20:00:31.5Z").unwrap(),
            client: "192.0.2.9".to_owned(),
            http: 1,
            method: "GET",
            path: "/a\"b\\c".into(),
            status: 200,
            bytes_up: 3,
            bytes_down: 5,
            ms: 12,
            us: 12_345,
            ttfb_ms: Some(11),
            upstream: "app",
            worker: "w1",
            why: "sid",
            cut: false,
            request_id: "id".into(),
            host: "a.example".into(),
            protocol: "HTTP/1.1",
            tls: true,
            user_agent: "Agent \"x\"".into(),
            referer: "-".into(),
            attempts: 1,
            reason: "-",
            trace_id: "-",
        }
    }

    #[test]
    fn each_form_is_one_line() {
        let line = |format| line(format, &fields());
        insta::assert_snapshot!(line(AccessFormat::Combined), @r#"192.0.2.9 - - [28/Nov/2026:20:00:31 +0000] "GET /a\x22b\x5Cc HTTP/1.1" 200 5 "-" "Agent \x22x\x22""#);
        insta::assert_snapshot!(line(AccessFormat::Json));
        insta::assert_snapshot!(line(AccessFormat::Ecs));
        insta::assert_snapshot!(line(AccessFormat::Text));
    }
}
