//! Tokens of every algorithm, and what forgers try.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    RSA_PKCS1_SHA256, RSA_PSS_SHA384,
};
use aws_lc_rs::{hmac, rsa};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use super::*;

const NOW: u64 = 1_800_000_000;
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A token with this header and these claims, signed by `sign`.
fn token(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let said = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
    let signature = sign(said.as_bytes());
    format!("{said}.{}", b64(signature))
}

fn hs256(secret: &[u8]) -> impl Fn(&[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    move |said| hmac::sign(&key, said).as_ref().to_vec()
}

fn good_claims() -> Value {
    json!({"sub": "u1", "iss": "https://id.example", "aud": ["chat", "mail"], "exp": NOW + 60, "nbf": NOW - 60,
        "role": "agent", "realm": {"roles": ["a", "b"]}, "scope": "read write"})
}

fn check(token: &str, keys: &KeySet, terms: &TokenTerms) -> Result<Claims, Unverified> {
    verify(token.as_bytes(), keys, terms, NOW)
}

fn secret_keys() -> KeySet {
    KeySet::from_secret(SECRET).unwrap()
}

#[test]
fn every_kind_of_key_verifies_its_own_tokens() {
    let random = SystemRandom::new();
    let p256 = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let ed = Ed25519KeyPair::generate().unwrap();
    let big = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
    let ec = |curve: &str, pair: &EcdsaKeyPair, kid: &str| {
        let point = &pair.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        json!({"kty": "EC", "crv": curve, "x": b64(x), "y": b64(y), "kid": kid})
    };
    let modulus = big.public_key().modulus().big_endian_without_leading_zero().to_vec();
    let exponent = big.public_key().exponent().big_endian_without_leading_zero().to_vec();
    let set = json!({"keys": [
        ec("P-256", &p256, "p256"),
        ec("P-384", &p384, "p384"),
        json!({"kty": "OKP", "crv": "Ed25519", "x": b64(ed.public_key().as_ref()), "kid": "ed"}),
        json!({"kty": "RSA", "n": b64(modulus), "e": b64(exponent), "kid": "rsa"}),
        json!({"kty": "quantum", "kid": "unknown"}),
        json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "use": "enc", "kid": "enc"}),
    ]});
    let keys = KeySet::from_server(set.to_string().as_bytes()).unwrap();
    let sign_rsa = |padding: &'static dyn aws_lc_rs::signature::RsaEncoding, said: &[u8]| {
        let mut signature = vec![0; big.public_modulus_len()];
        big.sign(padding, &random, said, &mut signature).unwrap();
        signature
    };
    let of = |alg: &str, kid: &str| json!({"alg": alg, "kid": kid, "typ": "JWT"});
    let claims = good_claims();
    let sign_p256 = |said: &[u8]| p256.sign(&random, said).unwrap().as_ref().to_vec();
    let tokens = [
        token(&of("ES256", "p256"), &claims, sign_p256),
        token(&of("ES384", "p384"), &claims, |said| p384.sign(&random, said).unwrap().as_ref().to_vec()),
        token(&of("EdDSA", "ed"), &claims, |said| ed.sign(said).as_ref().to_vec()),
        token(&of("RS256", "rsa"), &claims, |said| sign_rsa(&RSA_PKCS1_SHA256, said)),
        token(&of("PS384", "rsa"), &claims, |said| sign_rsa(&RSA_PSS_SHA384, said)),
        token(&json!({"alg": "ES256"}), &claims, sign_p256),
    ];
    let any = TokenTerms::default();
    for token in &tokens {
        assert_eq!(check(token, &keys, &any).unwrap().text("sub").as_deref(), Some("u1"), "{token}");
        let mut forged = token.clone();
        forged.replace_range(forged.len() - 8..forged.len() - 4, "AAAA");
        assert_eq!(check(&forged, &keys, &any), Err(TokenFault::WrongSignature.into()));
        let (said, signature) = token.rsplit_once('.').unwrap();
        let body = b64(json!({"sub": "root"}).to_string());
        let other = format!("{}.{body}.{signature}", said.split('.').next().unwrap());
        assert_eq!(check(&other, &keys, &any), Err(TokenFault::WrongSignature.into()));
    }
    // The configuration allows ES256 only.
    let only = TokenTerms { algorithms: vec![Algorithm::ES256], ..TokenTerms::default() };
    assert!(check(&tokens[0], &keys, &only).is_ok());
    assert_eq!(check(&tokens[3], &keys, &only), Err(TokenFault::WrongSignature.into()));
    // A key of another kind than the algorithm is never used.
    let mixed = token(&of("ES256", "rsa"), &claims, sign_p256);
    assert_eq!(check(&mixed, &keys, &any), Err(TokenFault::WrongSignature.into()));
}

