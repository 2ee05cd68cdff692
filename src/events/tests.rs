//! Events as a whole: ids, order, bounds, floods, subscribers, texts.

#![allow(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]

use std::time::Duration;

use super::*;

fn event(kind: EventKind, worker: &str) -> Event {
    Event::new(kind, Severity::Info, format!("{worker} has changed")).worker("app", worker)
}

#[test]
fn a_read_sees_what_was_told_before_it() {
    let events = Events::new();
    events.tell(event(EventKind::WorkerUp, "w1"));
    events.tell(event(EventKind::WorkerDown, "w2"));
    let page = events.page(&EventFilter::default(), 10);
    assert_eq!(page.events.iter().map(|entry| entry.kind.word()).collect::<Vec<_>>(), ["worker_up", "worker_down"]);
    let [first, second] = &*page.events else { panic!("{page:?}") };
    assert!(first.id < second.id && second.id == page.last);
    let filter = EventFilter { after: Some(first.id), ..EventFilter::default() };
    assert_eq!(events.page(&filter, 10).events, vec![second.clone()]);
    let filter = EventFilter { worker: Some("w1".to_owned()), ..EventFilter::default() };
    assert_eq!(events.page(&filter, 10).events, vec![first.clone()]);
    let filter = EventFilter { kinds: vec![EventKind::WorkerDown], ..EventFilter::default() };
    assert_eq!(events.page(&filter, 10).events, vec![second.clone()]);
    assert!(
        events
            .page(&EventFilter { upstream: Some("other".to_owned()), ..EventFilter::default() }, 10)
            .events
            .is_empty()
    );
    assert_eq!(events.page(&EventFilter::default(), 1).events, vec![second.clone()], "the newest ones");
}

#[test]
fn a_flood_is_bounded_and_counted() {
    let events = Events::new();
    let told = 10 * QUEUE as u64;
    for _ in 0..told {
        events.tell(event(EventKind::WorkerDown, &"long name ".repeat(1_000)));
    }
    assert_eq!(events.lost(), told - QUEUE as u64);
    let counted = events.counts().find(|(kind, _)| *kind == EventKind::WorkerDown);
    assert_eq!(counted, Some((EventKind::WorkerDown, told)));
    let page = events.page(&EventFilter::default(), usize::MAX);
    assert!(page.events.len() <= ENTRIES && !page.events.is_empty());
    assert!(page.events.iter().all(|entry| entry.text.len() <= LONGEST + 4));
    events.tell(event(EventKind::WorkerUp, "w1"));
    assert_eq!(events.page(&EventFilter::default(), 1).events[0].kind, EventKind::WorkerUp, "it goes on afterwards");
}

#[test]
fn ids_grow_over_a_restart() {
    let first = Events::beginning_at(UNIX_EPOCH + Duration::from_secs(1_000));
    (0..50).for_each(|_| first.tell(event(EventKind::WorkerUp, "w1")));
    let second = Events::beginning_at(UNIX_EPOCH + Duration::from_secs(1_001));
    second.tell(event(EventKind::WorkerUp, "w1"));
    let last = |events: &Events| events.page(&EventFilter::default(), 1).last;
    assert!(last(&first) < last(&second));
    assert!(last(&Events::new()) < 1 << 53);
}

#[tokio::test]
async fn subscribers_get_exactly_what_follows_their_page() {
    let events = Events::new();
    events.tell(event(EventKind::WorkerUp, "w1"));
    let (page, mut stream) = events.page_and_subscribe(&EventFilter::default(), 10);
    assert_eq!(page.events.len(), 1);
    let keeper = tokio::spawn(events.clone().keep());
    events.tell(event(EventKind::WorkerDown, "w1"));
    let next = stream.recv().await.unwrap();
    assert_eq!((next.kind, next.id), (EventKind::WorkerDown, page.last + 1));
    keeper.abort();
}

#[test]
fn the_fields_of_the_log_line_are_told_as_well() {
    let (events, generation, name) = (Events::new(), 3, "chat.example.com");
    let listener = "127.0.0.1:80";
    tell!(events, WorkerRestarted, info, upstream = %"app", worker = %"w\u{7}1", generation, "worker was restarted");
    tell!(events, DnsChanged, warn, %name, listener = %listener, came = ?[1, 2], after_s = 7, again = true,
        "name has {generation}");
    tell!(events, Stopping, error, again = false, "stopping");
    // Only a flag is told by its name alone, never a text that looks like one.
    let reason = "true";
    tell!(events, DnsFailed, warn, reason, name = %"false", kept = 0, "failed");
    let page = events.page(&EventFilter::default(), 10);
    let told: Vec<_> = page.events.iter().map(|one| (one.severity.word(), &*one.text, one.worker.as_deref())).collect();
    assert_eq!(
        told,
        [
            ("info", "worker was restarted (generation 3)", Some("w\\u{7}1")),
            ("warning", "name has 3 (name chat.example.com, came [1, 2], after 7 s, again)", None),
            ("error", "stopping", None),
            ("warning", "failed (reason true, name false, kept 0)", None),
        ]
    );
    assert_eq!(page.events[1].listener.as_deref(), Some(listener));
}
