//! TLS to workers: how one worker is spoken to, and what must be in its certificate.
//!
//! A [`Link`] belongs to one worker, with a memory of sessions of its own: workers are processes, and one's tickets mean
//! nothing to the others. A reload replaces it when something in it changed; connections made with the old one live on.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::io;
use tokio_rustls::TlsConnector;

use super::io::WorkerIo;
use crate::config::{self, Address};
use crate::telemetry::Rarely;

/// Sessions a worker's link remembers: one a connection that is opened while others are in use.
const SESSIONS: usize = 64;

/// Between two log lines on one worker whose handshakes fail.
const SAY_MS: u64 = 10_000;

/// How one worker is spoken to.
pub enum Link {
    /// In the clear.
    Plain,
    /// By TLS.
    Tls(Tls),
    /// By TLS, which could not be set up: never in the clear instead.
    Broken,
}

/// What a handshake with one worker needs.
pub struct Tls {
    /// As configured; what makes two the same.
    settings: Arc<config::WorkerTls>,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
    said: Rarely,
}

/// What the links of an upstream are made from.
pub struct Links {
    settings: Arc<config::WorkerTls>,
    config: ClientConfig,
}

/// Of an upstream; `None`: its workers are spoken to in the clear. What fails here was tried by the configuration's check.
pub fn links(upstream: &config::Upstream) -> Option<Result<Links, rustls::Error>> {
    let links = upstream.tls.as_ref().map(Links::build);
    if let Some(Err(error)) = &links {
        tracing::error!(upstream = %upstream.name, %error, "TLS to workers cannot be set up");
    }
    links
}

/// To one of its workers.
pub fn link(links: Option<&Result<Links, rustls::Error>>, worker: &config::Worker) -> Link {
    match links {
        None => Link::Plain,
        Some(Ok(links)) => links.to(worker).map_or(Link::Broken, Link::Tls),
        Some(Err(_)) => Link::Broken,
    }
}

impl Links {
    /// For the workers of an upstream.
    ///
    /// # Errors
    /// rustls takes none of the authorities, or not our certificate; the configuration's check has tried both.
    fn build(settings: &Arc<config::WorkerTls>) -> Result<Self, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let verifier: Arc<dyn ServerCertVerifier> = match &settings.authorities {
            None => Arc::new(Anybody(provider)),
            Some(authorities) => {
                let mut roots = RootCertStore::empty();
                // A system's list may hold what rustls cannot use; of our own each was tried.
                roots.add_parsable_certificates(authorities.iter().cloned());
                let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
                verifier.map_err(|error| rustls::Error::General(error.to_string()))?
            }
        };
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match &settings.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder.with_client_auth_cert(chain.clone(), key.clone_key())?,
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { settings: settings.clone(), config })
    }

    /// The link to one of them; `None`: there is no name to look for in its certificate (the configuration's check has
    /// refused that).
    fn to(&self, worker: &config::Worker) -> Option<Tls> {
        let named = self.settings.server_name.as_ref().or(worker.host.as_ref());
        let name = match (named, &worker.address) {
            (Some(name), _) => ServerName::try_from(name.clone()).ok()?,
            (None, Address::Tcp(address)) => ServerName::from(address.ip()),
            (None, Address::Unix(_)) => return None,
        };
        let mut config = self.config.clone();
        config.resumption = rustls::client::Resumption::in_memory_sessions(SESSIONS);
        Some(Tls { settings: self.settings.clone(), name, config: Arc::new(config), said: Rarely::new() })
    }
}

impl Link {
    /// Whether it does the same as `other`.
    pub fn is_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Plain, Self::Plain) | (Self::Broken, Self::Broken) => true,
            (Self::Tls(a), Self::Tls(b)) => a.name == b.name && a.settings == b.settings,
            (Self::Plain | Self::Tls(_) | Self::Broken, _) => false,
        }
    }

    /// Makes a fresh socket fit to be spoken over; `worker` is its name, for the log.
    ///
    /// # Errors
    /// The handshake's.
    pub async fn secure(&self, io: WorkerIo, worker: &str) -> io::Result<WorkerIo> {
        match self {
            Self::Plain => Ok(io),
            // Boxed: a handshake is large, and most workers have none.
            Self::Tls(tls) => Box::pin(tls.shake(io, worker)).await,
            Self::Broken => Err(io::Error::other("TLS to workers is not set up")),
        }
    }
}

impl Tls {
    async fn shake(&self, io: WorkerIo, worker: &str) -> io::Result<WorkerIo> {
        match TlsConnector::from(self.config.clone()).connect(self.name.clone(), io).await {
            Ok(stream) => Ok(WorkerIo::Tls(Box::new(stream))),
            Err(error) => {
                if self.said.may(SAY_MS) {
                    let name = self.name.to_str();
                    tracing::warn!(worker, %name, %error, "TLS to this worker fails");
                }
                // Another kind would be taken for the connect's: refused, or a full backlog.
                Err(io::Error::other(error))
            }
        }
    }
}

/// `verify = false`: whoever holds the key of the certificate he shows will do.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
