//! Descriptions of one socket and of many: rows are serialized directly, without a tree of JSON values in between.

use std::cell::RefCell;
use std::fmt::Display;
use std::time::{Duration, SystemTime};

use serde::ser::{SerializeMap, SerializeStruct};
use serde::{Serialize, Serializer};

use super::super::api::{LegView, RoundTripView, WayView};
use crate::clock::Seconds;
use crate::sockets::{Socket, SocketRow, Traffic};
use crate::websocket::round_trip::{Leg, Measured, Quality};

/// Describes one socket as it is at this second, as JSON.
pub(crate) fn describe(socket: &Socket, now_s: Seconds) -> Vec<u8> {
    let shown = RefCell::new(Shown::new(now_s));
    // This cannot fail: all keys are strings, and no number is infinite.
    serde_json::to_vec(&Row { socket, shown: &shown }).unwrap_or_default()
}

/// Data shared by the rows of one answer, and buffers reused from row to row.
pub(crate) struct Shown {
    now_s: Seconds,
    /// The same moment as `now_s`, as calendar time.
    now: SystemTime,
    told: SocketRow,
    /// The last connection time that was formatted, and its text: sockets often connect within the same second.
    connected: (Option<Seconds>, String),
}

impl Shown {
    /// Creates the data of an answer for this second ([`crate::clock::now_s`]).
    pub(crate) fn new(now_s: Seconds) -> Self {
        Self { now_s, now: SystemTime::now(), told: SocketRow::default(), connected: (None, String::new()) }
    }

    fn connected(&mut self, since_s: Seconds) {
        if self.connected.0 == Some(since_s) {
            return;
        }
        let age = Duration::from_secs(self.now_s.since(since_s).into());
        let at = self.now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        self.connected = (Some(since_s), humantime::format_rfc3339_seconds(at).to_string());
    }
}

/// One socket as a row of the list: the fields of `admin::api::SocketView`, written without
/// building one.
pub(crate) struct Row<'a> {
    pub(crate) socket: &'a Socket,
    /// Data shared by all rows, borrowed for one row at a time.
    pub(crate) shown: &'a RefCell<Shown>,
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (socket, shown) = (self.socket, &mut *self.shown.borrow_mut());
        socket.tell(&mut shown.told);
        shown.connected(socket.since_s());
        let (now_s, told, worker) = (shown.now_s, &shown.told, socket.worker());
        let (sid, trips) = (told.sid(), &told.round_trips);
        let mut row = serializer.serialize_struct("Socket", 19)?;
        row.serialize_field("id", &PrintableText(socket.id()))?;
        row.serialize_field("sid", &Some(String::from_utf8_lossy(sid)).filter(|sid| !sid.is_empty()))?;
        row.serialize_field("upstream", &*worker.upstream)?;
        row.serialize_field("worker", &*worker.name)?;
        row.serialize_field("generation", &socket.generation())?;
        row.serialize_field("route", &socket.route())?;
        row.serialize_field("address", &PrintableText(told.address()))?;
        row.serialize_field("user_agent", &Some(socket.agent()).filter(|agent| !agent.is_empty()))?;
        row.serialize_field("labels", &LabelRows(socket, told))?;
        row.serialize_field("protocol", socket.kind().word())?;
        row.serialize_field("transport", socket.transport().word())?;
        row.serialize_field("tls", &socket.tls())?;
        row.serialize_field("state", socket.state(now_s).word())?;
        row.serialize_field("connected_at", &shown.connected.1)?;
        row.serialize_field("age_s", &now_s.since(socket.since_s()))?;
        row.serialize_field("up", &way(&socket.up, now_s))?;
        row.serialize_field("down", &way(&socket.down, now_s))?;
        let round_trip = RoundTripView { client: leg(&trips.client), worker: leg(&trips.worker) };
        row.serialize_field("round_trip", &round_trip)?;
        row.serialize_field("quality", &told.quality.map(Quality::word))?;
        row.end()
    }
}

/// A value that is serialized as its display text.
struct PrintableText<T>(T);

impl<T: Display> Serialize for PrintableText<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

struct LabelRows<'a>(&'a Socket, &'a SocketRow);

impl Serialize for LabelRows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut labels = serializer.serialize_map(None)?;
        for (name, value) in self.1.labels(self.0) {
            labels.serialize_entry(name, value)?;
        }
        labels.end()
    }
}

fn way(way: &Traffic, now_s: Seconds) -> WayView {
    let idle_s = way.last_s().map(|last| now_s.since(last));
    WayView { bytes: way.bytes(), close_code: way.code(), idle_s, messages: way.messages() }
}

/// Returns the times of a leg; `None` if no ping has measured it.
fn leg(leg: &Leg) -> Option<LegView> {
    let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
    let Measured { last, smoothed, longest } = leg.measured()?;
    Some(LegView { last_ms: ms(last), longest_ms: ms(longest), smoothed_ms: ms(smoothed) })
}
