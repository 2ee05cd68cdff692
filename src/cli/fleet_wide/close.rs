//! `stickyd close --fleet`: closes sockets of all stickyds by a filter, or sockets by their ids wherever they are.

use super::super::close::{CLOSE_POLL, CloseCommand, confirm, show, told_of_many};
use super::super::progress::Progress;
use super::super::remote::{AdminClient, RemoteError};
use super::sockets::{only_place, place};
use super::{FleetSaid, FleetText, FromStickyd};
use crate::admin::api::{CloseAnswer, CloseManyOrder, ClosedSocket, ClosingView, ClosingsAnswer, paths};

/// Closes the sockets with these ids. Ids belong to one stickyd: all are looked up before any is closed.
pub(crate) fn each(command: &CloseCommand, admin: &AdminClient) -> Result<FleetText, RemoteError> {
    let mut places = Vec::new();
    for id in &command.ids {
        places.push(match place(id) {
            (Some(at), id) => (at.to_owned(), id),
            (None, id) => (only_place(id, admin)?, id),
        });
    }
    let (mut text, mut all) = (String::new(), None::<FleetSaid>);
    for (at, id) in places {
        let path = paths::socket_close(id);
        let asked = FleetSaid::order(admin, Some(&at), path, Some(&command.order_of_one()));
        let closed = asked.and_then(|said| said.answers::<ClosedSocket>().map(|closed| (said, closed)));
        let (said, closed) = closed.map_err(|error| error.after(&text))?;
        for FromStickyd { stickyd, answer, .. } in closed {
            text.push_str(&format!("closing {} at {stickyd}\n", answer.id));
        }
        all = Some(match all {
            None => said,
            Some(all) => all.with(said),
        });
    }
    let said = all.ok_or_else(|| RemoteError::new("no sockets selected"))?;
    Ok(FleetText { said, text })
}

/// Closes all sockets that match.
pub(crate) fn many(command: &CloseCommand, admin: &AdminClient) -> Result<FleetText, RemoteError> {
    let order = command.order_of_many();
    let ask = |order: &CloseManyOrder| FleetSaid::order(admin, None, paths::SOCKETS_CLOSE.to_owned(), Some(order));
    if command.dry_run || !command.yes {
        let said = ask(&CloseManyOrder { dry_run: true, ..order.clone() })?;
        let would = sum(&said.answers()?);
        if command.dry_run {
            return Ok(FleetText { said, text: told_of_many(&would) });
        }
        if said.is_partial() {
            eprint!("{}", said.summary());
        }
        confirm(would.matched)?;
    }
    let said = ask(&order)?;
    let mut answers = said.answers::<CloseAnswer>()?;
    if command.spread.is_some() && !command.no_wait {
        follow(admin, &mut answers)?;
    }
    let text = told_of_many(&sum(&answers));
    Ok(FleetText { said, text })
}

/// Waits until all sockets have been closed, and updates the answers.
fn follow(admin: &AdminClient, answers: &mut [FromStickyd<CloseAnswer>]) -> Result<(), RemoteError> {
    let mut out = Progress::new();
    while let Some(closing) = sum(answers).closing {
        if show(&mut out, &closing) == 0 {
            break;
        }
        // Nothing else runs on this thread, so it may block.
        std::thread::park_timeout(CLOSE_POLL);
        let said = FleetSaid::get(admin, paths::SOCKETS_CLOSE)?;
        let all = said.answers::<ClosingsAnswer>()?;
        for one in answers.iter_mut() {
            let Some(closing) = one.answer.closing.as_ref().filter(|closing| closing.left > 0) else { continue };
            let found = all.iter().find(|other| other.node == one.node);
            let found = found.and_then(|other| other.answer.closings.iter().find(|now| now.number == closing.number));
            let Some(found) = found else {
                out.end();
                let why = format!("how far {} has come is not known: it is silent, or was restarted", one.stickyd);
                return Err(RemoteError(format!("error: {why}\n{}", said.summary())));
            };
            one.answer.closing = Some(found.clone());
        }
    }
    out.end();
    Ok(())
}

/// Adds what all stickyds close.
fn sum(answers: &[FromStickyd<CloseAnswer>]) -> CloseAnswer {
    let count = |of: fn(&CloseAnswer) -> usize| answers.iter().map(|one| of(&one.answer)).sum();
    let closings: Vec<&ClosingView> = answers.iter().filter_map(|one| one.answer.closing.as_ref()).collect();
    let of_closings = |of: fn(&ClosingView) -> usize| closings.iter().map(|one| of(one)).sum();
    let closing = ClosingView {
        ends_in_s: closings.iter().map(|one| one.ends_in_s).max().unwrap_or(0),
        gone: of_closings(|one| one.gone),
        left: of_closings(|one| one.left),
        matched: of_closings(|one| one.matched),
        number: 0,
        told: of_closings(|one| one.told),
    };
    let first = answers.first().map(|one| &one.answer);
    CloseAnswer {
        closing: (!closings.is_empty()).then_some(closing),
        code: first.map_or(0, |one| one.code),
        dry_run: first.is_some_and(|one| one.dry_run),
        matched: count(|one| one.matched),
        polling: count(|one| one.polling),
        spread_s: first.map_or(0.0, |one| one.spread_s),
        tunnels: count(|one| one.tunnels),
    }
}
