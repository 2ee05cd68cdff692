//! The list against a model of random lives: exactly the live sockets are listed, and each is counted in and out once.

use std::collections::HashSet;

use proptest::prelude::*;

use super::socket_id::{Texts, pack_label, printable};
use super::*;
use crate::config::Address;
use crate::cookie::WorkerId;
use crate::metrics::Metrics;

fn worker() -> Arc<Worker> {
    let series = Metrics::new().worker("app", "w");
    Worker::new("app", Address::Unix("/w".into()), "w".to_owned(), WorkerId(1), series)
}

fn new<'a>(worker: &'a Arc<Worker>, transport: Transport) -> New<'a> {
    New { worker, session: Some(worker.session()), transport, kind: SocketKind::EngineIo, sid: b"sid", facts: None }
}

fn listed(sockets: &Sockets) -> HashSet<Id> {
    (0..SHARDS).flat_map(|shard| sockets.shard(shard)).map(|socket| socket.id()).collect()
}

/// Tens of thousands of sockets live on one machine; jemalloc's size classes are 128, 160 and 192 bytes.
#[test]
fn a_socket_is_small() {
    assert!(size_of::<Socket>() + 16 <= 160, "{} bytes, plus 16 for the reference counts", size_of::<Socket>());
    assert_eq!((size_of::<Listed>(), size_of::<Option<Listed>>(), size_of::<Tunnelled>()), (8, 8, 8));
}

/// One event in the life of a socket, seen from outside.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A polling session begins.
    Poll,
    /// A tunnel without a pin begins.
    Tunnel,
    /// The `n`th polling session tries a WebSocket.
    Try(usize),
    /// The `n`th session moves to its WebSocket.
    Move(usize),
    /// The tunnel of the `n`th session ends.
    Part(usize),
    /// The pin of the `n`th session is removed.
    Unpin(usize),
}

/// A life in the model: what is held, and whether it must be listed.
struct Life {
    owner: Option<Listed>,
    tunnel: Option<Tunnelled>,
    moved: bool,
    id: Id,
    over: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Events in any order: a live socket is listed once, an ended one is never listed again, and the worker's count is
    /// the number of owners.
    #[test]
    fn live_sockets_are_listed_once(steps in prop::collection::vec((0..6u8, 0..8usize), 0..80)) {
        let (worker, sockets) = (worker(), Sockets::new(1_000));
        let mut lives: Vec<Life> = Vec::new();
        for (kind, n) in steps {
            let step = match kind {
                0 => Step::Poll,
                1 => Step::Tunnel,
                2 => Step::Try(n),
                3 => Step::Move(n),
                4 => Step::Part(n),
                _ => Step::Unpin(n),
            };
            match step {
                Step::Poll | Step::Tunnel => {
                    let tunnel = matches!(step, Step::Tunnel);
                    let transport = if tunnel { Transport::WebSocket } else { Transport::Polling };
                    let owner = sockets.open(new(&worker, transport));
                    owner.socket().begins();
                    let id = owner.socket().id();
                    let hold = tunnel.then(|| Tunnelled::new(owner.socket().clone()));
                    lives.push(Life { owner: Some(owner), tunnel: hold, moved: tunnel, id, over: false });
                }
                Step::Try(n) => {
                    if let Some(life) = lives.get_mut(n).filter(|life| !life.over && life.tunnel.is_none()) {
                        life.tunnel = life.owner.as_ref().map(|owner| Tunnelled::new(owner.socket().clone()));
                    }
                }
                Step::Move(n) => {
                    if let Some(life) = lives.get_mut(n).filter(|life| !life.moved)
                        && let Some(tunnel) = &life.tunnel
                    {
                        tunnel.upgraded(Transport::WebSocketH2);
                        life.moved = true;
                    }
                }
                Step::Part(n) => {
                    if let Some(life) = lives.get_mut(n).filter(|life| life.tunnel.is_some()) {
                        life.tunnel = None;
                        life.over |= life.moved || life.owner.is_none();
                    }
                }
                Step::Unpin(n) => {
                    if let Some(life) = lives.get_mut(n).filter(|life| life.owner.is_some()) {
                        life.owner = None;
                        life.over |= life.tunnel.is_none();
                    }
                }
            }
            let expected: HashSet<_> = lives.iter().filter(|life| !life.over).map(|life| life.id).collect();
            prop_assert_eq!(&listed(&sockets), &expected);
            prop_assert_eq!(sockets.len(), expected.len());
            let owned = lives.iter().filter(|life| life.owner.is_some()).count();
            prop_assert_eq!(worker.sessions() as usize, owned);
            let (opened, closed) = worker.series.sockets.turnover();
            prop_assert_eq!((opened, opened - closed), (lives.len() as u64, expected.len() as u64));
            for transport in Transport::ALL {
                let all = (0..SHARDS).flat_map(|shard| sockets.shard(shard));
                let live = all.filter(|socket| socket.transport() == transport).count();
                prop_assert_eq!(worker.series.live_sockets(transport), live as u64);
            }
        }
        drop(lives);
        prop_assert_eq!(Transport::ALL.map(|transport| worker.series.live_sockets(transport)), [0; 3]);
        prop_assert!(sockets.is_empty() && listed(&sockets).is_empty());
    }

