//! Watches files on disk for changes, by inotify(7), and waits until they are quiet.
//!
//! Directories are watched, not files: editors write another file and rename it, Kubernetes swaps the link `..data`,
//! and a watch of the file itself would stay with one that is not read any more. For the same reason every directory on
//! the way to a file is watched, for the name of the next one: a deployment may swap any of them by a rename. The
//! kernel keeps the queue of events and bounds it; an overflow counts as a change. What a change means is not decided
//! here: the caller compares the bytes of the files. Events for opening and reading are not requested, because each
//! look at the files would then cause the next one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

/// A change is complete when nothing has happened for this long: an editor's write and rename are one edit, and a
/// half-written file is not read.
const QUIET: Duration = Duration::from_millis(300);

/// If writing never stops, the files are read after this long all the same.
const LONGEST: Duration = Duration::from_secs(3);

/// Bytes of events read at once: some dozens of events with names.
const BUFFER: usize = 4096;

/// Watches names on disk; at first it watches none.
#[derive(Default)]
pub(crate) struct Watcher {
    inotify: Option<AsyncFd<Inotify>>,
    directories: HashMap<WatchDescriptor, PathBuf>,
    names: BTreeSet<PathBuf>,
    change: Option<PendingChange>,
    /// Whether the warning that files cannot be watched was logged.
    said: bool,
}

/// A change that may not be complete yet.
#[derive(Clone, Copy)]
struct PendingChange {
    first: Instant,
    last: Instant,
}

impl Watcher {
    /// Watches these names, which need not exist, and no others from now on. That something cannot be watched is logged
    /// once.
    pub(crate) fn follow(&mut self, names: &BTreeSet<PathBuf>) {
        if names.is_empty() {
            *self = Self { said: self.said, ..Self::default() };
            return;
        }
        if let Err(error) = self.try_follow(names)
            && !std::mem::replace(&mut self.said, true)
        {
            tracing::warn!(
                %error,
                "configuration cannot be watched, edits may go unnoticed; SIGHUP and `stickyd reload` still work"
            );
        }
    }

    fn try_follow(&mut self, names: &BTreeSet<PathBuf>) -> io::Result<()> {
        let inotify = match self.inotify.take() {
            Some(inotify) => inotify,
            None => registered()?,
        };
        let mut watches = inotify.get_ref().watches();
        self.inotify = Some(inotify);
        let mut directories = HashMap::new();
        let mut failed = Ok(());
        self.names = names.clone();
        for (directory, mask) in places(names, &mut self.names) {
            match watches.add(&directory, mask) {
                Ok(watch) => _ = directories.insert(watch, directory),
                // The nearest parent that exists is watched for its creation.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // A directory on the way may be one that stickyd may pass but not read.
                Err(_) if mask == way() => {}
                Err(error) => {
                    let said = format!("{}: {error}", directory.display());
                    failed = Err(io::Error::new(error.kind(), said));
                }
            }
        }
        // A change between the reading of a file and the watch of its directory was not seen, so the files are read
        // again.
        if directories.keys().any(|watch| !self.directories.contains_key(watch)) {
            self.changed();
        }
        for watch in std::mem::take(&mut self.directories).into_keys().filter(|old| !directories.contains_key(old)) {
            // The directory may be gone, and its watch with it.
            let _ = watches.remove(watch);
        }
        self.directories = directories;
        failed
    }

    /// Waits until something has changed and is quiet again. May be cancelled and called again at any time.
    pub(crate) async fn settled(&mut self) {
        loop {
            let due = self.change.map(|change| (change.last + QUIET).min(change.first + LONGEST));
            let quiet = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = quiet => {
                    self.change = None;
                    return;
                }
                seen = read(&mut self.inotify, &self.directories, &self.names) => match seen {
                    Ok(true) => self.changed(),
                    Ok(false) => {}
                    Err(error) => {
                        tracing::warn!(%error, "configuration is no longer watched, edits go unnoticed");
                        self.inotify = None;
                    }
                },
            }
        }
    }

    fn changed(&mut self) {
        let now = Instant::now();
        self.change = Some(PendingChange { first: self.change.map_or(now, |change| change.first), last: now });
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe because types may lose their descriptor, but Inotify owns its own"
)]
fn registered() -> io::Result<AsyncFd<Inotify>> {
    AsyncFd::new(Inotify::init()?)
}

/// Returns every directory on the way to these names, with the events to watch it for, and adds the directories to
/// `named`: in its own directory, each is a name that matters.
fn places(names: &BTreeSet<PathBuf>, named: &mut BTreeSet<PathBuf>) -> BTreeMap<PathBuf, WatchMask> {
    let mut places = BTreeMap::new();
    for name in names {
        let mut directories = name.ancestors().skip(1);
        if let Some(own) = directories.next() {
            places.insert(own.to_owned(), mask());
        }
        for directory in directories {
            places.entry(directory.to_owned()).or_insert_with(way);
        }
        named.extend(name.ancestors().skip(1).filter(|directory| directory.parent().is_some()).map(Path::to_owned));
    }
    places
}

/// Events of a directory on the way to a file: only that the next name leads elsewhere. Without those for writing, so
/// that a busy directory such as /tmp does not wake stickyd for each of its files.
fn way() -> WatchMask {
    WatchMask::CREATE
        | WatchMask::MOVE
        | WatchMask::DELETE
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
        | WatchMask::ONLYDIR
}

