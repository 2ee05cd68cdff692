//! `[affinity.NAME]`, and the entries of an upstream's `follow`. Its `affinity` is read in `list`.
//!
//! Mistakes inside one rule are reported here; conflicts between rules, or between rules and routes, in `across`.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use hyper::header::HeaderName;

use super::list::{AUTO, Customs};
use super::presets::PRESETS;
use super::{AnswerPlace, EndRule, Learn, LookupRule, On, Protocol, RefusalRule, Rule, Spot};
use crate::config::check::Context;
use crate::config::file::{ConfigItem, ConfigText, Section};
use crate::config::pattern::{JsonPath, PathPattern, Template};
use crate::config::values::{duration, suggest};

const TTLS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3_600);
const DEFAULT_TTL: Duration = Duration::from_secs(600);
/// Statuses of final answers: 1xx are not final, and a 101 begins a tunnel.
const STATUSES: RangeInclusive<u64> = 200..=599;
/// Maximum length of a refusal's `body`, in bytes; it is searched for in the first 512 bytes of an answer.
const MAX_WORDS: usize = 256;

/// Reads all `[affinity.NAME]` tables.
pub(crate) fn customs(context: &Context<'_>, root: &mut Section<'_>) -> Customs {
    let expected = "tables with names, each headed [affinity.NAME]";
    let Some(section) = root.take("affinity").and_then(|item| item.section("[affinity]", expected)) else {
        return Customs::none();
    };
    let rules = section.named().into_iter().map(|(name, item)| {
        check_name(context, &name);
        let rule = item.section(&format!("[affinity.{}]", name.value), "a table").map(|table| rule(&name, table));
        (name, rule.flatten().map(Arc::new))
    });
    Customs::of(rules.collect())
}

/// Checks the name of a rule, which becomes a label of metrics and a value in the debug header.
fn check_name(context: &Context<'_>, name: &ConfigText) {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    let taken = PRESETS.iter().map(|(word, _)| *word).chain([AUTO, "cookie", "address"]).any(|word| word == name.value);
    if taken {
        let message = format!("`{}` is the name of a built-in affinity", name.value);
        context.report.error_help(&name.span, message, "give the rule another name");
    } else if !(1..=32).contains(&name.value.len()) || !name.value.bytes().all(fits) {
        let message = format!("`{}` is not a valid rule name", name.value);
        context.report.error_help(&name.span, message, "use 1 to 32 characters of a-z, 0-9, `_` and `-`");
    }
}

/// Reads a rule; `None` if a part that it needs is wrong, which was reported.
fn rule(name: &ConfigText, mut table: Section<'_>) -> Option<Rule> {
    let (report, label, head) = (table.report, table.label.clone(), name.span.clone());
    let (learn_at, client_made_at) = (table.key("learn"), table.key("client_made"));
    let (creates_at, refusal_at) = (table.key("creates"), table.key("refusal"));
    let learn = tables(&mut table, "learn", "a table such as { from = \"header:x-job-id\" }", learn);
    let lookup = lookups(&mut table);
    let refusal = tables(&mut table, "refusal", "a table such as { status = 404, body = \"no such job\" }", refusal);
    let creates = tables(&mut table, "creates", "a table such as { method = \"POST\", path = \"/jobs\" }", on_alone);
    let ends = tables(&mut table, "ends", "a table such as { method = \"DELETE\" }", end);
    let ttl = table.take("ttl").and_then(|item| duration(item, TTLS)).unwrap_or(DEFAULT_TTL);
    let ttl_from = table.text("ttl_from", "a place such as \"json:ttl\"").and_then(|text| ttl_place(&table, &text));
    let client_made = table.take("client_made").and_then(ConfigItem::boolean).unwrap_or(false);
    table.finish();
    let lookup = lookup?;
    if lookup.is_empty() {
        let help = "write lookup = [\"header:x-job-id\", \"path:/jobs/{id}\"]";
        report.error_help(&head, format!("{label} can never match: `lookup` names no place for its id"), help);
    }
    match (client_made, learn_at) {
        (true, Some(at)) => {
            let line = client_made_at.map_or(0, |at| report.line_of(&at));
            let message = format!("`learn` has no effect: by line {line}, clients make the id");
            report.error_help(&at, message, "remove one of the two");
        }
        (false, None) if refusal_at.is_none() => {
            let help =
                "write learn = [{ from = \"header:x-job-id\" }], or write client_made = true if clients make the id";
            report.error_help(&head, format!("{label} never learns an id: it has only a `lookup`"), help);
        }
        _ => {}
    }
    if let (Some(at), None) = (creates_at, &refusal_at) {
        let help = "without it no worker is asked for a session that is not pinned: add `refusal`, or remove `creates`";
        report.warn(&at, "`creates` has no effect without `refusal`", help);
    }
    Some(Rule {
        name: name.value.clone(),
        protocol: Protocol::Custom,
        learn: learn?,
        lookup,
        refusal: refusal?,
        creates: creates?,
        ttl,
        ttl_from,
        ends: ends?,
        client_made,
        guard: None,
    })
}

