//! TLS to clients: rustls with aws-lc-rs, 1.3 and 1.2 (AEAD only, rustls has no other), no 0-RTT.
//!
//! A listener's [`Terms`] say which certificate a host has and whether it asks for the client's. Most listeners have one
//! policy and one rustls configuration; with several, the ClientHello chooses. Each policy encrypts its tickets with keys
//! of its own, so that a session opened without a certificate never resumes where one is needed (CVE-2025-23419), and
//! rustls binds every ticket to the name it was given for. Terms are immutable: a reload builds new ones, which keep the
//! ticket keys of every policy that stays. Leaves out revocation lists and OCSP.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::server::{WebPkiClientVerifier, danger::ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, SignatureAlgorithm};
use tokio::net::TcpStream;

use hyper::header::HeaderValue;

use super::tls_stream::TlsStream;
use crate::config::{self, Buffers, ClientAuth};

/// How a listener ends TLS, as of one configuration.
pub struct Terms {
    /// By index, which [`Sites`] name.
    policies: Vec<Policy>,
    sites: Arc<Sites>,
    buffers: Buffers,
    /// `Strict-Transport-Security` of every answer.
    pub hsts: Option<HeaderValue>,
    /// Of each certificate its first name and the last second it is valid in, since 1970.
    expiries: Vec<(String, u64)>,
}

/// What clients of some hosts have to show.
struct Policy {
    auth: ClientAuth,
    tickets: Arc<dyn ProducesTickets>,
    config: Arc<ServerConfig>,
}

/// Which certificates a name has.
#[derive(Debug)]
struct Sites {
    /// Into `sites`; exact names, and `*.example.com` as it is written.
    names: HashMap<String, usize>,
    /// The first serves every other name, and clients that say none.
    sites: Vec<Site>,
}

#[derive(Debug)]
struct Site {
    /// Cheapest to sign with first.
    keys: Vec<Arc<CertifiedKey>>,
    policy: usize,
}

impl Terms {
    /// Builds them. `before`: those of this listener until now; clients go on resuming where the policy stays.
    ///
    /// # Errors
    /// A certificate cannot be parsed, its key does not serve, or there are no random bytes.
    pub(super) fn build(tls: &config::Tls, before: Option<&Self>) -> Result<Arc<Self>, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut auths: Vec<&ClientAuth> = Vec::new();
        for certificate in &tls.certificates {
            if !auths.contains(&&certificate.client_auth) {
                auths.push(&certificate.client_auth);
            }
        }
        let sites = Arc::new(Sites::build(tls, &auths, &provider)?);
        let policies = auths.into_iter().map(|auth| {
            let kept = before.and_then(|before| before.policies.iter().find(|policy| policy.auth == *auth));
            let tickets = kept.map_or_else(aws_lc_rs::Ticketer::new, |policy| Ok(policy.tickets.clone()))?;
            let config = server_config(tls, auth, &sites, &tickets, &provider)?;
            Ok(Policy { auth: auth.clone(), tickets, config })
        });
        let policies = policies.collect::<Result<_, rustls::Error>>()?;
        let name = |certificate: &config::Certificate| {
            let name = certificate.hosts.first().cloned();
            (name.unwrap_or_else(|| "default".to_owned()), certificate.not_after)
        };
        Ok(Arc::new(Self {
            policies,
            sites,
            buffers: tls.buffers,
            hsts: tls.hsts.as_deref().and_then(|hsts| HeaderValue::from_str(hsts).ok()),
            expiries: tls.certificates.iter().map(name).collect(),
        }))
    }

    /// A handshake; also says by which policy it was made.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<(TlsStream, usize)> {
        // Looking into the ClientHello first costs a parse more: only where there is something to choose.
        if let [only] = self.policies.as_slice() {
            return Ok((TlsStream::accept(self.buffers, stream, only.config.clone()).await?, 0));
        }
        let mut chosen = 0;
        let choose = |hello: ClientHello<'_>| {
            chosen = self.sites.find(hello.server_name().unwrap_or_default()).policy;
            let policy = self.policies.get(chosen).ok_or_else(|| io::Error::other("a site without a policy"))?;
            Ok(policy.config.clone())
        };
        let stream = TlsStream::accept_chosen(self.buffers, stream, choose).await?;
        Ok((stream, chosen))
    }

    /// Whether a request for `host` (no port) may come over a connection made by `policy`.
    pub fn is_for(&self, policy: usize, host: &str) -> bool {
        self.policies.len() == 1 || self.sites.find(host).policy == policy
    }

    /// Whether a policy asks clients for certificates.
    pub(super) fn asks(&self, policy: usize) -> bool {
        self.policies.get(policy).is_some_and(|policy| policy.auth != ClientAuth::Off)
    }

    /// Of each certificate its first name and the last second it is valid in, since 1970.
    pub(super) fn expiries(&self) -> &[(String, u64)] {
        &self.expiries
    }
}

