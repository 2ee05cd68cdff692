//! Starts the hub of the bus where it can be of use: with a state directory, and an upstream that has not turned it
//! off.

use std::path::PathBuf;
use std::thread::JoinHandle;

use tokio_util::sync::CancellationToken;

use super::far_bus;
use crate::bus::{BoundBus, environment};
use crate::config::{AdminAddress, Config};
use crate::events::tell;
use crate::state::Shared;

/// Starts the hub on a thread of its own. A failure is logged and ends nothing: workers then deliver messages to their
/// own clients only, as they do without stickyd.
/// In a fleet, the hub also reaches those of other machines.
pub(crate) fn start(config: &Config, shared: &Shared, stop: CancellationToken) -> Option<JoinHandle<()>> {
    let members = &shared.bus;
    if !config.upstreams.iter().any(|upstream| upstream.bus) {
        return None;
    }
    let socket = socket(config)?;
    let way = shared.sessions.fleet().filter(|fleet| fleet.settings().bus).map(|fleet| far_bus::way(fleet.clone()));
    // Workers that stickyd starts get the preload from their spawner; this one is for all others.
    let preload = config.state_dir.as_deref().map_or(Ok(()), |dir| environment::write_preload(dir).map(drop));
    let started =
        preload.and_then(|()| BoundBus::bind(&socket)).and_then(|bound| bound.start(members.clone(), way, stop));
    started
        .inspect(|_| members.serves(socket.clone()))
        .inspect_err(|error| {
            let socket = socket.display();
            tell!(members.metrics.events, Bus, warn,
                %socket, %error, "cannot start the bus: messages reach the clients of one worker only");
        })
        .ok()
}

/// The hub's socket: in the state directory, or beside the admin socket of a stickyd without a configuration file.
fn socket(config: &Config) -> Option<PathBuf> {
    if let Some(state_dir) = &config.state_dir {
        return Some(environment::socket(state_dir));
    }
    match &config.admin.address {
        AdminAddress::Unix(admin) => Some(admin.with_extension("bus")),
        AdminAddress::Tcp(_) | AdminAddress::None => None,
    }
}