/// Reads a list of tables; `None` if one of them is wrong.
fn tables<T>(
    table: &mut Section<'_>,
    key: &'static str,
    expected: &str,
    read: impl Fn(Section<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let Some(item) = table.take(key) else { return Some(Vec::new()) };
    let label = format!("an entry of `{key}`");
    let items = item.list(&format!("a list with {expected}"), &label)?;
    items.into_iter().map(|item| read(item.section(&label, expected)?)).collect::<Vec<_>>().into_iter().collect()
}

fn learn(mut table: Section<'_>) -> Option<Learn> {
    let from = table.required("from", "a place such as \"header:x-job-id\"", "\"header:x-job-id\"");
    let from = from.and_then(|text| place(&table, &text));
    let on = on(&mut table);
    let at = table.key("status").unwrap_or_else(|| table.span.clone());
    let status = table.integer("status", STATUSES);
    let report = table.report;
    table.finish();
    let learn = Learn { from: from?, on: on?, status, only: None };
    let bodiless = matches!(learn.status, Some(204 | 205 | 304)) || learn.on.methods.contains(&Method::HEAD);
    if learn.from.is_in_body() && bodiless {
        report.error(&at, "this can never match: such an answer has no body");
    }
    Some(learn)
}

fn on_alone(mut table: Section<'_>) -> Option<On> {
    let on = on(&mut table);
    table.finish();
    on
}

fn end(mut table: Section<'_>) -> Option<EndRule> {
    let (report, at) = (table.report, table.span.clone());
    let on = on(&mut table);
    let status = table.integer("status", STATUSES);
    table.finish();
    let end = EndRule { on: on?, status };
    if end.on == On::default() {
        report.error_help(&at, "every request would end its session", "write method = \"DELETE\"");
    }
    Some(end)
}

/// Reads `method` and `path`.
fn on(table: &mut Section<'_>) -> Option<On> {
    let method = table.text("method", "a method such as \"POST\"").map(|text| method(table, &text));
    let path = table.text("path", "a path such as \"/jobs\"").map(|text| {
        let path = pattern(table, &text, &text.value)?;
        if path.has_id() {
            table.report.error_help(&text.span, "`{id}` is allowed only in `lookup`", "write * for any segment");
        }
        Some(path)
    });
    let methods = method.map_or(Some(Vec::new()), |method| method.map(|method| vec![method]));
    Some(On { methods: methods?, path: path.map_or(Some(None), |path| path.map(Some))?, header: None })
}

fn method(table: &Section<'_>, text: &ConfigText) -> Option<Method> {
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
    let method = known.contains(&text.value.as_str()).then(|| Method::from_bytes(text.value.as_bytes()).ok()).flatten();
    if method.is_none() {
        let help = suggest(&text.value, &known);
        table.report.error_help(&text.span, format!("`{}` is not a supported method", text.value), help);
    }
    method
}

fn refusal(mut table: Section<'_>) -> Option<RefusalRule> {
    let at = table.span.clone();
    if table.key("status").is_none() {
        table.report.error_help(&at, "a refusal needs `status`", "write status = 404");
    }
    let status: Option<u16> = table.integer("status", STATUSES);
    let body = table.text("body", "a part of the body");
    let header = table.text("header", "a field such as \"x-unknown\" or \"x-error: no such job\"");
    if let Some(long) = body.as_ref().filter(|body| body.value.len() > MAX_WORDS) {
        table.report.error(&long.span, format!("`body` has {} bytes; the maximum is {MAX_WORDS}", long.value.len()));
    }
    let header = header.map(|text| {
        let (name, value) = text.value.split_once(':').unwrap_or((&text.value, ""));
        Some((header_name(&table, &text, name.trim())?, value.trim().to_owned()))
    });
    if let (Some(200..=299), None, None) = (status, &body, &header) {
        let help = "add `body`, a part of its body, or `header`, one of its headers";
        table.report.error_help(&at, "every answer with this status would be a refusal", help);
    }
    table.finish();
    let header = header.map_or(Some(None), |header| header.map(Some))?;
    Some(RefusalRule::Answer { status: status?, body: body.map_or_else(String::new, |body| body.value), header })
}

/// Reads a place in an answer: `header:NAME`, `set-cookie:NAME`, `json:a.b`, `prefix:…` or `location`.
fn place(table: &Section<'_>, text: &ConfigText) -> Option<AnswerPlace> {
    const HELP: &str = "use header:NAME, set-cookie:NAME, json:a.b.c, prefix:TEXT{id} or location";
    let report = table.report;
    let wrong = |why: &str| report.error_help(&text.span, format!("`{}` is not a place: {why}", text.value), HELP);
    match text.value.split_once(':') {
        None if text.value == "location" => Some(AnswerPlace::Location),
        Some(("header", name)) if name.trim().eq_ignore_ascii_case("set-cookie") => {
            report.error_help(&text.span, "cookies cannot be read as a header", "write set-cookie:NAME");
            None
        }
        Some(("header", name)) => header_name(table, text, name.trim()).map(AnswerPlace::Header),
        Some(("set-cookie", name)) => cookie_name(table, text, name.trim()).map(AnswerPlace::SetCookie),
        Some(("json", path)) => JsonPath::parse(path).map_err(|why| wrong(&why)).ok().map(AnswerPlace::Json),
        Some(("prefix", template)) => Template::parse(template).map_err(wrong).ok().map(AnswerPlace::Prefix),
        _ => {
            wrong("its kind is unknown");
            None
        }
    }
}

fn ttl_place(table: &Section<'_>, text: &ConfigText) -> Option<AnswerPlace> {
    let place = place(table, text)?;
    if !matches!(place, AnswerPlace::Header(_) | AnswerPlace::Json(_)) {
        table.report.error_help(
            &text.span,
            "this place cannot hold a number of seconds",
            "write \"json:ttl\" or \"header:NAME\"",
        );
        return None;
    }
    Some(place)
}

/// Reads the `lookup` list of a rule; `None` if one of its entries is wrong.
fn lookups(table: &mut Section<'_>) -> Option<Vec<LookupRule>> {
    let Some(item) = table.take("lookup") else { return Some(Vec::new()) };
    let items = item.list("a list such as [\"header:x-job-id\", \"path:/jobs/{id}\"]", "a lookup")?;
    let mut all: Vec<LookupRule> = Vec::new();
    let mut whole = true;
    for item in items {
        let spot = item.text("a place such as \"query:job\"").and_then(|text| Some((spot(table, &text, true)?, text)));
        let Some((spot, text)) = spot else {
            whole = false;
            continue;
        };
        if all.iter().any(|one| one.at == spot) {
            table.report.error(&text.span, format!("`{}` is listed twice", text.value));
        }
        all.push(LookupRule { at: spot, on: On::default(), min: 1 });
    }
    whole.then_some(all)
}

/// Reads `follow`: a list of headers and query parameters.
pub(crate) fn follow(section: &mut Section<'_>) -> Vec<Spot> {
    let Some(item) = section.take("follow") else { return Vec::new() };
    let items = item.list("a list such as [\"header:x-socket-id\", \"query:socketId\"]", "a place").unwrap_or_default();
    let mut spots = Vec::new();
    for text in items.into_iter().filter_map(|item| item.text("a place such as \"query:socketId\"")) {
        let Some(spot) = spot(section, &text, false) else { continue };
        if spots.contains(&spot) {
            section.report.error(&text.span, format!("`{}` is listed twice", text.value));
        }
        spots.push(spot);
    }
    spots
}

/// Reads a place in a request: `header:NAME` or `query:NAME`, and with `whole` also `cookie:NAME` or `path:/jobs/{id}`.
fn spot(table: &Section<'_>, text: &ConfigText, whole: bool) -> Option<Spot> {
    let report = table.report;
    let help = if whole {
        "use header:NAME, query:NAME, cookie:NAME or path:/jobs/{id}"
    } else {
        "use header:NAME or query:NAME"
    };
    match text.value.split_once(':') {
        Some(("header", name)) if whole && name.trim().eq_ignore_ascii_case("cookie") => {
            report.error_help(&text.span, "cookies cannot be read as a header", "write cookie:NAME");
            None
        }
        Some(("header", name)) => header_name(table, text, name.trim()).map(Spot::Header),
        Some(("query", name)) if !name.is_empty() && name.len() <= 64 && !name.contains(['&', '=', '#']) => {
            Some(Spot::Query(name.to_owned()))
        }
        Some(("cookie", name)) if whole => cookie_name(table, text, name.trim()).map(Spot::Cookie),
        Some(("path", path)) if whole => {
            let pattern = pattern(table, text, path)?;
            if !pattern.has_id() {
                report.error_help(&text.span, "the path needs {id} in the place of the id", "write path:/jobs/{id}");
                return None;
            }
            Some(Spot::Path(pattern.and_below()))
        }
        _ => {
            report.error_help(&text.span, format!("`{}` is not a place in a request", text.value), help);
            None
        }
    }
}

fn pattern(table: &Section<'_>, text: &ConfigText, path: &str) -> Option<PathPattern> {
    let help = "write /jobs or /jobs/{id}: * is any segment, ** any number of them at the beginning or the end";
    let wrong = |why| table.report.error_help(&text.span, format!("`{path}` is not a valid path: {why}"), help);
    PathPattern::parse(path).map_err(wrong).ok()
}

fn header_name(table: &Section<'_>, text: &ConfigText, name: &str) -> Option<HeaderName> {
    let read = HeaderName::try_from(name).ok();
    if read.is_none() {
        table.report.error_help(&text.span, format!("`{name}` is not a valid header name"), "write header:x-job-id");
    }
    read
}

fn cookie_name(table: &Section<'_>, text: &ConfigText, name: &str) -> Option<String> {
    // A cookie's name is a token (RFC 6265 §4.1.1).
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(token) {
        table.report.error(&text.span, format!("`{name}` is not a valid cookie name"));
        return None;
    }
    Some(name.to_owned())
}
