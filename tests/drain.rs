//! Drains of workers by operators, by the file and by reloads, and what polling and real Socket.IO clients get.

mod operators;
mod socket_io;
