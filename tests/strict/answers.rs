//! Every answer of the table of bad workers, as stickyd reads it and as hyper does; what stickyd takes for whole, hyper must.

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
            // A reset is told from an end by the socket only.
            assert!(!read.whole || wants != "cut" || end == "reset", "{name}: {read:?}");
            whole += usize::from(read.whole);
        }
    }
    assert!(whole > 100, "{whole}");
}
