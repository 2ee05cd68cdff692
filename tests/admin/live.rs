//! The live stream: what a viewer gets first, what follows, and its bounds.

use serde_json::{Value, json};

use crate::support::admin::post;
use crate::support::engines::{config_of_named, many_sessions, sessions_at};
use crate::support::live::Viewer;
use crate::support::proxy::{Binary, free_address};
use crate::support::raw::Raw;
use crate::support::wait::wait_for;

/// Checks a message against a schema of the document.
fn fits(schema: &str, value: &Value) {
    let document: Value = serde_json::from_str(include_str!("../../conf/openapi.json")).unwrap();
    let mut wanted = document["components"]["schemas"][schema].clone();
    wanted["components"] = document["components"].clone();
    let validator = jsonschema::validator_for(&wanted).unwrap();
    let errors: Vec<_> =
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{schema}: {errors:#?}");
}

fn events_after(binary: &Binary, since: u64) -> Value {
    let answer = Raw::connect_unix(&binary.admin()).get(&format!("/api/v1/events?since={since}"));
    serde_json::from_slice(&answer.body).unwrap()
}

#[test]
fn a_viewer_sees_what_is_and_what_happens() {
    let one = many_sessions("one");
    let binary = Binary::with(&config_of_named(&[("one", &one)], ""));
    sessions_at(&binary, "one", 2);
    let mut viewer = Viewer::open(&binary.admin(), "", "");
    assert!(viewer.head.starts_with("HTTP/1.1 200 ") && viewer.head.contains("content-type: text/event-stream\r\n"));
    assert!(viewer.head.contains("cache-control: no-store\r\n"), "{}", viewer.head);
    let hello = viewer.next().unwrap();
    assert_eq!((hello.name.as_str(), &hello.data["every_s"]), ("hello", &json!(1)));
    fits("LiveHello", &hello.data);
    assert_eq!(hello.data["workers"].as_array().unwrap().len(), 1);
    assert!(hello.data["events"].as_array().unwrap().iter().any(|event| event["kind"] == "started"));

    // Numbers: the sessions of a worker are those of its row.
    let mut serial = Value::Null;
    let mut sessions = |sample: &Value| {
        if let Some(series) = sample["series"].as_array() {
            serial = series.iter().find(|one| one["worker"] == "one").map_or(Value::Null, |one| one["serial"].clone());
        }
        let rows = sample["workers"].as_array().unwrap();
        rows.iter().any(|row| row[0] == serial && row[1].as_u64().is_some_and(|sessions| sessions >= 2))
    };
    if !hello.data["series"].as_array().unwrap().is_empty() {
        sessions(&json!({"series": hello.data["series"], "workers": []}));
    }
    let sample = viewer.until("sample", sessions);
    fits("LiveSample", &sample.data);
    // Its process is the test's own, so that CPU and memory become known.
    viewer.until("sample", |sample| sample["workers"][0][12].as_u64().is_some_and(|bytes| bytes > 1_000_000));

    // A state: the event and the changed state of the worker, without a further request.
    assert_eq!(post(&binary, "/api/v1/workers/app/one/drain", "").0, 200);
    let event = viewer.until("event", |event| event["kind"] == "drain_begun");
    fits("Event", &event.data);
    assert_eq!((&event.data["worker"], event.id), (&json!("one"), event.data["id"].as_u64()));
    viewer.until("sample", |sample| {
        sample["states"].as_array().is_some_and(|states| states.iter().any(|one| one["admin"] == "drain"))
    });
    assert!(viewer.until("sample", |_| true).data["states"].is_null(), "states come only when they change");
}

#[test]
fn a_viewer_that_comes_back_misses_no_event() {
    let one = many_sessions("one");
    let binary = Binary::with(&config_of_named(&[("one", &one)], ""));
    let mut viewer = Viewer::open(&binary.admin(), "?range=1h", "");
    let hello = viewer.next().unwrap();
    assert_eq!((&hello.data["history"]["range"], &hello.data["history"]["step_s"]), (&json!("1h"), &json!(10)));
    let seen = hello.id.unwrap();
    drop(viewer);
    post(&binary, "/api/v1/workers/app/one/drain", "");
    post(&binary, "/api/v1/workers/app/one/ready", "");
    wait_for("the events are there", || events_after(&binary, seen)["events"].as_array().unwrap().len() >= 3);
    let mut viewer = Viewer::open(&binary.admin(), "", &format!("Last-Event-ID: {seen}\r\n"));
    let hello = viewer.next().unwrap().data;
    let ids: Vec<_> = hello["events"].as_array().unwrap().iter().map(|event| event["id"].as_u64().unwrap()).collect();
    assert!(ids.len() >= 3 && ids.is_sorted() && ids.iter().all(|id| *id > seen), "{ids:?} after {seen}");
}

#[test]
fn there_are_sixteen_streams_at_most() {
    let one = many_sessions("one");
    let binary = Binary::with(&config_of_named(&[("one", &one)], ""));
    let open = || Viewer::open(&binary.admin(), "", "");
    let mut viewers: Vec<_> = (0..16).map(|_| open()).collect();
    for viewer in &mut viewers {
        assert_eq!(viewer.next().unwrap().name, "hello");
    }
    let refused = open().head;
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("retry-after: 5\r\n"), "{refused}");
    // Others are still answered, and a viewer that leaves makes room.
    assert_eq!(Raw::connect_unix(&binary.admin()).get("/api/v1/health").status(), 200);
    viewers.pop();
    wait_for("there is room again", || open().head.starts_with("HTTP/1.1 200 "));
    for wrong in ["?range=2h", "?x=1"] {
        assert!(Viewer::open(&binary.admin(), wrong, "").head.starts_with("HTTP/1.1 422 "), "{wrong}");
    }
}

