//! A directory of one test, removed at its end.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory that belongs to one test.
pub(crate) struct TempDirectory(PathBuf);

impl TempDirectory {
    /// An empty directory, whose name begins with `name`.
    pub(crate) fn new(name: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("stickyd-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(std::fs::canonicalize(path).unwrap())
    }

    /// The path of the directory.
    pub(crate) fn root(&self) -> &Path {
        &self.0
    }

    /// The path of a file in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file that only its owner can read.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        self.write_mode(name, bytes, 0o600);
    }

    /// Writes a file with these permissions.
    pub(crate) fn write_mode(&self, name: &str, bytes: impl AsRef<[u8]>, mode: u32) {
        std::fs::write(self.path(name), bytes).unwrap();
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
}

impl Drop for TempDirectory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
