//! Large messages, workers that do not read, and applications that spread messages themselves.

use serde_json::json;

use crate::support::wait::wait_for;

use super::{Clients, Fleet};

/// Several large messages at once do not cut a worker that reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_arrive_whole() {
    let fleet = Fleet::start(2, &[]).await;
    let urls = [format!("http://{}", fleet.workers[1].address)];
    let (mut clients, _) = Clients::connect(1, &urls, &["TRANSPORT=websocket"]).await;
    fleet.wait_linked(2.0);
    for n in 0..5 {
        fleet.workers[0].ask(&format!("/big?text=big{n}&size=5000000"));
    }
    for n in 0..5 {
        assert_eq!(clients.ask(&format!("got big{n} 1")).await["once"], 1, "message {n}");
    }
    assert_eq!(clients.ask("bytes").await, json!([25_000_000]));
    assert_eq!(fleet.metric("stickyd_bus_slow_total"), 0.0);
}

/// A message that is longer than any frame reaches the clients of its own worker only, and breaks nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_longer_than_a_frame_breaks_nothing() {
    let fleet = Fleet::start(2, &[]).await;
    let mut clients = fleet.clients(4).await;
    fleet.workers[0].ask("/big?text=huge&size=68000000&room=empty");
    fleet.workers[0].ask("/emit?text=after");
    assert_eq!(clients.ask("got after 4").await["once"], 4);
    assert_eq!(fleet.linked(), 2.0);
}

/// A worker that stops reading is cut when 8 MB wait for it, does not slow the others, is counted, and comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_stops_reading_is_cut_and_comes_back() {
    let fleet = Fleet::start(3, &[]).await;
    let urls = [format!("http://{}", fleet.workers[1].address)];
    let (mut clients, _) = Clients::connect(2, &urls, &["TRANSPORT=websocket"]).await;
    let (mut back, _) = Clients::connect(2, &[format!("http://{}", fleet.workers[2].address)], &[]).await;
    fleet.wait_linked(3.0);
    fleet.workers[0].ask("/emit?text=before");
    assert_eq!(back.ask("got before 2").await["once"], 2);
    fleet.workers[2].process.signal("STOP").await;
    for n in 0..12 {
        fleet.workers[0].ask(&format!("/big?text=big{n}&size=1000000"));
        assert_eq!(clients.ask(&format!("got big{n} 2")).await["once"], 2, "message {n}");
    }
    wait_for("the stopped worker is cut", || {
        let cut = fleet.metric("stickyd_bus_slow_total");
        if cut == 1.0 { Ok(()) } else { Err(cut) }
    });
    fleet.stickyd.says(&["cut a worker's link to the bus", "did not read"]);
    assert!(fleet.admin("/api/v1/events?kind=bus").contains("did not read 8 MB"), "an event says so");
    assert_eq!(fleet.linked(), 2.0);
    fleet.workers[2].process.signal("CONT").await;
    fleet.wait_linked(3.0);
    fleet.workers[0].ask("/emit?text=again");
    assert_eq!(back.ask("got again 2").await["once"], 2);
    assert!(fleet.metric("stickyd_bus_dropped_total") > 0.0, "what is no longer kept is counted");
}

/// With messages of its own between its workers, an application calls `io.emit` in each of them for one event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_spreads_messages_itself_is_warned_of() {
    let fleet = Fleet::start(2, &[]).await;
    fleet.wait_linked(2.0);
    assert_eq!(fleet.metric("stickyd_bus_duplicates_total"), 0.0);
    let mut event = 0;
    wait_for("the warning is counted", || {
        event += 1;
        fleet.workers.iter().for_each(|worker| _ = worker.ask(&format!("/emit?text=event{event}")));
        let warnings = fleet.metric("stickyd_bus_duplicates_total");
        if warnings == 1.0 { Ok(()) } else { Err(warnings) }
    });
    assert!(event >= 5, "a few may be chance");
    fleet.stickyd.says(&["several workers send the same messages", "upstream=app", "bus = false"]);
    let events = fleet.admin("/api/v1/events?kind=bus");
    assert!(events.contains("several workers send the same messages"), "{events}");
}
