//! Messages of the backend as frames, to the sockets of all stickyds of the fleet.
//!
//! Messages for users of an `offline_queue` are stored by the stickyd that was asked, for users that no stickyd has
//! reached. Without the fleet's Redis a message reaches the sockets of this stickyd, as without a fleet, and the answer
//! says so. Left out: how a message is passed on (`admin::orders`).

use std::collections::HashSet;
use std::time::Instant;

use axum::http::{Method, StatusCode};
use serde::Deserialize as _;

use super::super::api::{EmitAnswer, EmitOfStickyd, EmitOrder, FleetOrderBody, FleetReplyView, NotReached, paths};
use super::super::away::AwayOrder;
use super::super::orders::{OrderScope, everywhere, perform_here, reason_of};
use super::super::{Api, ApiRefusal, refuse};
use crate::upstream::Upstream;

/// Sends a message at all stickyds; the numbers of all are added up.
pub(super) async fn emit(
    api: &Api,
    upstream: &Upstream,
    order: EmitOrder,
    who: String,
    away: Option<AwayOrder>,
) -> Result<EmitAnswer, ApiRefusal> {
    let began = Instant::now();
    // Other stickyds may have more upstreams. All of them send the message under the same name.
    let id = away.as_ref().map(|away| away.id().to_owned());
    let order = EmitOrder { upstream: Some(upstream.config.name.clone()), id, ..order };
    let body = FleetOrderBody { at: None, body: serde_json::to_value(&order).ok(), path: paths::EMIT.to_owned() };
    let (answers, mut missing) = gather(api, body, who).await?;
    let (mut stickyds, mut present) = (Vec::new(), HashSet::new());
    for one in &answers {
        match one.status {
            200 => {
                let said = EmitAnswer::deserialize(&one.answer).unwrap_or_default();
                present.extend(said.present.iter().flatten().cloned());
                stickyds.extend(reached(one.name.clone(), said));
            }
            // It has no upstream with this name.
            404 => {}
            _ => missing.push(format!("{} has failed: {}", one.name, reason_of(&one.answer))),
        }
    }
    if stickyds.is_empty() {
        return Err(failed(&answers));
    }
    let mut not_reached = NotReached::default();
    stickyds.iter().for_each(|one| not_reached.add(&one.not_reached));
    let sent = EmitAnswer {
        matched: Some(stickyds.iter().map(|one| one.matched).sum()),
        missing: (!missing.is_empty()).then_some(missing),
        not_reached: Some(not_reached),
        published: true,
        reached: Some(stickyds.iter().map(|one| one.reached).sum()),
        stickyds: Some(stickyds),
        took_ms: u64::try_from(began.elapsed().as_millis()).ok(),
        ..EmitAnswer::default()
    };
    match away {
        Some(away) => away.store_but_for(api, upstream, &present, sent).await,
        None => Ok(sent),
    }
}

/// The answers of all stickyds, and sentences about those that gave none.
async fn gather(
    api: &Api,
    body: FleetOrderBody,
    who: String,
) -> Result<(Vec<FleetReplyView>, Vec<String>), ApiRefusal> {
    match everywhere(api, Method::POST, body.clone(), who, OrderScope::Message).await {
        Ok(all) => {
            let words = all.silent.iter().map(|one| format!("{} {}", one.name, one.why)).collect();
            Ok((all.answers, words))
        }
        Err(_) => {
            let words = "the other stickyds were not asked: the fleet's Redis does not answer".to_owned();
            Ok((vec![perform_here(api, Method::POST, body).await?], vec![words]))
        }
    }
}

/// The refusal of a message that no stickyd has sent: the reason of the one that was asked.
fn failed(answers: &[FleetReplyView]) -> ApiRefusal {
    let own = answers.iter().find(|one| one.own).or_else(|| answers.first());
    let status = own.and_then(|own| StatusCode::from_u16(own.status).ok());
    let why = own.map_or_else(String::new, |own| reason_of(&own.answer));
    refuse(status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE), why)
}

/// What one stickyd has reached; `None` if it sends such messages on another way.
fn reached(name: String, said: EmitAnswer) -> Option<EmitOfStickyd> {
    let (matched, not_reached, reached) = (said.matched?, said.not_reached?, said.reached?);
    Some(EmitOfStickyd { matched, name, not_reached, reached })
}
