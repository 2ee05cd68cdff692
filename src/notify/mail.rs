//! Sends a message by mail, over SMTP (RFC 5321).
//!
//! TLS is never left out because a server does not offer it. An answer 4xx is tried again later, 5xx is not: a wrong
//! password, tried for an hour, would lock an account. Left out: a pool of connections, since there are few messages.

use std::net::SocketAddr;
use std::time::Duration;

use lettre::message::SinglePart;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::transport::smtp::{self, AsyncSmtpTransport};
use lettre::{AsyncTransport, Tokio1Executor};
use rustls::RootCertStore;

use super::message::Message;
use super::outbox::Verdict;
use super::render;
use crate::config::notify::{MailSecurity, MailSettings};
use crate::outbound;
use crate::printable::printable;

/// Time limit of one step of the conversation.
const STEP: Duration = Duration::from_secs(10);

/// Time limit of the whole delivery.
const WHOLE: Duration = Duration::from_secs(30);

/// Longest reason that is shown, in characters.
const SHOWN: usize = 300;

/// Sends a message to all mail addresses of a receiver.
pub(super) async fn send(settings: &MailSettings, message: &Message) -> Verdict {
    let mail = match compose(settings, message) {
        Ok(mail) => mail,
        Err(error) => return Verdict::Refused(error.to_string()),
    };
    let delivery = async {
        let addresses = match outbound::addresses(&settings.host, settings.port).await {
            Ok(addresses) => addresses,
            Err(error) => return Verdict::Later(format!("the host's name cannot be resolved: {error}"), None),
        };
        let mut verdict = Verdict::Later("the host has no address".to_owned(), None);
        for address in addresses {
            verdict = match transport(settings, address) {
                Ok(transport) => said(transport.send(mail.clone()).await),
                Err(error) => Verdict::Refused(format!("TLS cannot be set up: {error}")),
            };
            // Only an address that cannot be reached lets the next one be tried.
            if !matches!(&verdict, Verdict::Later(why, _) if why.starts_with(UNREACHED)) {
                break;
            }
        }
        verdict
    };
    let late = |_| Verdict::Later(format!("no complete answer within {}", humantime::format_duration(WHOLE)), None);
    tokio::time::timeout(WHOLE, delivery).await.unwrap_or_else(late)
}

/// Beginning of lettre's text, once or more, if no connection could be made.
const UNCONNECTED: &str = "Connection error: ";

/// Beginning of the reason if no connection could be made.
const UNREACHED: &str = "cannot connect";

fn compose(settings: &MailSettings, message: &Message) -> Result<lettre::Message, lettre::error::Error> {
    let (subject, text) = render::mail(message);
    let host: String = message.host.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let mut builder = lettre::Message::builder()
        .from(settings.from.clone())
        .subject(subject)
        .date(message.at)
        .message_id(Some(format!("<{}@{host}.stickyd>", message.id)))
        // RFC 3834 §5: no automatic answer is wanted.
        .raw_header(HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned()));
    for mailbox in &settings.to {
        builder = builder.to(mailbox.clone());
    }
    builder.singlepart(SinglePart::plain(text))
}

/// Prepares the conversation with one address of the server. The address is a literal, so that nothing is looked up on
/// the runtime's own threads; the certificate must be the one of the configured host.
fn transport(settings: &MailSettings, address: SocketAddr) -> Result<AsyncSmtpTransport<Tokio1Executor>, smtp::Error> {
    let tls = match settings.security {
        MailSecurity::None => Tls::None,
        MailSecurity::StartTls => Tls::Required(parameters(settings)?),
        MailSecurity::Tls => Tls::Wrapper(parameters(settings)?),
    };
    let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(address.ip().to_string())
        .port(address.port())
        .timeout(Some(STEP))
        .tls(tls);
    if let Some((user, password)) = &settings.login {
        let password = String::from_utf8_lossy(&password.0).into_owned();
        builder = builder.credentials(Credentials::new(user.clone(), password));
    }
    Ok(builder.build())
}

fn parameters(settings: &MailSettings) -> Result<TlsParameters, smtp::Error> {
    let mut builder = TlsParameters::builder(settings.host.clone()).certificate_store(CertificateStore::None);
    for authority in settings.authorities.iter() {
        // The list of the system may contain certificates that rustls cannot use.
        if RootCertStore::empty().add(authority.clone()).is_ok() {
            builder = builder.add_root_certificate(Certificate::from_der(authority.to_vec())?);
        }
    }
    builder.build_rustls()
}

fn said(answer: Result<smtp::response::Response, smtp::Error>) -> Verdict {
    let Err(error) = answer else { return Verdict::Sent };
    let mut why = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(next) = cause {
        let text = next.to_string();
        if !why.contains(&text) {
            why = format!("{why}: {text}");
        }
        cause = next.source();
    }
    let why: String = printable(&why).chars().take(SHOWN).collect();
    let reason = why.trim_start_matches(UNCONNECTED);
    match reason.len() < why.len() {
        true => Verdict::Later(format!("{UNREACHED}: {reason}"), None),
        // `is_client`: the server lacks what is required, such as STARTTLS or a way to log in.
        false if error.is_permanent() || error.is_client() => Verdict::Refused(why),
        false => Verdict::Later(why, None),
    }
}
