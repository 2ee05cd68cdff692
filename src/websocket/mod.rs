//! TODO.

pub mod frames;
pub mod round_trip;
pub mod upgrade;
