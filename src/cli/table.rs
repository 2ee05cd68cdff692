//! Tables and lists for people: column widths, right-aligned numbers, and the formatting of amounts.

use serde_json::Value;

/// Formats rows below a head, with two spaces between columns. A column whose cells are all amounts or `-` is
/// right-aligned.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |cell: &str| cell.chars().count();
    let mut text = String::new();
    let columns: Vec<(usize, bool)> = head
        .iter()
        .enumerate()
        .map(|(at, title)| {
            let cells = || rows.iter().filter_map(|row| row.get(at));
            let widest = cells().map(|cell| width(cell)).max().unwrap_or(0).max(width(title));
            let numbers = cells().all(|cell| cell == "-" || is_amount(cell));
            (widest, numbers && !rows.is_empty())
        })
        .collect();
    let head: Vec<String> = head.iter().map(|title| (*title).to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (cell, (widest, number)) in row.iter().zip(&columns) {
            let gap = " ".repeat(widest.saturating_sub(width(cell)));
            line.push_str(&if *number { format!("{gap}{cell}  ") } else { format!("{cell}{gap}  ") });
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Whether a cell is an amount such as `12`, `1.5%` or `80 MB`, and not an address.
fn is_amount(cell: &str) -> bool {
    cell.starts_with(|c: char| c.is_ascii_digit()) && !cell.contains(':') && cell.matches('.').count() <= 1
}

/// Formats lines of a name and its value, aligned.
pub(crate) fn list(rows: &[(&str, String)]) -> String {
    let widest = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, what)| format!("{name:widest$}  {what}\n")).collect()
}

/// Formats a JSON value as a cell; `-` for null.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        other => other.to_string(),
    }
}

/// Formats a number of bytes: `999 B`, `1.5 kB`, `80 MB`.
pub(crate) fn bytes(value: &Value) -> String {
    let Some(bytes) = value.as_u64() else { return "-".to_owned() };
    let mut unit = 1_u64;
    for name in ["B", "kB", "MB", "GB", "TB"] {
        let (whole, tenths) = (bytes / unit, bytes % unit * 10 / unit);
        if whole < 1_000 || name == "TB" {
            return if whole < 10 && unit > 1 { format!("{whole}.{tenths} {name}") } else { format!("{whole} {name}") };
        }
        unit *= 1_000;
    }
    "-".to_owned()
}

/// Formats a number of seconds by its two largest units: `3d 4h`, `5m 7s`.
pub(crate) fn span(value: &Value) -> String {
    let Some(seconds) = value.as_u64() else { return "-".to_owned() };
    let parts = [(seconds / 86_400, "d"), (seconds / 3_600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let said = parts.iter().skip_while(|(count, _)| *count == 0).take(2);
    let text: Vec<String> = said.map(|(count, unit)| format!("{count}{unit}")).collect();
    if text.is_empty() { "0s".to_owned() } else { text.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
        let rows = [row(&["127.0.0.1:1", "7", "1.5%"]), row(&["wörker", "12345", "-"])];
        assert_eq!(
            table(&["WORKER", "N", "CPU"], &rows),
            "WORKER           N   CPU\n127.0.0.1:1      7  1.5%\nwörker       12345     -\n"
        );
        assert_eq!(table(&["A"], &[]), "A\n");
        assert_eq!(list(&[("a", "1".to_owned()), ("long", "2".to_owned())]), "a     1\nlong  2\n");
    }

    #[test]
    fn amounts_have_short_units() {
        let bytes = |n: u64| bytes(&n.into());
        assert_eq!((bytes(999), bytes(1_500), bytes(80_000_000)), ("999 B".into(), "1.5 kB".into(), "80 MB".into()));
        assert_eq!(bytes(u64::MAX), "18446744 TB");
        let span = |n: u64| span(&n.into());
        assert_eq!(
            (span(0), span(59), span(307), span(270_000)),
            ("0s".into(), "59s".into(), "5m 7s".into(), "3d 3h".into())
        );
    }
}
