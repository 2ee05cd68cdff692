//! WebSockets as a proxy sees them, without I/O: the checked upgrade, where frames begin and end, and round-trips.

pub mod frames;
pub mod round_trip;
pub mod upgrade;
