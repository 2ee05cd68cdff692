//! The secret that signs cookies and keys the ring: from the configuration, from the state directory, or generated.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Length of a secret that stickyd generates, in bytes.
const LENGTH: usize = 32;

/// Minimum length of a secret, in bytes: 128 bits, if they are random.
const MINIMUM: usize = 16;

/// What is said if a secret is kept nowhere.
pub(crate) const NOT_KEPT: &str =
    "no secret and no state_dir: cookies are signed with a secret in memory and become invalid at a restart";

/// Returns the secret that this process uses.
///
/// # Errors
/// The state directory cannot be created, or its secret is too short or can be neither read nor written. Each error
/// names the path.
pub(crate) fn find(configured: Option<&[u8]>, state_dir: Option<&Path>) -> io::Result<Vec<u8>> {
    if let Some(secret) = configured {
        return Ok(secret.to_vec());
    }
    let Some(directory) = state_dir else {
        tracing::warn!("{NOT_KEPT}");
        return Ok(in_memory());
    };
    if !directory.exists() {
        fs::create_dir_all(directory).map_err(|error| named(directory, &error))?;
        // A mistyped path would otherwise go unnoticed.
        tracing::warn!(state_dir = %directory.display(), "state_dir did not exist and was created");
    }
    let file = directory.join("secret");
    match read(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(&file).map_err(|error| named(&file, &error)),
        secret => secret.map_err(|error| named(&file, &error)),
    }
}

/// Returns a secret that is kept nowhere, for a stickyd without a file: its cookies become invalid when it ends.
pub(crate) fn in_memory() -> Vec<u8> {
    crate::random::bytes::<LENGTH>().to_vec()
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Reads a secret that was kept; one that is too short is an error, also if another process wrote it.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    let secret = fs::read(file)?;
    if secret.len() < MINIMUM {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is shorter than {MINIMUM} bytes")));
    }
    Ok(secret)
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
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => read(file),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_secret_that_is_too_short_is_an_error_with_its_path() {
        let directory = std::env::temp_dir().join(format!("stickyd-secret-{:016x}", crate::random::u64()));
        let made = find(None, Some(&directory)).unwrap();
        assert_eq!(find(None, Some(&directory)).unwrap(), made);
        let file = directory.join("secret");
        fs::write(&file, "short").unwrap();
        for error in [find(None, Some(&directory)).unwrap_err(), make(&file).unwrap_err()] {
            assert!(error.to_string().ends_with("it is shorter than 16 bytes"), "also when another one was first");
        }
        assert!(find(None, Some(&directory)).unwrap_err().to_string().starts_with(file.to_str().unwrap()));
        fs::write(directory.join("file"), "").unwrap();
        let error = find(None, Some(&directory.join("file/below"))).unwrap_err();
        assert!(error.to_string().contains("file/below: "), "{error}");
        fs::remove_dir_all(directory).unwrap();
    }
}
