//! The environment that links a worker to the bus, and the preload that it names.

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The preload for Node.js: files of the source as one script, because it must work from a single path.
pub(crate) const PRELOAD: &str = concat!(
    include_str!("preload/link.cjs"),
    include_str!("preload/frames.cjs"),
    include_str!("preload/adapter.cjs"),
    include_str!("preload/sessions.cjs"),
);

/// Name of the preload in the state directory.
pub(crate) const PRELOAD_NAME: &str = "bus.cjs";
/// Name of the hub's socket in the state directory.
const SOCKET_NAME: &str = "bus.sock";

/// Path of the hub's socket.
pub(crate) fn socket(state_dir: &Path) -> PathBuf {
    state_dir.join(SOCKET_NAME)
}

/// Writes the preload, if its text differs from the one there. Returns its path.
///
/// # Errors
/// The error of the file system.
pub(crate) fn write_preload(state_dir: &Path) -> io::Result<PathBuf> {
    let path = state_dir.join(PRELOAD_NAME);
    if std::fs::read(&path).is_ok_and(|there| there == PRELOAD.as_bytes()) {
        return Ok(path);
    }
    // Renamed into place: a worker that starts meanwhile reads all of the old or all of the new one.
    let fresh = state_dir.join(format!("{PRELOAD_NAME}.{}.new", std::process::id()));
    let _ = std::fs::remove_file(&fresh);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&fresh)?;
    io::Write::write_all(&mut file, PRELOAD.as_bytes())?;
    std::fs::rename(&fresh, &path)?;
    Ok(path)
}

/// Variables that link a worker of this upstream to the hub's socket, if it has loaded the preload.
pub(crate) fn link(socket: &Path, upstream: &str) -> [(&'static str, String); 2] {
    [("STICKYD_BUS", socket.to_string_lossy().into_owned()), ("STICKYD_BUS_UPSTREAM", upstream.to_owned())]
}

/// Variables for a worker of this upstream. `node_options` is what NODE_OPTIONS holds already; it is kept.
pub(crate) fn variables(state_dir: &Path, upstream: &str, node_options: &str) -> [(&'static str, String); 3] {
    let require = format!("--require {}", quoted(&state_dir.join(PRELOAD_NAME)));
    let options = if node_options.is_empty() { require } else { format!("{node_options} {require}") };
    let [socket, upstream] = link(&socket(state_dir), upstream);
    [("NODE_OPTIONS", options), socket, upstream]
}

/// A path as a value in NODE_OPTIONS: Node.js splits at spaces outside of double quotes.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    if text.contains([' ', '"', '\\']) {
        format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
    } else {
        text.into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_user_are_kept() {
        let [options, socket, upstream] = variables(Path::new("/var/lib/my app"), "app", "--max-old-space-size=512");
        assert_eq!(options.1, "--max-old-space-size=512 --require \"/var/lib/my app/bus.cjs\"");
        assert_eq!((socket.1.as_str(), upstream.1.as_str()), ("/var/lib/my app/bus.sock", "app"));
    }
}
