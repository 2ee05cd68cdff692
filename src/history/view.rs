//! The history as JSON: columns of numbers, written without a tree of values, since one answer may have some hundred
//! thousand of them. The format is described in `conf/openapi.json`.

use std::fmt::Write as _;

use super::numbers::{UPSTREAM_NUMBERS, WORKER_NUMBERS, is_gauge};
use super::rings::{HistoryColumn, STEPS};
use super::store::{Series, Store};

/// Maximum number of numbers in the history that a viewer of the live stream gets at once: some 1.5 MB, which takes
/// some 20 ms to write.
pub(crate) const MOST_NUMBERS: usize = 300_000;

/// A span of time up to now, with the resolution that fits it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HistoryRange {
    /// Five minutes, in steps of a second.
    FiveMinutes,
    /// An hour, in steps of ten seconds.
    Hour,
    /// A day, in steps of a minute.
    Day,
}

impl HistoryRange {
    /// Returns the range with this name.
    pub(crate) fn of(word: &str) -> Option<Self> {
        [Self::FiveMinutes, Self::Hour, Self::Day].into_iter().find(|range| range.word() == word)
    }

    /// Returns the name of the range in the API.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::FiveMinutes => "5m",
            Self::Hour => "1h",
            Self::Day => "24h",
        }
    }

    /// Returns the index of its resolution in [`STEPS`].
    fn resolution(self) -> usize {
        self as usize
    }
}

/// Which history is wanted.
#[derive(Debug, Clone)]
pub(crate) struct HistoryQuery {
    pub(crate) range: HistoryRange,
    /// Only this upstream and its workers.
    pub(crate) upstream: Option<String>,
    /// Only workers of this name.
    pub(crate) worker: Option<String>,
    /// Maximum number of numbers: steps are merged until there are no more.
    pub(crate) most: usize,
}

/// Columns of several series over one span.
struct SeriesSpan {
    resolution: usize,
    first: u64,
    rows: usize,
    /// Number of steps that become one.
    merge: usize,
}

/// Writes the history up to the time `now` (in seconds since 1970).
pub(crate) fn write(store: &Store, query: &HistoryQuery, now: u64) -> String {
    let fits = |upstream: &str| query.upstream.as_deref().is_none_or(|wanted| wanted == upstream);
    let workers: Vec<_> = store
        .workers
        .iter()
        .filter(|((upstream, name), _)| fits(upstream) && query.worker.as_ref().is_none_or(|wanted| wanted == name))
        .map(|((upstream, name), series)| (Some(upstream.as_str()), Some(name.as_str()), series))
        .chain(
            store.others().filter(|_| query.upstream.is_none() && query.worker.is_none()).map(|one| (None, None, one)),
        )
        .collect();
    let upstreams: Vec<_> = match query.worker {
        Some(_) => Vec::new(),
        None => store.upstreams.iter().filter(|(name, _)| fits(name)).collect(),
    };
    let gauges = WORKER_NUMBERS.iter().filter(|name| is_gauge(name)).count();
    let width = workers.len() * (WORKER_NUMBERS.len() + gauges) + upstreams.len() * UPSTREAM_NUMBERS.len();
    let span = SeriesSpan::of(query, width, now);
    let mut json = span.head(query.range);
    json.push_str(",\"upstreams\":[");
    for (index, (name, series)) in upstreams.into_iter().enumerate() {
        json.push_str(if index == 0 { "{\"columns\":" } else { ",{\"columns\":" });
        push_columns(&mut json, &span.columns(series, &UPSTREAM_NUMBERS));
        let _ = write!(json, ",\"serial\":{},\"upstream\":{}}}", series.serial, quoted(Some(name)));
    }
    json.push_str("],\"workers\":[");
    for (index, (upstream, name, series)) in workers.into_iter().enumerate() {
        let columns = span.columns(series, &WORKER_NUMBERS);
        json.push_str(if index == 0 { "{\"columns\":" } else { ",{\"columns\":" });
        push_columns(&mut json, &columns);
        json.push_str(",\"maxima\":");
        push_maxima(&mut json, &columns);
        let (upstream, name) = (quoted(upstream), quoted(name));
        let _ = write!(json, ",\"serial\":{},\"upstream\":{upstream},\"worker\":{name}}}", series.serial);
    }
    json.push_str("]}");
    json
}

impl SeriesSpan {
    fn of(query: &HistoryQuery, width: usize, now: u64) -> Self {
        let resolution = query.range.resolution();
        let (length, rows) = STEPS.get(resolution).copied().unwrap_or(STEPS[0]);
        let merge = (width * rows).div_ceil(query.most.max(1)).clamp(1, rows);
        // Merged steps begin at whole multiples of their length, so that they are the same in every answer.
        let rows = rows / merge * merge;
        let last = (now / length + 1).next_multiple_of(merge as u64);
        Self { resolution, first: last.saturating_sub(rows as u64), rows, merge }
    }

    /// Writes everything but the series; the object is left open.
    fn head(&self, range: HistoryRange) -> String {
        let (length, _) = STEPS.get(self.resolution).copied().unwrap_or(STEPS[0]);
        let list = |names: Vec<&str>| serde_json::to_string(&names).unwrap_or_default();
        let gauges = list(WORKER_NUMBERS.into_iter().filter(|name| is_gauge(name)).collect());
        format!(
            "{{\"count\":{},\"from\":{},\"gauges\":{gauges},\"numbers\":{},\"range\":\"{}\",\"step_s\":{},\
             \"upstream_numbers\":{}",
            self.rows / self.merge,
            self.first * length,
            list(WORKER_NUMBERS.to_vec()),
            range.word(),
            length * self.merge as u64,
            list(UPSTREAM_NUMBERS.to_vec()),
        )
    }

