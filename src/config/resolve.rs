//! Looks up DNS names with the system's resolver (getaddrinfo: /etc/hosts, search domains, nsswitch), which may block
//! for any time: the loading of a configuration waits with a bound, the running system (`upstream::addresses`) on a
//! thread that it never joins.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Time limit for all names of one configuration together: a name server that does not answer delays a start or a
/// reload by some seconds, not by some for each name. Longer than the 5 s after which glibc tries the next name server.
const ALL: Duration = Duration::from_secs(10);

/// Minimum time for each name: a name that does not resolve in time must not make the others fail.
const EACH: Duration = Duration::from_secs(1);

/// The system's resolver, with a time limit for the names of one configuration.
pub(crate) fn patient() -> impl Fn(&str) -> io::Result<Vec<IpAddr>> {
    bounded(look_up, ALL, EACH)
}

/// Puts a time limit on a blocking lookup. After a time-out the lookup ends on its own thread and its result is
/// ignored.
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

/// Every address of a name, in the order of the resolver; blocks.
pub(crate) fn look_up(name: &str) -> io::Result<Vec<IpAddr>> {
    Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_name_that_hangs_the_next_names_are_looked_up() {
        let resolve = bounded(
            |name| match name {
                "hangs" => loop {
                    std::thread::park();
                },
                _ => Ok(vec![[10, 0, 0, 1].into()]),
            },
            Duration::from_millis(1),
            // Long enough on any machine for the name that does not hang.
            Duration::from_secs(2),
        );
        assert_eq!(resolve("hangs").unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(resolve("answers").unwrap().len(), 1);
    }
}
