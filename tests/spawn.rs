//! Workers that stickyd starts itself: unmodified applications in Node and Python, their processes, and their
//! replacement.

mod apps;
mod bad_input;
mod chat;
mod last_requests;
mod logs;
mod processes;
mod rolling;
mod service;
mod support;
