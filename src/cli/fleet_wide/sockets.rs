//! `stickyd sockets --fleet`: the sockets of all stickyds in one list, and one socket wherever it is.

use std::cmp::Ordering;

use super::super::remote::{AdminClient, RemoteError};
use super::super::sockets::{SocketsCommand, one, rows_at};
use super::super::table::counted;
use super::{FleetSaid, FleetText, FromStickyd};
use crate::admin::api::{SocketView, SocketsAnswer, paths};

/// Number of sockets to show, unless the command says it.
const USUAL: u32 = 1_000;

/// Maximum number of sockets that one stickyd lists.
const MOST: u64 = 10_000;

/// Lists the sockets of the whole fleet.
pub(crate) fn list(command: &SocketsCommand, admin: &AdminClient) -> Result<FleetText, RemoteError> {
    let limit = u64::from(command.limit.unwrap_or(USUAL));
    let needed = command.offset.saturating_add(limit);
    if needed > MOST {
        return Err(RemoteError::new(&format!("with --fleet, --offset and --limit are at most {MOST} together")));
    }
    let said = FleetSaid::get(admin, &command.path(needed, 0))?;
    let answers = said.answers::<SocketsAnswer>()?;
    let sum = |of: fn(&SocketsAnswer) -> usize| answers.iter().map(|one| of(&one.answer) as u64).sum::<u64>();
    let (total, live, stickyds) = (sum(|one| one.total), sum(|one| one.live), answers.len());
    let of_one = |one: FromStickyd<SocketsAnswer>| {
        let FromStickyd { stickyd, answer, .. } = one;
        answer.sockets.into_iter().map(move |socket| (stickyd.clone(), socket))
    };
    let mut all: Vec<(String, SocketView)> = answers.into_iter().flat_map(of_one).collect();
    sort(&mut all, &command.sort);
    let at = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let page: Vec<_> = all.into_iter().skip(at(command.offset)).take(at(limit)).collect();
    let mut text = rows_at(&page, command.tables.width());
    let (shown, at) = (page.len() as u64, counted(stickyds as u64, "stickyd"));
    text.push_str(&match shown == total {
        true => format!("\n{total} of {live} live sockets at {at}\n"),
        false => format!("\n{shown} of {total} matching sockets (--limit, --offset), {live} live at {at}\n"),
    });
    Ok(FleetText { said, text })
}

/// Sorts the lists of several stickyds into one, by an order of the API.
fn sort(all: &mut [(String, SocketView)], order: &str) {
    let (by, reverse) = order.strip_prefix('-').map_or((order, false), |by| (by, true));
    let number = |socket: &SocketView| {
        let (up, down) = (&socket.up, &socket.down);
        match by {
            "idle" => [up.idle_s, down.idle_s].into_iter().flatten().min().unwrap_or(socket.age_s).into(),
            "messages" => up.messages + down.messages,
            "messages_up" => up.messages,
            "messages_down" => down.messages,
            "bytes" => up.bytes + down.bytes,
            "bytes_up" => up.bytes,
            "bytes_down" => down.bytes,
            _ => 0,
        }
    };
    all.sort_by(|(at, one), (other_at, other)| {
        let first = match by {
            // The oldest has connected first.
            "connected" => other.age_s.cmp(&one.age_s),
            "worker" => (&one.upstream, &one.worker).cmp(&(&other.upstream, &other.worker)),
            "id" => Ordering::Equal,
            _ => number(one).cmp(&number(other)),
        };
        let order = first.then_with(|| one.id.cmp(&other.id)).then_with(|| at.cmp(other_at));
        if reverse { order.reverse() } else { order }
    });
}

/// Shows one socket. Ids belong to one stickyd, so several may have one with this id.
pub(crate) fn details(id: &str, admin: &AdminClient) -> Result<FleetText, RemoteError> {
    let (at, id) = place(id);
    let said = FleetSaid::get_at(admin, at, &paths::socket(id))?;
    let of_one = |found: &FromStickyd<SocketView>| format!("stickyd      {}\n{}", found.stickyd, one(&found.answer));
    let text = said.answers()?.iter().map(of_one).collect::<Vec<_>>().join("\n");
    Ok(FleetText { said, text })
}

/// Splits `edge-1/k3v9q0d2m7xa` into the name of the stickyd and the id.
pub(crate) fn place(id: &str) -> (Option<&str>, &str) {
    id.rsplit_once('/').map_or((None, id), |(at, id)| (Some(at), id))
}

/// Finds the only stickyd with a socket of this id, by its name.
pub(crate) fn only_place(id: &str, admin: &AdminClient) -> Result<String, RemoteError> {
    let said = FleetSaid::get(admin, &paths::socket(id))?;
    let mut found: Vec<String> = said.answers::<SocketView>()?.iter().map(|one| one.place().to_owned()).collect();
    match (found.pop(), found.as_slice()) {
        // One that is silent might have a socket with this id, too.
        (Some(only), []) if !said.is_partial() => Ok(only),
        (Some(last), _) => {
            let written: Vec<_> = found.iter().chain([&last]).map(|at| format!("{at}/{id}")).collect();
            let why = format!("several stickyds may have a socket `{id}`: write {}", written.join(" or "));
            Err(RemoteError(format!("error: {why}\n{}", said.summary())))
        }
        (None, _) => Err(RemoteError::new(&format!("there is no live socket `{id}`"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn socket(id: &str, age_s: u32, bytes: u64) -> SocketView {
        let way = json!({"bytes": bytes, "close_code": null, "idle_s": null, "messages": 0});
        serde_json::from_value(json!({
            "address": "192.0.2.1", "age_s": age_s, "connected_at": "", "down": way, "generation": 1, "id": id,
            "labels": {}, "protocol": "plain", "quality": null, "round_trip": {"client": null, "worker": null},
            "route": null, "sid": null, "state": "open", "tls": false, "transport": "websocket", "up": way,
            "upstream": "app", "user_agent": null, "worker": "w1"
        }))
        .unwrap()
    }

    #[test]
    fn lists_of_several_stickyds_become_one() {
        let own = |at: &str, id: &str, age, bytes| (at.to_owned(), socket(id, age, bytes));
        let mut all = [own("a", "1", 5, 10), own("a", "2", 3, 30), own("b", "1", 9, 20), own("b", "2", 3, 0)];
        let mut by = |order: &str| {
            sort(&mut all, order);
            all.iter().map(|(at, socket)| format!("{at}{}", socket.id)).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(by("connected"), "b1 a1 a2 b2");
        assert_eq!(by("-bytes"), "a2 b1 a1 b2");
        assert_eq!(by("id"), "a1 b1 a2 b2");
        assert_eq!(by("idle"), "a2 b2 a1 b1", "one without messages is idle since it came");
    }

    #[test]
    fn an_id_may_have_the_name_of_its_stickyd() {
        assert_eq!(place("k3v9q0d2m7xa"), (None, "k3v9q0d2m7xa"));
        assert_eq!(place("edge-1/k3v9q0d2m7xa"), (Some("edge-1"), "k3v9q0d2m7xa"));
    }
}
