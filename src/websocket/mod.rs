//! WebSockets as a proxy sees them, without I/O: the checked upgrade, where frames begin and end, and round-trips.

pub(crate) mod frames;
pub(crate) mod gate;
pub(crate) mod round_trip;
pub(crate) mod upgrade;