#[test]
fn a_viewer_that_falls_behind_begins_anew() {
    let one = many_sessions("one");
    let binary = Binary::with(&config_of_named(&[("one", &one)], ""));
    let mut viewer = Viewer::open(&binary.admin(), "", "");
    assert_eq!(viewer.next().unwrap().name, "hello");
    // More events than the buffers of the connection and of the stream hold together; nothing is read meanwhile.
    let mut operator = Raw::connect_unix(&binary.admin());
    let mut asks = |word: &str| {
        let path = format!("/api/v1/workers/app/one/{word}");
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nX-Stickyd: 1\r\nContent-Length: 0\r\n\r\n");
        operator.ask(&head).status()
    };
    for _ in 0..1_500 {
        assert_eq!((asks("maint"), asks("ready")), (200, 200));
    }
    let hello = viewer.until("hello", |_| true);
    assert_eq!(hello.data["workers"][0]["worker"], "one");
}

#[test]
fn a_stop_ends_the_streams_at_once() {
    let one = many_sessions("one");
    let mut binary = Binary::with(&config_of_named(&[("one", &one)], ""));
    let mut viewer = Viewer::open(&binary.admin(), "", "");
    assert_eq!(viewer.next().unwrap().name, "hello");
    binary.signal("TERM");
    viewer.until("event", |event| event["kind"] == "stopping");
    while viewer.next().is_some() {}
    assert_eq!(binary.wait(), Some(0));
}

#[test]
fn workers_without_memory_share_one_series() {
    let one = many_sessions("one");
    let others: Vec<_> = (0..20).map(|_| format!("\"{}\"", free_address())).collect();
    let workers = format!("[{{ address = \"{}\", name = \"one\" }}, {}]", one.address, others.join(", "));
    let config = format!("state_dir = \".\"\n[upstream.app]\nworkers = {workers}\n[history]\nmemory = \"1MiB\"\n");
    let binary = Binary::with(&config);
    let dropped = wait_for("workers share a series", || {
        let count = crate::support::admin::metric(&binary, "stickyd_history_dropped");
        if count > 0.0 { Ok(count) } else { Err(count) }
    });
    assert!((10.0..21.0).contains(&dropped), "{dropped}");
    assert!(crate::support::admin::metric(&binary, "stickyd_history_bytes") <= 1_048_576.0);
    let hello = Viewer::open(&binary.admin(), "", "").next().unwrap().data;
    let series = hello["series"].as_array().unwrap();
    assert!(series.iter().any(|one| one["serial"] == 0 && one["worker"].is_null()), "{series:?}");
}