fn mask() -> WatchMask {
    WatchMask::CREATE
        | WatchMask::MODIFY
        | WatchMask::CLOSE_WRITE
        | WatchMask::ATTRIB
        | WatchMask::MOVE
        | WatchMask::DELETE
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
        | WatchMask::ONLYDIR
}

/// Waits for the next events; returns whether one of them matters.
async fn read(
    inotify: &mut Option<AsyncFd<Inotify>>,
    directories: &HashMap<WatchDescriptor, PathBuf>,
    names: &BTreeSet<PathBuf>,
) -> io::Result<bool> {
    let Some(inotify) = inotify else { return pending().await };
    loop {
        let mut ready = inotify.readable_mut().await?;
        let mut buffer = [0; BUFFER];
        let matters = ready.try_io(|inotify| {
            let events = inotify.get_mut().read_events(&mut buffer)?;
            Ok(events.fold(false, |matters, event| {
                let directory = directories.get(&event.wd);
                let named = || event.name.zip(directory).map(|(name, directory)| directory.join(Path::new(name)));
                // An event without a name is about the directory itself, or about lost events.
                let itself = event.name.is_none() && !event.mask.contains(EventMask::IGNORED);
                matters || itself || named().is_some_and(|name| names.contains(&name))
            }))
        });
        if let Ok(read) = matters {
            return read;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("stickyd-watch-{:016x}", crate::random::u64()));
            std::fs::create_dir_all(&path).unwrap();
            Self(std::fs::canonicalize(path).unwrap())
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// Checks that no further change is reported.
    async fn is_calm(watcher: &mut Watcher) {
        assert!(tokio::time::timeout(2 * QUIET, watcher.settled()).await.is_err());
    }

    #[tokio::test]
    async fn only_watched_names_count_and_many_changes_are_one() {
        let directory = Directory::new();
        let (file, other) = (directory.0.join("a"), directory.0.join("b"));
        let mut watcher = Watcher::default();
        watcher.follow(&[file.clone()].into());
        // The first report is for changes before the watch.
        watcher.settled().await;
        watcher.follow(&[file.clone()].into());
        std::fs::write(&other, "x").unwrap();
        is_calm(&mut watcher).await;
        for text in ["x", "y", "z"] {
            std::fs::write(&file, text).unwrap();
        }
        watcher.settled().await;
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "z");
        // Reading is not a change.
        is_calm(&mut watcher).await;
        std::fs::rename(&other, &file).unwrap();
        watcher.settled().await;
        watcher.follow(&BTreeSet::new());
        std::fs::write(&file, "x").unwrap();
        is_calm(&mut watcher).await;
    }

    #[tokio::test]
    async fn a_name_that_cannot_be_watched_does_not_affect_the_rest() {
        let directory = Directory::new();
        let file = directory.0.join("a");
        std::fs::write(directory.0.join("no-directory"), "x").unwrap();
        let names = [directory.0.join("no-directory/b"), file.clone()].into();
        let mut watcher = Watcher::default();
        watcher.follow(&names);
        assert!(watcher.said);
        watcher.settled().await;
        std::fs::write(&file, "x").unwrap();
        watcher.settled().await;
    }

    #[tokio::test]
    async fn any_directory_on_the_way_may_be_swapped() {
        let directory = Directory::new();
        for version in ["one", "two", "three"] {
            std::fs::create_dir_all(directory.0.join(version).join("tls/live")).unwrap();
            std::fs::write(directory.0.join(version).join("tls/live/a.pem"), version).unwrap();
        }
        let now = directory.0.join("now");
        std::fs::rename(directory.0.join("one"), &now).unwrap();
        let file = now.join("tls/live/a.pem");
        let names = [file.clone()].into();
        let mut watcher = Watcher::default();
        watcher.follow(&names);
        watcher.settled().await;
        is_calm(&mut watcher).await;
        // Twice, because the watches have to follow to the new directories.
        for version in ["two", "three"] {
            std::fs::rename(&now, directory.0.join(format!("before-{version}"))).unwrap();
            std::fs::rename(directory.0.join(version), &now).unwrap();
            watcher.settled().await;
            assert_eq!(std::fs::read_to_string(&file).unwrap(), version);
            watcher.follow(&names);
            watcher.settled().await;
            is_calm(&mut watcher).await;
        }
        // Other names in the directories on the way do not matter.
        std::fs::write(directory.0.join("other"), "x").unwrap();
        std::fs::create_dir(now.join("other")).unwrap();
        is_calm(&mut watcher).await;
    }

    #[tokio::test]
    async fn a_directory_that_does_not_exist_yet_is_awaited() {
        let directory = Directory::new();
        let file = directory.0.join("certificates/live/a.pem");
        let names = [file.clone()].into();
        let mut watcher = Watcher::default();
        for make in ["certificates", "certificates/live"] {
            watcher.follow(&names);
            watcher.settled().await;
            is_calm(&mut watcher).await;
            std::fs::create_dir(directory.0.join(make)).unwrap();
            watcher.settled().await;
        }
        watcher.follow(&names);
        std::fs::write(&file, "x").unwrap();
        watcher.settled().await;
    }
}
