//! `/api/v1/workers`: every worker in its present state, and setting the admin state of one: drain, maint, ready.
//!
//! A worker is named as in the list, percent-encoded if its name has a `/`
//! (`/api/v1/workers/app/unix:%2Frun%2Fapp%2F5.sock/drain`); its address is accepted as well.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::api::{
    CheckView, DrainView, EjectionView, GraceOrder, NameView, ProcessView, ReasonsView, WorkerView, WorkersAnswer,
};
use super::layers::WholeBody;
use super::linked::LinkedProcess;
use super::{Api, ApiRefusal, refuse};
use crate::bus::BusMember;
use crate::clock::{self, Millis};
use crate::config::{AdminState, LONGEST_GRACE};
use crate::drain::polling;
use crate::events::tell;
use crate::processes::{Process, ProcessTable};
use crate::state::Snapshot;
use crate::upstream::addresses;
use crate::upstream::admin_state::AdminChange;
use crate::upstream::diagnostics::{Ejection, LastCheck};
use crate::upstream::session_ends::Ending;
use crate::upstream::status_text;
use crate::upstream::worker::Worker;
use crate::upstream::{Member, Upstream};

/// `GET /api/v1/workers`: every worker, including those that the file no longer names.
pub(crate) async fn list(State(api): State<Api>) -> Json<WorkersAnswer> {
    let snapshot = api.shared.snapshot.load_full();
    let look = api.look().await;
    let members = snapshot.upstreams.iter().flat_map(|upstream| &upstream.members);
    let names = api.shared.unresolved.names(snapshot.named());
    let linked = api.shared.bus.list();
    Json(WorkersAnswer {
        names: names.into_iter().map(name_of).collect(),
        workers: members.map(|member| describe(member, &look, &linked)).collect(),
    })
}

/// Describes one DNS name among the workers.
fn name_of(name: addresses::Name) -> NameView {
    NameView {
        addresses: name.ips.iter().map(ToString::to_string).collect(),
        error: name.error,
        name: name.host,
        state: name.state.word().to_owned(),
        upstream: name.upstream,
    }
}

/// `POST /api/v1/workers/{upstream}/{worker}/{word}`: sets the admin state of a worker.
pub(crate) async fn say(
    State(api): State<Api>,
    Path((upstream, worker, word)): Path<(String, String, String)>,
    WholeBody(body): WholeBody,
) -> Result<Json<WorkerView>, ApiRefusal> {
    let state = state_of(&word).ok_or_else(|| {
        refuse(StatusCode::NOT_FOUND, format!("`{word}` is not an admin state: use drain, maint or ready"))
    })?;
    let grace = grace(&body, state).map_err(|why| refuse(StatusCode::UNPROCESSABLE_ENTITY, why))?;
    let snapshot = api.shared.snapshot.load_full();
    let (upstream, member) = find(&snapshot, &upstream, &worker)?;
    change(&api, upstream, &member.worker, state, grace)?;
    let look = api.look().await;
    Ok(Json(describe(member, &look, &api.shared.bus.list())))
}

/// Returns the admin state with this word.
pub(crate) fn state_of(word: &str) -> Option<AdminState> {
    [AdminState::Ready, AdminState::Drain, AdminState::Maint].into_iter().find(|state| state.word() == word)
}

/// Sets the admin state of a worker.
pub(crate) fn change(
    api: &Api,
    upstream: &Upstream,
    worker: &Worker,
    state: AdminState,
    grace: Option<Duration>,
) -> Result<(), ApiRefusal> {
    if state == AdminState::Ready && worker.admin.is_removed() {
        let why = "this worker is no longer in the file: add it to the file again, then reload";
        return Err(refuse(StatusCode::CONFLICT, why.to_owned()));
    }
    worker.change(AdminChange::Say(state, grace), &upstream.config);
    if state == AdminState::Ready {
        tell!(api.shared.events, Ready, info, upstream = %worker.upstream, worker = %worker.name, admin = state.word(),
            "worker admin state changed");
    } else {
        // The drains tell the event, with the number of sessions.
        tracing::info!(upstream = %worker.upstream, worker = %worker.name, admin = state.word(),
            "worker admin state changed");
    }
    polling::look(&api.shared, clock::now_ms());
    Ok(())
}

pub(crate) fn find<'a>(
    snapshot: &'a Snapshot,
    upstream: &str,
    worker: &str,
) -> Result<(&'a Arc<Upstream>, &'a Member), ApiRefusal> {
    let known = snapshot.upstreams.iter().find(|one| one.config.name == upstream);
    let known = known.ok_or_else(|| refuse(StatusCode::NOT_FOUND, format!("there is no upstream `{upstream}`")))?;
    let named = known.members.iter().find(|member| member.worker.name == worker);
    let found = named.or_else(|| known.members.iter().find(|member| member.worker.address.to_string() == worker));
    let none = || {
        let why =
            format!("upstream `{upstream}` has no worker `{worker}`: see /api/v1/workers; write / in a name as %2F");
        refuse(StatusCode::NOT_FOUND, why)
    };
    Ok((known, found.ok_or_else(none)?))
}

