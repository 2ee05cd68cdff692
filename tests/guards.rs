//! Guards of routes and upstreams: `origins`, `allow`, `deny` and `rate`, with plain requests and with real Socket.IO.

mod access;
mod app_status;
mod requests;
mod socket_io;
mod spellings;
