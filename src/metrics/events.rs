//! Series of events: how many of each kind there were, and how many were lost.

use super::families::{Families, Family, value};
use crate::events::Events;

const EVENTS: Family = Family { name: "stickyd_events_total", help: "Events by kind (GET /api/v1/events)." };
const LOST: Family = Family {
    name: "stickyd_events_dropped_total",
    help: "Events that were logged but not kept, because too many came at once.",
};

impl Families {
    /// Adds the number of events of each kind.
    pub(crate) fn events(&mut self, events: &Events) {
        for (kind, count) in events.counts() {
            self.counter(&EVENTS, &[("kind", kind.word())], value(count));
        }
        self.counter(&LOST, &[], value(events.lost()));
    }
}
