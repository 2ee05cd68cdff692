//! Tables and lists for people: columns that fit the terminal, right-aligned numbers, and the formatting of amounts.
//!
//! Everything is shown by `printable`: cells hold session ids, user agents and labels, which peers choose.

use std::fmt::Display;

use clap::Args;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets};

use crate::printable::printable;

/// Spaces between two columns.
const GAP: u16 = 2;

/// Option of the commands that print tables.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct TableArgs {
    /// Show all columns, even if they are wider than the terminal
    #[arg(long)]
    pub wide: bool,
}

impl TableArgs {
    /// Returns the columns that a table may have; `None`: any number.
    pub(crate) fn width(self) -> Option<u16> {
        terminal_columns().filter(|_| !self.wide)
    }
}

/// One column of a table. Its alignment belongs to it, and does not depend on what happens to be in its cells.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    title: &'static str,
    is_amount: bool,
    /// Columns of the highest rank are left out first on a narrow terminal; those of rank 0 always stay.
    rank: u8,
}

impl Column {
    /// Creates a left-aligned column of text.
    pub(crate) const fn text(title: &'static str, rank: u8) -> Self {
        Self { title, is_amount: false, rank }
    }

    /// Creates a right-aligned column of numbers, sizes or times.
    pub(crate) const fn amount(title: &'static str, rank: u8) -> Self {
        Self { title, is_amount: true, rank }
    }
}

/// Formats rows below a head, with two spaces between columns. In a table that is wider than `width`, columns are left
/// out by their rank, which a line below says; if that is not enough, long cells are continued on further lines.
pub(crate) fn table(columns: &[Column], rows: &[Vec<String>], width: Option<u16>) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell).into_owned()).collect()).collect();
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    while width.is_some_and(|width| natural(columns, &rows, &shown) > usize::from(width)) {
        let rank = |at: &usize| columns.get(*at).map_or(0, |column| column.rank);
        // Of equal ranks the last column goes first.
        let Some(least) = shown.iter().copied().filter(|at| rank(at) > 0).max_by_key(rank) else { break };
        shown.retain(|at| *at != least);
    }
    let mut text = arranged(columns, &rows, &shown, width);
    match columns.len() - shown.len() {
        0 => {}
        1 => text.push_str("(1 column does not fit: --wide)\n"),
        left_out => text.push_str(&format!("({left_out} columns do not fit: --wide)\n")),
    }
    text
}

/// Returns the width of a table with these columns, if no cell is continued on a further line.
fn natural(columns: &[Column], rows: &[Vec<String>], shown: &[usize]) -> usize {
    let column = |at: &usize| {
        let title = columns.get(*at).map_or(0, |column| text_width(column.title));
        rows.iter().filter_map(|row| row.get(*at)).map(|cell| text_width(cell)).max().unwrap_or(0).max(title)
    };
    let gaps = usize::from(GAP) * shown.len().saturating_sub(1);
    shown.iter().map(column).sum::<usize>() + gaps
}

/// Returns the columns that a text takes on a terminal, or a few more: characters that may be wide have two.
pub(crate) fn text_width(text: &str) -> usize {
    text.chars().map(|c| if c.is_ascii() { 1 } else { 2 }).sum()
}

fn arranged(columns: &[Column], rows: &[Vec<String>], shown: &[usize], width: Option<u16>) -> String {
    let pick = |row: &Vec<String>| shown.iter().map(|at| row.get(*at).cloned().unwrap_or_default()).collect::<Vec<_>>();
    let columns: Vec<Column> = shown.iter().filter_map(|at| columns.get(*at).copied()).collect();
    let rows: Vec<_> = rows.iter().map(pick).collect();
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(columns.iter().map(|column| column.title)).add_rows(rows.iter());
    // The gap after the last column is trimmed, so it may stand beyond the terminal's edge.
    match width {
        Some(width) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width.saturating_add(GAP)),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    for (at, (column, spec)) in table.column_iter_mut().zip(&columns).enumerate() {
        if spec.is_amount {
            column.set_cell_alignment(CellAlignment::Right);
            // An amount is never cut in two, and neither is a word of its title.
            let cells = rows.iter().filter_map(|row| row.get(at)).map(String::as_str);
            let widest = cells.chain(spec.title.split(' ')).map(|part| part.chars().count()).max().unwrap_or(0);
            let least = u16::try_from(widest).unwrap_or(u16::MAX).saturating_add(GAP);
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(least)));
        }
        column.set_padding((0, GAP));
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Returns the columns of the terminal that standard output is; `None` if it is not one.
fn terminal_columns() -> Option<u16> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then_some(size.ws_col)
}

