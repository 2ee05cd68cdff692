//! Executes the orders of other stickyds, and takes over the admin states that the fleet has agreed on.
//!
//! Each order is an event here, with the operator and the stickyd that was asked. States are read from Redis after each
//! connection, and now and then, so that a stickyd that was away misses none; a Redis that has lost them gets them
//! back. Left out: giving orders (the parent module).

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{Method, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::super::api::paths;
use super::super::{Api, workers};
use super::{OrderScope, execute, failed, is_allowed, kept_state};
use crate::config::AdminState;
use crate::events::{Event, EventKind, Severity};
use crate::fleet::control::{ControlMessage, FleetOrder};
use crate::fleet::states::FleetState;
use crate::fleet::{Fleet, FleetMessage};

/// Orders that are executed at the same time, as the API executes requests.
const AT_ONCE: usize = 32;

/// Interval between two looks at the states in Redis, and pause after one without an answer.
const LOOK: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_millis(500);

/// Pause between two questions for the time, until Redis answers for the first time.
const FIRST: Duration = Duration::from_millis(100);

/// Executes orders for as long as stickyd runs.
pub(crate) async fn keep(api: Api, fleet: Arc<Fleet>) {
    // Since when orders count: one that was sent before this stickyd listened is a replayed one. Known before anything
    // is received, so that no order comes too early.
    let begun_us = loop {
        match fleet.redis_us().await {
            Some(now_us) => break now_us,
            None => tokio::time::sleep(FIRST).await,
        }
    };
    let begun = Instant::now();
    let mut messages = fleet.orders();
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut next_look = Instant::now() + LOOK;
    loop {
        match timeout(next_look.saturating_duration_since(Instant::now()), messages.recv()).await {
            Ok(None) => return,
            Ok(Some(FleetMessage::Message { payload, .. })) => match fleet.read_control(&payload) {
                Some(ControlMessage::Order(order)) if order.to.is_some_and(|node| node != fleet.node()) => {}
                Some(ControlMessage::Order(order))
                    if order.at_us >= since(begun_us, fleet.fleet_ms(), begun.elapsed()) =>
                {
                    begin(&api, &fleet, order, &room);
                }
                Some(ControlMessage::Page { node, page, question }) if node == fleet.node() => {
                    let fleet = fleet.clone();
                    api.spawn(async move { fleet.send_page(question, page).await });
                }
                Some(ControlMessage::Page { .. }) => {}
                Some(ControlMessage::Order(_)) | None => fleet.counts_dropped(),
            },
            Ok(Some(FleetMessage::Gap)) => next_look = Instant::now(),
            Err(_) => {
                fleet.forget_old_answers();
                next_look = Instant::now() + if catch_up(&api, &fleet).await { LOOK } else { AGAIN };
            }
        }
    }
}

/// From when on orders count, by the clock of the Redis as it is now: it may have been set back since this stickyd has
/// begun.
fn since(begun_us: i64, now_ms: i64, running: Duration) -> i64 {
    let running_us = i64::try_from(running.as_micros()).unwrap_or(i64::MAX);
    begun_us.min(now_ms.saturating_mul(1_000).saturating_sub(running_us))
}

/// Starts an order, and answers it.
fn begin(api: &Api, fleet: &Arc<Fleet>, order: FleetOrder, room: &Arc<Semaphore>) {
    let (task_api, fleet, seat) = (api.clone(), fleet.clone(), room.clone().try_acquire_owned());
    api.spawn(async move {
        let question = order.question;
        let Ok(_seat) = seat else {
            let (status, body) = failed(StatusCode::SERVICE_UNAVAILABLE, "too many orders of the fleet are under way");
            return fleet.reply(question, status, body).await;
        };
        // It begins at once; that it has begun is said meanwhile.
        let ((), (status, body)) = tokio::join!(fleet.begin_reply(question), perform(&task_api, &order));
        // Nothing was done for an order that concerns nothing here.
        let path = paths::without_session(order.path.split('?').next().unwrap_or_default());
        let is_usual = paths::is_of_backend(path) && status == StatusCode::OK.as_u16();
        if order.method != "GET" && status != StatusCode::NOT_FOUND.as_u16() && !is_usual {
            let FleetOrder { who, stickyd, method, .. } = &order;
            tracing::info!(target: "admin", %method, path, status, %who, from = %stickyd, "fleet order");
            let text = format!("{who}, by way of {stickyd}, asked the fleet for {method} {path} (status {status})");
            task_api.shared.events.tell(Event::new(EventKind::Operator, Severity::Info, text));
        }
        fleet.reply(question, status, body).await;
    });
}

/// Executes an order on this stickyd, unless a later one has overtaken it.
pub(super) async fn perform(api: &Api, order: &FleetOrder) -> (u16, Vec<u8>) {
    let allows = |scope| order.method.parse::<Method>().is_ok_and(|method| is_allowed(&method, &order.path, scope));
    if !allows(OrderScope::Operator) && !allows(OrderScope::Message) {
        return failed(StatusCode::NOT_IMPLEMENTED, "this stickyd does not know the order: it has another version");
    }
    // An order for this stickyd alone says nothing about what the fleet has agreed on.
    // One that is noted already was read from Redis just before it came.
    if let Some(state) = kept_state(api, order).filter(|state| order.to.is_none() && state.file.is_some())
        && api.orders.note(&state) == Ordering::Less
    {
        return failed(StatusCode::CONFLICT, "a later order of the fleet has set the state of this worker");
    }
    execute(api, &order.method, &order.path, &order.body).await
}

/// Takes over the states that are kept in Redis; returns whether Redis answered.
async fn catch_up(api: &Api, fleet: &Fleet) -> bool {
    let Some(states) = fleet.states().await else { return false };
    let now_us = fleet.fleet_ms().saturating_mul(1_000);
    states.iter().for_each(|state| take_over(api, state, now_us));
    let snapshot = api.shared.snapshot.load_full();
    for state in api.orders.missing_in(&states) {
        // Redis was emptied, or the order before this one was written after it.
        if workers::find(&snapshot, &state.upstream, &state.worker).is_ok() && !fleet.store_state(&state).await {
            return false;
        }
    }
    true
}

fn take_over(api: &Api, kept: &FleetState, now_us: i64) {
    let FleetState { at_us, file, given_us, grace_ms, state: word, stickyd, upstream, who, worker, .. } = kept;
    let snapshot = api.shared.snapshot.load_full();
    // This stickyd may have other workers.
    let Ok((upstream, member)) = workers::find(&snapshot, upstream, worker) else { return };
    let (worker, Some(state)) = (&member.worker, workers::state_of(word)) else { return };
    // Since the order the file has changed, and it holds.
    if file.as_ref().is_some_and(|file| file != worker.admin.file_word()) {
        return;
    }
    if api.orders.note(&FleetState { worker: worker.name.clone(), ..kept.clone() }) != Ordering::Greater {
        return;
    }
    let has_it = worker.admin.state() == state && (state != AdminState::Drain || grace_ms.is_none());
    if has_it {
        return;
    }
    let passed_ms = u64::try_from(now_us.saturating_sub(given_us.unwrap_or(*at_us)) / 1_000).unwrap_or(0);
    let left = grace_ms.map(|grace| Duration::from_millis(grace.saturating_sub(passed_ms)));
    if workers::change(api, upstream, worker, state, left).is_ok() {
        let name = format!("{}/{}", worker.upstream, worker.name);
        let text = format!("{name} is set to {word}, as {who} had ordered for the fleet by way of {stickyd}");
        api.shared
            .events
            .tell(Event::new(EventKind::Operator, Severity::Info, text).worker(&worker.upstream, &worker.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_count_from_the_begin_on_whatever_the_clock_does() {
        let hour_ms = 3_600_000;
        let (begun_us, running) = (5 * hour_ms * 1_000, Duration::from_secs(60));
        let now_ms = 5 * hour_ms + 60_000;
        assert_eq!(since(begun_us, now_ms, running), begun_us);
        // Set back by an hour: what was sent a minute ago counts, and nothing from before.
        assert_eq!(since(begun_us, now_ms - hour_ms, running), begun_us - hour_ms * 1_000);
        assert_eq!(since(begun_us, now_ms + hour_ms, running), begun_us, "set forward");
        assert!(since(i64::MIN, i64::MIN, Duration::MAX) == i64::MIN, "no overflow");
    }
}
