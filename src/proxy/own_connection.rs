//! Requests of a client that has authenticated a worker connection (NTLM, Negotiate): which worker they go to, and over
//! which connection.
//!
//! The handshake takes three requests that must reach one worker over one connection, so a request without a session
//! goes to the worker at which its client connection was last authenticated. A session's own worker goes first, as
//! always. The connections are kept by `upstream::connections::own`; a client without any pays for one look.

use std::sync::Arc;

use super::Job;
use crate::affinity::Choice;
use crate::affinity::ask::RequestKind;
use crate::config::AdminState;
use crate::metrics::SourceLabel;
use crate::upstream::connections::connect::Lease;
use crate::upstream::worker::Worker;

/// Returns the worker at which this client is authenticated, for a request that is not tied to another one.
pub(crate) fn choice(job: &Job) -> Option<Choice> {
    let own = job.conn.own()?;
    let begins = match job.ask.kind {
        RequestKind::Ordinary | RequestKind::Preflight(None) if job.ask.follows().is_none() => {
            job.ask.upgrade.is_some()
        }
        RequestKind::Handshake | RequestKind::Birth => true,
        _ => return None,
    };
    let is_member = |worker: &Worker| job.upstream.members.iter().any(|member| member.worker.serial == worker.serial);
    let may = |worker: &Worker| worker.serves() && (!begins || worker.admin() == AdminState::Ready);
    let worker = own.last_worker(job.client.address, |worker| may(worker) && is_member(worker))?;
    let is_session = matches!(job.ask.kind, RequestKind::Handshake | RequestKind::Birth);
    let seat = is_session.then(|| worker.session());
    Some(Choice { worker, why: SourceLabel::Connection, seat, hold: None, cookie: None })
}

/// Whether the client has an idle connection of its own to this worker.
pub(crate) fn check_any(job: &Job, worker: &Worker) -> bool {
    job.conn.own().is_some_and(|own| own.check_any(worker, job.client.address, job.conn.thread.now_ms()))
}

/// Takes the client's own connection to this worker, if there is an idle one.
pub(crate) fn take(job: &Job, worker: &Arc<Worker>) -> Option<Box<Lease>> {
    job.conn.own()?.take(worker, job.client.address, job.conn.thread.now_ms())
}

/// Makes a connection the client's own, because it is authenticated or about to be.
pub(crate) fn mark(job: &Job, lease: &mut Lease) {
    lease.belong_to(job.conn.make_own().of(job.client.address));
}
