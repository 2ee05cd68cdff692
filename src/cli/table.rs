//! Tables and lists for people: column widths, right-aligned numbers, and the formatting of amounts.

use std::fmt::Display;

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets};

/// Spaces between two columns.
const GAP: u16 = 2;

/// Formats rows below a head, with two spaces between columns. A column whose cells are all amounts or `-` is
/// right-aligned. On a terminal the table fits its width: long cells are continued on further lines.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    table_within(head, rows, terminal_width())
}

fn table_within(head: &[&str], rows: &[Vec<String>], width: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head.to_vec()).add_rows(rows.iter().cloned());
    // The gap after the last column is trimmed, so it may stand beyond the terminal's edge.
    match width {
        Some(width) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width.saturating_add(GAP)),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    for ((at, column), title) in table.column_iter_mut().enumerate().zip(head) {
        let cells = || rows.iter().filter_map(|row| row.get(at));
        if !rows.is_empty() && cells().all(|cell| cell == "-" || is_amount(cell)) {
            column.set_cell_alignment(CellAlignment::Right);
            // An amount is never cut in two, and neither is a word of its title.
            let parts = cells().map(String::as_str).chain(title.split(' '));
            let widest = parts.map(|part| part.chars().count()).max().unwrap_or(0);
            let least = u16::try_from(widest).unwrap_or(u16::MAX).saturating_add(GAP);
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(least)));
        }
        column.set_padding((0, GAP));
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Returns the columns of the terminal that standard output is; `None` if it is not one.
fn terminal_width() -> Option<u16> {
    rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| size.ws_col).filter(|columns| *columns > 0)
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

/// Formats a value as a cell; `-` if there is none.
pub(crate) fn cell(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Formats a number with decimals as JSON does (`2.0`); `-` if there is none.
pub(crate) fn amount(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:?}"))
}

/// Formats a number of bytes: `999 B`, `1.5 kB`, `80 MB`.
pub(crate) fn bytes(value: impl Into<Option<u64>>) -> String {
    let Some(bytes) = value.into() else { return "-".to_owned() };
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
pub(crate) fn span(value: impl Into<Option<u64>>) -> String {
    let Some(seconds) = value.into() else { return "-".to_owned() };
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
    fn a_table_fits_the_terminal() {
        let row = ["a1", "203.0.113.7", "Mozilla/5.0 (X11; Linux x86_64) 浏览器"].map(str::to_owned).to_vec();
        for width in [24, 40, 80] {
            let text = table_within(&["ID", "ADDRESS", "USER AGENT"], std::slice::from_ref(&row), Some(width));
            let widest = text.lines().map(unicode_columns).max().unwrap();
            assert!(widest <= usize::from(width), "{widest} columns of {width}:\n{text}");
        }
        let row = ["a worker with a long name", "1234567", "1.5%"].map(str::to_owned).to_vec();
        let text = table_within(&["WORKER", "BYTES UP", "CPU"], &[row], Some(24));
        assert!(text.contains(" 1234567  1.5%\n"), "{text}");
    }

    /// Columns of a line; the wide characters of the test have two.
    fn unicode_columns(line: &str) -> usize {
        line.chars().map(|c| if c.is_ascii() { 1 } else { 2 }).sum()
    }

    #[test]
    fn amounts_have_short_units() {
        assert_eq!((bytes(999), bytes(1_500), bytes(80_000_000)), ("999 B".into(), "1.5 kB".into(), "80 MB".into()));
        assert_eq!(bytes(u64::MAX), "18446744 TB");
        assert_eq!(
            (span(0), span(59), span(307), span(270_000)),
            ("0s".into(), "59s".into(), "5m 7s".into(), "3d 3h".into())
        );
        assert_eq!(
            (span(None), bytes(None), amount(Some(2.0)), cell(None::<u32>)),
            ("-".into(), "-".into(), "2.0".into(), "-".into())
        );
    }
}
