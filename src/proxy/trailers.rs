//! Trailers, both ways. They come when everything has been decided: they say nothing of who asks, what for, or where a
//! message ends (RFC 9110 §6.5.1).
//!
//! hyper keeps back some of these fields, and every field that `Trailer` did not announce.

use hyper::header::HeaderMap;

use super::fields::{is_hops_twin, is_identity, is_requests_hop, remove_where};

/// Takes out what belongs into a head, where it is checked.
pub(super) fn clean(trailers: &mut HeaderMap) {
    remove_where(trailers, is_of_the_head);
}

fn is_of_the_head(name: &str) -> bool {
    is_identity(name)
        || is_requests_hop(name)
        || is_hops_twin(name)
        || matches!(name, "host" | "cookie" | "set-cookie" | "set-cookie2" | "authorization" | "origin")
        || name.starts_with("sec-")
        || name.starts_with("access-control-")
        // No name to HTTP/1; over HTTP/2 it comes through the http crate.
        || name.contains('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_pass_and_framing_does_not() {
        for (name, stays) in [
            ("x-sum", true),
            ("digest", true),
            ("grpc-status", true),
            ("server-timing", true),
            ("content-length", false),
            ("content_length", false),
            ("transfer-encoding", false),
            ("connection", false),
            ("x_forwarded_for", false),
            ("x-client-verify", false),
            ("set-cookie", false),
            ("x\"a", false),
            ("access-control-allow-origin", false),
        ] {
            assert_eq!(!is_of_the_head(name), stays, "{name}");
        }
    }
}
