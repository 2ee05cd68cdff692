//! systemd's side of stickyd: the notify protocol and socket activation with the real binary, and the unit files.

mod activation;
mod notify;
mod units;
