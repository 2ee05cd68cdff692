//! Starts the hub of the bus where it can be of use: with a state directory, and an upstream that has not turned it
//! off.

use std::sync::Arc;
use std::thread::JoinHandle;

use tokio_util::sync::CancellationToken;

use crate::bus::{BoundBus, BusMembers, environment};
use crate::config::Config;

/// Starts the hub on a thread of its own. A failure is logged and ends nothing: workers then deliver messages to their
/// own clients only, as they do without stickyd.
pub(crate) fn start(config: &Config, members: &Arc<BusMembers>, stop: CancellationToken) -> Option<JoinHandle<()>> {
    let state_dir = config.state_dir.as_deref().filter(|_| config.upstreams.iter().any(|upstream| upstream.bus))?;
    let started = environment::write_preload(state_dir)
        .and_then(|_| BoundBus::bind(&environment::socket(state_dir)))
        .and_then(|bound| bound.start(members.clone(), stop));
    started
        .inspect_err(|error| {
            let directory = state_dir.display();
            tracing::warn!(%directory, %error, "cannot start the bus: messages reach the clients of one worker only");
        })
        .ok()
}
