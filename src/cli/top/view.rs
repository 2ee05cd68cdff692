//! The lines of `stickyd top` for a terminal of a given size. Pure; every line fits the width, and their number fits
//! the height. A colour never stands alone: the selected row has a mark, and states are words.

use super::super::sockets;
use super::super::table::{bytes, cell, counted, span};
use super::super::unused::is_unused;
use super::grid::{GridColumn, cut, lay_out};
use super::link::{BusySocket, messages};
use super::model::{Model, Pane, SOCKET_SORTS, TopMode, WORKER_SORTS, attention, idle, name};
use crate::admin::api::WorkerView;
use crate::printable::{printable, printable_lines};

/// Least size that the tables are drawn in.
const LEAST: (u16, u16) = (40, 10);

/// Number of lines outside of the rows: the title, the sentence, two heads with their titles, the message, the keys.
const FIXED: usize = 8;

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Plain,
    Title,
    Head,
    Selected,
    Bad,
    Warn,
    Quiet,
}

/// One line of the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) look: Look,
}

fn line(text: impl Into<String>, look: Look) -> Line {
    Line { text: text.into(), look }
}

/// Draws everything; no more than `rows` lines of at most `columns` characters.
pub(super) fn draw(model: &Model, columns: u16, rows: u16) -> Vec<Line> {
    let (width, height) = (usize::from(columns), usize::from(rows));
    let mut lines = match &model.mode {
        _ if columns < LEAST.0 || rows < LEAST.1 => vec![line("the terminal is too small", Look::Plain)],
        TopMode::Help => help(),
        TopMode::Details => details(model),
        _ => tables(model, width, height),
    };
    lines.truncate(height);
    for line in &mut lines {
        line.text = cut(&printable(&line.text), width);
    }
    lines
}

/// Returns the number of rows that the selected table has on the screen.
pub(super) fn page(model: &Model, rows: u16) -> usize {
    let (workers, sockets) = heights(model, usize::from(rows));
    if model.pane == Pane::Workers { workers } else { sockets }
}

/// Shares the room between the tables: workers get half of it at least if there are as many, sockets the rest.
fn heights(model: &Model, height: usize) -> (usize, usize) {
    let room = height.saturating_sub(FIXED);
    let (workers, sockets) = (model.shown_workers().len(), model.shown_sockets().len());
    let for_workers = workers.min(room.saturating_sub(sockets).max(room / 2)).max(1);
    (for_workers, room.saturating_sub(for_workers))
}

fn tables(model: &Model, width: usize, height: usize) -> Vec<Line> {
    let Some(look) = &model.look else {
        let why = model.error.clone().unwrap_or_else(|| "asking stickyd…".to_owned());
        return vec![line("stickyd top", Look::Title), line(why, Look::Bad), line("", Look::Plain), keys(model)];
    };
    let (for_workers, for_sockets) = heights(model, height);
    let filter = if model.filter.is_empty() { String::new() } else { format!("  filter: {}", model.filter) };
    let title = format!(
        "stickyd {}  up {}  {}  {}{filter}",
        look.status.version,
        span(look.status.uptime_s),
        counted(look.live as u64, "socket"),
        counted(look.status.client_connections as u64, "client connection"),
    );
    let mut lines = vec![line(title, Look::Title), sentence(model)];
    let workers = model.shown_workers();
    let marked = model.worker().map(name);
    let rows: Vec<_> = workers.iter().map(|one| worker_row(one)).collect();
    let at = workers.iter().position(|one| Some(name(one)) == marked).unwrap_or(0);
    lines.push(table_title(model, Pane::Workers, workers.len(), workers.len()));
    let drawn = lay_out(&WORKER_COLUMNS, &rows, width.saturating_sub(2));
    let looks: Vec<_> = workers.iter().map(|one| worker_look(one)).collect();
    lines.extend(window(&drawn, &looks, at, for_workers, model.pane == Pane::Workers));
    let sockets = model.shown_sockets();
    let marked = model.socket().map(|one| one.view.id.clone());
    let at = sockets.iter().position(|one| Some(&one.view.id) == marked.as_ref()).unwrap_or(0);
    lines.push(table_title(model, Pane::Sockets, sockets.len(), look.matching));
    // Only the rows that are shown are written; the widths are those of these rows.
    let first = first_of(at, for_sockets, sockets.len());
    let rows: Vec<_> = sockets.iter().skip(first).take(for_sockets).map(|one| socket_row(one)).collect();
    let drawn = lay_out(&SOCKET_COLUMNS, &rows, width.saturating_sub(2));
    let looks: Vec<_> = sockets.iter().skip(first).take(for_sockets).map(|one| socket_look(one)).collect();
    lines.extend(window(&drawn, &looks, at.saturating_sub(first), for_sockets, model.pane == Pane::Sockets));
    while lines.len() + 2 < height {
        lines.push(line("", Look::Plain));
    }
    lines.push(line(model.message.clone(), Look::Warn));
    lines.push(keys(model));
    lines
}

