//! Tokens that no issuer has signed. Input: the token.

use serde_json::Value;
use stickyd::testing::jwt::{KeySet, TokenFault, TokenTerms, Unverified, verify};

/// No such token is accepted, and one that is not a token at all is told apart from a forged one.
pub fn check(data: &[u8]) {
    let keys = KeySet::from_secret(b"a secret that the fuzzer does not know").unwrap();
    let result = verify(data, &keys, &TokenTerms::default(), 1_800_000_000);
    let shown = String::from_utf8_lossy(data);
    let Err(why) = result else { panic!("accepted: {shown:?}") };
    let has_form = has_form(data.trim_ascii());
    match why {
        Unverified::Fault(TokenFault::Malformed) => {}
        Unverified::Fault(TokenFault::WrongSignature) | Unverified::UnknownKey { .. } => {
            assert!(has_form, "not a token: {shown:?}");
        }
        Unverified::Fault(other) => panic!("{other:?} of an unsigned token: {shown:?}"),
    }
    // A key set is as hostile as a token: its server may be another one.
    let _ = (KeySet::from_server(data), KeySet::from_file(data));
}

/// Whether the bytes are three parts, of which the first two are objects in JSON.
fn has_form(token: &[u8]) -> bool {
    let parts: Vec<_> = token.split(|byte| *byte == b'.').collect();
    let is_object = |part: &&[u8]| {
        let bytes = decode(part);
        bytes.is_some_and(|bytes| serde_json::from_slice::<Value>(&bytes).is_ok_and(|value| value.is_object()))
    };
    parts.len() == 3 && parts.iter().take(2).all(is_object)
}

/// Base64url by its definition (RFC 4648 §5), without padding.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (mut bits, mut count, mut out) = (0_u32, 0, Vec::new());
    for byte in text {
        let digit = DIGITS.iter().position(|digit| digit == byte)?;
        bits = bits << 6 | u32::try_from(digit).ok()?;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count & 0xff) as u8);
        }
    }
    (text.len() % 4 != 1).then_some(out)
}
