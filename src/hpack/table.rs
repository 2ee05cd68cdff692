//! The tables of HPACK: the static one, and the dynamic one of one connection (RFC 7541 §2.3).

use std::collections::VecDeque;

/// Maximum size of a dynamic table in bytes, as RFC 7541 §4.1 counts them: the initial SETTINGS_HEADER_TABLE_SIZE
/// (RFC 9113 §6.5.2), which stickyd never changes.
pub(super) const MOST: usize = 4_096;

/// Bytes that an entry counts in addition to its name and value (RFC 7541 §4.1).
pub(super) const OVERHEAD: usize = 32;

/// The static table (RFC 7541, Appendix A).
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// One entry of a dynamic table.
pub(super) struct Entry<C> {
    /// The name, and the value after it.
    bytes: Box<[u8]>,
    name: usize,
    class: C,
}

impl<C> Entry<C> {
    /// Creates an entry of copies.
    pub(super) fn new(name: &[u8], value: &[u8], class: C) -> Self {
        Self { bytes: [name, value].concat().into(), name: name.len(), class }
    }

    fn size(&self) -> usize {
        self.bytes.len() + OVERHEAD
    }
}

/// The dynamic table of a connection.
pub(super) struct Table<C> {
    /// The entries, the newest first.
    entries: VecDeque<Entry<C>>,
    size: usize,
    most: usize,
}

/// What an index stands for; the class is known if the entry is in the dynamic table.
pub(super) type Indexed<'a, C> = (&'a [u8], &'a [u8], Option<C>);

impl<C: Copy> Table<C> {
    pub(super) fn new() -> Self {
        Self { entries: VecDeque::new(), size: 0, most: MOST }
    }

    /// Returns the name and value at an index, which counts from 1 (RFC 7541 §2.3.3).
    pub(super) fn get(&self, index: usize) -> Option<Indexed<'_, C>> {
        let place = index.checked_sub(1)?;
        if let Some((name, value)) = STATIC.get(place) {
            return Some((name.as_bytes(), value.as_bytes(), None));
        }
        let entry = self.entries.get(place - STATIC.len())?;
        let (name, value) = entry.bytes.split_at_checked(entry.name)?;
        Some((name, value, Some(entry.class)))
    }

    /// Adds an entry; an entry that is larger than the table empties it (RFC 7541 §4.4).
    pub(super) fn insert(&mut self, entry: Entry<C>) {
        let size = entry.size();
        self.shrink_to(self.most.saturating_sub(size));
        if size <= self.most {
            self.size += size;
            self.entries.push_front(entry);
        }
    }

    /// Changes the maximum size (RFC 7541 §4.3).
    pub(super) fn resize(&mut self, most: usize) {
        self.most = most;
        self.shrink_to(most);
    }

    fn shrink_to(&mut self, most: usize) {
        while self.size > most
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size -= oldest.size();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(table: &Table<()>) -> Vec<&str> {
        (62..).map_while(|index| table.get(index)).map(|(name, ..)| std::str::from_utf8(name).unwrap()).collect()
    }

    #[test]
    fn the_oldest_entries_go_first() {
        let mut table = Table::new();
        for name in ["a", "b", "c"] {
            table.insert(Entry::new(name.as_bytes(), &[b'x'; 1_000], ()));
        }
        assert_eq!(names(&table), ["c", "b", "a"]);
        table.insert(Entry::new(b"d", &[b'x'; 1_000], ()));
        assert_eq!(names(&table), ["d", "c", "b"]);
        table.resize(1_033);
        assert_eq!(names(&table), ["d"]);
        table.insert(Entry::new(b"large", &[b'x'; 1_000], ()));
        assert_eq!(names(&table), Vec::<&str>::new(), "an entry larger than the table empties it");
        assert_eq!(table.size, 0);
        assert!(table.get(0).is_none() && table.get(61).is_some() && table.get(62).is_none());
        assert!(table.get(usize::MAX).is_none());
    }
}
