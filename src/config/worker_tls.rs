//! `tls = { … }` of an upstream: TLS to its workers, and how their certificates are verified.
//!
//! A worker's certificate is verified unless the file sets `verify = false`. Left out: the handshake; that is in
//! `upstream::tls`.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::check::Context;
use super::error::Span;
use super::file::{ConfigItem, Section};
use super::{Group, GroupPlace, files, outbound, tls};

/// TLS to the workers of an upstream. A reload applies it to new connections.
#[derive(Debug, PartialEq)]
pub struct WorkerTls {
    /// Trusted authorities: those in `ca`, else those of the system. `None`: any certificate is accepted.
    pub authorities: Option<Vec<CertificateDer<'static>>>,
    /// Name that is requested (SNI) and verified in the certificate. `None`: each worker's own host.
    pub server_name: Option<String>,
    /// Certificate for workers that ask for one: the chain, leaf first, and its key.
    pub identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

/// Reads the `tls` table of an upstream with these workers.
pub(crate) fn read(context: &Context<'_>, mut section: Section<'_>, groups: &[Group]) -> Option<Arc<WorkerTls>> {
    let at = section.span.clone();
    let ca = section.text("ca", "a path");
    let server_name = section.text("server_name", "a name such as \"app.internal\"");
    let certificate = section.text("certificate", "a path");
    let key = section.text("key", "a path");
    let verify = section.take("verify").and_then(ConfigItem::boolean).unwrap_or(true);
    section.finish();
    if let (Some(ca), false) = (&ca, verify) {
        context.report.error(&ca.span, "`ca` has no effect with verify = false: remove one of the two");
    }
    if let Some(name) = &server_name
        && ServerName::try_from(name.value.as_str()).is_err()
    {
        let message = format!("`{}` is not a valid name in a certificate", name.value);
        context.report.error_help(&name.span, message, "write a host without a port: \"app.internal\"");
    }
    if server_name.is_none() && groups.iter().any(|group| matches!(group.at, GroupPlace::Unix(_))) {
        let help = "write server_name = \"app.internal\": the name in its certificate";
        context.report.error_help(&at, "a unix socket has no host name to verify in a certificate", help);
    }
    if let (Some(one), None) | (None, Some(one)) = (&certificate, &key) {
        context.report.error(&one.span, "`certificate` and `key` must be given together, and one of them is missing");
    }
    let identity = certificate.zip(key).map(|(certificate, key)| {
        let chain = files::chain(context, &certificate).map(|(chain, _)| chain);
        let (chain, key_der) = (chain, files::private_key(context, &key));
        let (chain, key_der) = (chain?, key_der?);
        files::matched(context, &certificate, &key, &chain, &key_der).map(|_| (chain, key_der))
    });
    let authorities = match (verify, ca) {
        (false, _) => None,
        (true, Some(ca)) => Some(tls::authorities(context, &ca)?),
        (true, None) => Some(outbound::systems(context, &at)?.to_vec()),
    };
    let identity = match identity {
        Some(identity) => Some(identity?),
        None => None,
    };
    Some(Arc::new(WorkerTls { authorities, server_name: server_name.map(|name| name.value), identity }))
}

/// The authorities that this machine trusts. Unreadable ones are skipped; it is an error if none is left.
pub(crate) fn systems(context: &Context<'_>, at: &Span) -> Option<Vec<CertificateDer<'static>>> {
    let loaded = rustls_native_certs::load_native_certs();
    if loaded.certs.is_empty() {
        let why = loaded.errors.first().map_or_else(|| "there are none".to_owned(), ToString::to_string);
        let help = "install ca-certificates, or write ca = \"ca.pem\"";
        context.report.error_help(at, format!("this machine's trusted authorities cannot be read: {why}"), help);
        return None;
    }
    Some(loaded.certs)
}
