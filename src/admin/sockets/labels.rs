//! `PUT /api/v1/sockets/by-sid/{sid}`: the application tells whose socket it is, by labels that no client can set.
//!
//! The socket is found by its Engine.IO session, which leads to its pin, or by the `socket.id` of Socket.IO, which a
//! worker on the bus knows. In a fleet, a request for a socket of another stickyd is passed on. Left out: what labels
//! are for (filters, statistics, alarms).

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use serde::Deserialize as _;

use super::super::api::{FleetOrderBody, LabelledSocket, LabelsOrder, paths};
use super::super::broadcast::check_namespace;
use super::super::emit::ask_bus;
use super::super::layers::WholeBody;
use super::super::orders::{OrderScope, Passing, everywhere, reason_of};
use super::close::{read_order, wrong};
use super::{Api, ApiRefusal, refuse};
use crate::bus::EmitMatter;
use crate::sockets::backend_labels::{LabelChanges, check};
use crate::sockets::{SHARDS, Socket};
use crate::state::mail_users;

/// Why a socket is not found.
const UNKNOWN: &str = "this stickyd has no live socket with that session: its client may have just left";

/// Fields that a request body may have, for error messages.
const HELP: &str = "labels such as {\"user\": \"7\"}; upstream, namespace";

/// `PUT /api/v1/sockets/by-sid/{sid}`: sets labels of the backend, or removes those with `null`.
pub(crate) async fn set(
    State(api): State<Api>,
    Path(sid): Path<String>,
    passing: Passing,
    WholeBody(body): WholeBody,
) -> Result<Json<LabelledSocket>, ApiRefusal> {
    let order: LabelsOrder = read_order(&body, HELP)?;
    let LabelsOrder { labels, namespace, upstream } = order.clone();
    if labels.is_empty() {
        return Err(wrong(format!("no labels given: give {HELP}")));
    }
    let changes: LabelChanges = labels.into_iter().collect();
    check(&changes).map_err(wrong)?;
    namespace.as_deref().map_or(Ok(()), check_namespace)?;
    let names: Vec<String> = {
        let snapshot = api.shared.snapshot.load();
        let named = |name: &str| upstream.as_deref().is_none_or(|wanted| wanted == name);
        let names = snapshot.upstreams.iter().map(|upstream| upstream.config.name.clone());
        names.filter(|name| named(name)).collect()
    };
    if let (Some(name), true) = (&upstream, names.is_empty()) {
        return Err(refuse(StatusCode::NOT_FOUND, format!("there is no upstream `{name}`")));
    }
    let wanted = WantedSocket { upstreams: names, namespace: namespace.unwrap_or_else(|| "/".to_owned()), id: sid };
    let socket = match wanted.find(&api).await {
        Ok(socket) => socket,
        Err(session) => match passing.of_backend(&api) {
            Some(who) => return wanted.label_elsewhere(&api, session, &order, who).await.map(Json),
            None => return Err(refuse(StatusCode::NOT_FOUND, UNKNOWN)),
        },
    };
    api.shared.sessions.sockets.set_backend_labels(&socket, changes.clone()).map_err(wrong)?;
    mail_users::of_backend(&api.shared, &socket, &changes);
    Ok(Json(describe(&socket)))
}

/// What a request says of the socket that it means.
struct WantedSocket {
    upstreams: Vec<String>,
    namespace: String,
    /// Its Engine.IO session, or its `socket.id`.
    id: String,
}

impl WantedSocket {
    /// Finds the socket on this stickyd.
    ///
    /// # Errors
    /// Its Engine.IO session, if a worker that is linked here knows it by its `socket.id`.
    async fn find(&self, api: &Api) -> Result<Arc<Socket>, Option<String>> {
        if let Some(socket) = of_session(api, &self.upstreams, &self.id).await {
            return Ok(socket);
        }
        let Some((upstream, session)) = self.session(api, true).await else { return Err(None) };
        of_session(api, &[upstream], &session).await.ok_or(Some(session))
    }

