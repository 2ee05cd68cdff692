//! DNS names by the system's resolver (getaddrinfo: /etc/hosts, search domains, nsswitch), which blocks for as long as it
//! likes: a configuration waits for it with a bound, the running system (`upstream::addresses`) on a thread it never joins.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long the names of one configuration are waited for, all together: a name server that does not answer costs a start
/// or a reload some seconds, not some for each name. More than the 5 s in which glibc turns to the next name server.
const ALL: Duration = Duration::from_secs(10);

/// What each name gets at least: one that answers is not to suffer for one that does not.
const EACH: Duration = Duration::from_secs(1);

/// The system's resolver, for the names of one configuration.
pub(super) fn patient() -> impl Fn(&str) -> io::Result<Vec<IpAddr>> {
    bounded(look_up, ALL, EACH)
}

/// A lookup given up ends on its thread, unheard.
fn bounded(
    look_up: fn(&str) -> io::Result<Vec<IpAddr>>,
    all: Duration,
    each: Duration,
) -> impl Fn(&str) -> io::Result<Vec<IpAddr>> {
    let left = Cell::new(all);
    move |name| {
        let (began, name) = (Instant::now(), name.to_owned());
        let (sender, answer) = mpsc::channel();
        std::thread::Builder::new().name("dns".to_owned()).spawn(move || sender.send(look_up(&name)).is_ok())?;
        let answer = answer.recv_timeout(left.get().max(each));
        left.set(left.get().saturating_sub(began.elapsed()));
        answer.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))?
    }
}

/// Every address of a name, as it comes; blocks.
pub(crate) fn look_up(name: &str) -> io::Result<Vec<IpAddr>> {
    Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_hangs_is_given_up_and_the_next_ones_are_asked() {
        let resolve = bounded(
            |name| match name {
                "hangs" => loop {
                    std::thread::park();
                },
                _ => Ok(vec![[10, 0, 0, 1].into()]),
            },
            Duration::from_millis(1),
            // For the answer of the one that does not hang, on whatever machine.
            Duration::from_secs(2),
        );
        assert_eq!(resolve("hangs").unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(resolve("answers").unwrap().len(), 1);
    }
}
