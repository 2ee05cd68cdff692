//! Certificates made for each test, and TLS clients that show what was negotiated. No certificate in the repository
//! expires.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, RootCertStore, ServerConfig, SignatureScheme,
    StreamOwned, SupportedProtocolVersion,
};

use super::raw::{Raw, Wire, patient};

/// A folder with the files of one test, removed at its end, and the authority that signs them.
pub(crate) struct Certificates {
    /// The folder with the files.
    pub(crate) directory: PathBuf,
    authority: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Certificates {
    /// An empty folder except for `ca.pem`.
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("stickyd-certificates-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let (authority, root) = authority();
        let made = Self { directory, authority, root: root.der().clone() };
        made.write("ca.pem", &root.pem());
        made
    }

    /// Writes any other file.
    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.directory.join(name), text).unwrap();
    }

    /// Writes `NAME.pem` and `NAME.key` (ECDSA P-256) for these hosts; existing files are replaced, the key first.
    pub(crate) fn issue(&self, name: &str, hosts: &[&str]) -> CertificateDer<'static> {
        self.issue_with(name, KeyPair::generate().unwrap(), params(hosts))
    }

    /// Writes `NAME.pem` and `NAME.key` with an RSA key of 2048 bits.
    pub(crate) fn issue_rsa(&self, name: &str, hosts: &[&str]) -> CertificateDer<'static> {
        let key = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = key.as_der().unwrap();
        self.issue_with(name, KeyPair::try_from(der.as_ref()).unwrap(), params(hosts))
    }

    /// Writes `NAME.pem` and `NAME.key`, expired since 2010.
    pub(crate) fn issue_expired(&self, name: &str, hosts: &[&str]) -> CertificateDer<'static> {
        let mut params = params(hosts);
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(2010, 1, 1);
        self.issue_with(name, KeyPair::generate().unwrap(), params)
    }

    /// Writes `NAME.pem` and `NAME.key` for a client with this common name.
    pub(crate) fn issue_client(&self, name: &str, common_name: &str) -> CertificateDer<'static> {
        let mut params = params(&[]);
        params.distinguished_name.push(DnType::OrganizationName, "Example, Ltd.");
        params.distinguished_name.push(DnType::CommonName, common_name);
        self.issue_with(name, KeyPair::generate().unwrap(), params)
    }

    fn issue_with(&self, name: &str, key: KeyPair, params: CertificateParams) -> CertificateDer<'static> {
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        self.write(&format!("{name}.key"), &key.serialize_pem());
        self.write(&format!("{name}.pem"), &certificate.pem());
        certificate.der().clone()
    }

    /// A server that shows `NAME.pem` to clients that ask for one of its names; if `strict`, it requires a certificate
    /// of the authority.
    pub(crate) fn server(&self, name: &str, strict: bool) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let builder = if strict { builder.with_client_cert_verifier(verifier) } else { builder.with_no_client_auth() };
        let (chain, key) = self.identity(name);
        Arc::new(builder.with_single_cert(chain, key).unwrap())
    }

    /// The chain in `NAME.pem`, and its key.
    pub(crate) fn identity(&self, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_file_iter(self.directory.join(format!("{name}.pem"))).unwrap();
        let key = PrivateKeyDer::from_pem_file(self.directory.join(format!("{name}.key"))).unwrap();
        (chain.map(Result::unwrap).collect(), key)
    }

    /// A client that trusts the authority.
    pub(crate) fn client(&self) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        Client {
            roots: Arc::new(roots),
            versions: rustls::ALL_VERSIONS.to_vec(),
            identity: None,
            schemes: None,
            config: None,
        }
    }

    /// A client that shows `NAME.pem`.
    pub(crate) fn client_with(&self, name: &str) -> Client {
        Client { identity: Some(self.identity(name)), ..self.client() }
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn authority() -> (Issuer<'static, KeyPair>, rcgen::Certificate) {
    let mut params = params(&[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "stickyd's tests");
    let key = KeyPair::generate().unwrap();
    let root = params.self_signed(&key).unwrap();
    (Issuer::new(params, key), root)
}

fn params(hosts: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::new(hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
}

/// A TLS client; connections of one value resume its sessions.
pub(crate) struct Client {
    roots: Arc<RootCertStore>,
    versions: Vec<&'static SupportedProtocolVersion>,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    schemes: Option<Vec<SignatureScheme>>,
    config: Option<Arc<ClientConfig>>,
}

/// The result of a handshake.
pub(crate) struct Made {
    /// The connection, ready for HTTP.
    pub(crate) raw: Raw,
    /// The server's own certificate.
    pub(crate) certificate: CertificateDer<'static>,
    /// Whether a session was resumed.
    pub(crate) resumed: bool,
    /// The group of the key exchange.
    pub(crate) group: Option<rustls::NamedGroup>,
}

impl Client {
    /// Limits the client to one version.
    pub(crate) fn version(mut self, version: &'static SupportedProtocolVersion) -> Self {
        self.versions = vec![version];
        self
    }

    /// Limits the client to these signature schemes.
    pub(crate) fn schemes(mut self, schemes: &[SignatureScheme]) -> Self {
        self.schemes = Some(schemes.to_vec());
        self
    }

    fn config(&mut self) -> Arc<ClientConfig> {
        if let Some(config) = &self.config {
            return config.clone();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(self.roots.clone(), provider.clone()).build().unwrap();
        let verifier = Picky { verifier, schemes: self.schemes.clone() };
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&self.versions).unwrap();
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        let config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder.with_client_auth_cert(chain.clone(), key.clone_key()).unwrap(),
        };
        self.config.insert(Arc::new(config)).clone()
    }

    /// Makes a handshake for `host`. `Err`: it failed, or the server closed before its first answer.
    pub(crate) fn try_connect(&mut self, address: SocketAddr, host: &str) -> Result<Made, std::io::Error> {
        self.try_on(patient(TcpStream::connect(address)?), host)
    }

    /// Makes a handshake on a stream that may already have sent something.
    pub(crate) fn try_on<S>(&mut self, mut tcp: S, host: &str) -> Result<Made, std::io::Error>
    where
        S: Read + Write,
        StreamOwned<ClientConnection, S>: Wire + 'static,
    {
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let mut connection = ClientConnection::new(self.config(), name).unwrap();
        while connection.is_handshaking() {
            connection.complete_io(&mut tcp)?;
        }
        let certificate = connection.peer_certificates().unwrap()[0].clone().into_owned();
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let group = connection.negotiated_key_exchange_group().map(|group| group.name());
        let raw = Raw::on(StreamOwned::new(connection, tcp));
        Ok(Made { raw, certificate, resumed, group })
    }

    /// Makes a handshake that has to succeed.
    pub(crate) fn connect(&mut self, address: SocketAddr, host: &str) -> Made {
        self.try_connect(address, host).unwrap()
    }

    /// Whether a request over a new connection is answered: with TLS 1.3 a client learns only then whether the server
    /// accepts its certificate.
    pub(crate) fn is_served(&mut self, address: SocketAddr, host: &str) -> bool {
        let Ok(mut made) = self.try_connect(address, host) else { return false };
        let sent = made.raw.try_send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        sent.is_ok() && made.raw.head().is_some_and(|head| head.status() == 200)
    }
}

/// Verifies certificates, and limits the signature schemes.
#[derive(Debug)]
struct Picky {
    verifier: Arc<WebPkiServerVerifier>,
    schemes: Option<Vec<SignatureScheme>>,
}

impl ServerCertVerifier for Picky {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verifier.verify_server_cert(end, chain, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone().unwrap_or_else(|| self.verifier.supported_verify_schemes())
    }
}

/// Runs `openssl` with these arguments in `directory` and `input` on stdin; the output of both streams together.
pub(crate) fn openssl(directory: &Path, arguments: &str, input: &str) -> String {
    let mut child = std::process::Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(directory)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("openssl: {error}; tests/run installs it"));
    // A process may have ended before it reads, which some tests expect.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
