//! Reads what a configuration names: the secret, the admin token, certificates with their keys.
//!
//! Everything is read and tried here, so that a file that is missing, torn or of the wrong kind is an error with a place
//! before anything is bound or swapped. Leaves out trust: a certificate's names and issuers are its owner's business.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, InconsistentKeys, RootCertStore};

use super::check::Context;
use super::file::{Section, Text};
use super::{Secret, Tls};

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

/// `tls = { certificate, key }`, the two matched to each other.
pub(super) fn tls(context: &Context<'_>, mut section: Section<'_>) -> Option<Tls> {
    let certificate = section.required("certificate", "a path", "\"fullchain.pem\"");
    let key = section.required("key", "a path", "\"privkey.pem\"");
    section.finish();
    let chain = certificate.as_ref().and_then(|path| chain(context, path));
    let key_der = key.as_ref().and_then(|path| private_key(context, path));
    let (certificate, key) = (certificate?, key?);
    let tls = Tls { chain: chain?, key: key_der? };
    matched(context, &certificate, &key, &tls).then_some(tls)
}

fn chain(context: &Context<'_>, path: &Text) -> Option<Vec<CertificateDer<'static>>> {
    const HELP: &str = "a PEM file with the whole chain, leaf first";
    let bytes = named(context, path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let chain = match all {
        Ok(chain) => chain,
        Err(error) => return unusable(context, path, &reason(&error), HELP),
    };
    let Some(leaf) = chain.first() else {
        return unusable(context, path, "no certificate in it", "the file begins -----BEGIN CERTIFICATE-----");
    };
    match ParsedCertificate::try_from(leaf) {
        Ok(leaf) => validity(context, path, &leaf),
        Err(_) => return unusable(context, path, "its first certificate is damaged", HELP),
    }
    Some(chain)
}

/// pki-types prints the markers it misses as lists of bytes.
fn reason(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "its -----END line is missing: the file is cut off".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "a -----BEGIN line is broken".to_owned(),
        other => other.to_string(),
    }
}

fn private_key(context: &Context<'_>, path: &Text) -> Option<PrivateKeyDer<'static>> {
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

/// Warns outside the leaf's lifetime. Not an error: a restart at night must not turn a browser's warning into a dead
/// port, nor an old certificate keep a reload from draining a worker.
fn validity(context: &Context<'_>, path: &Text, leaf: &ParsedCertificate<'_>) {
    let algorithms = default_provider().signature_verification_algorithms.all;
    // rustls looks at the dates before it looks for an issuer, so no roots are needed to be told of them.
    let roots = RootCertStore::empty();
    let verdict = verify_server_cert_signed_by_trust_anchor(leaf, &roots, &[], UnixTime::now(), algorithms);
    let date = |time: UnixTime| humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + bounded(time));
    let said = match verdict {
        Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            format!("the certificate {} expired at {}", path.value, date(not_after))
        }
        Err(rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) => {
            format!("the certificate {} is not valid before {}", path.value, date(not_before))
        }
        _ => return,
    };
    context.report.warn(&path.span, said, "clients will refuse it; renew it, then reload");
}

/// A time `format_rfc3339` can print (it panics past the year 9999, a date that X.509 can hold).
fn bounded(time: UnixTime) -> Duration {
    Duration::from_secs(time.as_secs().min(253_402_300_799))
}

fn matched(context: &Context<'_>, certificate: &Text, key: &Text, tls: &Tls) -> bool {
    let loaded = default_provider().key_provider.load_private_key(tls.key.clone_key());
    let Ok(signer) = loaded else {
        unusable::<()>(context, key, "no key of a kind TLS knows", "RSA of 2048 bits or more, ECDSA or Ed25519");
        return false;
    };
    match CertifiedKey::new(tls.chain.clone(), signer).keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => true,
        Err(rustls::Error::InconsistentKeys(_)) => {
            let message = format!("{} is not the key of {}", key.value, certificate.value);
            let help = "the chain begins with the server's own certificate";
            context.report.error_help(&key.span, message, help);
            false
        }
        Err(error) => {
            unusable::<()>(context, certificate, &error.to_string(), "RSA of 2048 bits or more, ECDSA or Ed25519");
            false
        }
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

fn unusable<T>(context: &Context<'_>, path: &Text, reason: &str, help: &str) -> Option<T> {
    context.report.error_help(&path.span, format!("cannot use {}: {reason}", path.value), help);
    None
}
