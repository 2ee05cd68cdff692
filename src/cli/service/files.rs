//! Files that `stickyd service install` writes, and how they are known again: the first line has a checksum of the
//! rest, so that a file of another origin is never replaced or removed, and an edited one only on purpose.

use std::fs;
use std::hash::Hasher;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use siphasher::sip::SipHasher13;

const MARK: &str = "# Written by `stickyd service install`; checksum ";

/// A file to be written, with its text.
pub(super) struct ServiceFile {
    pub(super) path: PathBuf,
    /// The whole text, with the line that marks it.
    pub(super) text: String,
}

/// What a file on the disk is to `stickyd service`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// There is no such file.
    Absent,
    /// Written by an installation, and unchanged since.
    Older,
    /// Written by an installation, and edited since.
    Edited,
    /// Written by others, or by hand.
    Foreign,
}

impl Standing {
    /// Whether a person may miss what is in the file.
    pub(super) fn is_foreign(self) -> bool {
        matches!(self, Self::Edited | Self::Foreign)
    }
}

impl ServiceFile {
    pub(super) fn new(path: PathBuf, text: &str) -> Self {
        Self { path, text: format!("{}\n{text}", mark(text)) }
    }

    /// What is there now; a file with the same text counts as absent.
    pub(super) fn standing(&self) -> Standing {
        let is_same = fs::read(&self.path).is_ok_and(|there| there == self.text.as_bytes());
        if is_same { Standing::Absent } else { standing(&self.path) }
    }

    /// Writes the file for every user to read, and the folders above it.
    pub(super) fn write(&self) -> Result<(), String> {
        let folder = self.path.parent().unwrap_or_else(|| Path::new("/"));
        let made = !folder.exists();
        fs::create_dir_all(folder).map_err(|error| failed(folder, &error))?;
        if made {
            // stickyd.service reads its configuration as a user of its own, whatever the umask of root is.
            fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).map_err(|error| failed(folder, &error))?;
        }
        fs::write(&self.path, &self.text).map_err(|error| failed(&self.path, &error))?;
        fs::set_permissions(&self.path, PermissionsExt::from_mode(0o644)).map_err(|error| failed(&self.path, &error))
    }
}

fn failed(path: &Path, error: &std::io::Error) -> String {
    format!("cannot write {}: {error}", path.display())
}

fn mark(text: &str) -> String {
    // No secret: it finds edits, not forgeries.
    let mut hasher = SipHasher13::new_with_keys(0, 0);
    hasher.write(text.as_bytes());
    format!("{MARK}{:016x}", hasher.finish())
}

/// What the file at `path` is.
pub(super) fn standing(path: &Path) -> Standing {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Standing::Absent,
        Err(_) => return Standing::Foreign,
    };
    match text.split_once('\n') {
        Some((first, rest)) if first == mark(rest) => Standing::Older,
        Some((first, _)) if first.starts_with(MARK) => Standing::Edited,
        _ => Standing::Foreign,
    }
}

/// Removes a file or a link, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), String> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(format!("cannot remove {}: {error}", path.display())),
        _ => Ok(()),
    }
}

/// Enables a unit in a folder that stands for the root, as `systemctl enable` would there.
pub(super) fn link(path: &Path, unit: &str) -> Result<(), String> {
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    fs::create_dir_all(folder).map_err(|error| failed(folder, &error))?;
    remove(path)?;
    symlink(Path::new("/etc/systemd/system").join(unit), path).map_err(|error| failed(path, &error))
}
