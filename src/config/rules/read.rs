//! `[affinity.NAME]`, and the words of an upstream's `affinity` and `follow`.
//!
//! What is wrong with one rule is said here; what is wrong between rules, or between rules and routes, in `across`.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use hyper::header::HeaderName;

use super::presets::PRESETS;
use super::{Affinity, End, Learn, Lookup, MAX_AFFINITIES, On, Place, Protocol, Refusal, Rule, Spot};
use crate::config::check::Context;
use crate::config::error::Span;
use crate::config::file::{Item, Section, Text};
use crate::config::pattern::{JsonPath, PathPattern, Template};
use crate::config::values::{duration, suggest};

const TTLS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3_600);
const DEFAULT_TTL: Duration = Duration::from_secs(600);
/// 1xx are no answers, and a 101 begins a tunnel.
const STATUSES: RangeInclusive<u64> = 200..=599;
/// A part of a refusal's body is looked for in its first 512 bytes.
const MAX_WORDS: usize = 256;

/// The user's rules, by name.
pub(in crate::config) struct Customs {
    rules: Vec<(Text, Option<Arc<Rule>>)>,
    used: RefCell<Vec<String>>,
}

impl Customs {
    /// None, as on the command line.
    fn none() -> Self {
        Self { rules: Vec::new(), used: RefCell::default() }
    }

    /// Says which rules no upstream names.
    pub(in crate::config) fn finish(self, context: &Context<'_>) {
        let used = self.used.into_inner();
        for (name, _) in self.rules.iter().filter(|(name, _)| !used.contains(&name.value)) {
            let message = format!("no upstream uses [affinity.{}]", name.value);
            let help = format!("write affinity = [\"{}\", \"cookie\", \"address\"] in one", name.value);
            context.report.warn(&name.span, message, help);
        }
    }

    /// The affinities an upstream names, with the place of each.
    pub(in crate::config) fn affinity(&self, item: Item<'_>) -> Option<Vec<(Affinity, Span)>> {
        let (report, at) = (item.report, item.span.clone());
        let items = item.list("a list such as [\"socket.io\", \"cookie\", \"address\"]", "an affinity")?;
        if items.is_empty() {
            let help = "[\"socket.io\", \"cookie\", \"address\"] is the default; [\"address\"] alone is IP hash";
            report.error_help(&at, "`affinity` is empty: nothing would choose a worker", help);
        }
        if items.len() > MAX_AFFINITIES {
            report.error(&at, format!("`affinity` has {} entries, and {MAX_AFFINITIES} is the most", items.len()));
        }
        let mut chosen: Vec<(Affinity, Span)> = Vec::new();
        for item in items {
            let report = item.report;
            let Some(text) = item.text("a string") else { continue };
            if chosen.iter().any(|(one, _)| one.word() == text.value) {
                report.error(&text.span, format!("affinity `{}` stands here twice", text.value));
                continue;
            }
            match self.find(&text.value) {
                Some(Some(one)) => chosen.push((one, text.span)),
                // What is wrong with it was said where it stands.
                Some(None) => {}
                None => {
                    let message = format!("unknown affinity `{}`", text.value);
                    report.error_help(&text.span, message, suggest(&text.value, &self.words()));
                }
            }
        }
        Some(chosen)
    }

    fn find(&self, word: &str) -> Option<Option<Affinity>> {
        match word {
            "cookie" => return Some(Some(Affinity::Cookie)),
            "address" => return Some(Some(Affinity::Address)),
            _ => {}
        }
        if let Some((_, preset)) = PRESETS.iter().find(|(name, _)| *name == word) {
            return Some(Some(Affinity::Rule(Arc::new(preset()))));
        }
        let (_, rule) = self.rules.iter().find(|(name, _)| name.value == word)?;
        self.used.borrow_mut().push(word.to_owned());
        Some(rule.clone().map(Affinity::Rule))
    }

    fn words(&self) -> Vec<&str> {
        let presets = PRESETS.iter().map(|(name, _)| *name);
        presets.chain(["cookie", "address"]).chain(self.rules.iter().map(|(name, _)| name.value.as_str())).collect()
    }
}

/// Reads `[affinity.NAME]`, all of them.
pub(in crate::config) fn customs(context: &Context<'_>, root: &mut Section<'_>) -> Customs {
    let expected = "tables with names, each headed [affinity.NAME]";
    let Some(section) = root.take("affinity").and_then(|item| item.section("[affinity]", expected)) else {
        return Customs::none();
    };
    let rules = section.named().into_iter().map(|(name, item)| {
        check_name(context, &name);
        let rule = item.section(&format!("[affinity.{}]", name.value), "a table").map(|table| rule(&name, table));
        (name, rule.flatten().map(Arc::new))
    });
    Customs { rules: rules.collect(), used: RefCell::default() }
}

