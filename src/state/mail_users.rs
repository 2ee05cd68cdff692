//! Says whose queued messages (`crate::queue`) a socket gets: where the label of `offline_queue` comes from a token,
//! once that is verified; where it comes from the client's certificate, once the socket is there; where it comes from
//! the backend, once the backend sets it.
//!
//! Only the source that the file names counts: a label of the same name from the other one changes nothing. A route
//! with `broadcast = false` gets no messages.

use std::sync::Arc;

use super::Shared;
use crate::config::labels::LabelSource;
use crate::route::person::Person;
use crate::sockets::Socket;
use crate::sockets::backend_labels::LabelChanges;
use crate::sockets::labels::CertificateTexts;

/// Applies what a verified token says.
pub(crate) fn of_token(shared: &Shared, person: &Person, socket: &Arc<Socket>) {
    follow(shared, socket, |_, from| {
        // The whole claim: the label of the socket may be shortened.
        from.claim().map(|claim| person.claim(claim))
    });
}

/// Applies what the certificate of the client's connection says.
pub(crate) fn of_certificate(shared: &Shared, certificate: CertificateTexts<'_>, socket: &Arc<Socket>) {
    // The whole text: the label of the socket may be shortened.
    follow(shared, socket, |_, from| match from {
        LabelSource::Certificate(part) => Some(Some(certificate.text(*part).to_owned())),
        _ => None,
    });
}

/// Applies labels that the backend has set or removed.
pub(crate) fn of_backend(shared: &Shared, socket: &Arc<Socket>, changes: &LabelChanges) {
    follow(shared, socket, |label, from| {
        let change = changes.iter().rev().find(|(name, _)| name == label);
        change.filter(|_| *from == LabelSource::Backend).map(|(_, value)| value.clone())
    });
}

/// Applies the user that `value` knows from the label and its source; `None` if it knows nothing about the label.
fn follow(shared: &Shared, socket: &Arc<Socket>, value: impl FnOnce(&str, &LabelSource) -> Option<Option<String>>) {
    if !shared.queues.is_used() {
        return;
    }
    let snapshot = shared.snapshot.load();
    let Some(upstream) = snapshot.upstream(&socket.worker().upstream) else { return };
    let Some(queue) = &upstream.config.offline_queue else { return };
    let Some(rule) = upstream.config.labels.iter().find(|rule| rule.name == queue.label) else { return };
    let Some(value) = value(&queue.label, &rule.from) else { return };
    let of_route = |route: &str| snapshot.rules.routes.iter().find(|one| *one.name == *route);
    if socket.route().and_then(of_route).is_some_and(|one| one.route.broadcast == Some(false)) {
        return;
    }
    match value {
        Some(value) => shared.queues.enroll(socket, &upstream.config.name, &queue.label, &value),
        None => shared.queues.part(socket),
    }
}
