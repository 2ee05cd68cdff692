//! `PUT /api/v1/sockets/by-sid/{sid}`: the application tells whose socket it is, by labels that no client can set.
//!
//! The socket is found by its Engine.IO session, which leads to its pin, or by the `socket.id` of Socket.IO, which a
//! worker on the bus knows. Left out: what labels are for (filters, statistics, alarms).

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::super::api::{LabelledSocket, LabelsOrder};
use super::super::emit::ask_bus;
use super::super::layers::WholeBody;
use super::close::{read_order, wrong};
use super::{Api, ApiRefusal, gather, refuse};
use crate::bus::EmitMatter;
use crate::clock;
use crate::sockets::backend_labels::{LabelChanges, check};
use crate::sockets::{Filter, Socket};
use crate::state::mail_users;

/// Fields that a request body may have, for error messages.
const HELP: &str = "labels such as {\"user\": \"7\"}; upstream, namespace";

/// `PUT /api/v1/sockets/by-sid/{sid}`: sets labels of the backend, or removes those with `null`.
pub(crate) async fn set(
    State(api): State<Api>,
    Path(sid): Path<String>,
    WholeBody(body): WholeBody,
) -> Result<Json<LabelledSocket>, ApiRefusal> {
    let LabelsOrder { labels, namespace, upstream } = read_order(&body, HELP)?;
    if labels.is_empty() {
        return Err(wrong(format!("no labels given: give {HELP}")));
    }
    let changes: LabelChanges = labels.into_iter().collect();
    check(&changes).map_err(wrong)?;
    let names: Vec<String> = {
        let snapshot = api.shared.snapshot.load();
        let named = |name: &str| upstream.as_deref().is_none_or(|wanted| wanted == name);
        let names = snapshot.upstreams.iter().map(|upstream| upstream.config.name.clone());
        names.filter(|name| named(name)).collect()
    };
    if let (Some(name), true) = (&upstream, names.is_empty()) {
        return Err(refuse(StatusCode::NOT_FOUND, format!("there is no upstream `{name}`")));
    }
    let found = match of_session(&api, &names, &sid).await {
        Some(socket) => Some(socket),
        None => of_socket_id(&api, &names, namespace.as_deref().unwrap_or("/"), &sid).await,
    };
    let Some(socket) = found else {
        let why = "this stickyd has no live socket with that session: its client may have just left";
        return Err(refuse(StatusCode::NOT_FOUND, why));
    };
    api.shared.sessions.sockets.set_backend_labels(&socket, changes.clone()).map_err(wrong)?;
    mail_users::of_backend(&api.shared, &socket, &changes);
    Ok(Json(describe(&socket)))
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
    // Sessions without a pin of their own: a custom rule keys it differently, or the pin went with the upgrade.
    let filter = Filter { sid: Some(sid.to_owned()), ..Filter::default() };
    let found = gather(&sessions.sockets, &filter, clock::now_s()).await;
    found.into_iter().find(|socket| upstreams.iter().any(|name| *name == *socket.worker().upstream))
}

/// Asks the workers on the bus for the session of a Socket.IO socket.
async fn of_socket_id(api: &Api, upstreams: &[String], namespace: &str, id: &str) -> Option<Arc<Socket>> {
    for upstream in upstreams {
        let matter = EmitMatter::Session { namespace: namespace.to_owned(), id: id.to_owned() };
        let Some(answered) = ask_bus(api, upstream, None, matter).await else { continue };
        if let Some(sid) = answered.answers.first().and_then(|answer| answer.as_str()) {
            return of_session(api, std::slice::from_ref(upstream), sid).await;
        }
    }
    None
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
