//! The history in a file, so that a restart keeps it: written at stop, read at start.
//!
//! The file has a version, a time and a checksum. One that is damaged, of another version or too old is refused, and
//! the history begins anew; nothing else depends on it. It is written beside and renamed, so that a crash leaves the
//! one before.

use std::fs::{self, OpenOptions};
use std::hash::Hasher as _;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use siphasher::sip::SipHasher13;

use super::rings::{Rings, STEPS};
use super::store::Store;

/// First bytes of the file; the number at the end is the version of its format.
const MAGIC: &[u8; 18] = b"stickyd history 1\n";

/// Age of a file in seconds up to which it is used: its coarsest ring covers a day.
const OLDEST_S: u64 = 48 * 3_600;

/// Kinds of series in the file.
const WORKER: u8 = 0;
const UPSTREAM: u8 = 1;

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HistoryFault {
    /// The file cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The file is not a history of this version.
    #[error("it is not a history of this version of stickyd")]
    Foreign,
    /// The file was changed or only partly written.
    #[error("it is damaged")]
    Damaged,
    /// The file was written too long ago, or in the future.
    #[error("it is from another time")]
    Old,
}

/// Writes the history to `path`.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn save(store: &Store, path: &Path, now: u64) -> io::Result<()> {
    let draft = path.with_extension(format!("{:016x}.new", crate::random::u64()));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| file.write_all(&encode(store, now)))
        .and_then(|()| fs::rename(&draft, path));
    written.inspect_err(|_| _ = fs::remove_file(&draft))
}

/// Reads the history from `path` into an empty store; returns whether there was a file.
///
/// # Errors
/// The file is not used; the store is empty then.
pub(crate) fn load(store: &mut Store, path: &Path, now: u64) -> Result<bool, HistoryFault> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    decode(store, &bytes, now)?;
    Ok(true)
}

