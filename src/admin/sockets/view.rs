//! What is told of one socket.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use crate::sockets::{Socket, Way};
use crate::tunnel::round_trip::{Leg, Quality};

/// As it is at this second.
pub(in crate::admin) fn describe(socket: &Socket, now_s: u32) -> Value {
    let worker = socket.worker();
    let age_s = now_s.saturating_sub(socket.since_s());
    let connected = SystemTime::now().checked_sub(Duration::from_secs(age_s.into()));
    let (sid, labels) = socket.with_texts(|sid, labels| {
        let sid = (!sid.is_empty()).then(|| String::from_utf8_lossy(sid).into_owned());
        let label = |(name, value): &(&str, Option<&str>)| Some(((*name).to_owned(), Value::from((*value)?)));
        (sid, labels.iter().filter_map(label).collect::<Map<_, _>>())
    });
    let (trips, quality) = (socket.round_trips(), socket.quality());
    json!({
        "id": socket.id().to_string(),
        "sid": sid,
        "upstream": worker.upstream,
        "worker": worker.name,
        "generation": socket.generation(),
        "route": socket.route(),
        "address": socket.address().to_string(),
        "user_agent": Some(socket.agent()).filter(|agent| !agent.is_empty()),
        "labels": labels,
        "protocol": socket.kind().word(),
        "transport": socket.transport().word(),
        "tls": socket.tls(),
        "state": socket.state(now_s).word(),
        "connected_at": connected.map(|at| humantime::format_rfc3339_seconds(at).to_string()),
        "age_s": age_s,
        "up": way(&socket.up, now_s),
        "down": way(&socket.down, now_s),
        "round_trip": { "client": leg(&trips.client), "worker": leg(&trips.worker) },
        "quality": quality.map(Quality::word),
    })
}

/// What pings that passed have measured of one leg; null: none did.
fn leg(leg: &Leg) -> Option<Value> {
    let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
    let measured = leg.measured()?;
    Some(
        json!({ "last_ms": ms(measured.last), "smoothed_ms": ms(measured.smoothed), "longest_ms": ms(measured.longest) }),
    )
}

fn way(way: &Way, now_s: u32) -> Value {
    json!({
        "messages": way.messages(),
        "bytes": way.bytes(),
        "idle_s": way.last_s().map(|last| now_s.saturating_sub(last)),
        "close_code": way.code(),
    })
}
