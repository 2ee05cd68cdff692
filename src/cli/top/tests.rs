//! Keys, orders and lines of `stickyd top`, without a terminal.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::json;

use super::super::table::text_width;
use super::link::{BusySocket, TopOrder, TopSnapshot};
use super::model::{Action, Model, Pane, TopMode};
use super::view::{Line, draw};
use crate::admin::api::{WorkerView, WorkersAnswer};

fn worker(number: usize, health: &str) -> WorkerView {
    let described = json!({"address": "127.0.0.1:3001", "admin": "ready", "check": null, "drain": null, "ejected": false,
        "ejected_for_ms": null, "generation": 1, "health": health, "in_flight": 0, "last_ejection": null,
        "process": {"command": "node", "cpu_percent": 1.5, "cpu_s": 2.0, "memory_bytes": 80_000_000, "pid": 4242, "threads": 4},
        "restarts": 1, "said_at_run_time": false, "seen_for_s": 9, "serves": true, "sessions": number, "takes_new": health == "up",
        "tunnels": 3, "upstream": "app", "waiting": 0, "weight": 1, "worker": format!("127.0.0.1:{number}"),
        "why": {"admin": "-", "ejection": "-", "health": "3 checks in a row did not pass; ".repeat(5)}});
    serde_json::from_value(described).unwrap()
}

fn socket(number: u64) -> BusySocket {
    let way = json!({"messages": number, "bytes": 1500, "idle_s": 4, "close_code": null});
    let described = json!({"id": format!("id{number:04}"), "sid": "abc", "upstream": "app", "worker": "127.0.0.1:3001",
        "generation": 1, "route": null, "address": format!("203.0.113.{}", number % 250), "user_agent": "Test/1",
        "labels": {"store": "浏览器 7"}, "protocol": "engine.io", "transport": "websocket", "tls": true, "state": "open",
        "quality": null, "connected_at": "2026-11-20T11:00:00Z", "age_s": 65, "up": way, "down": way,
        "round_trip": {"client": null, "worker": null}});
    BusySocket { view: serde_json::from_value(described).unwrap(), recent: 1_000 - number }
}

fn model(workers: usize, sockets: u64) -> Model {
    let usage = json!({"held": 1, "limit": 10});
    let status = json!({"client_connections": 12, "config": {"error": null, "file": null, "generation": 1, "loaded_at": "",
        "needs_restart": []}, "descriptors": usage, "listeners": [], "log_lines_dropped": 0, "pid": 1, "pins": usage,
        "process": null, "replay_bytes": usage, "sockets": usage, "stopping": false, "uptime_s": 3_700, "version": "0.1.0"});
    let mut all: Vec<_> = (0..workers).map(|number| worker(3_000 + number, "up")).collect();
    if let Some(last) = all.last_mut().filter(|_| workers > 1) {
        *last = worker(9_999, "hung");
    }
    let mut model = Model::new();
    model.update(Ok(TopSnapshot {
        status: serde_json::from_value(status).unwrap(),
        workers: WorkersAnswer { names: Vec::new(), workers: all },
        sockets: (0..sockets).map(socket).collect(),
        live: 9,
        matching: 9,
    }));
    model
}

fn press(model: &mut Model, codes: &[KeyCode]) -> Action {
    let press = |code| model.key(KeyEvent::new(code, KeyModifiers::NONE), 5);
    codes.iter().copied().map(press).last().unwrap_or(Action::None)
}

fn typed(model: &mut Model, text: &str) -> Action {
    press(model, &text.chars().map(KeyCode::Char).collect::<Vec<_>>())
}

fn text(lines: &[Line]) -> String {
    lines.iter().map(|line| format!("{}\n", line.text)).collect()
}

#[test]
fn every_view_fits_every_terminal_and_shows_ill_workers() {
    for (columns, rows) in [(80, 24), (80, 12), (132, 50), (60, 20), (40, 10), (20, 5), (1, 1)] {
        for (workers, sockets) in [(2, 3), (4, 15), (40, 15), (200, 0), (0, 0), (0, 900)] {
            for mode in [TopMode::Tables, TopMode::Details, TopMode::Help, TopMode::Filter] {
                let mut model = model(workers, sockets);
                model.mode = mode.clone();
                let lines = draw(&model, columns, rows);
                assert!(lines.len() <= usize::from(rows), "{columns}×{rows} {mode:?}:\n{}", text(&lines));
                let wide = |line: &Line| text_width(&line.text.replace('…', "."));
                let widest = lines.iter().map(wide).max().unwrap();
                assert!(widest <= usize::from(columns), "{widest} of {columns} {mode:?}:\n{}", text(&lines));
                if mode == TopMode::Tables && columns >= 80 {
                    assert_eq!(text(&lines).contains("is hun"), workers > 1, "{}", text(&lines));
                    assert_eq!(text(&lines).contains("203.0.113."), sockets > 0, "{}", text(&lines));
                }
            }
        }
    }
    let lines = draw(&model(2, 3), 80, 24);
    assert!(lines.last().unwrap().text.ends_with("q quit"), "the keys fit 80 columns:\n{}", text(&lines));
}

