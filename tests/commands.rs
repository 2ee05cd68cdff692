//! The commands of the binary that talk to a running stickyd.

mod reload;
mod running;
