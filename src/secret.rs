//! The secret that signs cookies and keys the ring: from the configuration, from the state directory, or generated.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Length of a secret that stickyd generates, in bytes.
const LENGTH: usize = 32;

/// Returns the secret that this process uses.
///
/// # Errors
/// The state directory cannot be created, or its secret is too short or can be neither read nor written.
pub(crate) fn find(configured: Option<&[u8]>, state_dir: Option<&Path>) -> io::Result<Vec<u8>> {
    if let Some(secret) = configured {
        return Ok(secret.to_vec());
    }
    let Some(directory) = state_dir else {
        tracing::warn!(
            "no secret and no state_dir: cookies are signed with a secret in memory and become invalid at a restart"
        );
        return Ok(crate::random::bytes::<LENGTH>().to_vec());
    };
    fs::create_dir_all(directory)?;
    let file = directory.join("secret");
    match fs::read(&file) {
        Ok(secret) if secret.len() >= 16 => Ok(secret),
        Ok(_) => {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is shorter than 16 bytes", file.display())))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(&file),
        Err(error) => Err(error),
    }
}

/// Creates the secret in a draft file that is then linked into place, so that a crash leaves no partial secret and two
/// stickyds agree on one.
fn make(file: &Path) -> io::Result<Vec<u8>> {
    let secret = crate::random::bytes::<LENGTH>();
    // The name does not contain the process id: two containers that share the directory may both be process 1.
    let draft = file.with_extension(format!("{:016x}.new", crate::random::u64()));
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?.write_all(&secret)?;
    let linked = fs::hard_link(&draft, file);
    fs::remove_file(&draft)?;
    match linked {
        Ok(()) => Ok(secret.to_vec()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fs::read(file),
        Err(error) => Err(error),
    }
}
