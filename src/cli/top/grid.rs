//! Rows that fit a given width: columns are left out by their rank, and the last one takes what is left.
//!
//! Unlike the tables of other commands, a row always stays one line, and each keeps its place on the screen.

use super::super::table::text_width;
use crate::printable::printable;

/// Spaces between two columns.
const GAP: usize = 2;

/// One column: its title, whether it is aligned to the right, and its rank; columns of the highest rank are left out
/// first, those of rank 0 always stay.
#[derive(Debug, Clone, Copy)]
pub(super) struct GridColumn {
    pub(super) title: &'static str,
    pub(super) is_amount: bool,
    pub(super) rank: u8,
}

impl GridColumn {
    pub(super) const fn text(title: &'static str, rank: u8) -> Self {
        Self { title, is_amount: false, rank }
    }

    pub(super) const fn amount(title: &'static str, rank: u8) -> Self {
        Self { title, is_amount: true, rank }
    }
}

/// Lays rows out below a head: the first line is the head. Widths are those of `measured` rows, so that columns do not
/// jump when other rows are scrolled into view.
pub(super) fn lay_out(columns: &[GridColumn], rows: &[Vec<String>], width: usize) -> Vec<String> {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell).into_owned()).collect()).collect();
    let widths: Vec<usize> = (0..columns.len()).map(|at| natural(columns, &rows, at)).collect();
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    while total(&widths, &shown) > width {
        let rank = |at: &usize| columns.get(*at).map_or(0, |column| column.rank);
        let Some(least) = shown.iter().copied().filter(|at| rank(at) > 0).max_by_key(rank) else { break };
        shown.retain(|at| *at != least);
    }
    let head = columns.iter().map(|column| column.title.to_owned()).collect();
    std::iter::once(&head).chain(&rows).map(|row| line(columns, row, &widths, &shown, width)).collect()
}

fn natural(columns: &[GridColumn], rows: &[Vec<String>], at: usize) -> usize {
    let title = columns.get(at).map_or(0, |column| column.title.len());
    rows.iter().filter_map(|row| row.get(at)).map(|cell| text_width(cell)).max().unwrap_or(0).max(title)
}

/// Returns the width of the shown columns; the last one may be cut down to its title.
fn total(widths: &[usize], shown: &[usize]) -> usize {
    shown.iter().filter_map(|at| widths.get(*at)).sum::<usize>() + GAP * shown.len().saturating_sub(1)
}

fn line(columns: &[GridColumn], row: &[String], widths: &[usize], shown: &[usize], width: usize) -> String {
    let mut text = String::new();
    for at in shown {
        let (cell, wide) = (row.get(*at).map_or("", String::as_str), widths.get(*at).copied().unwrap_or(0));
        let blank = " ".repeat(wide.saturating_sub(text_width(cell)));
        if !text.is_empty() {
            text.push_str(&" ".repeat(GAP));
        }
        match columns.get(*at).is_some_and(|column| column.is_amount) {
            true => text.extend([blank.as_str(), cell]),
            false => text.extend([cell, blank.as_str()]),
        }
    }
    cut(text.trim_end(), width)
}

/// Cuts a text so that it takes no more than this many columns.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if text_width(text) <= columns {
        return text.to_owned();
    }
    let mut left = columns.saturating_sub(1);
    let fits = |c: &char| {
        let width = if c.is_ascii() { 1 } else { 2 };
        let fits = width <= left;
        left = left.saturating_sub(width);
        fits
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [GridColumn; 4] = [
        GridColumn::text("WORKER", 0),
        GridColumn::text("STATE", 0),
        GridColumn::amount("SESSIONS", 1),
        GridColumn::text("WHY", 2),
    ];

    fn rows(all: &[[&str; 4]]) -> Vec<Vec<String>> {
        all.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect()
    }

    #[test]
    fn columns_are_left_out_by_rank_and_the_rest_is_cut() {
        let rows = rows(&[["app/w1", "up", "12", "its checks pass"], ["app/w22", "hangs", "1234", "no answer"]]);
        let wide = lay_out(&COLUMNS, &rows, 60);
        assert_eq!(
            wide,
            [
                "WORKER   STATE  SESSIONS  WHY",
                "app/w1   up           12  its checks pass",
                "app/w22  hangs      1234  no answer"
            ]
        );
        assert_eq!(lay_out(&COLUMNS, &rows, 30)[0], "WORKER   STATE  SESSIONS");
        assert_eq!(lay_out(&COLUMNS, &rows, 16)[0], "WORKER   STATE");
        assert_eq!(lay_out(&COLUMNS, &rows, 9)[2], "app/w22 …");
        assert_eq!(lay_out(&COLUMNS, &[], 80), ["WORKER  STATE  SESSIONS  WHY"]);
    }

    #[test]
    fn what_peers_wrote_stays_in_its_cell() {
        let rows = rows(&[["x\u{1b}[2J\n浏览器", "up", "1", ""]]);
        let line = lay_out(&COLUMNS, &rows, 80).remove(1);
        assert!(!line.contains(crate::printable::is_unprintable), "{line:?}");
    }
}
