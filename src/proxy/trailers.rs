//! Trailers, in both directions. They arrive after everything has been decided, so they must not state the client's
//! identity, the purpose of the request, or where a message ends (RFC 9110 §6.5.1).
//!
//! hyper already drops some of these fields, and every field that `Trailer` did not announce.

use hyper::header::HeaderMap;

use super::hop_fields::{is_hops_twin, is_identity, is_requests_hop, remove_where};

/// Removes the fields that belong into a head, where they are checked.
pub(crate) fn clean(trailers: &mut HeaderMap) {
    remove_where(trailers, |name| is_of_the_head(name.as_str()));
}

fn is_of_the_head(name: &str) -> bool {
    is_identity(name)
        || is_requests_hop(name)
        || is_hops_twin(name)
        || matches!(name, "host" | "cookie" | "set-cookie" | "set-cookie2" | "authorization" | "origin")
        || name.starts_with("sec-")
        || name.starts_with("access-control-")
        // Not a valid name in HTTP/1; over HTTP/2 the http crate accepts it.
        || name.contains('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_pass_and_framing_fields_do_not() {
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
