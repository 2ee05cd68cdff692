//! Comma-separated lists in header fields (RFC 9110 §5.6.1). Several lines of one name are one list (§5.3). Left out:
//! what a list means.

use hyper::header::{HeaderMap, HeaderName};

/// Whether the list in all lines of a field contains `token`, ignoring case.
pub(crate) fn list_has(headers: &HeaderMap, name: &HeaderName, token: &[u8]) -> bool {
    headers.get_all(name).iter().any(|value| has_token(value.as_bytes(), token))
}

/// Whether a comma-separated field value contains `token`, ignoring case.
pub(crate) fn has_token(value: &[u8], token: &[u8]) -> bool {
    value.split(|&b| b == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(token))
}
