//! Sessions that are learned, discovered and requested at the same time have one entry each on the list of sockets, and
//! the entry is found again.

use std::thread;

use super::*;
use crate::config;
use crate::keys::Keys;
use crate::sockets::SHARDS;
use crate::state::Shared;

const TTL: Duration = Duration::from_secs(50);

fn shared() -> (Arc<Shared>, Arc<Worker>) {
    let config = config::for_command_line(&["127.0.0.1:8000".into()], &["127.0.0.1:8001".into()]).unwrap();
    let shared = Shared::new(&config, vec![1; 32], Keys::random().unwrap());
    let worker = shared.snapshot.load().workers().next().unwrap().clone();
    (shared, worker)
}

fn client() -> Client {
    Client { address: "192.0.2.1".parse().unwrap(), known: true, secure: false }
}

fn new(worker: &Arc<Worker>, kind: SocketKind) -> New<'_> {
    New { worker, session: Some(worker.session()), transport: Transport::Polling, kind, sid: b"sid", facts: None }
}

fn listed(shared: &Shared) -> Vec<Arc<Socket>> {
    (0..SHARDS).flat_map(|shard| shared.sessions.sockets.shard(shard)).collect()
}

/// The session's upgrade was still being discovered when the delayed response to its handshake was learned.
#[test]
fn a_session_learned_while_it_was_discovered_is_one_entry() {
    let (shared, worker) = shared();
    let key = shared.sessions.keys.key(&worker.upstream, b"sid");
    assert!(shared.sessions.pin_fresh(key, client(), worker.session(), Ttl::Announced(TTL)));
    assert!(listed(&shared).is_empty(), "no request has named it");
    // What discovery does once a worker has accepted the upgrade.
    assert!(!shared.sessions.pin(key, client(), new(&worker, SocketKind::EngineIo), Ttl::Announced(TTL)));
    let found = shared.sessions.hold(key).unwrap();
    assert!(!found.is_fresh());
    let (tunnel, socket) = found.of_tunnel(true);
    let socket = socket.expect("the tunnel belongs to this session's entry");
    // The session's next poll.
    shared.sessions.enlist(key, |session| New { session: Some(session), ..new(&worker, SocketKind::EngineIo) });
    assert_eq!((listed(&shared).len(), worker.sessions()), (1, 1));
    drop((socket, tunnel));
    shared.sessions.forget(key, EndReason::Client);
    assert_eq!((listed(&shared).len(), worker.sessions()), (0, 0));
}

/// Engine.IO grants the second upgrade of a session and ends it at once; the first tunnel goes on
/// (docs/reference/protocols.md §1.3).
#[test]
fn a_second_tunnel_takes_nothing_from_the_first() {
    let (shared, worker) = shared();
    let key = shared.sessions.keys.key(&worker.upstream, b"sid");
    assert!(shared.sessions.pin(key, client(), new(&worker, SocketKind::EngineIo), Ttl::Announced(TTL)));
    let has_tunnel = || shared.sessions.pins.peek(key, Instant::now(), |pin| pin.has_tunnel()).unwrap();
    let (first, socket) = shared.sessions.hold(key).unwrap().of_tunnel(true);
    let socket = socket.unwrap();
    socket.upgraded(Transport::WebSocket);
    let (second, other) = shared.sessions.hold(key).unwrap().of_tunnel(true);
    assert!(other.is_none(), "the session's socket belongs to the first tunnel");
    drop(second);
    assert!(has_tunnel(), "the first tunnel is still open");
    assert_eq!(listed(&shared).len(), 1);
    assert!(socket.has_tunnel());
    drop((first, socket));
    assert!(!has_tunnel());
    let many: Vec<_> = (0..300).map(|_| shared.sessions.hold(key).unwrap().of_known_tunnel(true)).collect();
    drop(many);
    assert!(has_tunnel(), "beyond the count, the session is taken to have a tunnel");
}

/// Requests of one session that find their worker at the same time make one entry, whichever is first.
#[test]
fn sessions_found_concurrently_have_one_entry_each() {
    let (shared, worker) = shared();
    let key = |n: u32| shared.sessions.keys.key(&worker.upstream, &n.to_be_bytes());
    thread::scope(|scope| {
        for who in 0..4 {
            let (shared, worker) = (&shared, &worker);
            scope.spawn(move || {
                for n in 0..500 {
                    if who == 0 {
                        shared.sessions.pin_fresh(key(n), client(), worker.session(), Ttl::Announced(TTL));
                    } else {
                        shared.sessions.pin(key(n), client(), new(worker, SocketKind::EngineIo), Ttl::Announced(TTL));
                    }
                    shared
                        .sessions
                        .enlist(key(n), |session| New { session: Some(session), ..new(worker, SocketKind::EngineIo) });
                }
            });
        }
    });
    assert_eq!((listed(&shared).len(), shared.sessions.pins.len(), worker.sessions()), (500, 500, 500));
    let (opened, closed) = worker.series.sockets.turnover();
    assert_eq!((opened, closed), (500, 0));
}

/// A session is closed by its entry, whatever sid the entry shows: sids of other protocols do not lead to their pins.
#[test]
fn a_session_is_closed_by_its_socket() {
    let (shared, worker) = shared();
    for (kind, key) in [
        (SocketKind::EngineIo, shared.sessions.keys.key(&worker.upstream, b"sid")),
        (SocketKind::Plain, shared.sessions.keys.of_rule(&worker.upstream, "mcp", b"id")),
    ] {
        assert!(shared.sessions.pin(key, client(), new(&worker, kind), Ttl::Announced(TTL)));
        let socket = listed(&shared).pop().unwrap();
        assert_eq!(socket.key(), (kind == SocketKind::Plain).then_some(key));
        assert!(shared.sessions.close(&socket) && !shared.sessions.close(&socket), "{kind:?}");
        assert_eq!((listed(&shared).len(), socket.end_reason()), (0, Some(EndReason::Operator)));
        assert!(
            shared.sessions.pins.remove(key).is_some_and(|pin| pin.worker().is_none()),
            "the pin remembers the end"
        );
    }
}
