//! A worker by itself, without connections.

use super::*;
use crate::metrics::Metrics;

#[test]
fn a_connect_after_the_last_connection_begins_a_new_life() {
    let series = Metrics::new().worker("app", "w");
    let worker = Worker::new("app", Address::Unix("/w".into()), "w".to_owned(), WorkerId(1), series);
    worker.connect_refused();
    worker.connected();
    assert_eq!((worker.generation(), worker.health()), (1, WorkerHealth::Up), "it had never accepted a connect before");
    let established = worker.connection();
    worker.connect_refused();
    assert_eq!(worker.health(), WorkerHealth::Leaving);
    worker.connected();
    assert_eq!(worker.generation(), 1, "a connection to it was left");
    worker.connect_refused();
    drop(established);
    worker.connect_refused();
    assert_eq!(worker.health(), WorkerHealth::Gone);
    worker.connected();
    assert_eq!((worker.generation(), worker.health()), (2, WorkerHealth::Up));
}

#[test]
fn three_fresh_refusals_mean_a_shared_address_for_a_while() {
    let series = Metrics::new().worker("app", "w");
    let worker = Worker::new("app", Address::Unix("/w".into()), "w".to_owned(), WorkerId(1), series);
    let at = |ms| Millis::new(1_000_000 + ms);
    for ms in [0, 1, 2] {
        assert!(!worker.shares_address(at(ms)));
        worker.fresh_refusal(at(ms));
    }
    assert!(worker.shares_address(at(3)) && worker.shares_address(at(SHARED_MS)));
    assert!(!worker.shares_address(at(SHARED_MS + 2)));
}
