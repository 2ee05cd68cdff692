//! Why stickyd does not start, and what helps in the commonest cases.

use std::io;

use crate::admin::NotGivenError;
use crate::config::AdminAddress;
use crate::listener::{ListenerSetError, address_help};

/// Reason why stickyd does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener's address or certificate, or a socket passed by systemd, cannot be used.
    #[error(transparent)]
    Listen(#[from] ListenerSetError),
    /// The secret in the state directory cannot be read or created; the error names its path.
    #[error("cannot read or create the secret: {0}")]
    Secret(io::Error),
    /// The admin listener cannot be bound to its address.
    #[error("cannot listen on the admin address {0}: {1}")]
    Admin(AdminAddress, io::Error),
    /// The operating system refused a thread or a runtime.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// The operating system provided no random bytes.
    #[error("the operating system provided no random bytes")]
    Random,
}

impl StartError {
    /// Returns what helps, if the reason is a common one.
    pub fn help(&self) -> Option<String> {
        if let Self::Admin(_, error) = self
            && let Some(refused) = NotGivenError::of(error).filter(|_| error.kind() == io::ErrorKind::PermissionDenied)
        {
            return Some(refused.group.help());
        }
        let user = rustix::process::geteuid().as_raw();
        match self {
            Self::Listen(error) => error.help(),
            Self::Admin(AdminAddress::Tcp(address), error) => address_help(*address, error.kind()),
            Self::Admin(AdminAddress::Unix(_), error) if error.kind() == io::ErrorKind::AddrInUse => {
                Some("another stickyd answers on this socket: stop it, or use another state_dir".to_owned())
            }
            Self::Admin(_, error) | Self::Secret(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Some(format!("stickyd runs as user {user}: let it write there, or use another state_dir"))
            }
            Self::Admin(..) | Self::Secret(_) | Self::Thread(_) | Self::Random => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AdminGroup;

    #[test]
    fn common_errors_have_a_help_line() {
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let used = || io::Error::from(io::ErrorKind::AddrInUse);
        let tcp = AdminAddress::Tcp(([127, 0, 0, 1], 9145).into());
        assert!(StartError::Secret(denied()).help().unwrap().contains("runs as user"));
        assert!(StartError::Admin(AdminAddress::Unix("/a".into()), denied()).help().is_some());
        assert!(StartError::Admin(AdminAddress::Unix("/a".into()), used()).help().unwrap().contains("another stickyd"));
        assert!(StartError::Admin(tcp, used()).help().unwrap().contains("ss -ltnp"));
        assert_eq!(StartError::Random.help(), None);
    }

    #[test]
    fn a_group_that_stickyd_is_not_in_is_named() {
        let group = AdminGroup { name: "adm".to_owned(), id: 4 };
        let refused = NotGivenError { group, reason: io::ErrorKind::PermissionDenied.into() };
        let error = io::Error::new(io::ErrorKind::PermissionDenied, refused);
        let error = StartError::Admin(AdminAddress::Unix("/a".into()), error);
        assert!(error.to_string().contains("unix:/a: cannot give it to the group adm ([admin] group): "), "{error}");
        let help = "stickyd must run as root or be a member of adm (systemd: SupplementaryGroups=adm)";
        assert_eq!(error.help().as_deref(), Some(help));
    }
}
