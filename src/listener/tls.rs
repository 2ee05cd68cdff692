//! TLS to clients: rustls with aws-lc-rs, versions 1.3 and 1.2 (only AEAD suites, rustls has no others), without 0-RTT.
//!
//! A listener's [`TlsTerms`] determine which certificate a host has and whether client certificates are requested. Most
//! listeners have one policy and one rustls configuration; with several, the ClientHello decides. Each policy encrypts
//! its tickets with keys of its own or, in a fleet, binds them to itself, so that a session opened without a client
//! certificate never resumes where one is required (CVE-2025-23419), and rustls binds every ticket to the server name
//! it was issued for. Terms are immutable: a reload builds new ones, which keep the ticket keys of every policy that
//! stays. Revocation lists and OCSP are not supported.

mod fleet_tickets;

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

use crate::config::{self, Buffers, ClientAuth};
use crate::fleet::tickets::TicketKeys;
use crate::net::tls_stream::TlsStream;
use fleet_tickets::FleetTicketer;

/// TLS settings of a listener, as of one configuration.
pub struct TlsTerms {
    /// Client-certificate policies; [`Sites`] refers to them by index.
    policies: Vec<Policy>,
    sites: Arc<Sites>,
    buffers: Buffers,
    /// Value of `Strict-Transport-Security` for every response, if configured.
    pub hsts: Option<HeaderValue>,
    /// First name of each certificate, and the last second in which it is valid, since 1970.
    expiries: Vec<(String, u64)>,
}

/// Client-certificate requirement of some hosts, with the rustls configuration for it.
struct Policy {
    auth: ClientAuth,
    /// Makes tickets with keys of this policy alone.
    own_tickets: Arc<dyn ProducesTickets>,
    config: Arc<ServerConfig>,
}

/// Maps host names to certificates.
#[derive(Debug)]
struct Sites {
    /// Index into `sites` by name; exact names, and wildcards as written (`*.example.com`).
    names: HashMap<String, usize>,
    /// Sites with their certificates; the first one serves all other names, and clients that send no name.
    sites: Vec<Site>,
}

#[derive(Debug)]
struct Site {
    /// Certificates of the site, those that are cheapest to sign with first.
    keys: Vec<Arc<CertifiedKey>>,
    policy: usize,
}

impl TlsTerms {
    /// Builds the TLS settings. `before` holds the previous settings of this listener: clients go on resuming sessions
    /// where the policy stays. `shared` has the keys that the fleet shares.
    ///
    /// # Errors
    /// A certificate cannot be parsed, its key cannot be used, or the system provides no random bytes.
    pub(crate) fn build(
        tls: &config::Tls,
        before: Option<&Self>,
        shared: Option<&Arc<TicketKeys>>,
    ) -> Result<Arc<Self>, rustls::Error> {
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
            let own_tickets = kept.map_or_else(aws_lc_rs::Ticketer::new, |policy| Ok(policy.own_tickets.clone()))?;
            let tickets = match shared {
                Some(keys) => Arc::new(FleetTicketer::new(keys.clone(), tls, auth, own_tickets.clone())),
                None => own_tickets.clone(),
            };
            let config = server_config(tls, auth, &sites, &tickets, &provider)?;
            Ok(Policy { auth: auth.clone(), own_tickets, config })
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

    /// Makes a handshake, of whose ClientHello `came` holds the bytes; also returns the index of the policy under which
    /// it was made.
    pub(crate) async fn accept(&self, stream: TcpStream, came: Vec<u8>) -> io::Result<(TlsStream, usize)> {
        // Reading the ClientHello first costs one more parse, so this is done only where there is a choice.
        if let [only] = self.policies.as_slice() {
            return Ok((TlsStream::accept(self.buffers, stream, came, only.config.clone()).await?, 0));
        }
        let mut chosen = 0;
        let choose = |hello: ClientHello<'_>| {
            chosen = self.sites.find(hello.server_name().unwrap_or_default()).policy;
            let policy = self.policies.get(chosen).ok_or_else(|| io::Error::other("a site without a policy"))?;
            Ok(policy.config.clone())
        };
        let stream = TlsStream::accept_chosen(self.buffers, stream, came, choose).await?;
        Ok((stream, chosen))
    }

    /// Returns whether a request for `host` (without port) may use a connection made under `policy`.
    pub fn is_for(&self, policy: usize, host: &str) -> bool {
        self.policies.len() == 1 || self.sites.find(host).policy == policy
    }

    /// Returns whether a policy requests client certificates.
    pub(crate) fn asks(&self, policy: usize) -> bool {
        self.policies.get(policy).is_some_and(|policy| policy.auth != ClientAuth::Off)
    }

    /// Returns the first name of each certificate, and the last second in which it is valid, since 1970.
    pub(crate) fn expiries(&self) -> &[(String, u64)] {
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
    // Tickets work on all threads and need no memory; a session cache in addition would have a lock shared by all
    // threads.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // One ticket is enough to resume with; rustls's default of two costs one more write per handshake.
    config.send_tls13_tickets = 1;
    // 0-RTT can be replayed. 0 is rustls's default; it is set here in case that changes.
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
        // The default site has the first certificate, and all others with the same list of names. A certificate without
        // names belongs to no other site.
        let default = tls.certificates.first().map_or(&[] as &[_], |first| first.hosts.as_slice());
        for (i, certificate) in tls.certificates.iter().enumerate() {
            let key = provider.key_provider.load_private_key(certificate.key.clone_key())?;
            let key = Arc::new(CertifiedKey::new(certificate.chain.clone(), key));
            let policy = auths.iter().position(|auth| **auth == certificate.client_auth).unwrap_or_default();
            if i == 0 || certificate.hosts == default {
                all.add(0, &key, policy);
            }
            for host in &certificate.hosts {
                // Names of one certificate could share a site, but one site per name is cheap, and names are few.
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
                // An RSA signature costs as much as twenty ECDSA signatures.
                site.keys.sort_by_key(|key| key.key.algorithm() == SignatureAlgorithm::RSA);
            }
        }
    }

    /// Finds the site of a name: exact, then with `*.` for its first label, then the default. Case and a trailing dot
    /// are ignored.
    fn find(&self, name: &str) -> &Site {
        let lower = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let wildcard = || self.names.get(&format!("*.{}", lower.split_once('.')?.1));
        let found = self.names.get(&lower).or_else(wildcard).copied();
        self.sites.get(found.unwrap_or_default()).unwrap_or(&NO_SITE)
    }
}

/// Never used, because there is always a default site; it only satisfies the type checker.
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