/// The name is a label of metrics and a word in the debug header.
fn check_name(context: &Context<'_>, name: &Text) {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    let taken = PRESETS.iter().map(|(word, _)| *word).chain(["cookie", "address"]).any(|word| word == name.value);
    if taken {
        let message = format!("`{}` is a word of stickyd's own", name.value);
        context.report.error_help(&name.span, message, "give the rule another name");
    } else if !(1..=32).contains(&name.value.len()) || !name.value.bytes().all(fits) {
        let message = format!("`{}` is no name for a rule", name.value);
        context.report.error_help(&name.span, message, "1 to 32 of a-z, 0-9, `_` and `-`");
    }
}

/// `None` where something it needs is wrong, which has been said.
fn rule(name: &Text, mut table: Section<'_>) -> Option<Rule> {
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
    let client_made = table.take("client_made").and_then(Item::boolean).unwrap_or(false);
    table.finish();
    let lookup = lookup?;
    if lookup.is_empty() {
        let help = "write lookup = [\"header:x-job-id\", \"path:/jobs/{id}\"]";
        report.error_help(&head, format!("{label} can never match: it looks nowhere for its id"), help);
    }
    match (client_made, learn_at) {
        (true, Some(at)) => {
            let line = client_made_at.map_or(0, |at| report.line_of(&at));
            let message = format!("`learn` says nothing: by line {line} the client makes the id");
            report.error_help(&at, message, "leave one of the two out");
        }
        (false, None) if refusal_at.is_none() => {
            let help =
                "write learn = [{ from = \"header:x-job-id\" }], or client_made = true where the client makes it";
            report.error_help(&head, format!("{label} has a lookup without a source: it never knows a session"), help);
        }
        _ => {}
    }
    if let (Some(at), None) = (creates_at, &refusal_at) {
        let help = "nobody is asked for a session that is not pinned: write a refusal, or leave it out";
        report.warn(&at, "`creates` says nothing without `refusal`", help);
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
    })
}

/// A list of tables; `None` where one of them is wrong.
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

fn end(mut table: Section<'_>) -> Option<End> {
    let (report, at) = (table.report, table.span.clone());
    let on = on(&mut table);
    let status = table.integer("status", STATUSES);
    table.finish();
    let end = End { on: on?, status };
    if end.on == On::default() {
        report.error_help(&at, "every request would end its session", "write method = \"DELETE\"");
    }
    Some(end)
}

/// `method` and `path`.
fn on(table: &mut Section<'_>) -> Option<On> {
    let method = table.text("method", "a method such as \"POST\"").map(|text| method(table, &text));
    let path = table.text("path", "a path such as \"/jobs\"").map(|text| {
        let path = pattern(table, &text, &text.value)?;
        if path.has_id() {
            table.report.error_help(&text.span, "`{id}` stands in `lookup` only", "write * for any segment");
        }
        Some(path)
    });
    let methods = method.map_or(Some(Vec::new()), |method| method.map(|method| vec![method]));
    Some(On { methods: methods?, path: path.map_or(Some(None), |path| path.map(Some))?, header: None })
}

fn method(table: &Section<'_>, text: &Text) -> Option<Method> {
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
    let method = known.contains(&text.value.as_str()).then(|| Method::from_bytes(text.value.as_bytes()).ok()).flatten();
    if method.is_none() {
        let help = suggest(&text.value, &known);
        table.report.error_help(&text.span, format!("`{}` is no method sessions have", text.value), help);
    }
    method
}

fn refusal(mut table: Section<'_>) -> Option<Refusal> {
    let at = table.span.clone();
    if table.key("status").is_none() {
        table.report.error_help(&at, "a refusal needs `status`", "write status = 404");
    }
    let status: Option<u16> = table.integer("status", STATUSES);
    let body = table.text("body", "a part of the body");
    let header = table.text("header", "a field such as \"x-unknown\" or \"x-error: no such job\"");
    if let Some(long) = body.as_ref().filter(|body| body.value.len() > MAX_WORDS) {
        table.report.error(&long.span, format!("`body` has {} bytes, and {MAX_WORDS} is the most", long.value.len()));
    }
    let header = header.map(|text| {
        let (name, value) = text.value.split_once(':').unwrap_or((&text.value, ""));
        Some((header_name(&table, &text, name.trim())?, value.trim().to_owned()))
    });
    if let (Some(200..=299), None, None) = (status, &body, &header) {
        let help = "write a part of its body, or a field of its head";
        table.report.error_help(&at, "every answer of this status would be a refusal", help);
    }
    table.finish();
    let header = header.map_or(Some(None), |header| header.map(Some))?;
    Some(Refusal::Answer { status: status?, body: body.map_or_else(String::new, |body| body.value), header })
}

