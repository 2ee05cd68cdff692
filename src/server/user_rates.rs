//! Tells the other stickyds of a fleet what users have spent of the rates of routes (`rate` with `by`), and charges
//! here what they have spent there. Without Redis each stickyd counts for itself.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::fleet::{Fleet, FleetMessage};
use crate::keys::AddressHash;
use crate::route::guard::RouteGuard;
use crate::route::spent::SpentTokens;
use crate::state::Shared;

/// Topic of the messages.
const TOPIC: &str = "rates";

/// Interval between two messages, by which a stickyd knows late what was spent on another one.
const TELLS: Duration = Duration::from_millis(250);

/// Sizes of what names the route, and of what a message says of one user.
const ROUTE: usize = 16;
const USER: usize = 16;

/// Tells and charges until the server stops.
pub(super) async fn keep(shared: Arc<Shared>, stop: CancellationToken) {
    let Some(fleet) = shared.sessions.fleet().cloned() else { return };
    let mut messages = fleet.subscribe(TOPIC);
    let mut tells = tokio::time::interval(TELLS);
    tells.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tells.tick() => tell(&shared, &fleet),
            message = messages.recv() => match message {
                Some(FleetMessage::Message { payload, .. }) => charge(&shared, &fleet, &payload),
                // What was lost is charged nowhere.
                Some(FleetMessage::Gap) => {}
                None => return,
            }
        }
    }
}

fn tell(shared: &Shared, fleet: &Fleet) {
    for watch in rated(shared) {
        let spent = watch.spent.take();
        if !spent.is_empty() {
            let mut message = watch.rate_key(fleet).to_vec();
            spent.into_iter().for_each(|(user, spent)| message.extend(encode(user, spent)));
            let _ = fleet.publish(TOPIC, &message);
        }
    }
}

fn charge(shared: &Shared, fleet: &Fleet, message: &[u8]) {
    let Some((route, users)) = message.split_first_chunk::<ROUTE>() else { return };
    let Some(watch) = rated(shared).into_iter().find(|watch| watch.rate_key(fleet) == *route) else { return };
    let now_ms = clock::now_ms();
    for (user, spent) in users.chunks_exact(USER).filter_map(decode) {
        watch.charge(user, spent, now_ms);
    }
}

/// Guards whose rates count by user.
fn rated(shared: &Shared) -> Vec<Arc<RouteGuard>> {
    let snapshot = shared.snapshot.load();
    let watches = snapshot.rules.routes.iter().filter_map(|route| route.watch.as_ref());
    watches.filter(|watch| watch.counts_users()).cloned().collect()
}

fn encode(user: AddressHash, spent: SpentTokens) -> [u8; USER] {
    let (user, rest) = (u128::from(user.get()), u64::from(spent.requests) << 32 | u64::from(spent.handshakes));
    (user << 64 | u128::from(rest)).to_be_bytes()
}

fn decode(bytes: &[u8]) -> Option<(AddressHash, SpentTokens)> {
    let (user, rest) = bytes.split_first_chunk()?;
    let (requests, handshakes) = rest.split_first_chunk()?;
    let spent = SpentTokens {
        requests: u32::from_be_bytes(*requests),
        handshakes: u32::from_be_bytes(handshakes.try_into().ok()?),
    };
    Some((AddressHash::new(u64::from_be_bytes(*user)), spent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_message_says_comes_back_as_it_was() {
        let (user, spent) = (AddressHash::new(u64::MAX), SpentTokens { requests: 7, handshakes: u32::MAX });
        assert_eq!(decode(&encode(user, spent)), Some((user, spent)));
        for length in [0, 8, 15, 17] {
            assert_eq!(decode(&vec![1; length]), None);
        }
    }
}
