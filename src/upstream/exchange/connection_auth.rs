//! Recognises authentication that belongs to a connection instead of a request: NTLM, Negotiate and their relatives.
//!
//! After such a handshake a worker answers every request on the connection as the one user (RFC 4559 §6), so that the
//! connection must never carry another client's request. The code is pure and errs on the side of caution: a word that
//! only looks like a scheme makes a connection private, which costs one more connection. What follows from it is in
//! `connections::own`.

use hyper::header::{self, HeaderMap, HeaderName};

/// The schemes that authenticate a connection. `Negotiate` is RFC 4559; the others are not standardised and are used
/// by Microsoft's servers.
const SCHEMES: [&[u8]; 6] = [b"ntlm", b"negotiate", b"nego2", b"kerberos", b"credssp", b"pku2u"];

/// Whether a request carries credentials that authenticate its connection. `Proxy-Authorization` never reaches a worker
/// (`proxy::hop_fields`).
pub(crate) fn has_credentials(request: &HeaderMap) -> bool {
    let mut lines = request.get_all(header::AUTHORIZATION).iter();
    lines.any(|line| line.as_bytes().split(|byte| *byte == b',').any(|part| is_scheme(first_word(part))))
}

/// Whether a field of a response belongs to the authentication of its connection: a challenge, the worker's last word
/// in a successful handshake, or the promise that it lasts.
pub(crate) fn is_challenge(name: &HeaderName, value: &[u8]) -> bool {
    match *name {
        header::WWW_AUTHENTICATE | header::PROXY_AUTHENTICATE => has_scheme(value),
        _ => match name.as_str() {
            "authentication-info" | "proxy-authentication-info" => has_scheme(value),
            // Sent by IIS with the last answer of a handshake.
            "persistent-auth" => !value.trim_ascii().eq_ignore_ascii_case(b"false"),
            _ => false,
        },
    }
}

fn has_scheme(value: &[u8]) -> bool {
    value.split(|byte| !is_of_word(*byte)).any(is_scheme)
}

fn first_word(part: &[u8]) -> &[u8] {
    let part = part.trim_ascii();
    part.split(|byte| !is_of_word(*byte)).next().unwrap_or_default()
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

fn is_scheme(word: &[u8]) -> bool {
    SCHEMES.iter().any(|scheme| word.eq_ignore_ascii_case(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_found_in_any_case_and_place() {
        for (name, value, expected) in [
            ("www-authenticate", "NTLM", true),
            ("www-authenticate", "Negotiate oYG2MIGzoAMKAQA=", true),
            ("www-authenticate", "Basic realm=\"a, b\", nEGOTIATE", true),
            ("www-authenticate", "Basic realm=\"x\",NTLM,Digest realm=\"y\"", true),
            ("www-authenticate", "  Negotiate\t", true),
            ("proxy-authenticate", "ntlm", true),
            ("authentication-info", "Negotiate YII=", true),
            ("proxy-authentication-info", "Negotiate YII=", true),
            ("persistent-auth", "true", true),
            ("persistent-auth", "false", false),
            ("www-authenticate", "Basic realm=\"app\"", false),
            ("www-authenticate", "Bearer error=\"invalid_token\"", false),
            ("www-authenticate", "Digest realm=\"a\", nonce=\"ntlmx\"", false),
            ("x-authenticate", "NTLM", false),
        ] {
            let name = HeaderName::from_static(name);
            assert_eq!(is_challenge(&name, value.as_bytes()), expected, "{name}: {value}");
        }
    }

    #[test]
    fn credentials_are_recognised_by_their_scheme() {
        let asks = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::AUTHORIZATION, line.parse().unwrap());
            }
            has_credentials(&headers)
        };
        for lines in
            [&["NTLM TlRMTVNTUAABAAAA"][..], &["negotiate YIIJ"], &["Basic eA==", "NTLM x"], &["Basic eA==, NTLM x"]]
        {
            assert!(asks(lines), "{lines:?}");
        }
        for lines in [&[][..], &["Basic TlRMTQ=="], &["Bearer eyJ.ntlm.x"], &["NTLMx y"], &[""]] {
            assert!(!asks(lines), "{lines:?}");
        }
    }
}
