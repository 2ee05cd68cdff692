//! The admin sockets of stickyds that were started with --listen and --worker, without a file: where they are, and how
//! the other commands find them.
//!
//! They are in a directory of the user's own: `$XDG_RUNTIME_DIR/stickyd`, or `/tmp/stickyd-UID`. Any user
//! can make the latter, so it is used only if it is a directory of this user that no other user may enter.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Maximum length of the path of a unix socket, in bytes (unix(7)).
const MAX_PATH: usize = 107;

/// Returns the directory for the socket of a stickyd that starts; it may not exist yet.
fn directory() -> PathBuf {
    runtime().unwrap_or_else(fallback)
}

/// Returns the directories in which a stickyd of this user may have its socket. A command without `XDG_RUNTIME_DIR`
/// (from cron, say) also looks where a stickyd of the user's login session has it.
fn directories() -> Vec<PathBuf> {
    let login = || format!("/run/user/{}/stickyd", rustix::process::geteuid().as_raw()).into();
    runtime().map_or_else(|| vec![login(), fallback()], |directory| vec![directory])
}

fn runtime() -> Option<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    runtime.filter(|path| is_runtime_directory(path)).map(|path| path.join("stickyd"))
}

fn fallback() -> PathBuf {
    format!("/tmp/stickyd-{}", rustix::process::geteuid().as_raw()).into()
}

/// Whether a value of `XDG_RUNTIME_DIR` may be used: the directory must be the user's own (XDG Base Directory
/// Specification), which it is not after `su`, and it may not exist in a container.
fn is_runtime_directory(path: &Path) -> bool {
    let own = |found: fs::Metadata| found.is_dir() && found.uid() == rustix::process::geteuid().as_raw();
    path.is_absolute() && fs::metadata(path).is_ok_and(own)
}

/// Returns the path for the admin socket of a stickyd that listens on `port`, and makes its directory.
///
/// # Errors
/// The directory cannot be made, or others may change what is in it.
pub(crate) fn socket(port: u16) -> io::Result<PathBuf> {
    socket_in(&directory(), port)
}

fn socket_in(directory: &Path, port: u16) -> io::Result<PathBuf> {
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(named(directory, &error)),
        Ok(()) | Err(_) => {}
    }
    check(directory)?;
    let pid = std::process::id();
    let name = if port == 0 { format!("pid-{pid}.sock") } else { format!("{port}.sock") };
    let path = directory.join(name);
    // Another stickyd may listen on the same port of another address.
    let path = if is_live(&path) { directory.join(format!("{port}-{pid}.sock")) } else { path };
    if path.as_os_str().len() > MAX_PATH {
        return Err(io::Error::other(format!("{} is too long for a unix socket", path.display())));
    }
    Ok(path)
}

fn named(directory: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", directory.display()))
}

/// Checks that only this user can put a socket into the directory.
fn check(directory: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(directory).map_err(|error| named(directory, &error))?;
    let own = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o077 == 0;
    let why = format!("{} is not a directory that only this user may enter", directory.display());
    if own { Ok(()) } else { Err(io::Error::new(io::ErrorKind::PermissionDenied, why)) }
}

/// Returns the sockets on which a stickyd of this user answers, sorted by name in each directory.
pub(crate) fn running() -> Vec<PathBuf> {
    directories().iter().flat_map(|directory| running_in(directory)).collect()
}

fn running_in(directory: &Path) -> Vec<PathBuf> {
    if check(directory).is_err() {
        return Vec::new();
    }
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut all: Vec<_> = entries.filter(|path| path.extension().is_some_and(|kind| kind == "sock")).collect();
    all.retain(|path| is_live(path));
    all.sort();
    all
}

fn is_live(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_runtime_directory_is_an_absolute_one_of_this_user() {
        let own = std::env::temp_dir().join(format!("stickyd-runtime-{}", std::process::id()));
        fs::create_dir_all(&own).unwrap();
        assert!(is_runtime_directory(&own));
        fs::remove_dir(&own).unwrap();
        assert!(!is_runtime_directory(&own), "it does not exist");
        assert!(!is_runtime_directory(Path::new("relative")) && !is_runtime_directory(Path::new("")));
        assert!(!is_runtime_directory(Path::new("/dev/null")), "no directory");
        // /proc belongs to root.
        let root = rustix::process::geteuid().is_root();
        assert_eq!(is_runtime_directory(Path::new("/proc")), root);
    }

    #[test]
    fn sockets_are_made_only_in_a_directory_of_ones_own() {
        let base = std::env::temp_dir().join(format!("stickyd-quick-{:016x}", crate::random::u64()));
        fs::create_dir_all(&base).unwrap();
        let directory = base.join("own");
        let path = socket_in(&directory, 8080).unwrap();
        assert_eq!(path, directory.join("8080.sock"));
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
        assert!(running_in(&directory).is_empty());
        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(running_in(&directory), std::slice::from_ref(&path));
        assert_eq!(socket_in(&directory, 8080).unwrap(), directory.join(format!("8080-{}.sock", std::process::id())));
        drop(listener);
        assert!(running_in(&directory).is_empty(), "no process answers there any more");
        assert!(socket_in(&directory, 0).unwrap().ends_with(format!("pid-{}.sock", std::process::id())));

        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(socket_in(&directory, 1).unwrap_err().to_string().contains("only this user"));
        symlink(&directory, base.join("link")).unwrap();
        assert!(socket_in(&base.join("link"), 1).is_err());
        fs::write(base.join("file"), "").unwrap();
        assert!(socket_in(&base.join("file"), 1).is_err());
        assert!(socket_in(&base.join(format!("{}/x", "d".repeat(120))), 1).is_err());
        fs::remove_dir_all(base).unwrap();
    }
}
