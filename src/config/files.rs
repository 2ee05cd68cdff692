//! Reads the files that a configuration names: the secret, the admin token, certificates with their keys.
//!
//! Every file is read and tried here, so that a file that is missing, incomplete or of the wrong kind is an error with
//! a place before anything is bound or swapped. How a listener's `tls` table uses them is in `tls`. Left out: whether
//! the signer of a certificate is trusted; that is for the owner of the certificate to decide.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, SignatureAlgorithm};

use super::check::Context;
use super::error::Span;
use super::file::ConfigText;
use super::{Secret, tls, variables};
use crate::x509;

/// Maximum size of a configuration, chain, key or secret, in bytes: a path that names a device must not fill the
/// memory.
const MAX_FILE: u64 = 1 << 20;

/// Help for certificates of version 1, which `openssl x509 -req` makes if it is given no extensions.
const VERSION_3: &str = "TLS needs version 3: make the certificate again, with -addext subjectAltName=DNS:example.com";

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
    Ok(Secret(without_mark(&bytes).trim_ascii().to_vec()))
}

/// Reads the secret in a file, without the white space around it (editors and `openssl rand` add a newline).
pub(crate) fn secret(context: &Context<'_>, path: &ConfigText) -> Option<Secret> {
    let bytes = named(context, path)?;
    let trimmed = without_mark(&bytes).trim_ascii();
    if str::from_utf8(trimmed).is_ok_and(variables::is_reference) {
        return unusable(context, path, variables::IN_FILE, variables::WRITE_VALUE);
    }
    if trimmed.len() < MIN_SECRET {
        let message = format!("{} has {} bytes; a secret needs at least {MIN_SECRET}", path.value, trimmed.len());
        context.report.error_help(&path.span, message, "make one with: openssl rand -hex 32");
        return None;
    }
    warn_if_public(context, &path.span, &context.base.join(&path.value));
    Some(Secret(trimmed.to_vec()))
}

/// Reads a secret that is text, such as an address or a password, without the white space around it. It has at least
/// `least` characters.
pub(crate) fn secret_text(context: &Context<'_>, path: &ConfigText, least: usize) -> Option<String> {
    let bytes = named(context, path)?;
    warn_if_public(context, &path.span, &context.base.join(&path.value));
    let Ok(text) = str::from_utf8(without_mark(&bytes)) else {
        return unusable(context, path, "it is not UTF-8 text", "write the secret alone, on one line");
    };
    let text = text.trim();
    if variables::is_reference(text) {
        return unusable(context, path, variables::IN_FILE, variables::WRITE_VALUE);
    }
    if text.chars().count() < least || text.contains(['\n', '\r', '\0']) {
        return unusable(context, path, "it is empty or has several lines", "write the secret alone, on one line");
    }
    Some(text.to_owned())
}

/// The UTF-8 byte order mark, with which some editors begin a file.
const MARK: &[u8] = b"\xef\xbb\xbf";

fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(MARK).unwrap_or(bytes)
}

/// Returns PEM text without byte order marks: each of several files that were put into one may have its own.
fn without_marks(mut bytes: Vec<u8>) -> Vec<u8> {
    while let Some(at) = bytes.windows(MARK.len()).position(|window| window == MARK) {
        bytes.drain(at..at + MARK.len());
    }
    bytes
}

/// Warns of a file with a secret that every user of this machine can read.
pub(crate) fn warn_if_public(context: &Context<'_>, at: &Span, file: &Path) {
    if is_public(file).unwrap_or(false) {
        let message = format!("every user of this machine can read {}", file.display());
        context.report.warn(at, message, format!("chmod o-rwx {}", file.display()));
    }
}

/// Whether every user may read the file and enter all folders on the way to it. Secrets that a container runtime mounts
/// (`/run/secrets`) are readable by all users of the container, of which there is one.
fn is_public(file: &Path) -> std::io::Result<bool> {
    let real = file.canonicalize()?;
    if real.starts_with("/run/secrets") || real.starts_with("/var/run/secrets") {
        return Ok(false);
    }
    let mut public = std::fs::metadata(&real)?.mode() & 0o004 != 0;
    for folder in real.ancestors().skip(1) {
        public &= std::fs::metadata(folder)?.mode() & 0o001 != 0;
    }
    Ok(public)
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
        let which = if i == 0 { "first certificate".to_owned() } else { format!("certificate {}", i + 1) };
        let sound = ParsedCertificate::try_from(certificate).is_ok();
        match x509::ParsedCertificate::parse(certificate) {
            Some(one) if sound => parsed.push(one),
            // RFC 5280 §4.1.2.1: only version 3 has the names and uses that TLS clients look for.
            Some(one) if one.version() < 3 => {
                return unusable(context, path, &format!("its {which} has X.509 version {}", one.version()), VERSION_3);
            }
            Some(_) | None => return unusable(context, path, &format!("its {which} is damaged"), HELP),
        }
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
    let bytes = pem_text(context, path)?;
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
    let bytes = pem_text(context, path)?;
    warn_if_public(context, &path.span, &context.base.join(&path.value));
    match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(key) => Some(key),
        // PKCS#8 says so in its -----BEGIN line (RFC 7468 §11), PKCS#1 and SEC1 in a line `Proc-Type: 4,ENCRYPTED`
        // below it (RFC 1421 §4.6.1.1).
        Err(_) if bytes.windows(9).any(|window| window == b"ENCRYPTED") => {
            unusable(context, path, "the key is encrypted", "decrypt it: openssl pkey -in KEY -out plain.pem")
        }
        Err(pem::Error::NoItemsFound) => {
            unusable(context, path, "it contains no private key", "use a file with -----BEGIN PRIVATE KEY-----")
        }
        Err(error) => unusable(context, path, &reason(&error), "use a PEM file with one unencrypted key"),
    }
}

/// Reads a file that should be PEM text.
fn pem_text(context: &Context<'_>, path: &ConfigText) -> Option<Vec<u8>> {
    let bytes = named(context, path)?;
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return unusable(context, path, "it is UTF-16 text", "save it as ASCII or UTF-8");
    }
    Some(without_marks(bytes))
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
            match permission_help(&full) {
                Some(help) => context.report.error_help(&path.span, message, help),
                None => context.report.error(&path.span, message),
            }
            None
        }
    }
}

/// Returns what helps if a file cannot be read for lack of permission.
pub(crate) fn permission_help(path: &Path) -> Option<String> {
    let denied = std::fs::File::open(path).is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied);
    denied.then(may_not_read)
}

fn may_not_read() -> String {
    let user = rustix::process::geteuid().as_raw();
    format!("it is read as user {user}: let that user or its group read it, or use LoadCredential= of the systemd unit")
}

/// Reports a file that was read but cannot be used.
pub(crate) fn unusable<T>(context: &Context<'_>, path: &ConfigText, reason: &str, help: &str) -> Option<T> {
    context.report.error_help(&path.span, format!("cannot use {}: {reason}", path.value), help);
    None
}
