//! What a worker is told of a client's certificate: field values, made once a connection.
//!
//! Who signed it was checked by rustls in the full handshake. Leaves out the names of the fields: `proxy::headers` sets
//! them, and removes what a client says in their place.

use std::fmt::Write;

use aws_lc_rs::digest::{SHA256, digest};
use hyper::header::HeaderValue;
use rustls::pki_types::CertificateDer;

use crate::x509::Certificate;

/// A client on a connection that was asked for a certificate.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    /// It has shown none, and need not.
    None,
    /// It has a valid one.
    Valid {
        /// Its subject, as RFC 2253 writes it.
        subject: HeaderValue,
        /// SHA-256 of the certificate, 64 hexadecimal digits.
        fingerprint: HeaderValue,
    },
}

impl ClientCertificate {
    /// Of the chain a session was opened with, at `now` (seconds since 1970).
    ///
    /// # Errors
    /// It has expired since: a full handshake checks the dates, but a session may be resumed for hours after it.
    pub(super) fn of(chain: Option<&[CertificateDer<'_>]>, now: u64) -> Result<Self, &'static str> {
        let Some(leaf) = chain.and_then(<[_]>::first) else { return Ok(Self::None) };
        let certificate = Certificate::parse(leaf).ok_or("the client's certificate cannot be read")?;
        if now > certificate.not_after() {
            return Err("the client's certificate has expired since its session began");
        }
        let mut fingerprint = String::with_capacity(64);
        for byte in digest(&SHA256, leaf).as_ref() {
            // Writing to a String does not fail.
            let _ = write!(fingerprint, "{byte:02x}");
        }
        let value =
            |text: String| HeaderValue::try_from(text).map_err(|_| "the client's certificate is no field value");
        Ok(Self::Valid { subject: value(certificate.subject())?, fingerprint: value(fingerprint)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_with_its_certificate() {
        let mut params = rcgen::CertificateParams::default();
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let made = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let chain = [made.der().clone()];
        let until = 1_893_456_000;
        let Ok(ClientCertificate::Valid { fingerprint, .. }) = ClientCertificate::of(Some(&chain), until) else {
            panic!()
        };
        assert_eq!(fingerprint.len(), 64);
        assert!(ClientCertificate::of(Some(&chain), until + 1).is_err());
        assert_eq!(ClientCertificate::of(None, until), Ok(ClientCertificate::None));
        assert_eq!(ClientCertificate::of(Some(&[]), until), Ok(ClientCertificate::None));
        assert!(ClientCertificate::of(Some(&[b"no certificate".as_slice().into()]), until).is_err());
    }
}
