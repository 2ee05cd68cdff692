//! A group without sockets: which member gets which message, and what is lost.

use super::*;

const A: MemberId = MemberId(1);
const B: MemberId = MemberId(2);
const C: MemberId = MemberId(3);

fn hello(member: MemberId, seen: Option<&[(MemberId, u64)]>) -> LinkHello {
    let seen = seen.map(|seen| seen.iter().copied().collect());
    let empty = String::new;
    let (upstream, path, worker, node, socketio) = (empty(), empty(), empty(), empty(), empty());
    let (version, pid, recovery, since, own_adapter) = (1, 1, 0, 0, None);
    LinkHello { version, upstream, path, member, pid, worker, node, socketio, recovery, since, own_adapter, seen }
}

fn text(sequence: u64, payload: &'static str) -> Publish {
    Publish { sequence, after: 0, audience: None, broadcast: true, payload: Bytes::from_static(payload.as_bytes()) }
}

fn joined(group: &mut BusGroup, member: MemberId, seen: Option<&[(MemberId, u64)]>) -> (Rc<LinkOutbox>, u64) {
    let outbox = Rc::new(LinkOutbox::default());
    let lost = group.join(Instant::now(), &hello(member, seen), &outbox, 0);
    (outbox, lost)
}

/// Payloads of the messages that wait in an outbox.
fn messages(outbox: &LinkOutbox) -> Vec<String> {
    let frames = outbox.take_all();
    let messages = frames.iter().filter(|frame| frame[4] == 2);
    messages.map(|frame| String::from_utf8_lossy(&frame[5 + 20..]).into_owned()).collect()
}

#[test]
fn a_message_reaches_all_others_and_is_held_until_written() {
    let (mut group, mark) = (BusGroup::default(), Rc::new(()));
    let [(a, _), (b, _), (c, _)] = [A, B, C].map(|member| joined(&mut group, member, None));
    let published = group.publish(Instant::now(), A, 1, &text(1, "hello"), &mark);
    assert_eq!((published.sent, Rc::strong_count(&mark)), (2, 3));
    assert_eq!(
        [messages(&a), messages(&b), messages(&c)],
        [vec![], vec!["hello".to_owned()], vec!["hello".to_owned()]]
    );
    assert_eq!(Rc::strong_count(&mark), 1);
}

#[test]
fn what_was_sent_before_is_not_sent_again() {
    let (mut group, mark, now) = (BusGroup::default(), Rc::new(()), Instant::now());
    let [_a, (b, _)] = [A, B].map(|member| joined(&mut group, member, None));
    group.publish(now, A, 1, &text(5, "one"), &mark);
    assert!(group.publish(now, A, 2, &text(5, "one"), &mark).known);
    assert_eq!(messages(&b), ["one"]);
}

#[test]
fn a_member_that_comes_back_gets_what_it_missed() {
    let (mut group, mark, now) = (BusGroup::default(), Rc::new(()), Instant::now());
    let [_a, (b, _)] = [A, B].map(|member| joined(&mut group, member, None));
    group.publish(now, A, 1, &text(1, "one"), &mark);
    assert!(group.leave(now, B, &b));
    group.publish(now, A, 2, &text(2, "two"), &mark);
    let (again, lost) = joined(&mut group, B, Some(&[(A, 1)]));
    assert_eq!((messages(&again), lost), (vec!["two".to_owned()], 0));
    assert_eq!(messages(&joined(&mut group, C, None).0), Vec::<String>::new(), "a new worker has no clients yet");
    assert!(!group.leave(now, B, &b), "the old connection ends later");
    assert!(group.direct(A, B, b"answer"));
}

/// A worker whose first link breaks at once comes back with an empty list of what it has seen.
#[test]
fn nothing_from_before_the_first_link_is_sent_again() {
    let (mut group, mark, now) = (BusGroup::default(), Rc::new(()), Instant::now());
    let _a = joined(&mut group, A, None);
    group.publish(now, A, 1, &text(1, "before"), &mark);
    group.publish(now, A, 2, &text(2, "also before"), &mark);
    let first = Rc::new(LinkOutbox::default());
    assert_eq!(group.join(now, &hello(B, None), &first, 2), 0);
    group.leave(now, B, &first);
    group.publish(now, A, 3, &text(3, "after"), &mark);
    for (since, expected) in [(2, vec!["after"]), (1, vec!["also before", "after"]), (3, vec![])] {
        let again = Rc::new(LinkOutbox::default());
        let lost = group.join(now, &LinkHello { since, ..hello(B, Some(&[])) }, &again, 3);
        assert_eq!((messages(&again), lost), (expected.into_iter().map(str::to_owned).collect(), 0), "since {since}");
        group.leave(now, B, &again);
    }
}

#[test]
fn what_is_no_longer_kept_counts_as_lost() {
    let (mut group, mark) = (BusGroup::default(), Rc::new(()));
    let start = Instant::now();
    let [_a, (b, _)] = [A, B].map(|member| joined(&mut group, member, None));
    group.leave(start, B, &b);
    for sequence in 1..=3 {
        group.publish(start, A, sequence, &text(sequence, "old"), &mark);
    }
    let later = start + REPLAY_TIME + Duration::from_secs(1);
    group.publish(later, A, 4, &text(4, "new"), &mark);
    let outbox = Rc::new(LinkOutbox::default());
    assert_eq!(group.join(later, &hello(B, Some(&[(A, 1)])), &outbox, 0), 2);
    assert_eq!(messages(&outbox), ["new"]);
}

#[test]
fn a_member_that_does_not_read_is_cut() {
    let (mut group, mark, now) = (BusGroup::default(), Rc::new(()), Instant::now());
    let [_a, (b, _)] = [A, B].map(|member| joined(&mut group, member, None));
    let long = |sequence| Publish { payload: Bytes::from(vec![0; 1024 * 1024]), ..text(sequence, "") };
    let sent: usize = (1..=10).map(|sequence| group.publish(now, A, 1, &long(sequence), &mark).sent).sum();
    assert_eq!(sent, 10, "it may only be busy");
    group.sweep(now + Duration::from_secs(2));
    assert_eq!(group.publish(now, A, 1, &long(11), &mark).sent, 0);
    assert_eq!(Rc::strong_count(&mark), 1, "what is not written holds no confirmation back");
    assert!(messages(&b).is_empty());
}