#[test]
fn a_public_key_is_no_secret_and_none_is_no_algorithm() {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = pair.public_key().as_ref();
    let (x, y) = point[1..].split_at(32);
    let jwk = json!({"kty": "EC", "crv": "P-256", "x": b64(x), "y": b64(y), "kid": "k"});
    let set = json!({"keys": [jwk]}).to_string();
    let keys = KeySet::from_server(set.as_bytes()).unwrap();
    let any = TokenTerms::default();
    for secret in [point, set.as_bytes(), x, b""] {
        let forged = token(&json!({"alg": "HS256", "kid": "k"}), &good_claims(), hs256(secret));
        assert_eq!(check(&forged, &keys, &any), Err(TokenFault::WrongSignature.into()));
    }
    for alg in ["none", "None", "NONE", "", "HS999", "RSA-OAEP"] {
        for sign in [Vec::new(), b"x".to_vec()] {
            let forged = token(&json!({"alg": alg}), &good_claims(), |_| sign.clone());
            for keys in [&keys, &secret_keys()] {
                assert_eq!(check(&forged, keys, &any), Err(TokenFault::WrongSignature.into()), "{alg}");
            }
        }
    }
    // A server's shared secret would be known to everybody.
    let oct = json!({"keys": [{"kty": "oct", "k": b64(SECRET), "kid": "k"}]}).to_string();
    assert!(KeySet::from_server(oct.as_bytes()).is_err());
    let own = KeySet::from_file(oct.as_bytes()).unwrap();
    assert!(check(&token(&json!({"alg": "HS256", "kid": "k"}), &good_claims(), hs256(SECRET)), &own, &any).is_ok());
    // A header that brings its own key, or asks for an extension that is not known.
    let jwk_of_forger = json!({"alg": "ES256", "jwk": jwk, "jku": "https://evil.example", "kid": "k"});
    assert!(check(&token(&jwk_of_forger, &good_claims(), |_| vec![0; 64]), &keys, &any).is_err());
    let critical = json!({"alg": "HS256", "crit": ["x"], "x": 1});
    let asked = token(&critical, &good_claims(), hs256(SECRET));
    assert_eq!(check(&asked, &secret_keys(), &any), Err(TokenFault::Malformed.into()));
}

#[test]
fn the_first_fault_is_told() {
    let keys = secret_keys();
    let terms = TokenTerms {
        issuers: vec!["https://id.example".to_owned()],
        audiences: vec!["chat".to_owned()],
        claims: vec![("role".to_owned(), vec!["agent".to_owned(), "admin".to_owned()])],
        leeway_s: 30,
        ..TokenTerms::default()
    };
    let of = |change: &dyn Fn(&mut Value)| {
        let mut claims = good_claims();
        change(&mut claims);
        check(&token(&json!({"alg": "HS256"}), &claims, hs256(SECRET)), &keys, &terms).err()
    };
    let fault = |fault: TokenFault| Some(Unverified::Fault(fault));
    assert_eq!(of(&|_| {}), None);
    assert_eq!(of(&|claims| claims["exp"] = json!(NOW - 29)), None);
    assert_eq!(of(&|claims| claims["exp"] = json!(NOW - 30)), fault(TokenFault::Expired));
    assert_eq!(of(&|claims| claims["exp"] = json!(1.5)), fault(TokenFault::Expired));
    assert_eq!(of(&|claims| claims["exp"] = json!("soon")), fault(TokenFault::Malformed));
    assert_eq!(of(&|claims| claims["nbf"] = json!(NOW + 30)), None);
    assert_eq!(of(&|claims| claims["nbf"] = json!(NOW + 31)), fault(TokenFault::NotYet));
    assert_eq!(of(&|claims| claims["iss"] = json!("https://evil.example")), fault(TokenFault::WrongIssuer));
    assert_eq!(of(&|claims| claims["iss"] = Value::Null), fault(TokenFault::WrongIssuer));
    assert_eq!(of(&|claims| claims["aud"] = json!("mail")), fault(TokenFault::WrongAudience));
    assert_eq!(of(&|claims| claims["role"] = json!("guest")), fault(TokenFault::Forbidden));
    assert_eq!(of(&|claims| claims["role"] = json!(["guest", "admin"])), None);
    assert_eq!(of(&|claims| claims["role"] = json!({"agent": true})), fault(TokenFault::Forbidden));
    let wrong = token(&json!({"alg": "HS256"}), &good_claims(), hs256(b"another secret of many bytes...."));
    assert_eq!(check(&wrong, &keys, &terms).err(), fault(TokenFault::WrongSignature));
    for malformed in ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", "e30.e30.e30", "not a token"] {
        assert_eq!(check(malformed, &keys, &terms).err(), fault(TokenFault::Malformed), "{malformed}");
    }
    let long = "x".repeat(MAX_TOKEN + 1);
    assert_eq!(check(&long, &keys, &terms).err(), fault(TokenFault::Malformed));
}

