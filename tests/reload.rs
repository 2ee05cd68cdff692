//! Reloads: by signal, by API and by a change of the file, of listeners and of limits, and under load.

mod limits;
mod listeners;
mod signal_and_api;
mod under_load;
mod watch;
