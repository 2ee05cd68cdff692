//! The files a configuration was read from, and whether they have changed since.
//!
//! Every file that the loader opens is recorded with a hash of its bytes, whether it was good, bad or missing. A
//! watcher asks whether a reload would read anything new, and which names on disk the configuration depends on. Left
//! out: waiting for changes; that is in `watch`.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::path::{Component, Path, PathBuf};

use super::files;

/// Maximum number of symbolic links followed, the same as the kernel's (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// The bytes that are read at a path, whatever is there: a credential that systemd will copy to it.
#[derive(Debug)]
pub(crate) struct StandIn {
    at: PathBuf,
    bytes: Vec<u8>,
}

impl StandIn {
    /// The bytes of the file `from`, to be read at `at`.
    ///
    /// # Errors
    /// The reason why the file cannot be read.
    pub(crate) fn read(at: PathBuf, from: &Path) -> Result<Self, String> {
        Ok(Self { at, bytes: files::read(from)? })
    }
}

/// The files that a load has read so far.
#[derive(Default)]
pub(crate) struct Noted {
    read: RefCell<Vec<SourceFile>>,
    stand_ins: Vec<StandIn>,
}

impl Noted {
    /// No files so far; these stand in for others.
    pub(crate) fn with(stand_ins: Vec<StandIn>) -> Self {
        Self { stand_ins, ..Self::default() }
    }

    /// Reads a file with [`files::read`] and records it.
    pub(crate) fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        let stand_in = self.stand_ins.iter().find(|one| one.at == path);
        let read = stand_in.map_or_else(|| files::read(path), |one| Ok(one.bytes.clone()));
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        self.read.borrow_mut().push(SourceFile { path, print: read.as_ref().ok().map(|bytes| print(bytes)) });
        read
    }

    /// The recorded files as the sources of `file`, the configuration as the caller named it.
    pub(crate) fn into_sources(self, file: &Path) -> Sources {
        Sources { file: file.to_owned(), all: self.read.into_inner() }
    }
}

#[derive(Debug, Clone)]
struct SourceFile {
    path: PathBuf,
    /// Hash of the file's bytes; `None`: it could not be read.
    print: Option<u64>,
}

/// The configuration's file and every file it names, in the state in which they were read.
#[derive(Debug, Clone)]
pub struct Sources {
    file: PathBuf,
    /// Every file that was read; the configuration is the first.
    all: Vec<SourceFile>,
}

/// Result of comparing [`Sources`] with the files on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourcesState {
    /// All files have the same bytes as before.
    Same,
    /// A reload would read different bytes.
    Changed,
    /// The configuration file itself is missing.
    Gone,
}

impl Sources {
    /// Path of the configuration's file, as the caller named it.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Reads the files again and compares them. Blocks as long as the disk does; anything that is not a regular file is
    /// skipped (a pipe would block for ever).
    pub fn look(&self) -> SourcesState {
        let mut found = SourcesState::Same;
        for (index, source) in self.all.iter().enumerate() {
            match std::fs::metadata(&source.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => match source.print {
                    _ if index == 0 => return SourcesState::Gone,
                    Some(_) => found = SourcesState::Changed,
                    None => {}
                },
                // Not a regular file: reading it could block.
                Ok(is) if !is.is_file() => {}
                _ if files::read(&source.path).ok().map(|bytes| print(&bytes)) != source.print => {
                    found = SourcesState::Changed
                }
                _ => {}
            }
        }
        found
    }

    /// Every path whose change may change what is read: the files, and the symbolic links on the way to them.
    pub fn trail(&self) -> BTreeSet<PathBuf> {
        let mut names = BTreeSet::new();
        for source in &self.all {
            follow(&source.path, &mut names);
        }
        names
    }
}

fn print(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// Adds the path and every symbolic link on the way to `names`. Walks the absolute path as the kernel does.
fn follow(path: &Path, names: &mut BTreeSet<PathBuf>) {
    let parts = |path: &Path| -> Vec<_> { path.components().map(|part| part.as_os_str().to_owned()).collect() };
    let mut rest: VecDeque<_> = parts(path).into();
    let (mut at, mut links) = (PathBuf::new(), 0);
    while let Some(part) = rest.pop_front() {
        match Path::new(&part).components().next() {
            Some(Component::ParentDir) => _ = at.pop(),
            Some(Component::Normal(_)) => {
                let next = at.join(&part);
                match std::fs::read_link(&next) {
                    Ok(target) if links < MAX_LINKS => {
                        links += 1;
                        names.insert(next);
                        parts(&target).into_iter().rev().for_each(|part| rest.push_front(part));
                    }
                    _ => at = next,
                }
            }
            // An absolute path or link target starts again at the root.
            Some(Component::RootDir | Component::Prefix(_)) => at = PathBuf::from("/"),
            Some(Component::CurDir) | None => {}
        }
    }
    names.insert(at);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_trail_of_a_kubernetes_volume_includes_its_links() {
        let directory = std::env::temp_dir().join(format!("stickyd-trail-{:016x}", crate::random::u64()));
        let directory = std::path::absolute(directory).unwrap();
        std::fs::create_dir_all(directory.join("..one")).unwrap();
        let file = directory.join("stickyd.toml");
        std::fs::write(directory.join("..one/stickyd.toml"), "[upstream.a]").unwrap();
        symlink("..one", directory.join("..data")).unwrap();
        symlink("..data/stickyd.toml", &file).unwrap();
        let (sources, loaded) = crate::config::load_noting(&file);
        assert!(loaded.is_err(), "a bad configuration is watched, too");
        let names: Vec<_> = sources.trail().into_iter().collect();
        let wanted = ["..data", "..one/stickyd.toml", "stickyd.toml"];
        assert_eq!(names, wanted.map(|name| directory.join(name)));
        assert_eq!(sources.look(), SourcesState::Same);

        std::fs::create_dir_all(directory.join("..two")).unwrap();
        std::fs::write(directory.join("..two/stickyd.toml"), "[upstream.a]").unwrap();
        symlink("..two", directory.join("..new")).unwrap();
        std::fs::rename(directory.join("..new"), directory.join("..data")).unwrap();
        assert_eq!(sources.look(), SourcesState::Same, "other files with the same content");
        assert!(sources.trail().contains(&directory.join("..two/stickyd.toml")));
        std::fs::write(&file, "[upstream.b]").unwrap();
        assert_eq!(sources.look(), SourcesState::Changed);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(sources.look(), SourcesState::Gone);
        symlink("stickyd.toml", &file).unwrap();
        assert!(sources.trail().contains(&file), "a link to itself does not loop for ever");
        std::fs::remove_dir_all(directory).unwrap();
    }
}
