//! The commands of the binary: those that talk to a running stickyd, and those that write configurations and units.

mod as_service;
mod import;
mod reference;
mod reload;
mod running;
mod service;
mod top;
