//! Reads the files that a configuration names: the secret, the admin token, certificates with their keys.
//!
//! Every file is read and tried here, so that a file that is missing, incomplete or of the wrong kind is an error with
//! a place before anything is bound or swapped. How a listener's `tls` table uses them is in `tls`. Left out: whether
//! the signer of a certificate is trusted; that is for the owner of the certificate to decide.

use std::io::Read;
use std::path::Path;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, SignatureAlgorithm};

use super::check::Context;
use super::file::ConfigText;
use super::{Secret, tls};
use crate::x509;

/// Maximum size of a configuration, chain, key or secret, in bytes: a path that names a device must not fill the
/// memory.
const MAX_FILE: u64 = 1 << 20;

/// Minimum length of a secret, in bytes: 128 bits, if they are random.
pub(crate) const MIN_SECRET: usize = 16;

/// Reads a whole file of at most [`MAX_FILE`] bytes; the error is the reason why it cannot be read.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_FILE { Err("it is larger than 1 MiB".to_owned()) } else { Ok(bytes) }
}

/// Reads the admin listener's token from a file, for clients that have to send it.
pub(crate) fn token(path: &Path) -> Result<Secret, String> {
    let bytes = read(path).map_err(|reason| format!("error: cannot read {}: {reason}", path.display()))?;
    Ok(Secret(bytes.trim_ascii().to_vec()))
}

/// Reads the secret in a file, without the white space around it (editors and `openssl rand` add a newline).
pub(crate) fn secret(context: &Context<'_>, path: &ConfigText) -> Option<Secret> {
    let bytes = named(context, path)?;
    let trimmed = bytes.trim_ascii();
    if trimmed.len() < MIN_SECRET {
        let message = format!("{} has {} bytes; a secret needs at least {MIN_SECRET}", path.value, trimmed.len());
        context.report.error_help(&path.span, message, "make one with: openssl rand -hex 32");
        return None;
    }
    Some(Secret(trimmed.to_vec()))
}

/// Reads a certificate chain, checks its dates, and returns it with its leaf parsed.
pub(crate) fn chain(
    context: &Context<'_>,
    path: &ConfigText,
) -> Option<(Vec<CertificateDer<'static>>, x509::ParsedCertificate)> {
    const HELP: &str = "use a PEM file with the whole chain, leaf first";
    let chain = certificates(context, path, HELP)?;
    let mut parsed = Vec::new();
    for (i, certificate) in chain.iter().enumerate() {
        let sound = ParsedCertificate::try_from(certificate).is_ok();
        let Some(one) = x509::ParsedCertificate::parse(certificate).filter(|_| sound) else {
            let which = if i == 0 { "first certificate".to_owned() } else { format!("certificate {}", i + 1) };
            return unusable(context, path, &format!("its {which} is damaged"), HELP);
        };
        parsed.push(one);
    }
    tls::dates(context, path, &parsed, UnixTime::now().as_secs());
    let leaf = parsed.into_iter().next()?;
    Some((chain, leaf))
}

/// Reads every certificate in a PEM file; none is an error.
pub(crate) fn certificates(
    context: &Context<'_>,
    path: &ConfigText,
    help: &str,
) -> Option<Vec<CertificateDer<'static>>> {
    let bytes = named(context, path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match all {
        Ok(all) if all.is_empty() => {
            unusable(context, path, "it contains no certificate", "use a file with -----BEGIN CERTIFICATE-----")
        }
        Ok(all) => Some(all),
        Err(error) => unusable(context, path, &reason(&error), help),
    }
}

/// Words for a PEM error. pki-types itself prints the missing marker as a list of bytes.
fn reason(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "its -----END line is missing: the file is cut off".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "a -----BEGIN line is malformed".to_owned(),
        other => other.to_string(),
    }
}

/// Reads an unencrypted private key.
pub(crate) fn private_key(context: &Context<'_>, path: &ConfigText) -> Option<PrivateKeyDer<'static>> {
    let bytes = named(context, path)?;
    match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(key) => Some(key),
        Err(pem::Error::NoItemsFound) if bytes.windows(9).any(|window| window == b"ENCRYPTED") => {
            unusable(context, path, "the key is encrypted", "decrypt it: openssl pkey -in KEY -out plain.pem")
        }
        Err(pem::Error::NoItemsFound) => {
            unusable(context, path, "it contains no private key", "use a file with -----BEGIN PRIVATE KEY-----")
        }
        Err(error) => unusable(context, path, &reason(&error), "use a PEM file with one unencrypted key"),
    }
}

/// Checks that the key belongs to the chain; returns the kind of the key.
pub(crate) fn matched(
    context: &Context<'_>,
    certificate: &ConfigText,
    key: &ConfigText,
    chain: &[CertificateDer<'static>],
    key_der: &PrivateKeyDer<'static>,
) -> Option<SignatureAlgorithm> {
    const KINDS: &str = "use RSA with 2048 bits or more, ECDSA or Ed25519";
    let Ok(signer) = default_provider().key_provider.load_private_key(key_der.clone_key()) else {
        return unusable(context, key, "its kind of key is not supported", KINDS);
    };
    let kind = signer.algorithm();
    match CertifiedKey::new(chain.to_vec(), signer).keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Some(kind),
        Err(rustls::Error::InconsistentKeys(_)) => {
            let message = format!("{} is not the key of {}", key.value, certificate.value);
            let help = "the key must belong to the chain's first certificate, the server's own";
            context.report.error_help(&key.span, message, help);
            None
        }
        Err(error) => unusable(context, certificate, &error.to_string(), KINDS),
    }
}

pub(crate) fn named(context: &Context<'_>, path: &ConfigText) -> Option<Vec<u8>> {
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

/// Reports a file that was read but cannot be used.
pub(crate) fn unusable<T>(context: &Context<'_>, path: &ConfigText, reason: &str, help: &str) -> Option<T> {
    context.report.error_help(&path.span, format!("cannot use {}: {reason}", path.value), help);
    None
}
