//! `/api/v1/events`: what has happened lately, filtered.

use std::collections::HashMap;
use std::time::SystemTime;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;

use super::api::{EventView, EventsAnswer};
use super::{Api, ApiRefusal, refuse, sessions};
use crate::events::{ENTRIES, EventEntry, EventFilter, EventKind};

/// Number of events in an answer, if the request does not say.
const USUAL: usize = 100;

/// `GET /api/v1/events?since=…&kind=…&upstream=…&worker=…&limit=…`: the newest events that fit, the oldest first.
pub(crate) async fn list(
    State(api): State<Api>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<EventsAnswer>, ApiRefusal> {
    sessions::known(&query, &["kind", "limit", "since", "upstream", "worker"])?;
    let (filter, limit) =
        asked(&query, SystemTime::now()).map_err(|why| refuse(StatusCode::UNPROCESSABLE_ENTITY, why))?;
    let page = api.shared.events.page(&filter, limit);
    let events = page.events.iter().map(|entry| view(entry)).collect();
    Ok(Json(EventsAnswer { events, lost: api.shared.events.lost(), next: page.last }))
}

/// Reads the filter and the number of events that a query asks for.
fn asked(query: &HashMap<String, String>, now: SystemTime) -> Result<(EventFilter, usize), String> {
    let (after, since) = match query.get("since") {
        None => (None, None),
        Some(text) => since_of(text, now)?,
    };
    let words = query.get("kind").into_iter().flat_map(|kinds| kinds.split(',')).map(str::trim);
    let kinds = words.filter(|word| !word.is_empty()).map(kind_of).collect::<Result<_, _>>()?;
    let limit = match query.get("limit") {
        None => USUAL,
        Some(text) => match text.parse() {
            Ok(limit @ 1..=ENTRIES) => limit,
            _ => return Err(format!("`limit` must be from 1 to {ENTRIES}")),
        },
    };
    let named = |name: &str| query.get(name).cloned();
    Ok((EventFilter { after, since, kinds, upstream: named("upstream"), worker: named("worker") }, limit))
}

fn since_of(text: &str, now: SystemTime) -> Result<(Option<u64>, Option<SystemTime>), String> {
    if let Ok(id) = text.parse() {
        return Ok((Some(id), None));
    }
    if let Ok(span) = humantime::parse_duration(text) {
        return Ok((None, Some(now.checked_sub(span).unwrap_or(SystemTime::UNIX_EPOCH))));
    }
    match humantime::parse_rfc3339_weak(text) {
        Ok(time) => Ok((None, Some(time))),
        Err(_) => Err(format!(
            "`since` must be the id of an event, a time span such as 10m, or a time such as 2026-11-28T20:15:00Z, \
             but it is `{text}`"
        )),
    }
}

fn kind_of(word: &str) -> Result<EventKind, String> {
    EventKind::of(word).ok_or_else(|| {
        let words: Vec<_> = EventKind::ALL.iter().map(|kind| kind.word()).collect();
        format!("`{word}` is not a kind of events: use {}", words.join(", "))
    })
}

/// Returns an event as the API shows it.
pub(crate) fn view(entry: &EventEntry) -> EventView {
    let text = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
    EventView {
        at: humantime::format_rfc3339_millis(entry.at).to_string(),
        id: entry.id,
        kind: entry.kind.word().to_owned(),
        listener: text(&entry.listener),
        severity: entry.severity.word().to_owned(),
        text: entry.text.to_string(),
        upstream: text(&entry.upstream),
        worker: text(&entry.worker),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_time_a_span_and_an_id_say_since_when() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        assert_eq!(since_of("17", now), Ok((Some(17), None)));
        assert_eq!(since_of("10m", now), Ok((None, Some(now - Duration::from_secs(600)))));
        assert!(since_of("900y", now).is_ok_and(|(_, since)| since < Some(SystemTime::UNIX_EPOCH)));
        assert_eq!(since_of("1970-01-12T13:46:40Z", now), Ok((None, Some(now))));
        assert!(since_of("yesterday", now).is_err());
    }
}
