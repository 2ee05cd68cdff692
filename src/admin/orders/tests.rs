//! Which requests are passed on, and how orders for one worker stand to each other.

use super::*;

#[test]
fn only_what_the_list_names_is_allowed() {
    for (method, path) in [
        (Method::GET, "/api/v1/sockets?limit=5"),
        (Method::GET, "/api/v1/sockets/abc"),
        (Method::POST, "/api/v1/workers/app/unix%3A%2Frun%2Fa/drain"),
        (Method::POST, "/api/v1/sockets/abc/close"),
    ] {
        assert!(is_allowed(&method, path, OrderScope::Operator), "{method} {path}");
        assert!(!is_allowed(&method, path, OrderScope::Message), "{method} {path}");
    }
    for (method, path) in [
        (Method::POST, "/api/v1/reload"),
        (Method::GET, "/api/v1/fleet/orders?path=/api/v1/stats"),
        (Method::POST, "/api/v1/stats"),
        (Method::GET, "/api/v1/sockets/"),
        (Method::POST, "/api/v1/workers/app/w1"),
        (Method::POST, "/api/v1/emit"),
        (Method::GET, "/metrics"),
    ] {
        assert!(!is_allowed(&method, path, OrderScope::Operator), "{method} {path}");
    }
    assert!(is_allowed(&Method::POST, "/api/v1/emit", OrderScope::Message));
    assert!(is_allowed(&Method::PUT, "/api/v1/sockets/by-sid/a%2Fb", OrderScope::Search));
}

fn state(worker: &str, at_us: i64, question: u64) -> FleetState {
    let text = String::new;
    let (upstream, worker) = ("app".to_owned(), worker.to_owned());
    let (state, stickyd, who) = (text(), text(), text());
    let (file, given_us, grace_ms) = (None, None, None);
    FleetState { at_us, file, given_us, grace_ms, question, state, stickyd, upstream, who, worker }
}

#[test]
fn an_earlier_order_does_not_undo_a_later_one() {
    let applied = AppliedOrders::default();
    assert_eq!(applied.note(&state("w1", 5, 1)), Ordering::Greater);
    assert_eq!(applied.note(&state("w1", 5, 1)), Ordering::Equal);
    assert_eq!(applied.note(&state("w1", 4, 9)), Ordering::Less);
    assert_eq!(applied.note(&state("w2", 4, 9)), Ordering::Greater, "another worker");
    assert_eq!(applied.note(&state("w1", 5, 2)), Ordering::Greater);
    assert_eq!(applied.missing_in(&[]).len(), 2, "Redis has lost all");
    assert_eq!(applied.missing_in(&[state("w1", 5, 1), state("w2", 6, 0)]), [state("w1", 5, 2)]);
}

#[test]
fn the_oldest_order_is_forgotten_first() {
    let applied = AppliedOrders::default();
    for i in 0..MOST_WORKERS as i64 {
        applied.note(&state(&format!("w{i}"), 1_000 + i, 1));
    }
    assert_eq!(applied.note(&state("new", 1, 1)), Ordering::Greater);
    assert_eq!(lock(&applied.0).len(), MOST_WORKERS);
    assert_eq!(applied.note(&state("w1", 1_000, 1)), Ordering::Less, "a later one is remembered");
    assert_eq!(applied.note(&state("w0", 999, 1)), Ordering::Greater, "it was the oldest");
}

#[test]
fn a_query_does_not_hide_the_state_that_is_set() {
    let order = |method: &str, path: &str| FleetOrder {
        at_us: 1,
        body: String::new(),
        given_us: Some(1),
        method: method.to_owned(),
        path: path.to_owned(),
        question: 1,
        stickyd: "edge-1".to_owned(),
        to: None,
        who: "root".to_owned(),
    };
    for path in
        ["/api/v1/workers/app/w%2F1/drain", "/api/v1/workers/app/w%2F1/drain?x=y", "/api/v1/workers/app/w%2F1/drain#x"]
    {
        let parts = state_parts(&order("POST", path)).unwrap();
        assert_eq!(parts, ["app", "w/1", "drain"], "{path}");
    }
    assert_eq!(state_parts(&order("GET", "/api/v1/workers/app/w1/drain")), None);
    assert_eq!(state_parts(&order("POST", "/api/v1/workers/app/w1/drain/x")), None);
}
