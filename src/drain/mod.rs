//! How the sessions of a drained worker are ended, and sockets that an operator closes. A drain of polling sessions and
//! of tunnels goes on beside traffic, evenly over its grace. Left out: when a worker is drained
//! (`upstream::admin_state`).

pub(crate) mod close_requests;
pub(crate) mod polling;
pub(crate) mod spread;
pub(crate) mod tunnels;
