//! A client's certificate as it is reported to workers: field values, made once per connection.
//!
//! rustls has checked the signatures in the full handshake. The names of the fields are not here: `proxy::headers` sets
//! them, and removes fields of the same names that a client sent.

use std::fmt::Write;

use aws_lc_rs::digest::{SHA256, digest};
use hyper::header::HeaderValue;
use rustls::pki_types::CertificateDer;

use crate::sockets::labels::CertificateTexts;
use crate::x509::ParsedCertificate;

/// State of the client's certificate on a connection where one was requested.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    /// The client sent no certificate, and is not required to.
    None,
    /// The client sent a valid certificate.
    Valid {
        /// Subject of the certificate, in the notation of RFC 2253.
        subject: HeaderValue,
        /// SHA-256 fingerprint of the certificate, as 64 hexadecimal digits.
        fingerprint: HeaderValue,
    },
}

impl ClientCertificate {
    /// Reads the certificate chain a session was opened with, at `now` (seconds since 1970).
    ///
    /// # Errors
    /// The certificate cannot be read, or has expired since the session was opened: a full handshake checks the dates,
    /// but a session may be resumed for hours after it.
    pub(crate) fn of(chain: Option<&[CertificateDer<'_>]>, now: u64) -> Result<Self, &'static str> {
        let Some(leaf) = chain.and_then(<[_]>::first) else { return Ok(Self::None) };
        let certificate = ParsedCertificate::parse(leaf).ok_or("the client's certificate cannot be read")?;
        if now > certificate.not_after() {
            return Err("the client's certificate has expired since its session began");
        }
        let mut fingerprint = String::with_capacity(64);
        for byte in digest(&SHA256, leaf).as_ref() {
            // Writing to a String cannot fail.
            let _ = write!(fingerprint, "{byte:02x}");
        }
        let value =
            |text: String| HeaderValue::try_from(text).map_err(|_| "the certificate is not a valid field value");
        Ok(Self::Valid { subject: value(certificate.subject())?, fingerprint: value(fingerprint)? })
    }

    /// What it says, for the labels of sockets.
    pub(crate) fn texts(&self) -> Option<CertificateTexts<'_>> {
        let Self::Valid { subject, fingerprint } = self else { return None };
        // Both are ASCII.
        Some(CertificateTexts { subject: subject.to_str().ok()?, fingerprint: fingerprint.to_str().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_cannot_be_resumed_with_an_expired_certificate() {
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
