//! Which worker a request belongs to: the sources of that knowledge, in order.