/// `header:NAME`, `set-cookie:NAME`, `json:a.b`, `prefix:…`, `location`.
fn place(table: &Section<'_>, text: &Text) -> Option<Place> {
    const HELP: &str = "there is header:NAME, set-cookie:NAME, json:a.b.c, prefix:TEXT{id} and location";
    let report = table.report;
    let wrong = |why: &str| report.error_help(&text.span, format!("`{}` is no place: {why}", text.value), HELP);
    match text.value.split_once(':') {
        None if text.value == "location" => Some(Place::Location),
        Some(("header", name)) if name.trim().eq_ignore_ascii_case("set-cookie") => {
            report.error_help(&text.span, "a cookie has a place of its own", "write set-cookie:NAME");
            None
        }
        Some(("header", name)) => header_name(table, text, name.trim()).map(Place::Header),
        Some(("set-cookie", name)) => cookie_name(table, text, name.trim()).map(Place::SetCookie),
        Some(("json", path)) => JsonPath::parse(path).map_err(|why| wrong(&why)).ok().map(Place::Json),
        Some(("prefix", template)) => Template::parse(template).map_err(wrong).ok().map(Place::Prefix),
        _ => {
            wrong("it is none of these");
            None
        }
    }
}

fn ttl_place(table: &Section<'_>, text: &Text) -> Option<Place> {
    let place = place(table, text)?;
    if !matches!(place, Place::Header(_) | Place::Json(_)) {
        table.report.error_help(
            &text.span,
            "no number of seconds stands there",
            "write \"json:ttl\" or \"header:NAME\"",
        );
        return None;
    }
    Some(place)
}

/// Its `lookup`.
fn lookups(table: &mut Section<'_>) -> Option<Vec<Lookup>> {
    let Some(item) = table.take("lookup") else { return Some(Vec::new()) };
    let items = item.list("a list such as [\"header:x-job-id\", \"path:/jobs/{id}\"]", "a lookup")?;
    let mut all: Vec<Lookup> = Vec::new();
    let mut whole = true;
    for item in items {
        let spot = item.text("a place such as \"query:job\"").and_then(|text| Some((spot(table, &text, true)?, text)));
        let Some((spot, text)) = spot else {
            whole = false;
            continue;
        };
        if all.iter().any(|one| one.at == spot) {
            table.report.error(&text.span, format!("`{}` stands here twice", text.value));
        }
        all.push(Lookup { at: spot, on: On::default(), min: 1 });
    }
    whole.then_some(all)
}

/// `follow`: headers and queries.
pub(in crate::config) fn follow(section: &mut Section<'_>) -> Vec<Spot> {
    let Some(item) = section.take("follow") else { return Vec::new() };
    let items = item.list("a list such as [\"header:x-socket-id\", \"query:socketId\"]", "a place").unwrap_or_default();
    let mut spots = Vec::new();
    for text in items.into_iter().filter_map(|item| item.text("a place such as \"query:socketId\"")) {
        let Some(spot) = spot(section, &text, false) else { continue };
        if spots.contains(&spot) {
            section.report.error(&text.span, format!("`{}` stands here twice", text.value));
        }
        spots.push(spot);
    }
    spots
}

/// `header:NAME`, `query:NAME`, and, where the whole request may be looked at, `cookie:NAME` and `path:/jobs/{id}`.
fn spot(table: &Section<'_>, text: &Text, whole: bool) -> Option<Spot> {
    let report = table.report;
    let help = if whole {
        "there is header:NAME, query:NAME, cookie:NAME and path:/jobs/{id}"
    } else {
        "there is header:NAME and query:NAME"
    };
    match text.value.split_once(':') {
        Some(("header", name)) if whole && name.trim().eq_ignore_ascii_case("cookie") => {
            report.error_help(&text.span, "a cookie has a place of its own", "write cookie:NAME");
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
                report.error_help(&text.span, "it does not say where the id stands", "write path:/jobs/{id}");
                return None;
            }
            Some(Spot::Path(pattern.and_below()))
        }
        _ => {
            report.error_help(&text.span, format!("`{}` is no place in a request", text.value), help);
            None
        }
    }
}

fn pattern(table: &Section<'_>, text: &Text, path: &str) -> Option<PathPattern> {
    let help = "write /jobs or /jobs/{id}: * is any segment, ** any number at the beginning or the end";
    let wrong = |why| table.report.error_help(&text.span, format!("`{path}` is no path: {why}"), help);
    PathPattern::parse(path).map_err(wrong).ok()
}

fn header_name(table: &Section<'_>, text: &Text, name: &str) -> Option<HeaderName> {
    let read = HeaderName::try_from(name).ok();
    if read.is_none() {
        table.report.error_help(&text.span, format!("`{name}` is no name of a field"), "write header:x-job-id");
    }
    read
}

fn cookie_name(table: &Section<'_>, text: &Text, name: &str) -> Option<String> {
    // A token (RFC 6265 §4.1.1).
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(token) {
        table.report.error(&text.span, format!("`{name}` is no name of a cookie"));
        return None;
    }
    Some(name.to_owned())
}
