//! Binds the addresses of the admin listener, and removes socket files: those of stickyds that have ended, and at the
//! end its own. The file of another, living stickyd is never touched.

use std::error::Error;
use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::{AdminAddress, AdminGroup};

/// One bound address of the admin listener.
pub(crate) enum BoundAdmin {
    /// A TCP listener and its address.
    Tcp(std::net::TcpListener, SocketAddr),
    /// A unix socket and its file, which is removed when stickyd stops.
    Unix(UnixListener, SocketFile),
}

impl BoundAdmin {
    /// Returns the address, with the port that the kernel chose.
    pub(crate) fn address(&self) -> AdminAddress {
        match self {
            Self::Tcp(_, address) => AdminAddress::Tcp(*address),
            Self::Unix(_, file) => AdminAddress::Unix(file.path.clone()),
        }
    }
}

/// The file of a bound unix socket: its path, and which file it was then.
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode. The inode is not given to another file while the socket is open.
    id: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), id: (found.dev(), found.ino()) })
    }

    /// Removes the file, unless another one has taken its place: a successor that started meanwhile answers on its
    /// own socket. To be called while the socket is still open, because a successor only replaces a socket on which no
    /// process answers.
    pub(crate) fn remove(&self) {
        let is_own = fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.id);
        if is_own {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Why a socket cannot be given to the group of `[admin]`; the inner error of one of [`bind`].
#[derive(Debug)]
pub(crate) struct NotGivenError {
    /// The group of the configuration.
    pub(crate) group: AdminGroup,
    /// The error of chown(2).
    pub(crate) reason: io::Error,
}

impl fmt::Display for NotGivenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot give it to the group {} ([admin] group): {}", self.group.name, self.reason)
    }
}

impl Error for NotGivenError {}

impl NotGivenError {
    /// Finds this reason in an error of [`bind`].
    pub(crate) fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

/// Binds an address of the admin listener; none for [`AdminAddress::None`]. The socket file of a stickyd that has ended
/// is replaced; that of a running one is not. Members of `group` may use the socket, too.
///
/// # Errors
/// The error of the operating system; `AddrInUse` when another process answers at the address.
pub(crate) fn bind(address: &AdminAddress, group: Option<&AdminGroup>) -> io::Result<Option<BoundAdmin>> {
    match address {
        AdminAddress::None => Ok(None),
        AdminAddress::Tcp(address) => {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok(Some(BoundAdmin::Tcp(listener, address)))
        }
        AdminAddress::Unix(path) => {
            if let Some(directory) = path.parent() {
                make_directory(directory)?;
            }
            remove_dead(path)?;
            let listener = bind_private(path, group)?;
            Ok(Some(BoundAdmin::Unix(listener, SocketFile::of(path)?)))
        }
    }
}

/// Creates a missing directory, and says so: a mistyped path would otherwise go unnoticed.
fn make_directory(directory: &Path) -> io::Result<()> {
    if !directory.exists() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        tracing::warn!(directory = %directory.display(), "created a directory that did not exist");
    }
    Ok(())
}

/// Binds a socket that only its owner and the group can use, from the first connect on: until it listens, all connects
/// are refused, and it listens only once it has its mode. (A umask would apply to the whole process.)
fn bind_private(path: &Path, group: Option<&AdminGroup>) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    if let Some(group) = group {
        give_to(path, group).inspect_err(|_| _ = fs::remove_file(path))?;
    }
    socket.listen(128)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Lets the members of a group use a socket. Without root, a process can do this for its own groups only.
fn give_to(path: &Path, group: &AdminGroup) -> io::Result<()> {
    chown(path, None, Some(group.id)).map_err(|reason| {
        let group = group.clone();
        io::Error::new(reason.kind(), NotGivenError { group, reason })
    })?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))
}

/// Removes a stale socket file, on which no process answers. Other kinds of files stay, and so do sockets in doubt.
fn remove_dead(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file exists and is not a socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new() -> Self {
            Self(std::env::temp_dir().join(format!("stickyd-admin-{:016x}", crate::random::u64())))
        }

        fn bind(&self, name: &str) -> io::Result<Option<BoundAdmin>> {
            bind(&AdminAddress::Unix(self.0.join(name)), None)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn only_a_stale_socket_file_is_replaced() {
        let directory = Directory::new();
        let living = directory.bind("admin").unwrap();
        assert_eq!(directory.bind("admin").err().map(|error| error.kind()), Some(io::ErrorKind::AddrInUse));
        drop(living);
        assert!(directory.bind("admin").is_ok());
        fs::write(directory.0.join("file"), "precious").unwrap();
        assert!(directory.bind("file").is_err());
        assert_eq!(fs::read_to_string(directory.0.join("file")).unwrap(), "precious");
    }

    #[test]
    fn the_socket_of_a_successor_is_not_removed() {
        let directory = Directory::new();
        let path = directory.0.join("admin");
        let Some(BoundAdmin::Unix(old, file)) = directory.bind("admin").unwrap() else { panic!("a socket") };
        fs::remove_file(&path).unwrap();
        let successor = directory.bind("admin").unwrap();
        file.remove();
        assert!(path.exists(), "it belongs to the successor");
        drop((old, successor));
        let Some(BoundAdmin::Unix(_own, file)) = directory.bind("admin").unwrap() else { panic!("a socket") };
        file.remove();
        assert!(!path.exists());
    }
}
