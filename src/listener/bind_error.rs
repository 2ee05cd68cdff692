//! Why an address cannot be listened on, and what helps in the commonest cases.

use std::io;
use std::net::SocketAddr;

/// Reason why a listener cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The operating system reported an error for the address.
    #[error("cannot listen on {0}: {1}")]
    Socket(SocketAddr, io::Error),
    /// rustls rejected the certificate or its key.
    #[error("TLS on {0}: {1}")]
    Tls(SocketAddr, rustls::Error),
}

impl BindError {
    /// Returns what helps, if the reason is a common one.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Socket(address, error) => address_help(*address, error.kind()),
            Self::Tls(..) => None,
        }
    }
}

/// Returns what helps if an address cannot be listened on.
pub(crate) fn address_help(address: SocketAddr, error: io::ErrorKind) -> Option<String> {
    let port = address.port();
    match error {
        io::ErrorKind::PermissionDenied if (1..1_024).contains(&port) => Some(
            "ports below 1024 need a permission: use the systemd unit, or setcap cap_net_bind_service=+ep on the \
             program, or another port"
                .to_owned(),
        ),
        io::ErrorKind::AddrInUse => Some(format!("`ss -ltnp 'sport = :{port}'` shows which process listens there")),
        io::ErrorKind::AddrNotAvailable => {
            Some("this machine has no such address: `ip address` lists those it has; 0.0.0.0 stands for all".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_errors_have_a_help() {
        let help = |port, kind| address_help(([0, 0, 0, 0], port).into(), kind);
        assert!(help(443, io::ErrorKind::PermissionDenied).unwrap().contains("cap_net_bind_service"));
        assert_eq!(help(8443, io::ErrorKind::PermissionDenied), None);
        assert!(help(443, io::ErrorKind::AddrInUse).unwrap().contains("ss -ltnp 'sport = :443'"));
        assert!(help(443, io::ErrorKind::AddrNotAvailable).is_some());
        assert_eq!(help(443, io::ErrorKind::OutOfMemory), None);
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let said = BindError::Socket(taken, io::ErrorKind::AddrInUse.into());
        assert!(said.to_string().starts_with("cannot listen on 127.0.0.1:") && said.help().is_some());
    }
}