/// Says in one line what is wrong, or that nothing is.
fn sentence(model: &Model) -> Line {
    if let Some(error) = &model.error {
        return line(format!("not connected: {error}; what is shown is from before"), Look::Bad);
    }
    let all: Vec<_> = model.look.iter().flat_map(|look| &look.workers.workers).filter(|one| !is_unused(one)).collect();
    let up = all.iter().filter(|one| one.takes_new).count();
    let text = format!("{up} of {} take new sessions", counted(all.len() as u64, "worker"));
    match all.iter().filter(|one| attention(one) < 3).min_by_key(|one| attention(one)) {
        None => line(text, Look::Plain),
        Some(worst) => {
            let why = if worst.health == "up" { &worst.why.ejection } else { &worst.why.health };
            let state = if worst.health == "up" { "ejected" } else { worst.health.as_str() };
            line(format!("{text}; {} is {state}: {why}", name(worst)), Look::Bad)
        }
    }
}

fn table_title(model: &Model, pane: Pane, shown: usize, all: usize) -> Line {
    let (title, sort, state) = match pane {
        Pane::Workers => ("WORKERS", WORKER_SORTS.get(model.workers.sort), &model.workers),
        Pane::Sockets => ("SOCKETS", SOCKET_SORTS.get(model.sockets.sort), &model.sockets),
    };
    let reversed = if state.is_reversed { ", reversed" } else { "" };
    let of = if all > shown { format!("{shown} of {all}") } else { shown.to_string() };
    line(format!("{title} {of}, by {}{reversed}", sort.copied().unwrap_or_default()), Look::Head)
}

const WORKER_COLUMNS: [GridColumn; 9] = [
    GridColumn::text("WORKER", 0),
    GridColumn::text("STATE", 0),
    GridColumn::amount("SESSIONS", 0),
    GridColumn::amount("TUNNELS", 2),
    GridColumn::amount("IN FLIGHT", 4),
    GridColumn::amount("CPU", 1),
    GridColumn::amount("MEMORY", 2),
    GridColumn::amount("RESTARTS", 3),
    GridColumn::text("DRAIN", 1),
];

fn worker_row(one: &WorkerView) -> Vec<String> {
    let process = one.process.as_ref();
    let cpu = process.and_then(|process| process.cpu_percent).map(|percent| format!("{percent}%"));
    let drain = one.drain.as_ref().map(|drain| match drain.ends_in_s {
        _ if drain.sessions_left == 0 && drain.tunnels_left == 0 => "empty".to_owned(),
        Some(ends) => format!("{} left, {}", drain.sessions_left, span(ends)),
        None => format!("{} left", drain.sessions_left),
    });
    vec![
        name(one),
        worker_state(one),
        one.sessions.to_string(),
        one.tunnels.to_string(),
        one.in_flight.to_string(),
        cell(cpu),
        bytes(process.map(|process| process.memory_bytes)),
        one.restarts.to_string(),
        drain.unwrap_or_default(),
    ]
}

fn worker_state(one: &WorkerView) -> String {
    let admin = if one.admin == "ready" { String::new() } else { format!(", {}", one.admin) };
    let health = if is_unused(one) { "unused" } else { one.health.as_str() };
    format!("{health}{admin}{}", if one.ejected { ", ejected" } else { "" })
}

fn worker_look(one: &WorkerView) -> Look {
    match attention(one) {
        0 => Look::Bad,
        1..=3 => Look::Warn,
        4 => Look::Plain,
        _ => Look::Quiet,
    }
}

const SOCKET_COLUMNS: [GridColumn; 10] = [
    GridColumn::text("CLIENT", 0),
    GridColumn::text("WORKER", 0),
    GridColumn::text("STATE", 0),
    GridColumn::amount("NEW", 0),
    GridColumn::amount("AGE", 1),
    GridColumn::amount("IDLE", 2),
    GridColumn::amount("MESSAGES", 4),
    GridColumn::amount("BYTES", 3),
    GridColumn::text("TRANSPORT", 5),
    GridColumn::text("LABELS", 6),
];

fn socket_row(one: &BusySocket) -> Vec<String> {
    let view = &one.view;
    vec![
        view.address.clone(),
        format!("{}/{}", view.upstream, view.worker),
        view.state.clone(),
        one.recent.to_string(),
        span(u64::from(view.age_s)),
        span(u64::from(idle(one))),
        messages(view).to_string(),
        bytes(view.up.bytes + view.down.bytes),
        view.transport.clone(),
        sockets::labels(view),
    ]
}

fn socket_look(one: &BusySocket) -> Look {
    if one.view.state == "suspect" { Look::Warn } else { Look::Plain }
}

