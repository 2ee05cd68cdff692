//! TODO.

pub mod upgrade;
pub mod frames;
pub mod round_trip;

