//! Answers of members: counted once, bounded, and complete at the right moment.

use super::*;

fn answer(text: &str) -> Bytes {
    payload(text)
}

fn under_way(members: &[u64], with_ack: bool) -> EmitsUnderWay {
    let emits = EmitsUnderWay::default();
    let one = UnderWay {
        result: BusEmitted::default(),
        answer_bytes: 0,
        waiting: members.iter().map(|id| (MemberId(*id), 0)).collect(),
        counted: HashSet::new(),
        with_ack,
        is_search: false,
        done: Rc::default(),
    };
    emits.all.borrow_mut().insert(1, one);
    emits
}

fn left(emits: &EmitsUnderWay) -> usize {
    emits.all.borrow().get(&1).unwrap().waiting.len()
}

#[test]
fn a_message_is_over_once_all_members_have_counted_their_sockets() {
    let emits = under_way(&[1, 2, 3], false);
    emits.answered(MemberId(1), &answer(r#"{"q":1,"c":2}"#));
    emits.answered(MemberId(1), &answer(r#"{"q":1,"c":9}"#));
    emits.answered(MemberId(7), &answer(r#"{"q":1,"c":9}"#));
    emits.answered(MemberId(2), &answer(r#"{"q":1,"none":1}"#));
    assert_eq!(left(&emits), 1);
    emits.gone(MemberId(3));
    let one = emits.all.borrow_mut().remove(&1).unwrap();
    assert!(one.waiting.is_empty());
    assert_eq!(one.result, BusEmitted { workers: 1, silent: 1, sockets: 2, ..BusEmitted::default() });
}

#[test]
fn a_search_is_over_with_the_first_answer() {
    let emits = under_way(&[1, 2, 3], true);
    emits.all.borrow_mut().get_mut(&1).unwrap().is_search = true;
    emits.answered(MemberId(1), &answer(r#"{"q":1,"c":0}"#));
    assert_eq!(left(&emits), 2);
    emits.answered(MemberId(2), &answer(r#"{"q":1,"c":1}"#));
    emits.answered(MemberId(2), &answer(r#"{"q":1,"a":"sid"}"#));
    let one = emits.all.borrow_mut().remove(&1).unwrap();
    assert_eq!((one.waiting.len(), one.result.answers, one.result.silent), (0, vec![Value::from("sid")], 0));
}

#[test]
fn answers_of_clients_may_come_before_their_count() {
    let emits = under_way(&[1], true);
    emits.answered(MemberId(1), &answer(r#"{"q":1,"a":null}"#));
    assert_eq!(left(&emits), 1);
    emits.answered(MemberId(1), &answer(r#"{"q":1,"c":2}"#));
    assert_eq!(left(&emits), 1);
    emits.answered(MemberId(1), &answer(r#"{"q":1,"a":"yes"}"#));
    let one = emits.all.borrow_mut().remove(&1).unwrap();
    assert_eq!((one.result.sockets, one.result.answers), (2, vec![Value::Null, Value::from("yes")]));
    assert!(one.waiting.is_empty());
}

#[test]
fn a_member_counts_once_and_dropped_answers_are_counted() {
    let emits = under_way(&[1], true);
    for _ in 0..2 {
        emits.answered(MemberId(1), &answer(r#"{"q":1,"c":3}"#));
    }
    let large = json!({"q": 1, "a": "x".repeat(MOST_ANSWER_BYTES)}).to_string();
    emits.answered(MemberId(1), &answer(&large));
    let one = emits.all.borrow_mut().remove(&1).unwrap();
    assert_eq!((one.result.workers, one.result.sockets, one.result.dropped), (1, 3, 1));
    assert!(one.result.answers.is_empty());
}

proptest::proptest! {
    #[test]
    fn no_bytes_of_a_worker_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
        under_way(&[1], true).answered(MemberId(1), &bytes);
    }
}
