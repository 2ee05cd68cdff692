//! Comma-separated lists in header fields (RFC 9110 §5.6.1). Left out: what a list means.

/// Whether a comma-separated field value contains `token`, ignoring case.
pub(crate) fn has_token(value: &[u8], token: &[u8]) -> bool {
    value.split(|&b| b == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(token))
}