    #[test]
    fn ids_are_read_as_they_are_written(life in 1..u32::MAX, index in 0..1usize << 26, shard in 0..SHARDS) {
        let id = Id::new(life, index, shard).unwrap();
        prop_assert_eq!(id.to_string().parse(), Ok(id));
        prop_assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
        prop_assert_eq!(id.place(), (shard, index));
    }

    #[test]
    fn texts_are_kept(
        sid in prop::collection::vec(any::<u8>(), 0..300),
        labels in prop::collection::vec(prop::option::of(".{0,80}"), 0..8),
    ) {
        let mut packed = Vec::new();
        labels.iter().for_each(|label| pack_label(&mut packed, label.as_deref()));
        let address = "192.0.2.7".parse().unwrap();
        let texts = Texts::new(address, &sid, &packed);
        let sid = &sid[..sid.len().min(256)];
        prop_assert_eq!((texts.address(), texts.sid()), (address, sid));
        let cut = |text: &String| text[..text.floor_char_boundary(254)].to_owned();
        let all: Vec<_> = texts.labels().map(|label| label.map(str::to_owned)).collect();
        prop_assert_eq!(&all, &labels.iter().map(|label| label.as_ref().map(cut)).collect::<Vec<_>>());
        let keyed = texts.with_key([7; 16]);
        prop_assert_eq!((texts.key(), keyed.key()), (None, Some([7; 16])));
        prop_assert_eq!((keyed.address(), keyed.sid()), (texts.address(), texts.sid()));
        prop_assert_eq!(keyed.labels().collect::<Vec<_>>(), texts.labels().collect::<Vec<_>>());
        let renamed = texts.with_sid(b"other");
        prop_assert_eq!((renamed.address(), renamed.sid()), (address, &b"other"[..]));
        prop_assert_eq!(renamed.labels().collect::<Vec<_>>(), texts.labels().collect::<Vec<_>>());
    }

    #[test]
    fn printable_text_is_short_and_harmless(bytes in prop::collection::vec(any::<u8>(), 0..200), most in 0..100usize) {
        let text = printable(&bytes, most);
        prop_assert!(text.len() <= most && !text.contains(char::is_control));
    }
}

#[test]
fn invalid_ids_are_rejected() {
    for text in ["", "0", "000", "i", "il", "zzzzzzzzzzzzzz", "zzzzzzzzzzzzz", "a-b", "é"] {
        assert_eq!(text.parse::<Id>(), Err(()), "{text}");
    }
}

/// A socket lives even if the list is full, and its end is counted at its worker.
#[test]
fn a_full_list_counts_unlisted_sockets() {
    let (worker, sockets) = (worker(), Sockets::new(2));
    let mut all: Vec<_> = (0..3).map(|_| sockets.open(new(&worker, Transport::Polling))).collect();
    all.iter().for_each(|one| one.socket().begins());
    assert_eq!((sockets.len(), listed(&sockets).len(), worker.sessions()), (2, 2, 3));
    assert_eq!((worker.series.sockets.unlisted.get(), worker.series.sockets.turnover()), (1, (3, 0)));
    assert_eq!(sockets.get(all[2].socket().id()).map(|_| ()), None);
    drop(all.remove(0));
    assert_eq!((sockets.len(), worker.series.sockets.turnover()), (1, (3, 1)));
    all.push(sockets.open(new(&worker, Transport::Polling)));
    assert_eq!(sockets.len(), 2, "there is room again");
    drop(all);
    assert_eq!((sockets.len(), worker.sessions()), (0, 0));
}

/// Two sockets that used the same place one after the other have different ids.
#[test]
fn an_old_id_finds_no_new_socket() {
    let (worker, sockets) = (worker(), Sockets::new(10));
    let mut old = HashSet::new();
    for _ in 0..SHARDS * 3 {
        let one = sockets.open(new(&worker, Transport::Polling));
        assert!(old.insert(one.socket().id()));
        assert!(sockets.get(one.socket().id()).is_some());
    }
    assert!(old.iter().all(|id| sockets.get(*id).is_none()));
}
