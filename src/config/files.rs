//! Reads what a configuration names: the secret, the admin token, certificates with their keys.
//!
//! Everything is read and tried here, so that a file that is missing, torn or of the wrong kind is an error with a place
//! before anything is bound or swapped. What a listener's `tls` table makes of them is
//! `tls`. Leaves out trust: who signed a certificate is its owner's business.

use std::io::Read;
use std::path::Path;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, SignatureAlgorithm};

use super::check::Context;
use super::file::Text;
use super::{Secret, tls};
use crate::x509;

/// Bytes of a configuration, chain, key or secret at most: a path that names a device must not fill the memory.
const MAX_FILE: u64 = 1 << 20;

/// Bytes a secret must have: 128 bits, if they are random.
pub(super) const MIN_SECRET: usize = 16;

/// A whole file of at most [`MAX_FILE`] bytes; the error says why not.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_FILE { Err("it is larger than 1 MiB".to_owned()) } else { Ok(bytes) }
}

/// The admin listener's token in a file, for whoever has to bear it.
pub fn token(path: &Path) -> Result<Secret, String> {
    let bytes = read(path).map_err(|reason| format!("error: cannot read {}: {reason}", path.display()))?;
    Ok(Secret(bytes.trim_ascii().to_vec()))
}

/// The secret in a file, without the white space around it (editors and `openssl rand` end it with a newline).
pub(super) fn secret(context: &Context<'_>, path: &Text) -> Option<Secret> {
    let bytes = named(context, path)?;
    let trimmed = bytes.trim_ascii();
    if trimmed.len() < MIN_SECRET {
        let message = format!("{} holds {} bytes, a secret needs {MIN_SECRET}", path.value, trimmed.len());
        context.report.error_help(&path.span, message, "make one: openssl rand -hex 32");
        return None;
    }
    Some(Secret(trimmed.to_vec()))
}

/// A certificate chain, with its leaf parsed. Dates are judged, too.
pub(super) fn chain(context: &Context<'_>, path: &Text) -> Option<(Vec<CertificateDer<'static>>, x509::Certificate)> {
    const HELP: &str = "a PEM file with the whole chain, leaf first";
    let chain = certificates(context, path, HELP)?;
    let mut parsed = Vec::new();
    for (i, certificate) in chain.iter().enumerate() {
        let sound = ParsedCertificate::try_from(certificate).is_ok();
        let Some(one) = x509::Certificate::parse(certificate).filter(|_| sound) else {
            let which = if i == 0 { "first certificate".to_owned() } else { format!("certificate {}", i + 1) };
            return unusable(context, path, &format!("its {which} is damaged"), HELP);
        };
        parsed.push(one);
    }
    tls::dates(context, path, &parsed, UnixTime::now().as_secs());
    let leaf = parsed.into_iter().next()?;
    Some((chain, leaf))
}

/// Every certificate in a PEM file; at least one.
pub(super) fn certificates(context: &Context<'_>, path: &Text, help: &str) -> Option<Vec<CertificateDer<'static>>> {
    let bytes = named(context, path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match all {
        Ok(all) if all.is_empty() => {
            unusable(context, path, "no certificate in it", "the file begins -----BEGIN CERTIFICATE-----")
        }
        Ok(all) => Some(all),
        Err(error) => unusable(context, path, &reason(&error), help),
    }
}

/// pki-types prints the markers it misses as lists of bytes.
fn reason(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "its -----END line is missing: the file is cut off".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "a -----BEGIN line is broken".to_owned(),
        other => other.to_string(),
    }
}

/// A private key, unencrypted.
pub(super) fn private_key(context: &Context<'_>, path: &Text) -> Option<PrivateKeyDer<'static>> {
    let bytes = named(context, path)?;
    match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(key) => Some(key),
        Err(pem::Error::NoItemsFound) if bytes.windows(9).any(|window| window == b"ENCRYPTED") => {
            unusable(context, path, "the key is encrypted", "openssl pkey -in it -out plain.pem")
        }
        Err(pem::Error::NoItemsFound) => {
            unusable(context, path, "no private key in it", "the file begins -----BEGIN PRIVATE KEY-----")
        }
        Err(error) => unusable(context, path, &reason(&error), "a PEM file with one unencrypted key"),
    }
}

/// Whether the key is the chain's, and of which kind it is.
pub(super) fn matched(
    context: &Context<'_>,
    certificate: &Text,
    key: &Text,
    chain: &[CertificateDer<'static>],
    key_der: &PrivateKeyDer<'static>,
) -> Option<SignatureAlgorithm> {
    const KINDS: &str = "RSA of 2048 bits or more, ECDSA or Ed25519";
    let Ok(signer) = default_provider().key_provider.load_private_key(key_der.clone_key()) else {
        return unusable(context, key, "no key of a kind TLS knows", KINDS);
    };
    let kind = signer.algorithm();
    match CertifiedKey::new(chain.to_vec(), signer).keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Some(kind),
        Err(rustls::Error::InconsistentKeys(_)) => {
            let message = format!("{} is not the key of {}", key.value, certificate.value);
            let help = "the chain begins with the server's own certificate";
            context.report.error_help(&key.span, message, help);
            None
        }
        Err(error) => unusable(context, certificate, &error.to_string(), KINDS),
    }
}

fn named(context: &Context<'_>, path: &Text) -> Option<Vec<u8>> {
    let full = context.base.join(&path.value);
    match context.noted.read(&full) {
        Ok(bytes) => Some(bytes),
        Err(reason) => {
            let message = format!("cannot read {}: {reason}", full.display());
            context.report.error(&path.span, message);
            None
        }
    }
}

/// Reports a file that was read but does not serve.
pub(super) fn unusable<T>(context: &Context<'_>, path: &Text, reason: &str, help: &str) -> Option<T> {
    context.report.error_help(&path.span, format!("cannot use {}: {reason}", path.value), help);
    None
}