/// Returns the first row to show so that row `at` is seen.
fn first_of(at: usize, room: usize, count: usize) -> usize {
    at.saturating_sub(room.saturating_sub(1)).min(count.saturating_sub(room))
}

/// Returns the head and those rows that have room, with a mark at the selected one.
fn window(drawn: &[String], looks: &[Look], at: usize, room: usize, is_active: bool) -> Vec<Line> {
    let (head, rows) = drawn.split_first().map_or((None, &[][..]), |(head, rows)| (Some(head), rows));
    let first = first_of(at, room, rows.len());
    let row = |(place, text): (usize, &String)| {
        let is_selected = place == at && is_active;
        let look = if is_selected { Look::Selected } else { looks.get(place).copied().unwrap_or(Look::Plain) };
        line(format!("{}{text}", if is_selected { "> " } else { "  " }), look)
    };
    let rows = rows.iter().enumerate().skip(first).take(room).map(row);
    head.map(|head| line(format!("  {head}"), Look::Quiet)).into_iter().chain(rows).collect()
}

fn keys(model: &Model) -> Line {
    match &model.mode {
        TopMode::Filter => line(format!("filter: {}_   Enter keeps, Esc clears", model.filter), Look::Title),
        TopMode::Grace { upstream, worker, grace } => {
            line(format!("drain {upstream}/{worker}, grace: {grace}_   Enter drains, Esc cancels"), Look::Title)
        }
        TopMode::Confirm { question, .. } => line(format!("{question}   y: yes, any other key: no"), Look::Title),
        _ if model.pane == Pane::Workers => {
            line("Tab sockets  s sort  / filter  Enter more  d drain  m maint  r ready  ? q quit", Look::Head)
        }
        _ => line("Tab workers  s sort  / filter  Enter more  c close  ? help  q quit", Look::Head),
    }
}

fn help() -> Vec<Line> {
    let keys = [
        ("Tab", "from workers to sockets, and back"),
        ("j k, arrows", "next and previous row; PageUp, PageDown, Home, End"),
        ("s, S", "next sort order; reverse it"),
        ("/", "filter: words that a row must contain; Esc shows all"),
        ("Enter", "everything about the selected row"),
        ("d", "drain the selected worker; asks for the grace"),
        ("m", "maint: end all sessions of the selected worker; asks first"),
        ("r", "ready: take the selected worker back; asks first"),
        ("c", "close the selected socket; asks first"),
        ("Space", "look again now"),
        ("q, Ctrl-C", "quit"),
    ];
    let head = [line("Keys", Look::Title), line("", Look::Plain)];
    let rows = keys.iter().map(|(key, what)| line(format!("  {key:<12}  {what}"), Look::Plain));
    head.into_iter().chain(rows).chain([line("", Look::Plain), line("Esc: back", Look::Head)]).collect()
}

fn details(model: &Model) -> Vec<Line> {
    let (title, text) = match model.pane {
        Pane::Workers => model.worker().map_or_else(nothing, |one| (format!("Worker {}", name(one)), about(one))),
        Pane::Sockets => {
            model.socket().map_or_else(nothing, |one| (format!("Socket {}", one.view.id), sockets::one(&one.view)))
        }
    };
    let head = [line(title, Look::Title), line("", Look::Plain)];
    let text = printable_lines(&text).into_owned();
    let rows: Vec<_> = text.lines().map(|text| line(format!("  {text}"), Look::Plain)).collect();
    head.into_iter().chain(rows).chain([line("", Look::Plain), line("Esc: back", Look::Head)]).collect()
}

fn nothing() -> (String, String) {
    ("Nothing is selected".to_owned(), String::new())
}

/// Formats everything about a worker.
fn about(one: &WorkerView) -> String {
    let process = one.process.as_ref();
    let check = one.check.as_ref().map(|check| {
        format!("{}, {} ago", check.detail.as_ref().unwrap_or(&check.outcome), span(check.ago_ms / 1_000))
    });
    super::super::table::list(&[
        ("address", one.address.clone()),
        ("state", worker_state(one)),
        ("health", one.why.health.clone()),
        ("admin", one.why.admin.clone()),
        ("ejection", one.why.ejection.clone()),
        ("last check", cell(check)),
        ("sessions", format!("{}, {}, {} in flight", one.sessions, counted(one.tunnels, "tunnel"), one.in_flight)),
        ("waiting", one.waiting.to_string()),
        ("weight", one.weight.to_string()),
        ("life", format!("{}, {}", one.generation, counted(one.restarts, "restart"))),
        ("process", cell(process.map(|process| format!("{} {}", process.command, process.pid)))),
        ("cpu", cell(process.and_then(|process| process.cpu_percent).map(|percent| format!("{percent}%")))),
        ("memory", bytes(process.map(|process| process.memory_bytes))),
    ])
}