/// Formats lines of a name and its value, aligned.
pub(crate) fn list(rows: &[(&str, String)]) -> String {
    let widest = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, what)| format!("{name:widest$}  {}\n", printable(what))).collect()
}

/// Formats a number of things: `1 poll`, `2 polls`.
pub(crate) fn counted(count: impl Into<u64>, what: &str) -> String {
    let count = count.into();
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Formats a value as a cell; `-` if there is none.
pub(crate) fn cell(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Formats a rate or a share with three digits or more: `17808`, `178.1`, `1.78`; `-` if there is none.
pub(crate) fn amount(value: Option<f64>) -> String {
    let Some(value) = value else { return "-".to_owned() };
    let decimals = match value {
        _ if value == 0.0 || value >= 1_000.0 => 0,
        _ if value >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
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

    const ALL: [Column; 4] =
        [Column::text("ID", 0), Column::text("ADDRESS", 2), Column::amount("BYTES UP", 3), Column::text("AGENT", 1)];

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|cell| (*cell).to_owned()).collect()
    }

    #[test]
    fn columns_are_aligned_by_their_kind() {
        let columns = [Column::text("ID", 0), Column::amount("N", 0), Column::amount("CPU", 0)];
        let rows = [row(&["12", "7", "1.5%"]), row(&["wörker", "12345", "shared"])];
        let text = "ID          N     CPU\n12          7    1.5%\nwörker  12345  shared\n";
        assert_eq!(table(&columns, &rows, None), text);
        // An id of digits stays on the left, also when it is alone.
        assert_eq!(table(&columns, &rows[..1], None), "ID  N   CPU\n12  7  1.5%\n");
        assert_eq!(table(&columns[..1], &[], None), "ID\n");
        assert_eq!(list(&[("a", "1".to_owned()), ("long", "2".to_owned())]), "a     1\nlong  2\n");
    }

    #[test]
    fn a_table_fits_the_terminal() {
        let cells = row(&["a1", "203.0.113.7", "1234567", "Mozilla/5.0 (X11; Linux x86_64) 浏览器"]);
        for width in [24, 40, 60, 80] {
            let text = table(&ALL, std::slice::from_ref(&cells), Some(width));
            let widest = text.lines().map(text_width).max().unwrap();
            assert!(widest <= usize::from(width.max(31)), "{widest} columns of {width}:\n{text}");
        }
        let text = table(&ALL, std::slice::from_ref(&cells), Some(60));
        assert!(text.starts_with("ID  ADDRESS") && text.ends_with("(1 column does not fit: --wide)\n"), "{text}");
        let text = table(&ALL, std::slice::from_ref(&cells), Some(45));
        assert!(text.starts_with("ID  AGENT") && text.ends_with("(2 columns do not fit: --wide)\n"), "{text}");
        assert!(table(&ALL, &[cells], None).starts_with("ID  ADDRESS      BYTES UP  AGENT\n"));
        let columns = [Column::text("WORKER", 0), Column::amount("BYTES UP", 0), Column::amount("CPU", 0)];
        let text = table(&columns, &[row(&["a worker with a long name", "1234567", "1.5%"])], Some(24));
        assert!(text.contains(" 1234567  1.5%\n"), "{text}");
    }

    #[test]
    fn what_peers_wrote_cannot_command_the_terminal() {
        let hostile = "x\u{1b}]0;owned\u{7}\n\u{9b}2J\u{202e}y";
        for text in [table(&ALL[..1], &[row(&[hostile])], None), list(&[("session", hostile.to_owned())])] {
            assert!(text.contains(r"x\u{1b}]0;owned\u{7}\u{a}\u{9b}2J\u{202e}y"), "{text:?}");
            assert!(!text.contains(|c| c != '\n' && crate::printable::is_unprintable(c)), "{text:?}");
        }
    }

    #[test]
    fn amounts_have_short_units() {
        assert_eq!((bytes(999), bytes(1_500), bytes(80_000_000)), ("999 B".into(), "1.5 kB".into(), "80 MB".into()));
        assert_eq!(bytes(u64::MAX), "18446744 TB");
        assert_eq!(
            (span(0), span(59), span(307), span(270_000)),
            ("0s".into(), "59s".into(), "5m 7s".into(), "3d 3h".into())
        );
        assert_eq!((span(None), bytes(None), cell(None::<u32>)), ("-".into(), "-".into(), "-".into()));
        let rates = [17_808.09, 178.08, 17.8, 2.0, 0.05, 0.0].map(|rate| amount(Some(rate)));
        assert_eq!(rates, ["17808", "178.1", "17.8", "2.00", "0.05", "0"]);
        assert_eq!(amount(None), "-");
    }
}
