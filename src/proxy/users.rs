//! Asks the fleet whether the user of a handshake may have one more socket, where further ones are refused
//! (`users = { …, over = "refuse" }`). The own count has been asked before, and holds where Redis does not answer.

use hyper::Request;
use hyper::body::Body;

use super::Job;
use super::read_head::Rejection;
use super::told_refusals::ToldHandshake;
use crate::fleet::Fleet;
use crate::route::guard::GuardRefusal;
use crate::route::users::Users;

/// A user that the fleet is to be asked about.
pub(super) struct AskedUser<'a> {
    fleet: &'a Fleet,
    users: &'a Users,
    name: &'a str,
}

/// The user that the fleet is to be asked about; `None` for nearly every request.
pub(super) fn asked(job: &Job) -> Option<AskedUser<'_>> {
    let name = job.passed.as_ref()?.user.as_deref()?;
    let users = job.watch.as_ref()?.users.as_ref()?;
    let fleet = job.conn.thread.shared.sessions.fleet()?;
    Some(AskedUser { fleet, users, name })
}

/// Asks the fleet about a user.
///
/// # Errors
/// The user has as many sockets as allowed.
pub(super) async fn ask<B: Body>(job: &Job, user: AskedUser<'_>, request: &Request<B>) -> Result<(), Rejection> {
    let (key, terms) = user.users.in_fleet(user.fleet, user.name);
    if !user.fleet.check_user_full(key, terms.most).await {
        return Ok(());
    }
    let reason = GuardRefusal::TooMany(user.users.limit().refuse);
    job.upstream.series().turned(reason.label());
    let client = job.client;
    Err(match ToldHandshake::of(&job.conn, &job.upstream, request, &job.ask, client, reason) {
        Some(handshake) => Rejection::Told { handshake, client },
        None => Rejection::ByGuard { reason, is_upgrade: job.ask.upgrade.is_some(), client },
    })
}
