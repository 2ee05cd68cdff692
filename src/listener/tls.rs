//! TLS to clients: rustls with aws-lc-rs, 1.3 and 1.2 (AEAD only, rustls has no other), HTTP/2 or 1.1 by ALPN.
//!
//! One certificate a listener for now; choosing by SNI and client certificates are not here yet.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;

use crate::config;

/// The rustls configuration of a listener.
///
/// # Errors
/// The certificate cannot be parsed or its key does not serve.
pub(super) fn server_config(tls: &config::Tls, http2: bool) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(tls.chain.clone(), tls.key.clone_key())?;
    config.alpn_protocols =
        [&b"h2"[..], b"http/1.1"].iter().skip(usize::from(!http2)).map(|name| name.to_vec()).collect();
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    // One ticket is enough to resume with; rustls's default of two costs a write more a handshake.
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}
