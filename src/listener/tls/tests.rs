//! TLS settings across reloads: which sessions resume, and which must not.

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::*;

struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    root: CertificateDer<'static>,
}

impl Authority {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: rcgen::Issuer::new(params, key), root }
    }

    /// Creates TLS settings with a new certificate and a new key.
    fn tls(&self, client_auth: ClientAuth) -> config::Tls {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        let certificate = config::Certificate {
            hosts: vec!["a.example".to_owned()],
            chain: vec![params.signed_by(&key, &self.issuer).unwrap().der().clone()],
            key: rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            not_after: 0,
            client_auth,
        };
        config::Tls {
            certificates: vec![certificate],
            alpn: vec![b"http/1.1".to_vec()],
            hsts: None,
            buffers: Buffers::default(),
        }
    }

    fn client(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
    }
}

/// Makes a handshake and sends a byte each way, which also delivers the ticket of TLS 1.3; returns the certificate the
/// client sees, and whether a session was resumed.
async fn shaken(terms: &TlsTerms, client: &Arc<ClientConfig>) -> (CertificateDer<'static>, bool) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let serve = async {
        let (mut stream, _) = terms.accept(listener.accept().await.unwrap().0, Vec::new()).await.unwrap();
        assert_eq!(matches!(stream, TlsStream::Own(_)), terms.buffers == Buffers::Own);
        stream.write_all(b"x").await.unwrap();
        let resumed = stream.session().handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        let _ = stream.read(&mut [0]).await;
        resumed
    };
    let ask = async {
        let name = ServerName::try_from("a.example").unwrap();
        let mut stream = TlsConnector::from(client.clone()).connect(name, tcp).await.unwrap();
        stream.read_exact(&mut [0]).await.unwrap();
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
        stream.shutdown().await.unwrap();
        shown
    };
    let (resumed, shown) = tokio::join!(serve, ask);
    (shown, resumed)
}

#[tokio::test]
async fn a_new_certificate_is_used_at_once_and_sessions_resume() {
    let authority = Authority::new();
    let (old, mut new) = (authority.tls(ClientAuth::Off), authority.tls(ClientAuth::Off));
    // Tickets do not depend on the kind of buffers.
    new.buffers = Buffers::Own;
    let before = TlsTerms::build(&old, None, None).unwrap();
    let client = authority.client();
    assert_eq!(shaken(&before, &client).await, (old.certificates[0].chain[0].clone(), false));
    let after = TlsTerms::build(&new, Some(&before), None).unwrap();
    // No certificate is sent in a resumed session: the client remembers the one the session was opened with.
    assert_eq!(shaken(&after, &client).await, (old.certificates[0].chain[0].clone(), true));
    assert_eq!(shaken(&after, &authority.client()).await, (new.certificates[0].chain[0].clone(), false));
    // Another listener has ticket keys of its own.
    let other = TlsTerms::build(&new, None, None).unwrap();
    assert!(!shaken(&other, &client).await.1);
}

#[tokio::test]
async fn a_session_does_not_outlive_its_policy() {
    let authority = Authority::new();
    let off = TlsTerms::build(&authority.tls(ClientAuth::Off), None, None).unwrap();
    let client = authority.client();
    shaken(&off, &client).await;
    let asks = authority.tls(ClientAuth::Optional(vec![authority.root.clone()]));
    let optional = TlsTerms::build(&asks, Some(&off), None).unwrap();
    assert!(!shaken(&optional, &client).await.1);
    assert!(shaken(&optional, &client).await.1);
    // The same mode with another authority is another policy.
    let other = authority.tls(ClientAuth::Optional(vec![Authority::new().root]));
    assert!(!shaken(&TlsTerms::build(&other, Some(&optional), None).unwrap(), &client).await.1);
}

#[test]
fn names_are_found_in_any_case_and_with_a_trailing_dot() {
    let authority = Authority::new();
    let mut tls = authority.tls(ClientAuth::Off);
    for (host, auth) in
        [("*.b.example", ClientAuth::Optional(vec![authority.root.clone()])), ("x.b.example", ClientAuth::Off)]
    {
        let mut more = authority.tls(auth);
        more.certificates[0].hosts = vec![host.to_owned()];
        tls.certificates.append(&mut more.certificates);
    }
    let terms = TlsTerms::build(&tls, None, None).unwrap();
    for (host, policy) in [
        ("a.example", 0),
        ("", 0),
        (".", 0),
        ("*", 0),
        ("other.example", 0),
        ("b.example", 0),
        (".b.example", 1),
        ("y.b.example", 1),
        ("Y.B.EXAMPLE.", 1),
        ("z.y.b.example", 0),
        ("x.b.example", 0),
        ("X.b.example.", 0),
    ] {
        assert!(terms.is_for(policy, host) && !terms.is_for(1 - policy, host), "{host}");
    }
    assert!(!terms.asks(0) && terms.asks(1) && !terms.asks(2));
}
