//! Reads the contents of a certificate: its names, its subject as text, its dates.
//!
//! Whether a certificate is trusted is decided by rustls, not here. This is a thin layer over `x509-cert`, with its raw
//! profile, because a certificate that rustls accepts must not fail here for a serial number of odd length.

use std::fmt::Write;

use x509_cert::certificate::{CertificateInner, Raw, Version};
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// An X.509 certificate that was parsed.
pub(crate) struct ParsedCertificate(CertificateInner<Raw>);

impl ParsedCertificate {
    /// Parses a certificate in DER; `None` if that fails.
    pub(crate) fn parse(der: &[u8]) -> Option<Self> {
        CertificateInner::from_der(der).ok().map(Self)
    }

    /// Returns the version of the certificate's format (RFC 5280 §4.1.2.1): 1, 2 or 3.
    pub(crate) fn version(&self) -> u8 {
        match self.0.tbs_certificate().version() {
            Version::V1 => 1,
            Version::V2 => 2,
            Version::V3 => 3,
        }
    }

    /// Returns the public key in DER (SubjectPublicKeyInfo, RFC 5280 §4.1.2.7).
    pub(crate) fn public_key(&self) -> Option<Vec<u8>> {
        self.0.tbs_certificate().subject_public_key_info().to_der().ok()
    }

    /// Returns the DNS names of the certificate (RFC 5280 §4.2.1.6), in lower case. The common name is not one of them:
    /// clients do not use it as a host name any more (RFC 9525 §2).
    pub(crate) fn dns_names(&self) -> Vec<String> {
        let Ok(Some((_, SubjectAltName(names)))) = self.0.tbs_certificate().get_extension::<SubjectAltName>() else {
            return Vec::new();
        };
        let dns = |name: &GeneralName| match name {
            GeneralName::DnsName(name) => Some(name.as_str().to_ascii_lowercase()),
            _ => None,
        };
        names.iter().filter_map(dns).collect()
    }

    /// Returns the subject in the notation of RFC 2253 and RFC 4514, last part first, in ASCII: other bytes are written
    /// as `\XX` (RFC 4514 §2.4), so that the result can be a field value.
    pub(crate) fn subject(&self) -> String {
        let text = self.0.tbs_certificate().subject().to_string();
        let mut ascii = String::with_capacity(text.len());
        for byte in text.bytes() {
            if byte.is_ascii_graphic() || byte == b' ' {
                ascii.push(char::from(byte));
            } else {
                // Writing to a String cannot fail.
                let _ = write!(ascii, "\\{byte:02X}");
            }
        }
        ascii
    }

    /// Returns the first second in which the certificate is valid, since 1970; dates before 1970 are 0.
    pub(crate) fn not_before(&self) -> u64 {
        self.0.tbs_certificate().validity().not_before.to_unix_duration().as_secs()
    }

    /// Returns the last second in which the certificate is valid, since 1970.
    pub(crate) fn not_after(&self) -> u64 {
        self.0.tbs_certificate().validity().not_after.to_unix_duration().as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_subject(parts: &[(rcgen::DnType, &str)]) -> ParsedCertificate {
        let mut params = rcgen::CertificateParams::new(vec!["A.example".to_owned(), "10.0.0.1".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in parts {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.not_before = rcgen::date_time_ymd(2001, 9, 9);
        params.not_after = rcgen::date_time_ymd(4000, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        ParsedCertificate::parse(params.self_signed(&key).unwrap().der()).unwrap()
    }

    #[test]
    fn subjects_are_ascii_and_cannot_inject_fields() {
        use rcgen::DnType::{CommonName, OrganizationName};
        let subject =
            with_subject(&[(OrganizationName, "Écho, Ltd."), (CommonName, "bob,O=admin\r\nX-Admin: 1")]).subject();
        assert_eq!(subject, r"CN=bob\,O\=admin\0d\0aX-Admin: 1,O=\C3\89cho\, Ltd.".replace(r"\=", "="));
    }

    #[test]
    fn names_and_dates_are_read() {
        let certificate = with_subject(&[]);
        assert_eq!(certificate.dns_names(), ["a.example"]);
        assert_eq!(certificate.not_before(), 999_993_600);
        assert_eq!(certificate.not_after(), 64_060_588_800);
        assert_eq!((certificate.subject().as_str(), certificate.version()), ("", 3));
        assert!(ParsedCertificate::parse(b"no certificate").is_none());
    }
}
