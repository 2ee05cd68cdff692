//! TLS to workers: how a worker is connected, and which name its certificate must have.
//!
//! A [`Link`] belongs to one worker and has its own session cache, because workers are separate processes and cannot
//! use each other's session tickets. A reload replaces the link if its settings changed; connections made with the old
//! one stay open.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::io;
use tokio_rustls::TlsConnector;

use crate::config::{self, Address};
use crate::net::worker_io::WorkerIo;
use crate::telemetry::Rarely;

/// Number of TLS sessions a link remembers: one for each connection that is opened while others are in use.
const SESSIONS: usize = 64;

/// Minimum time in milliseconds between two log lines about failed handshakes with one worker.
const SAY_MS: u64 = 10_000;

/// How connections to one worker are secured.
pub enum Link {
    /// Connections use no TLS.
    Plain,
    /// Connections use TLS with these settings.
    Tls(WorkerHandshake),
    /// TLS is configured but could not be set up; plain text is never used instead.
    Broken,
}

/// What a TLS handshake with one worker needs.
pub struct WorkerHandshake {
    /// The configured settings, by which two links are compared.
    settings: Arc<config::WorkerTls>,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
    said: Rarely,
}

/// The settings that the links to all workers of an upstream are made from.
pub(crate) struct Links {
    settings: Arc<config::WorkerTls>,
    config: ClientConfig,
}

/// Prepares the links of an upstream; `None` if it uses no TLS to its workers. An error here was normally found when
/// the configuration was checked.
pub(crate) fn links(upstream: &config::Upstream) -> Option<Result<Links, rustls::Error>> {
    let links = upstream.tls.as_ref().map(Links::build);
    if let Some(Err(error)) = &links {
        tracing::error!(upstream = %upstream.name, %error, "TLS to workers cannot be set up");
    }
    links
}

/// Creates the link to one worker of an upstream.
pub(crate) fn link(links: Option<&Result<Links, rustls::Error>>, worker: &config::Worker) -> Link {
    match links {
        None => Link::Plain,
        Some(Ok(links)) => links.to(worker).map_or(Link::Broken, Link::Tls),
        Some(Err(_)) => Link::Broken,
    }
}

impl Links {
    /// Prepares the TLS settings for the workers of an upstream.
    ///
    /// # Errors
    /// Fails if rustls accepts none of the certificate authorities, or not the client certificate. The check of the
    /// configuration has tried both.
    fn build(settings: &Arc<config::WorkerTls>) -> Result<Self, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let verifier: Arc<dyn ServerCertVerifier> = match &settings.authorities {
            None => Arc::new(Anybody(provider)),
            Some(authorities) => {
                let mut roots = RootCertStore::empty();
                // The list of the system may contain certificates that rustls cannot use; those of a configured file
                // were checked one by one.
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

    /// Creates the link to one worker; `None` if there is no name to look for in its certificate, which the check of
    /// the configuration rejects.
    fn to(&self, worker: &config::Worker) -> Option<WorkerHandshake> {
        let named = self.settings.server_name.as_ref().or(worker.host.as_ref());
        let name = match (named, &worker.address) {
            (Some(name), _) => ServerName::try_from(name.clone()).ok()?,
            (None, Address::Tcp(address)) => ServerName::from(address.ip()),
            (None, Address::Unix(_)) => return None,
        };
        let mut config = self.config.clone();
        config.resumption = rustls::client::Resumption::in_memory_sessions(SESSIONS);
        Some(WorkerHandshake { settings: self.settings.clone(), name, config: Arc::new(config), said: Rarely::new() })
    }
}

impl Link {
    /// Whether this link has the same effect as `other`.
    pub fn is_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Plain, Self::Plain) | (Self::Broken, Self::Broken) => true,
            (Self::Tls(a), Self::Tls(b)) => a.name == b.name && a.settings == b.settings,
            (Self::Plain | Self::Tls(_) | Self::Broken, _) => false,
        }
    }

    /// Makes a new socket ready for use, with a TLS handshake if configured. `worker` is the worker's name in the log.
    ///
    /// # Errors
    /// Fails with the error of the TLS handshake.
    pub async fn secure(&self, io: WorkerIo, worker: &str) -> io::Result<WorkerIo> {
        match self {
            Self::Plain => Ok(io),
            // Boxed, because a handshake is large and most workers have none.
            Self::Tls(tls) => Box::pin(tls.shake(io, worker)).await,
            Self::Broken => Err(io::Error::other("TLS to the worker could not be set up")),
        }
    }
}

impl WorkerHandshake {
    async fn shake(&self, io: WorkerIo, worker: &str) -> io::Result<WorkerIo> {
        match TlsConnector::from(self.config.clone()).connect(self.name.clone(), io).await {
            Ok(stream) => Ok(WorkerIo::Tls(Box::new(stream))),
            Err(error) => {
                if self.said.try_pass(SAY_MS) {
                    let name = self.name.to_str();
                    tracing::warn!(worker, %name, %error, "TLS handshake with worker failed");
                }
                // Another error kind would be mistaken for one of the connect: refused, or a full backlog.
                Err(io::Error::other(error))
            }
        }
    }
}

/// Accepts any certificate, also one that rustls cannot read, such as one of version 1 (`verify = false`). That the
/// worker holds its key is not checked either: who can stand in the way could show a certificate of their own.
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
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
