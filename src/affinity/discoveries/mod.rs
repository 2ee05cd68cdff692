//! TODO.

pub mod budget;
pub mod search;
