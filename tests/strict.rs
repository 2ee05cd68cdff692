//! docs/reference/threats.md §2 for HTTP/1 and HTTP/2 as tables: raw bytes in, raw bytes out, and a strict parser of
//! its own that judges them.

mod answers;
mod broken;
mod client;
mod h2;
mod judge;
mod recorder;
mod requests;
mod table;
mod trusted;
mod workers;
