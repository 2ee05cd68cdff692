//! Clients that speak HTTP/2: their requests, their limits, and how their connections end.

mod dead_clients;
mod descriptors;
mod floods;
mod goodbye;
mod limits;
mod malformed;
mod min_rate;
mod requests;
mod small_data;
