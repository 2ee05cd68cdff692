//! The control thread's part of guards: fetches the keys of tokens, closes sockets whose time has come, and forgets
//! what is over.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::outbound::{Outbound, OutboundRequest, OutboundSettings};
use crate::route::live_keys::{self, LiveKeys};
use crate::state::Shared;
use crate::state::admissions;

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Number of looks between two sweeps of one part of the tables.
const LOOKS_PER_SWEEP: usize = 5;

/// Maximum size of a JWK set, in bytes.
const LARGEST_SET: usize = 64 << 10;

/// Keeps keys fresh and ends what is due, until the server stops.
pub(crate) async fn keep(shared: Arc<Shared>, tasks: TaskTracker, stop: CancellationToken) {
    let mut turn = 0_usize;
    while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
        let snapshot = shared.snapshot.load_full();
        let now = live_keys::now();
        for watch in snapshot.rules.routes.iter().filter_map(|route| route.watch.as_ref()) {
            if let Some(keys) = watch.jwt.as_ref().map(|jwt| &jwt.keys).filter(|keys| keys.try_begin_fetch(now)) {
                let fetch = fetch(keys.clone(), now.unix_s, tasks.clone());
                tasks.spawn_local(stop.clone().run_until_cancelled_owned(fetch));
            }
        }
        for owing in admissions::close_due(&shared, now.ms) {
            tasks.spawn_local(stop.clone().run_until_cancelled_owned(owing.close(shared.clone())));
        }
        turn = turn.wrapping_add(1);
        if turn.is_multiple_of(LOOKS_PER_SWEEP) {
            shared.admissions.sweep(turn / LOOKS_PER_SWEEP);
            let users = snapshot.rules.routes.iter().filter_map(|route| route.watch.as_ref()?.users.as_ref());
            users.for_each(|users| users.sweep(turn / LOOKS_PER_SWEEP));
        }
    }
}

/// Fetches the keys of one server. A failure is logged, and the known keys stay.
async fn fetch(keys: Arc<LiveKeys>, began_s: u64, tasks: TaskTracker) {
    let host = keys.server().map(|server| server.host().to_owned()).unwrap_or_default();
    let answer = ask(&keys, &tasks).await;
    let had_keys = keys.is_ready();
    match keys.fetched(answer.as_deref().map_err(String::clone), began_s) {
        Ok(true) => tracing::info!(%host, "keys of tokens were fetched"),
        Ok(false) => {}
        Err(error) if had_keys => {
            tracing::warn!(%host, %error, "keys of tokens could not be fetched; the known ones stay in use");
        }
        Err(error) => {
            tracing::error!(%host, %error, "keys of tokens could not be fetched; clients with tokens get 503");
        }
    }
}

async fn ask(keys: &LiveKeys, tasks: &TaskTracker) -> Result<Vec<u8>, String> {
    let server = keys.server().ok_or("there is no server")?;
    let mut settings = OutboundSettings::new(server.authorities.clone());
    settings.largest = LARGEST_SET;
    let client = Outbound::new(&settings, tasks).map_err(|fault| fault.to_string())?;
    let request: OutboundRequest = hyper::Request::get(server.url.clone())
        .header(hyper::header::ACCEPT, "application/jwk-set+json, application/json")
        .body(Full::default())
        .map_err(|error| error.to_string())?;
    let answer = client.send(request).await.map_err(|fault| fault.to_string())?;
    if answer.status != hyper::StatusCode::OK {
        return Err(format!("it answered with status {}", answer.status.as_u16()));
    }
    Ok(answer.body.to_vec())
}
