//! Every answer in the table of bad workers, read by stickyd and by hyper: what stickyd accepts as complete, hyper
//! must, too.

use super::table;
use crate::corpus::checks::answer;

#[test]
fn bad_answers_are_read_as_hyper_reads_them_or_not_at_all() {
    let mut whole = 0;
    for row in table::read::<5>("workers.txt") {
        let [_, name, kind, wants, end] = &row.columns;
        println!("{name}");
        for cut in [0, 1, row.bytes.len() / 2, row.bytes.len().saturating_sub(1)] {
            let read = answer::both(&row.bytes, kind == "head", cut);
            // Only the socket can tell a reset from an end.
            assert!(!read.whole || wants != "cut" || end == "reset", "{name}: {read:?}");
            whole += usize::from(read.whole);
        }
    }
    assert!(whole > 100, "{whole}");
}