/// Returns the grace in a request body such as `{"grace": "60s"}`; `None` if it has none.
pub(crate) fn grace(body: &[u8], state: AdminState) -> Result<Option<Duration>, String> {
    const HELP: &str = "the body must be empty, or JSON such as {\"grace\": \"60s\"}";
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let Ok(Value::Object(fields)) = serde_json::from_slice(body) else { return Err(HELP.to_owned()) };
    let order = GraceOrder::deserialize(Value::Object(fields)).map_err(|error| format!("{error}: {HELP}"))?;
    let Some(given) = order.grace else { return Ok(None) };
    if state != AdminState::Drain {
        return Err("`grace` is allowed only for drain".to_owned());
    }
    let grace = humantime::parse_duration(given.trim()).map_err(|error| format!("invalid `grace`: {error}"))?;
    if grace > LONGEST_GRACE {
        return Err("`grace` must be from 0s to 24h".to_owned());
    }
    Ok(Some(grace))
}

fn describe(member: &Member, look: &ProcessTable, linked: &[BusMember]) -> WorkerView {
    let (worker, now) = (&member.worker, clock::now_ms());
    WorkerView {
        address: worker.address.to_string(),
        admin: worker.admin.word().to_owned(),
        bus: LinkedProcess::of(worker, look, linked).map(|linked| linked.view()),
        check: worker.notes.check().map(|check| check_of(check, now)),
        drain: worker.admin.ending().map(|ending| progress(worker, &ending)),
        ejected: worker.is_ejected(),
        ejected_for_ms: worker.eject.left_ms(now),
        generation: worker.generation(),
        health: worker.health().word().to_owned(),
        in_flight: worker.in_flight(),
        last_ejection: worker.notes.ejection().map(|last| ejection_of(&last, now)),
        process: look.workers.get(&worker.address).map(process),
        restarts: worker.generation().saturating_sub(1),
        said_at_run_time: worker.admin.is_said(),
        seen_for_s: now.since(worker.since_ms()) / 1_000,
        serves: worker.serves(),
        sessions: worker.sessions(),
        shares_address: worker.shares_address(now),
        takes_new: worker.takes_new(),
        tunnels: worker.tunnels(),
        upstream: worker.upstream.to_string(),
        waiting: worker.gate.waiting(),
        weight: member.weight,
        why: reasons(worker, now),
        worker: worker.name.clone(),
    }
}

fn reasons(worker: &Worker, now_ms: Millis) -> ReasonsView {
    ReasonsView {
        admin: status_text::admin(worker),
        ejection: status_text::ejection(worker, now_ms),
        health: status_text::health(worker),
    }
}

fn check_of(check: LastCheck, now_ms: Millis) -> CheckView {
    CheckView {
        ago_ms: now_ms.since(check.at_ms),
        detail: check.detail,
        failed_in_a_row: check.rows.failed,
        outcome: check.outcome.to_owned(),
        passed_in_a_row: check.rows.passed,
    }
}

fn ejection_of(last: &Ejection, now_ms: Millis) -> EjectionView {
    EjectionView {
        ago_s: now_ms.since(last.at_ms) / 1_000,
        for_s: last.for_ms.div_ceil(1_000),
        reason: last.why.to_owned(),
    }
}

/// Describes one process: a worker's, or stickyd's own.
pub(crate) fn process(process: &Process) -> ProcessView {
    ProcessView {
        command: process.command.clone(),
        cpu_percent: process.cpu_percent,
        cpu_s: process.cpu_s,
        memory_bytes: process.memory_bytes,
        pid: process.pid,
        shared: process.shared,
        threads: process.threads,
    }
}

/// Describes the progress of a drain, of maint, or of the removal of a worker.
fn progress(worker: &Worker, ending: &Ending) -> DrainView {
    let now = clock::now_ms();
    let seconds = |ms: u64| ms.div_ceil(1_000);
    DrainView {
        ends_in_s: ending.until_ms.map(|until| seconds(until.since(now))),
        grace_s: ending.until_ms.map(|until| seconds(until.since(ending.since_ms))),
        sessions_at_start: ending.sessions_at_start,
        sessions_left: worker.sessions(),
        since_s: now.since(ending.since_ms) / 1_000,
        tunnels_left: worker.tunnels(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grace_needs_a_unit_and_a_drain() {
        let read = |body: &str| grace(body.as_bytes(), AdminState::Drain);
        assert_eq!(read(""), Ok(None));
        assert_eq!(read(" {} "), Ok(None));
        assert_eq!(read("{\"grace\": \"0s\"}"), Ok(Some(Duration::ZERO)));
        assert_eq!(read("{\"grace\": \"1m 30s\"}"), Ok(Some(Duration::from_secs(90))));
        for wrong in
            ["60s", "[]", "{\"grace\": 60}", "{\"grace\": \"60\"}", "{\"grace\": \"25h\"}", "{\"grase\": \"1s\"}"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert!(grace(b"{\"grace\": \"1s\"}", AdminState::Maint).is_err());
    }
}