    fn columns(&self, series: &Series, names: &[&str]) -> Vec<HistoryColumn> {
        let columns = series.rings.columns(self.resolution, self.first, self.rows);
        if self.merge == 1 {
            return columns;
        }
        columns.iter().zip(names).map(|(column, name)| column.merged(self.merge, is_gauge(name))).collect()
    }
}

fn push_columns(json: &mut String, columns: &[HistoryColumn]) {
    json.push('[');
    for (index, column) in columns.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        push_numbers(json, &column.values);
    }
    json.push(']');
}

/// Writes the maxima of the gauges; an empty list where every step is one sample.
fn push_maxima(json: &mut String, columns: &[HistoryColumn]) {
    json.push('[');
    for (index, column) in columns.iter().filter(|column| !column.maxima.is_empty()).enumerate() {
        if index > 0 {
            json.push(',');
        }
        push_numbers(json, &column.maxima);
    }
    json.push(']');
}

fn push_numbers(json: &mut String, numbers: &[f32]) {
    json.push('[');
    for (index, number) in numbers.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        push_number(json, *number);
    }
    json.push(']');
}

/// Writes a number: whole if it is large, else with two places; `null` if it is not known.
pub(crate) fn push_number(json: &mut String, number: f32) {
    let _ = match number {
        number if !number.is_finite() => write!(json, "null"),
        number if number.abs() >= 1_000.0 || number.fract() == 0.0 => write!(json, "{number:.0}"),
        number => write!(json, "{}", (number * 100.0).round() / 100.0),
    };
}

/// Writes a name as JSON, or `null`.
pub(crate) fn quoted(name: Option<&str>) -> String {
    name.map_or_else(|| "null".to_owned(), |name| serde_json::to_string(name).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const T: u64 = 1_764_328_805;

    fn store() -> Store {
        let mut store = Store::new(32 << 20);
        for i in 0..30u8 {
            let workers = ["a", "b"].map(|name| (("app".to_owned(), name.to_owned()), [f32::from(i) + 0.126; 12]));
            store.add(T + u64::from(i), &workers, &[("app".to_owned(), [1.0, 0.0, 0.0, f32::NAN, 7.5])]);
        }
        store
    }

    fn asked(range: HistoryRange, most: usize) -> Value {
        let query = HistoryQuery { range, upstream: None, worker: None, most };
        serde_json::from_str(&write(&store(), &query, T + 29)).unwrap()
    }

    #[test]
    fn seconds_end_with_the_newest_sample() {
        let said = asked(HistoryRange::FiveMinutes, usize::MAX);
        assert_eq!((said["count"].as_u64(), said["from"].as_u64()), (Some(300), Some(T + 29 - 299)));
        let column = &said["workers"][0]["columns"][2];
        assert_eq!((&column[299], &column[269], &column[270]), (&29.13.into(), &Value::Null, &0.13.into()));
        assert_eq!(said["workers"][1]["worker"], "b");
        assert_eq!(said["workers"][0]["maxima"], Value::Array(Vec::new()));
        assert_eq!(said["upstreams"][0]["columns"][4][299], 7.5);
        assert_eq!(said["upstreams"][0]["columns"][3][299], Value::Null);
    }

    #[test]
    fn long_ranges_are_merged_to_what_is_allowed() {
        let whole = asked(HistoryRange::Hour, usize::MAX);
        assert_eq!((whole["step_s"].as_u64(), whole["count"].as_u64()), (Some(10), Some(360)));
        assert_eq!(whole["workers"][0]["maxima"].as_array().unwrap().len(), 5);
        let width = 2 * (12 + 5) + 5;
        let merged = asked(HistoryRange::Hour, width * 100);
        let (step, count) = (merged["step_s"].as_u64().unwrap(), merged["count"].as_u64().unwrap());
        assert!(step == 40 && count == 90 && merged["from"].as_u64().unwrap().is_multiple_of(step), "{step} {count}");
        let column = merged["workers"][0]["columns"][2].as_array().unwrap();
        assert_eq!(column.len(), 90);
        let last = column.iter().rev().find_map(Value::as_f64).unwrap();
        assert!((0.0..30.0).contains(&last));
    }

    #[test]
    fn one_worker_can_be_asked_for() {
        let query = HistoryQuery {
            range: HistoryRange::Day,
            upstream: Some("app".to_owned()),
            worker: Some("b".to_owned()),
            most: usize::MAX,
        };
        let said: Value = serde_json::from_str(&write(&store(), &query, T)).unwrap();
        assert_eq!((said["workers"].as_array().unwrap().len(), said["count"].as_u64()), (1, Some(1_440)));
        let none = HistoryQuery { upstream: Some("other".to_owned()), worker: None, ..query };
        let said: Value = serde_json::from_str(&write(&store(), &none, T)).unwrap();
        assert!(said["workers"].as_array().unwrap().is_empty() && said["upstreams"].as_array().unwrap().is_empty());
    }
}