#[test]
fn claims_are_read_as_texts() {
    let keys = secret_keys();
    let token = token(&json!({"alg": "HS256"}), &good_claims(), hs256(SECRET));
    let claims = check(&token, &keys, &TokenTerms::default()).unwrap();
    assert_eq!(claims.text("sub").as_deref(), Some("u1"));
    assert_eq!(claims.text("aud").as_deref(), Some("chat,mail"));
    assert_eq!(claims.text("realm.roles").as_deref(), Some("a,b"));
    assert_eq!((claims.text("realm"), claims.text("none"), claims.text("realm.none")), (None, None, None));
    assert_eq!(claims.expires_s(), Some(NOW + 60));
    assert!(claims.has_any("scope", &["write".to_owned()]) && !claims.has_any("scope", &["rite".to_owned()]));
}

#[test]
fn files_have_keys_in_json_or_pem() {
    let pair = rcgen::KeyPair::generate().unwrap();
    let public = pair.public_key_pem();
    assert!(KeySet::from_file(public.as_bytes()).is_ok());
    let certificate = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap().self_signed(&pair).unwrap();
    assert!(KeySet::from_file(certificate.pem().as_bytes()).unwrap().fits_any(&[Algorithm::ES256]));
    assert!(KeySet::from_file(pair.serialize_pem().as_bytes()).unwrap_err().contains("private key"));
    for (text, why) in [
        ("", "no public key"),
        ("hello", "no public key"),
        ("{", "not valid JSON"),
        ("{}", "no list `keys`"),
        ("{\"keys\": []}", "no key that can verify"),
        ("{\"keys\": [{\"kty\": \"RSA\", \"n\": \"!\", \"e\": \"AQAB\"}]}", "no key that can verify"),
    ] {
        assert!(KeySet::from_file(text.as_bytes()).unwrap_err().contains(why), "{text}");
    }
    let many = json!({"keys": vec![json!({"kty": "oct", "k": b64(SECRET)}); 65]}).to_string();
    assert!(KeySet::from_file(many.as_bytes()).unwrap_err().contains("the maximum is 64"));
}

/// The bar of the design is 120 µs for one check in a release build; here the figure is only printed.
#[test]
fn the_cost_of_a_check_is_printed() {
    let random = SystemRandom::new();
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
    let set = json!({"keys": [{"kty": "EC", "crv": "P-256", "x": b64(x), "y": b64(y), "kid": "k"}]});
    let keys = KeySet::from_server(set.to_string().as_bytes()).unwrap();
    let sign = |said: &[u8]| pair.sign(&random, said).unwrap().as_ref().to_vec();
    let token = token(&json!({"alg": "ES256", "kid": "k"}), &good_claims(), sign);
    let began = std::time::Instant::now();
    for _ in 0..200 {
        assert!(check(&token, &keys, &TokenTerms::default()).is_ok());
    }
    println!("one ES256 check: {:?}", began.elapsed() / 200);
}

proptest::proptest! {
    #[test]
    fn any_bytes_have_a_result(bytes: Vec<u8>, text in "[a-zA-Z0-9._-]{0,200}") {
        let keys = secret_keys();
        assert!(verify(&bytes, &keys, &TokenTerms::default(), NOW).is_err());
        assert!(verify(text.as_bytes(), &keys, &TokenTerms::default(), NOW).is_err());
    }
}
