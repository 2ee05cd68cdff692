//! The keys that may verify tokens: a JWK set (RFC 7517), PEM files, or a shared secret.
//!
//! Each key knows its algorithms: from its own `alg`, else from its kind and curve. What cannot verify signatures, or
//! of a kind that is not supported, is skipped; a set without any usable key is an error.

use aws_lc_rs::digest;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use rustls::pki_types::pem::{self, PemObject, SectionKind};
use serde::Deserialize;
use x509_cert::der::Decode;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::spki::SubjectPublicKeyInfoRef;

use crate::x509;

/// Maximum number of keys of a set.
const MAX_KEYS: usize = 64;

const HMAC: [Algorithm; 3] = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
const RSA: [Algorithm; 6] =
    [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];

const OID_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const OID_EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const OID_P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const OID_P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const OID_ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// A key that verifies tokens.
pub(super) struct VerifyingKey {
    pub(super) id: Option<String>,
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) key: DecodingKey,
}

/// The keys of one issuer. Two sets are equal if they were read from the same bytes.
pub struct KeySet {
    pub(super) keys: Vec<VerifyingKey>,
    print: Vec<u8>,
}

impl PartialEq for KeySet {
    fn eq(&self, other: &Self) -> bool {
        self.print == other.print
    }
}

impl Eq for KeySet {}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeySet({} keys)", self.keys.len())
    }
}

impl KeySet {
    fn new(keys: Vec<VerifyingKey>, bytes: &[u8]) -> Self {
        Self { keys, print: digest::digest(&digest::SHA256, bytes).as_ref().to_vec() }
    }

    /// A shared secret, for HS256, HS384 and HS512.
    ///
    /// # Errors
    /// The secret is empty.
    pub fn from_secret(secret: &[u8]) -> Result<Self, String> {
        let key = DecodingKey::from_secret(secret).map_err(|_| "the secret is empty".to_owned())?;
        Ok(Self::new(vec![VerifyingKey { id: None, algorithms: HMAC.to_vec(), key }], secret))
    }

    /// Reads a file: a JWK set, one JWK, or PEM text with public keys or certificates.
    ///
    /// # Errors
    /// Words for why the file cannot be used.
    pub fn from_file(bytes: &[u8]) -> Result<Self, String> {
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
        if text.starts_with(b"{") { Self::from_jwks(text, true) } else { Self::from_pem(text) }
    }

    /// Reads the JWK set of a server. Shared secrets in it are not used, because everybody can read them.
    ///
    /// # Errors
    /// Words for why the answer cannot be used.
    pub fn from_server(bytes: &[u8]) -> Result<Self, String> {
        Self::from_jwks(bytes, false)
    }

    fn from_jwks(bytes: &[u8], secrets: bool) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let value: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|error| format!("it is not valid JSON: {error}"))?;
        let all = match Set::deserialize(&value) {
            Ok(set) => set.keys,
            Err(_) if value.get("kty").is_some() => vec![value],
            Err(_) => return Err("it is not a JWK set: it has no list `keys`".to_owned()),
        };
        if all.len() > MAX_KEYS {
            return Err(format!("it has {} keys; the maximum is {MAX_KEYS}", all.len()));
        }
        // A set may contain keys of kinds that are not known here (RFC 7517 §5).
        let keys: Vec<_> = all.into_iter().filter_map(|one| jwk(one, secrets)).collect();
        if keys.is_empty() {
            return Err("it has no key that can verify a signature (RSA, EC P-256 or P-384, Ed25519)".to_owned());
        }
        Ok(Self::new(keys, bytes))
    }

    fn from_pem(bytes: &[u8]) -> Result<Self, String> {
        let mut keys = Vec::new();
        let mut private = false;
        for item in <(SectionKind, Vec<u8>) as PemObject>::pem_slice_iter(bytes) {
            let (kind, der) = item.map_err(|error| match error {
                pem::Error::NoItemsFound => "it is neither JSON nor PEM".to_owned(),
                other => other.to_string(),
            })?;
            let found = match kind {
                SectionKind::PublicKey => public_key(&der),
                SectionKind::Certificate => {
                    x509::ParsedCertificate::parse(&der).and_then(|one| public_key(&one.public_key()?))
                }
                SectionKind::RsaPrivateKey | SectionKind::PrivateKey | SectionKind::EcPrivateKey => {
                    private = true;
                    None
                }
                _ => None,
            };
            keys.extend(found);
        }
        if private {
            return Err("it contains a private key, which stickyd must not have: use the public key".to_owned());
        }
        if keys.is_empty() {
            let why = "it has no public key that can verify a signature (RSA, EC P-256 or P-384, Ed25519)";
            return Err(why.to_owned());
        }
        if keys.len() > MAX_KEYS {
            return Err(format!("it has {} keys; the maximum is {MAX_KEYS}", keys.len()));
        }
        Ok(Self::new(keys, bytes))
    }

    /// Whether any key verifies one of these algorithms.
    pub fn fits_any(&self, algorithms: &[Algorithm]) -> bool {
        self.keys.iter().any(|key| key.algorithms.iter().any(|one| algorithms.contains(one)))
    }
}

/// Reads one JWK; `None` if it cannot verify signatures.
fn jwk(value: serde_json::Value, secrets: bool) -> Option<VerifyingKey> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    if jwk.common.public_key_use.as_ref().is_some_and(|what| *what != PublicKeyUse::Signature) {
        return None;
    }
    let of_kind: &[Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => &RSA,
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => &[Algorithm::ES256],
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P384 => &[Algorithm::ES384],
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => &[Algorithm::EdDSA],
        AlgorithmParameters::OctetKey(_) if secrets => &HMAC,
        _ => return None,
    };
    let algorithms = match jwk.common.key_algorithm {
        Some(own) => {
            let own = Algorithm::try_from(own).ok()?;
            of_kind.contains(&own).then(|| vec![own])?
        }
        None => of_kind.to_vec(),
    };
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    Some(VerifyingKey { id: jwk.common.key_id, algorithms, key })
}

/// Reads a SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).
fn public_key(der: &[u8]) -> Option<VerifyingKey> {
    let info = SubjectPublicKeyInfoRef::from_der(der).ok()?;
    let bits = info.subject_public_key.raw_bytes();
    let oid = info.algorithm.oid;
    let curve = || info.algorithm.parameters_oid().ok();
    let (algorithms, key) = if oid == OID_RSA {
        (RSA.to_vec(), DecodingKey::from_rsa_der(bits))
    } else if oid == OID_EC && curve() == Some(OID_P256) {
        (vec![Algorithm::ES256], DecodingKey::from_ec_der(bits))
    } else if oid == OID_EC && curve() == Some(OID_P384) {
        (vec![Algorithm::ES384], DecodingKey::from_ec_der(bits))
    } else if oid == OID_ED25519 {
        (vec![Algorithm::EdDSA], DecodingKey::from_ed_der(bits))
    } else {
        return None;
    };
    Some(VerifyingKey { id: None, algorithms, key })
}