    /// Sets the labels at another stickyd. The workers of other machines are asked last: there may be many.
    async fn label_elsewhere(
        &self,
        api: &Api,
        session: Option<String>,
        order: &LabelsOrder,
        who: String,
    ) -> Result<LabelledSocket, ApiRefusal> {
        let missed = match elsewhere(api, session.as_deref().unwrap_or(&self.id), order, who.clone()).await {
            Err(missed) if session.is_none() && missed.0 == StatusCode::NOT_FOUND => missed,
            said => return said,
        };
        match self.session(api, false).await {
            Some((_, session)) => elsewhere(api, &session, order, who).await,
            None => Err(missed),
        }
    }

    /// Asks the workers on the bus for the session of a Socket.IO socket: its upstream and its sid.
    async fn session(&self, api: &Api, near_only: bool) -> Option<(String, String)> {
        for upstream in &self.upstreams {
            let (namespace, id) = (self.namespace.clone(), self.id.clone());
            let matter = EmitMatter::Session { namespace, id, near_only };
            let Some(answered) = ask_bus(api, upstream, None, matter).await else { continue };
            if let Some(sid) = answered.answers.first().and_then(|answer| answer.as_str()) {
                return Some((upstream.clone(), sid.to_owned()));
            }
        }
        None
    }
}

/// Finds the socket of an Engine.IO session.
async fn of_session(api: &Api, upstreams: &[String], sid: &str) -> Option<Arc<Socket>> {
    let sessions = &api.shared.sessions;
    for upstream in upstreams {
        let key = sessions.keys.key(upstream, sid.as_bytes());
        if let Some(socket) = sessions.socket(key) {
            return Some(socket);
        }
    }
    // Sessions without a pin of their own: a custom rule keys it differently, or it began as a WebSocket.
    let is_wanted = |socket: &Socket| {
        socket.has_sid(sid.as_bytes())
            && socket.has_begun()
            && upstreams.iter().any(|name| *name == *socket.worker().upstream)
    };
    for shard in 0..SHARDS {
        if let Some(socket) = sessions.sockets.find_in(shard, is_wanted) {
            return Some(socket);
        }
        // Health checks and other admin requests get a turn here.
        tokio::task::yield_now().await;
    }
    None
}

/// Sets the labels at the stickyd of the fleet that has the socket.
async fn elsewhere(api: &Api, session: &str, order: &LabelsOrder, who: String) -> Result<LabelledSocket, ApiRefusal> {
    let body = FleetOrderBody { at: None, body: serde_json::to_value(order).ok(), path: paths::socket_labels(session) };
    let Ok(all) = everywhere(api, Method::PUT, body, who, OrderScope::Search).await else {
        let why = "this stickyd has no live socket with that session, and the others cannot be asked: the fleet's \
                   Redis does not answer";
        return Err(refuse(StatusCode::SERVICE_UNAVAILABLE, why));
    };
    let done = all.answers.iter().find(|one| one.status == 200);
    if let Some(said) = done.and_then(|one| LabelledSocket::deserialize(&one.answer).ok()) {
        return Ok(said);
    }
    if let Some(failed) = all.answers.iter().find(|one| one.status != 404) {
        let status = StatusCode::from_u16(failed.status).unwrap_or(StatusCode::BAD_GATEWAY);
        return Err(refuse(status, reason_of(&failed.answer)));
    }
    if all.silent.is_empty() {
        let why = "the fleet has no live socket with that session: its client may have just left";
        return Err(refuse(StatusCode::NOT_FOUND, why));
    }
    let silent: Vec<_> = all.silent.iter().map(|one| format!("{} {}", one.name, one.why)).collect();
    let why = format!("no stickyd that answered has a live socket with that session: {}", silent.join("; "));
    Err(refuse(StatusCode::SERVICE_UNAVAILABLE, why))
}

fn describe(socket: &Socket) -> LabelledSocket {
    let own = |(name, value): &(&str, Option<&str>)| Some(((*name).to_owned(), (*value)?.to_owned()));
    let labels: BTreeMap<String, String> = socket.with_texts(|_, labels| labels.iter().filter_map(own).collect());
    LabelledSocket {
        id: socket.id().to_string(),
        labels,
        transport: socket.transport().word().to_owned(),
        upstream: socket.worker().upstream.to_string(),
    }
}
