//! Labels that the application's backend sets on a socket: no client can choose or change them.
//!
//! They stand beside the labels that are read from requests, and take their place where both have the same name. They
//! stay with the socket from polling to WebSocket and end with it. Left out: the right to set them (`admin::sockets`).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use super::Sockets;
use super::labels::LONGEST_LABEL;
use super::lock;
use super::socket::Socket;
use crate::printable::is_unprintable;

/// Maximum number of labels that the backend may set on one socket.
const MOST: usize = 8;
/// Maximum number of names of such labels over all sockets: each is a group of the statistics.
const MOST_NAMES: usize = 64;
/// Maximum length of a name in bytes, as of labels in the configuration.
const LONGEST_NAME: usize = 32;

/// Labels that the backend has set on one socket, by name.
pub(crate) type BackendLabels = Vec<(Box<str>, Box<str>)>;

/// Names of the labels that the backend has set since the start.
#[derive(Debug, Default)]
pub(crate) struct BackendNames(Mutex<BTreeSet<Box<str>>>);

/// Changes of labels: a value, or `None` to remove the label.
pub(crate) type LabelChanges = Vec<(String, Option<String>)>;

/// Checks the names and values of labels that the backend wants to set.
///
/// # Errors
/// What is wrong with the first wrong one.
pub(crate) fn check(changes: &LabelChanges) -> Result<(), String> {
    for (name, value) in changes {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if !(1..=LONGEST_NAME).contains(&name.len()) || !name.bytes().all(fits) {
            return Err(format!("`{name}` is not a valid label name: use 1 to 32 characters of a-z, 0-9 and `_`"));
        }
        let Some(value) = value else { continue };
        if value.is_empty() || value.len() > LONGEST_LABEL || value.chars().any(is_unprintable) {
            return Err(format!("the value of `{name}` must have 1 to {LONGEST_LABEL} bytes, all of them printable"));
        }
    }
    Ok(())
}

impl Sockets {
    /// Whether the backend has set a label of this name since the start.
    pub(crate) fn is_backend_label(&self, name: &str) -> bool {
        lock(&self.backend_names.0).contains(name)
    }

    /// Sets labels of the backend on a socket, or removes them, all or none. Returns its labels of the backend.
    ///
    /// # Errors
    /// There would be too many labels, or too many different names.
    pub(crate) fn set_backend_labels(
        &self,
        socket: &Socket,
        changes: LabelChanges,
    ) -> Result<Arc<BackendLabels>, String> {
        let mut names = lock(&self.backend_names.0);
        let new: Vec<Box<str>> = changes
            .iter()
            .filter(|(name, value)| value.is_some() && !names.contains(name.as_str()))
            .map(|(name, _)| name.as_str().into())
            .collect();
        if names.len() + new.len() > MOST_NAMES {
            return Err(format!("there are {MOST_NAMES} different names of labels already"));
        }
        let labels = socket.change_backend_labels(changes)?;
        names.extend(new);
        Ok(labels)
    }
}

impl Socket {
    fn change_backend_labels(&self, changes: LabelChanges) -> Result<Arc<BackendLabels>, String> {
        let mut cold = lock(&self.cold);
        let known = cold.backend_labels().map(|labels| labels.to_vec()).unwrap_or_default();
        let is_kept = |(name, _): &(Box<str>, Box<str>)| !changes.iter().any(|(changed, _)| **name == **changed);
        let mut labels: BackendLabels = known.into_iter().filter(is_kept).collect();
        let set = |(name, value): (String, Option<String>)| Some((name.into_boxed_str(), value?.into_boxed_str()));
        labels.extend(changes.into_iter().filter_map(set));
        if labels.len() > MOST {
            return Err(format!("the socket would have {} labels of the backend; the maximum is {MOST}", labels.len()));
        }
        labels.sort();
        let labels = Arc::new(labels);
        cold.care.get_or_insert_default().labels = (!labels.is_empty()).then(|| labels.clone());
        Ok(labels)
    }
}

/// Returns labels that were read from a request together with those of the backend, which come first.
pub(super) fn merged<'a>(
    read: impl Iterator<Item = (&'a str, Option<&'a str>)>,
    backend: Option<&'a Arc<BackendLabels>>,
) -> impl Iterator<Item = (&'a str, Option<&'a str>)> {
    let own = backend.map_or(&[][..], |labels| labels.as_slice());
    let is_own = |name: &str| own.iter().any(|(known, _)| **known == *name);
    let set = own.iter().map(|(name, value)| (&**name, Some(&**value)));
    set.chain(read.filter(move |(name, _)| !is_own(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_the_backend_take_the_place_of_those_of_requests() {
        let backend = Arc::new(vec![("user".into(), "7".into())]);
        let read = [("user", Some("forged")), ("store", Some("1"))];
        let all: Vec<_> = merged(read.into_iter(), Some(&backend)).collect();
        assert_eq!(all, [("user", Some("7")), ("store", Some("1"))]);
        assert_eq!(merged(read.into_iter(), None).collect::<Vec<_>>(), read);
    }

    #[test]
    fn wrong_names_and_values_are_named() {
        let long = "x".repeat(65);
        let wrong =
            [("User", Some("7")), ("", Some("7")), ("user", Some("")), ("user", Some(&long)), ("a", Some("\n"))];
        for (name, value) in wrong {
            let changes = vec![(name.to_owned(), value.map(str::to_owned))];
            assert!(check(&changes).is_err(), "{name} {value:?}");
        }
        assert!(check(&vec![("user_1".to_owned(), Some("ü 7".to_owned())), ("b".to_owned(), None)]).is_ok());
    }
}