fn encode(store: &Store, now: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(store.bytes() + 1_024);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&now.to_le_bytes());
    for (name, series) in &store.upstreams {
        out.push(UPSTREAM);
        push_name(&mut out, name);
        push_rings(&mut out, &series.rings);
    }
    for ((upstream, name), series) in &store.workers {
        out.push(WORKER);
        push_name(&mut out, upstream);
        push_name(&mut out, name);
        push_rings(&mut out, &series.rings);
    }
    let sum = checksum(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

fn push_name(out: &mut Vec<u8>, name: &str) {
    // Names are bounded by the configuration; a longer one would only spoil the file, which is then refused.
    out.extend_from_slice(&u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(name.as_bytes());
}

fn push_rings(out: &mut Vec<u8>, rings: &Rings) {
    for ring in rings.rings() {
        out.extend_from_slice(&ring.newest.to_le_bytes());
        out.extend(ring.codes.iter().flat_map(|code| code.to_le_bytes()));
    }
}

fn checksum(bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(bytes);
    hasher.finish()
}

fn decode(store: &mut Store, bytes: &[u8], now: u64) -> Result<(), HistoryFault> {
    if !bytes.starts_with(MAGIC) {
        return Err(HistoryFault::Foreign);
    }
    let (body, sum) = bytes.split_last_chunk::<8>().map(|(body, sum)| (body, *sum)).ok_or(HistoryFault::Damaged)?;
    if checksum(body) != u64::from_le_bytes(sum) {
        return Err(HistoryFault::Damaged);
    }
    let mut rest = HistoryReader(body.get(MAGIC.len()..).unwrap_or_default());
    let saved = rest.number()?;
    if saved.abs_diff(now) > OLDEST_S {
        return Err(HistoryFault::Old);
    }
    while let Some(kind) = rest.kind() {
        let upstream = rest.name()?;
        let series = match kind {
            UPSTREAM => store.upstream(&upstream, saved),
            WORKER => store.worker(&(upstream, rest.name()?), saved),
            _ => return Err(HistoryFault::Damaged),
        };
        // Without memory for it (a smaller `memory`), a series is skipped.
        match series {
            Some(series) => rest.rings(&mut series.rings, saved)?,
            None => rest.skip(kind)?,
        }
    }
    Ok(())
}

/// What is left of a file.
struct HistoryReader<'a>(&'a [u8]);

impl<'a> HistoryReader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], HistoryFault> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(HistoryFault::Damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    fn kind(&mut self) -> Option<u8> {
        self.take(1).ok().and_then(|kind| kind.first().copied())
    }

    fn number(&mut self) -> Result<u64, HistoryFault> {
        let bytes = self.take(8)?.try_into().map_err(|_| HistoryFault::Damaged)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn name(&mut self) -> Result<String, HistoryFault> {
        let length = self.take(2)?.try_into().map(u16::from_le_bytes).map_err(|_| HistoryFault::Damaged)?;
        String::from_utf8(self.take(length.into())?.to_vec()).map_err(|_| HistoryFault::Damaged)
    }

    fn rings(&mut self, rings: &mut Rings, saved: u64) -> Result<(), HistoryFault> {
        for (ring, (length, _)) in rings.rings_mut().iter_mut().zip(STEPS) {
            // A sample of the future would hide all that follow.
            ring.newest = self.number()?.min(saved / length);
            for code in &mut ring.codes {
                *code = self.take(4)?.try_into().map(u32::from_le_bytes).map_err(|_| HistoryFault::Damaged)?;
            }
        }
        Ok(())
    }

    fn skip(&mut self, kind: u8) -> Result<(), HistoryFault> {
        let width = if kind == UPSTREAM { super::UPSTREAM_NUMBERS.len() } else { super::WORKER_NUMBERS.len() };
        STEPS.iter().try_for_each(|(_, rows)| self.take(8 + rows * width * 4).map(drop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: u64 = 1_764_328_800;
    const LIMIT: usize = 4 << 20;

    fn store() -> Store {
        let mut store = Store::new(LIMIT);
        for i in 0..100u8 {
            let key = ("app".to_owned(), "unix:/run/ä.sock".to_owned());
            store.add(T + u64::from(i), &[(key, [f32::from(i); 12])], &[("app".to_owned(), [1.0; 5])]);
        }
        store.close_all();
        store
    }

    fn read(bytes: &[u8], now: u64) -> Result<Store, HistoryFault> {
        let mut store = Store::new(LIMIT);
        decode(&mut store, bytes, now).map(|()| store)
    }

    #[test]
    fn what_was_saved_is_read_again() {
        let (old, path) = (store(), std::env::temp_dir().join(format!("history-{:016x}", crate::random::u64())));
        save(&old, &path, T + 100).unwrap();
        let mut new = Store::new(LIMIT);
        assert!(load(&mut new, &path, T + 160).unwrap());
        fs::remove_file(&path).unwrap();
        assert!(!load(&mut Store::new(LIMIT), &path, T).unwrap(), "there is none");
        for (key, series) in &old.workers {
            assert_eq!(new.workers[key].rings.rings(), series.rings.rings());
        }
        assert_eq!(new.upstreams["app"].rings.rings(), old.upstreams["app"].rings.rings());
        let mut small = Store::new(0);
        decode(&mut small, &encode(&old, T), T).unwrap();
        assert!(small.workers.is_empty(), "there is no memory for it");
    }

    #[test]
    fn a_damaged_foreign_or_old_file_is_refused() {
        let whole = encode(&store(), T);
        assert!(read(&whole, T + OLDEST_S).is_ok());
        assert!(matches!(read(&whole, T + OLDEST_S + 1), Err(HistoryFault::Old)));
        assert!(matches!(read(b"something else", T), Err(HistoryFault::Foreign)));
        assert!(matches!(read(b"", T), Err(HistoryFault::Foreign)));
        for cut in [MAGIC.len(), MAGIC.len() + 7, 1_000, whole.len() - 1] {
            assert!(matches!(read(&whole[..cut], T), Err(HistoryFault::Damaged)), "{cut}");
        }
        let mut bent = whole.clone();
        bent[5_000] ^= 1;
        assert!(matches!(read(&bent, T), Err(HistoryFault::Damaged)));
        // A checksum that fits proves nothing about the rest.
        let mut short = whole[..whole.len() - 1_008].to_vec();
        let sum = checksum(&short);
        short.extend_from_slice(&sum.to_le_bytes());
        assert!(matches!(read(&short, T), Err(HistoryFault::Damaged)));
    }
}
