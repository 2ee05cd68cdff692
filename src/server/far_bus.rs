//! The way of the bus to other machines: the hub's messages go over the fleet's Redis, sealed like all that is there.
//!
//! Each group of workers has a topic, and so has each hub, for answers. While Redis is away the hub has no peers on
//! other machines, and everything works as on one machine. Left out: what the hubs say (`bus::far`), and how
//! Redis is reached (`crate::fleet`).

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bus::far::{ANNOUNCE, FarQueue, FarTarget, HubId};
use crate::bus::{FarWay, Hub};
use crate::fleet::{Fleet, FleetMessage};

/// Bytes that are handed to the fleet between two looks at other tasks of the hub.
const AT_ONCE: usize = 256 * 1024;

/// Interval between two looks whether Redis answers.
const LOOK: Duration = Duration::from_millis(100);

/// The way over this fleet.
pub(crate) fn way(fleet: Arc<Fleet>) -> FarWay {
    Box::new(move |hub, outbound, stop| Box::pin(carry(fleet, hub, outbound, stop)))
}

async fn carry(fleet: Arc<Fleet>, hub: Rc<Hub>, outbound: Rc<FarQueue>, stop: CancellationToken) {
    let tasks = TaskTracker::new();
    let own = fleet.subscribe(&topic(&FarTarget::Hub(HubId(fleet.node()))));
    let spawn = |messages| {
        tasks.spawn_local(stop.clone().run_until_cancelled_owned(hear(hub.clone(), messages)));
    };
    spawn(own);
    let (mut subscribed, mut is_linked, mut told) = (0, false, Instant::now());
    while !stop.is_cancelled() {
        for key in outbound.wanted(subscribed) {
            subscribed += 1;
            spawn(fleet.subscribe(&topic(&FarTarget::Group(key))));
        }
        let is_usable = fleet.shards().next().is_some_and(|shard| shard.is_usable());
        match (is_linked, is_usable) {
            (false, true) => hub.link_far(),
            (true, false) => hub.lose_far(),
            (true, true) if told.elapsed() >= ANNOUNCE => {
                told = Instant::now();
                hub.tick_far(told);
            }
            _ => {}
        }
        is_linked = is_usable;
        tokio::select! {
            messages = outbound.next(AT_ONCE) => publish(&fleet, &hub, messages),
            () = tokio::time::sleep(LOOK) => {}
            () = stop.cancelled() => {}
        }
        hub.count_dropped(outbound.take_dropped());
    }
    hub.leave_far();
    if let Ok(messages) = tokio::time::timeout(Duration::ZERO, outbound.next(AT_ONCE)).await {
        publish(&fleet, &hub, messages);
    }
    tasks.close();
    tasks.wait().await;
}

fn publish(fleet: &Fleet, hub: &Hub, messages: Vec<(FarTarget, Bytes)>) {
    for (target, message) in messages {
        hub.count_sent(fleet.publish(&topic(&target), &message));
    }
}

/// Hands the messages of one topic to the hub.
async fn hear(hub: Rc<Hub>, mut messages: mpsc::Receiver<FleetMessage>) {
    while let Some(message) = messages.recv().await {
        match message {
            FleetMessage::Message { from, payload } => hub.hear_far(HubId(from), payload.into()),
            // The subscription is new, or what was sent meanwhile is lost: ask for the members again.
            FleetMessage::Gap => hub.ask_far(),
        }
    }
}

/// The topic of a target; the fleet hashes it, so that Redis sees no name of an application.
fn topic(target: &FarTarget) -> String {
    match target {
        FarTarget::Group((upstream, path)) => format!("bus of {upstream} at {path}"),
        FarTarget::Hub(HubId(id)) => format!("bus to {id:016x}"),
    }
}
