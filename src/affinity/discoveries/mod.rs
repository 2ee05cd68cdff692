//! TODO.

pub mod search;
pub mod budget;