fn server_config(
    tls: &config::Tls,
    auth: &ClientAuth,
    sites: &Arc<Sites>,
    tickets: &Arc<dyn ProducesTickets>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = match auth {
        ClientAuth::Off => builder.with_no_client_auth(),
        ClientAuth::Optional(roots) => builder.with_client_cert_verifier(verifier(roots, true, provider)?),
        ClientAuth::Required(roots) => builder.with_client_cert_verifier(verifier(roots, false, provider)?),
    };
    let mut config = builder.with_cert_resolver(sites.clone());
    config.alpn_protocols.clone_from(&tls.alpn);
    config.ticketer = tickets.clone();
    // Tickets serve all threads and need no memory; a cache beside them would be a lock that all threads share.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // One ticket is enough to resume with; rustls's default of two costs a write more a handshake.
    config.send_tls13_tickets = 1;
    // 0-RTT can be replayed; 0 is rustls's default, and stays ours should that change.
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

fn verifier(
    authorities: &[CertificateDer<'static>],
    optional: bool,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone())?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let builder = if optional { builder.allow_unauthenticated() } else { builder };
    builder.build().map_err(|error| rustls::Error::General(error.to_string()))
}

impl Sites {
    fn build(tls: &config::Tls, auths: &[&ClientAuth], provider: &CryptoProvider) -> Result<Self, rustls::Error> {
        let mut all = Self { names: HashMap::new(), sites: Vec::new() };
        // A certificate without a name is the default's, and nothing else.
        let default = tls.certificates.first().map_or(&[] as &[_], |first| first.hosts.as_slice());
        for (i, certificate) in tls.certificates.iter().enumerate() {
            let key = provider.key_provider.load_private_key(certificate.key.clone_key())?;
            let key = Arc::new(CertifiedKey::new(certificate.chain.clone(), key));
            let policy = auths.iter().position(|auth| **auth == certificate.client_auth).unwrap_or_default();
            if i == 0 || certificate.hosts == default {
                all.add(0, &key, policy);
            }
            for host in &certificate.hosts {
                // What no other name shares needs no site of its own, but one is cheap, and names are few.
                let site = *all.names.entry(host.clone()).or_insert(all.sites.len());
                all.add(site, &key, policy);
            }
        }
        Ok(all)
    }

    fn add(&mut self, site: usize, key: &Arc<CertifiedKey>, policy: usize) {
        match self.sites.get_mut(site) {
            None => self.sites.push(Site { keys: vec![key.clone()], policy }),
            Some(site) => {
                site.keys.push(key.clone());
                // An RSA signature costs twenty of ECDSA's.
                site.keys.sort_by_key(|key| key.key.algorithm() == SignatureAlgorithm::RSA);
            }
        }
    }

    /// The site of a name: exact, then `*.` for its first label, then the default. In any case, and with the root's dot.
    fn find(&self, name: &str) -> &Site {
        let lower = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let wildcard = || self.names.get(&format!("*.{}", lower.split_once('.')?.1));
        let found = self.names.get(&lower).or_else(wildcard).copied();
        self.sites.get(found.unwrap_or_default()).unwrap_or(&NO_SITE)
    }
}

/// There is always a default; this stands for it in the type's eyes.
static NO_SITE: Site = Site { keys: Vec::new(), policy: 0 };

impl ResolvesServerCert for Sites {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let keys = &self.find(hello.server_name().unwrap_or_default()).keys;
        let schemes = hello.signature_schemes();
        keys.iter().find(|key| key.key.choose_scheme(schemes).is_some()).or_else(|| keys.first()).cloned()
    }
}

#[cfg(test)]
mod tests;
