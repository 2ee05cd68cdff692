//! `/api/v1/notify`: the receivers of notifications with their queues and last outcomes, and test messages.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::api::notify::{
    BeatView, LastOutcomeView, NotifyAnswer, NotifyTestAnswer, NotifyTestOrder, ProblemView, ReceiverView, TestView,
};
use super::layers::WholeBody;
use super::{Api, ApiRefusal, refuse};
use crate::notify::{NotifyState, ReceiverState};

/// `GET /api/v1/notify`: the state of the notifier.
pub(crate) async fn show(State(api): State<Api>) -> Result<Json<NotifyAnswer>, ApiRefusal> {
    api.notify.show().await.map(|state| Json(describe(state))).ok_or_else(stopping)
}

/// `POST /api/v1/notify/test`: sends a test message to one receiver or to all; waits for the outcomes.
pub(crate) async fn test(
    State(api): State<Api>,
    WholeBody(body): WholeBody,
) -> Result<Json<NotifyTestAnswer>, ApiRefusal> {
    let order: NotifyTestOrder = match body.trim_ascii() {
        [] => NotifyTestOrder::default(),
        body => serde_json::from_slice(body).map_err(|error| {
            let why = format!("{error}: the body is JSON such as {{\"to\": \"discord\"}}");
            refuse(StatusCode::UNPROCESSABLE_ENTITY, why)
        })?,
    };
    let outcomes = api.notify.test(order.to).await.ok_or_else(stopping)?;
    let outcomes = outcomes.map_err(|why| refuse(StatusCode::NOT_FOUND, why))?;
    if outcomes.is_empty() {
        let why = "there is no receiver: add [[notify.to]] to the configuration file";
        return Err(refuse(StatusCode::NOT_FOUND, why));
    }
    let view = |outcome: crate::notify::TestOutcome| TestView {
        error: outcome.error,
        ms: u64::try_from(outcome.took.as_millis()).unwrap_or(u64::MAX),
        to: outcome.name,
    };
    Ok(Json(NotifyTestAnswer { results: outcomes.into_iter().map(view).collect() }))
}

fn stopping() -> ApiRefusal {
    refuse(StatusCode::SERVICE_UNAVAILABLE, "stickyd is stopping")
}

fn describe(state: NotifyState) -> NotifyAnswer {
    let beat = state.heartbeat.map(|beat| BeatView {
        every_s: beat.every.as_secs(),
        host: beat.host,
        last: beat.last.map(|(ago, error)| LastOutcomeView {
            ago_s: ago.as_secs(),
            result: if error.is_none() { "sent" } else { "failed" }.to_owned(),
            why: error,
        }),
    });
    let problem = |problem: crate::notify::ProblemState| ProblemView {
        event: problem.event.to_owned(),
        for_s: problem.lasted.as_secs(),
        told: problem.told,
        what: problem.what,
    };
    NotifyAnswer {
        heartbeat: beat,
        problems: state.problems.into_iter().map(problem).collect(),
        receivers: state.receivers.into_iter().map(receiver).collect(),
    }
}

fn receiver(state: ReceiverState) -> ReceiverView {
    let last = state.last.map(|(ago, result, why)| LastOutcomeView {
        ago_s: ago.as_secs(),
        result: result.to_owned(),
        why: Some(why).filter(|why| !why.is_empty()),
    });
    ReceiverView {
        events: state.topics.into_iter().map(str::to_owned).collect(),
        host: state.host,
        kind: state.kind.to_owned(),
        last,
        name: state.name,
        next_s: state.next.as_ref().map(Duration::as_secs),
        waiting: state.waiting,
    }
}