#[test]
fn the_selection_follows_its_row() {
    let mut model = model(4, 3);
    assert_eq!(model.worker().unwrap().worker, "127.0.0.1:9999", "ill workers come first");
    press(&mut model, &[KeyCode::Char('j')]);
    assert_eq!(model.worker().unwrap().worker, "127.0.0.1:3000");
    press(&mut model, &[KeyCode::Char('s')]);
    assert_eq!(model.worker().unwrap().worker, "127.0.0.1:3000", "another order, the same worker");
    assert_eq!(model.shown_workers()[0].worker, "127.0.0.1:3000", "by name");
    press(&mut model, &[KeyCode::Char('S'), KeyCode::End]);
    assert_eq!(model.worker().unwrap().worker, "127.0.0.1:3000");
    press(&mut model, &[KeyCode::Home, KeyCode::PageDown, KeyCode::Up, KeyCode::Up]);
    assert_eq!(model.worker().unwrap().worker, "127.0.0.1:3002");
    let marked = draw(&model, 80, 24).into_iter().filter(|line| line.text.starts_with("> ")).collect::<Vec<_>>();
    assert_eq!(marked.len(), 1, "{}", text(&marked));
    assert!(marked[0].text.contains("3002"));
}

#[test]
fn a_filter_hides_rows_of_both_tables() {
    let mut model = model(4, 3);
    press(&mut model, &[KeyCode::Char('/')]);
    typed(&mut model, "app/127.0.0.1:3001 q");
    press(&mut model, &[KeyCode::Backspace, KeyCode::Backspace, KeyCode::Enter]);
    assert_eq!((model.shown_workers().len(), model.shown_sockets().len()), (1, 3));
    press(&mut model, &[KeyCode::Esc, KeyCode::Char('/')]);
    typed(&mut model, "203.0.113.2 浏览器");
    assert_eq!((model.shown_workers().len(), model.shown_sockets().len()), (0, 1));
    press(&mut model, &[KeyCode::Esc]);
    assert_eq!(model.shown_workers().len(), 4);
}

#[test]
fn orders_are_asked_for_first() {
    let mut model = model(2, 2);
    assert_eq!(press(&mut model, &[KeyCode::Char('d'), KeyCode::Esc]), Action::None);
    assert_eq!((&model.mode, model.message.as_str()), (&TopMode::Tables, "nothing was done"));
    press(&mut model, &[KeyCode::Char('d'), KeyCode::Backspace, KeyCode::Backspace, KeyCode::Backspace]);
    typed(&mut model, "5m");
    let order = |word, grace: Option<&str>| {
        let (upstream, worker) = ("app".to_owned(), "127.0.0.1:9999".to_owned());
        Action::Do(TopOrder::Worker { upstream, worker, word, grace: grace.map(str::to_owned) })
    };
    assert_eq!(press(&mut model, &[KeyCode::Enter]), order("drain", Some("5m")));
    assert_eq!(press(&mut model, &[KeyCode::Char('m'), KeyCode::Char('n')]), Action::None);
    assert_eq!(press(&mut model, &[KeyCode::Char('m'), KeyCode::Enter]), Action::None, "only y is yes");
    assert_eq!(press(&mut model, &[KeyCode::Char('m'), KeyCode::Char('y')]), order("maint", None));
    assert_eq!(press(&mut model, &[KeyCode::Char('r'), KeyCode::Char('y')]), order("ready", None));
    press(&mut model, &[KeyCode::Tab, KeyCode::Char('j'), KeyCode::Char('c')]);
    assert_eq!(model.pane, Pane::Sockets);
    assert!(text(&draw(&model, 80, 24)).contains("Close socket id0001 of 203.0.113.1?"));
    assert_eq!(press(&mut model, &[KeyCode::Char('y')]), Action::Do(TopOrder::Close("id0001".to_owned())));
}

#[test]
fn an_order_never_turns_to_another_row_while_it_is_asked_for() {
    let mut asked = model(1, 0);
    press(&mut asked, &[KeyCode::Char('m')]);
    // Meanwhile another worker has become ill and is the first row.
    asked.update(Ok(model(3, 0).look.unwrap()));
    let action = press(&mut asked, &[KeyCode::Char('y')]);
    let Action::Do(TopOrder::Worker { worker, .. }) = action else { panic!("an order") };
    assert_eq!(worker, "127.0.0.1:3000");
}

#[test]
fn what_was_seen_stays_while_stickyd_is_away() {
    let mut model = model(2, 1);
    model.update(Err("no stickyd answers at unix:/a".to_owned()));
    let shown = text(&draw(&model, 80, 24));
    assert!(shown.contains("not connected: no stickyd answers at unix:/a") && shown.contains("203.0.113.0"), "{shown}");
    assert_eq!(press(&mut model, &[KeyCode::Char('q')]), Action::Quit);
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(model.key(control_c, 5), Action::Quit);
}
