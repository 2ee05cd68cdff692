//! `mail` of a `[[notify.to]]`: the server that takes mail for delivery, and the addresses.

use std::sync::Arc;

use lettre::message::Mailbox;

use crate::config::check::Context;
use crate::config::file::{ConfigItem, ConfigText, Section};
use crate::config::values::word;
use crate::config::{Authorities, Secret, files, outbound, tls, variables};

/// A server that takes mail for delivery.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MailSettings {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) security: MailSecurity,
    /// User name and password.
    pub(crate) login: Option<(String, Secret)>,
    pub(crate) from: Mailbox,
    pub(crate) to: Vec<Mailbox>,
    /// Trusted authorities; empty without TLS.
    pub(crate) authorities: Authorities,
}

/// How a connection to a mail server is secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MailSecurity {
    /// TLS after the command STARTTLS, which must succeed.
    StartTls,
    /// TLS from the first byte.
    Tls,
    /// All is sent without TLS.
    None,
}

/// Maximum number of mail addresses of one receiver.
const MAILBOXES: usize = 50;

const SECURITIES: [(&str, MailSecurity); 3] =
    [("starttls", MailSecurity::StartTls), ("tls", MailSecurity::Tls), ("none", MailSecurity::None)];

/// Reads the table `mail`.
pub(super) fn mail(context: &Context<'_>, mut section: Section<'_>) -> Option<MailSettings> {
    let at = section.span.clone();
    let smtp = section.required("smtp", "a host and a port", "\"smtp.example.com:587\"");
    let security = section.text("tls", "\"starttls\", \"tls\" or \"none\"");
    let user = section.text("user", "a string");
    let password = section.text("password_file", "a path");
    let from = section.required("from", "a mail address", "\"stickyd@example.com\"");
    let to = section.take("to");
    let ca = section.text("ca", "a path");
    if to.is_none() {
        context.report.error_help(&at, "`mail` needs `to`", "write to = [\"ops@example.com\"]");
    }
    section.finish();
    let smtp = smtp.and_then(|smtp| Some((server(context, &smtp)?, smtp.span)));
    let security = security.map(|text| (word(context.report, "tls", &text, &SECURITIES), text.span));
    let from = from.and_then(|from| mailbox(context, &from));
    let to = to.and_then(|item| mailboxes(context, item));
    let login = login(context, user, password);
    let ((host, port), smtp_at) = smtp?;
    let default = if port == 465 { MailSecurity::Tls } else { MailSecurity::StartTls };
    let (security, security_at) = security.map_or((default, smtp_at), |(word, at)| (word.unwrap_or(default), at));
    let is_here = matches!(host.as_str(), "localhost" | "127.0.0.1" | "::1");
    if security == MailSecurity::None && login.is_some() && !is_here {
        let help = "write tls = \"starttls\" or tls = \"tls\"";
        context.report.error_help(&security_at, "the password would be sent over the network without TLS", help);
    }
    let authorities = match (security, ca) {
        (MailSecurity::None, Some(ca)) => {
            context.report.error(&ca.span, "`ca` has no effect with tls = \"none\": remove one of the two");
            return None;
        }
        (MailSecurity::None, None) => Authorities::default(),
        (_, Some(ca)) => Arc::new(tls::authorities(context, &ca)?),
        (_, None) => outbound::systems(context, &at)?,
    };
    Some(MailSettings { host, port, security, login, from: from?, to: to?, authorities })
}

fn login(context: &Context<'_>, user: Option<ConfigText>, path: Option<ConfigText>) -> Option<(String, Secret)> {
    match (user, path) {
        (None, None) => None,
        (Some(user), Some(_)) if variables::refuse(context, "`user`", &user, "write the name itself") => None,
        (Some(user), Some(path)) => {
            let password = files::secret_text(context, &path, 1)?;
            Some((user.value, Secret(password.into_bytes())))
        }
        (Some(one), None) | (None, Some(one)) => {
            let message = "`user` and `password_file` must be given together, and one of them is missing";
            context.report.error(&one.span, message);
            None
        }
    }
}

/// Reads a host with a port; the port of an IPv6 address follows brackets.
fn server(context: &Context<'_>, text: &ConfigText) -> Option<(String, u16)> {
    let parts = text.value.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let host = parts.map(|(host, port)| (host.trim_start_matches('[').trim_end_matches(']'), port));
    match host {
        Some((host, port)) if rustls::pki_types::ServerName::try_from(host).is_ok() && port > 0 => {
            Some((host.to_owned(), port))
        }
        _ => {
            let message = format!("`{}` is not a host with a port", text.value);
            context.report.error_help(&text.span, message, "write \"smtp.example.com:587\"");
            None
        }
    }
}

fn mailboxes(context: &Context<'_>, item: ConfigItem<'_>) -> Option<Vec<Mailbox>> {
    let (at, expected) = (item.span.clone(), "a list of mail addresses such as [\"ops@example.com\"]");
    let items = item.list(expected, "a mail address")?;
    if items.is_empty() || items.len() > MAILBOXES {
        context.report.error(&at, format!("`to` must have 1 to {MAILBOXES} mail addresses"));
    }
    let texts = items.into_iter().filter_map(|item| item.text("a mail address"));
    Some(texts.filter_map(|text| mailbox(context, &text)).collect())
}

fn mailbox(context: &Context<'_>, text: &ConfigText) -> Option<Mailbox> {
    match text.value.parse() {
        Ok(mailbox) => Some(mailbox),
        Err(_) => {
            let message = format!("`{}` is not a mail address", text.value);
            let help = "write \"ops@example.com\" or \"Operations <ops@example.com>\"";
            context.report.error_help(&text.span, message, help);
            None
        }
    }
}
