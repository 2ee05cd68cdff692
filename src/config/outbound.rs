//! Targets of stickyd's own requests: an address, which may be a secret, and the authorities that are trusted there.
//!
//! An address with a secret in its path (Discord, Slack) comes from a file of its own; written in the configuration
//! itself it works, with a warning. It is never printed: `Debug` shows the host only.

use std::fmt;
use std::sync::Arc;

use hyper::Uri;
use rustls::pki_types::CertificateDer;

use super::check::Context;
use super::error::Span;
use super::file::{ConfigText, Section};
use super::{files, tls, variables, worker_tls};

/// Certificates of the authorities that are trusted for a target.
pub(crate) type Authorities = Arc<Vec<CertificateDer<'static>>>;

/// An http or https address to which stickyd itself sends requests.
#[derive(Clone, PartialEq)]
pub(crate) struct OutboundTarget {
    /// The address, with scheme and host.
    pub(crate) url: Uri,
    /// Trusted authorities: those in `ca`, else those of the system. Empty for plain http.
    pub(crate) authorities: Authorities,
}

impl OutboundTarget {
    /// Returns the host, which may be shown.
    pub(crate) fn host(&self) -> &str {
        self.url.host().unwrap_or_default()
    }
}

impl fmt::Debug for OutboundTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}/…", self.url.scheme_str().unwrap_or_default(), self.host())
    }
}

/// Reads `url` or `url_file`, and `ca`, of a target whose address is a secret.
pub(crate) fn secret_target(context: &Context<'_>, section: &mut Section<'_>) -> Option<OutboundTarget> {
    let at = section.span.clone();
    let second = section.key("url_file");
    let inline = section.text("url", "an address such as \"https://ops.example.com/hook\"");
    let path = section.text("url_file", "a path");
    let ca = section.text("ca", "a path");
    let url = match (inline, path, second) {
        (Some(_), _, Some(at)) => {
            context.report.error_help(&at, "`url` and `url_file` cannot be used together", "remove one of the two");
            return None;
        }
        (Some(text), None, _) => {
            let help = "put it into a file that only stickyd can read, and write url_file = \"…\"";
            context.report.warn(&text.span, "the address is written in the configuration, and may be a secret", help);
            url(context, &text.span, &text.value)?
        }
        (_, Some(path), _) => url_in_file(context, &path)?,
        (None, None, _) => {
            let message = format!("{} needs `url_file` or `url`", section.label);
            context.report.error_help(&at, message, "write url_file = \"hook.url\": a file with the address");
            return None;
        }
    };
    target(context, &at, url, ca.as_ref())
}

/// Completes an address with the authorities trusted there: those of the file `ca`, or those of this machine.
pub(crate) fn target(context: &Context<'_>, at: &Span, url: Uri, ca: Option<&ConfigText>) -> Option<OutboundTarget> {
    let authorities = match (ca, url.scheme_str() == Some("https")) {
        (Some(ca), true) => Arc::new(tls::authorities(context, ca)?),
        (Some(ca), false) => {
            context.report.error(&ca.span, "`ca` has no effect for an address that begins with http://");
            return None;
        }
        (None, true) => systems(context, at)?,
        (None, false) => Authorities::default(),
    };
    Some(OutboundTarget { url, authorities })
}

/// The authorities that this machine trusts, read once per configuration.
pub(crate) fn systems(context: &Context<'_>, at: &Span) -> Option<Authorities> {
    context.systems.get_or_init(|| worker_tls::systems(context, at).map(Arc::new)).clone()
}

/// Checks an address. Messages do not repeat it, because it may be a secret.
pub(crate) fn url(context: &Context<'_>, at: &Span, text: &str) -> Option<Uri> {
    if variables::refuse_in_address(context, at, text, "write the address itself, here or in its file") {
        return None;
    }
    const HELP: &str = "write an address such as \"https://ops.example.com/hook\"";
    let wrong = |message: String| {
        context.report.error_help(at, message, HELP);
        None
    };
    let uri: Uri = match text.trim().parse() {
        Ok(uri) => uri,
        Err(error) => return wrong(format!("the address is not a valid URL: {error}")),
    };
    if !matches!(uri.scheme_str(), Some("https" | "http")) {
        return wrong("the address must begin with https:// or http://".to_owned());
    }
    match uri.authority() {
        Some(authority) if authority.host().is_empty() => wrong("the address has no host".to_owned()),
        Some(authority) if authority.as_str().contains('@') => {
            wrong("the address must not contain a user or password".to_owned())
        }
        Some(_) => Some(uri),
        None => wrong("the address has no host".to_owned()),
    }
}

fn url_in_file(context: &Context<'_>, path: &ConfigText) -> Option<Uri> {
    let text = files::secret_text(context, path, 1)?;
    url(context, &path.span, &text)
}
