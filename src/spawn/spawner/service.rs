//! `stickyd spawn`: the spawner as a process of its own, or as a child of stickyd.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use clap::Args;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::runtime::{Builder, LocalOptions};

/// Arguments of `stickyd spawn`.
#[derive(Debug, Args)]
pub struct SpawnerCommand {
    /// Unix socket on which stickyd is awaited (`spawner` in its configuration); without it, standard input is the
    /// socket of the stickyd that started this process
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

impl SpawnerCommand {
    /// Runs the spawner until it is stopped; returns the exit code. Must be called on the main thread.
    pub fn run(&self) -> u8 {
        match self.start() {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("error: the spawner cannot run: {error}");
                1
            }
        }
    }

    fn start(&self) -> io::Result<()> {
        let folder = RunFolder::make()?;
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
        let path = folder.0.clone();
        match &self.socket {
            Some(socket) => runtime.block_on(async {
                let listener = bind(socket)?;
                let ended = super::run(None, Some(tokio::net::UnixListener::from_std(listener)?), path).await;
                let _ = fs::remove_file(socket);
                ended
            }),
            None => runtime.block_on(async {
                let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
                if stream.peer_addr().is_err() {
                    let why = "standard input is not a socket of stickyd; give --socket PATH";
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
                }
                stream.set_nonblocking(true)?;
                super::run(Some(tokio::net::UnixStream::from_std(stream)?), None, path).await
            }),
        }
    }
}

/// Binds a socket that only the same user and its group can use; the socket of a spawner that has ended is replaced.
fn bind(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    if UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("{} is in use", path.display())));
    }
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    socket.listen(16)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Folder of the spawner, for preloads and for unix sockets of workers; removed at the end.
struct RunFolder(PathBuf);

impl RunFolder {
    fn make() -> io::Result<Self> {
        let parent = std::env::var_os("RUNTIME_DIRECTORY").map_or_else(std::env::temp_dir, PathBuf::from);
        let path = parent.join(format!("stickyd-spawn-{:08x}", crate::random::u64() >> 32));
        fs::DirBuilder::new().mode(0o750).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
