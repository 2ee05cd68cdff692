//! Hubs of two machines, whose messages a test carries by hand.

use std::sync::Arc;

use proptest::prelude::*;

use super::super::BusMembers;
use super::super::frame::LinkHello;
use super::super::outbox::LinkOutbox;
use super::*;
use crate::metrics::Metrics;

const A: MemberId = MemberId(1);
const B: MemberId = MemberId(2);
const C: MemberId = MemberId(3);

/// One machine of the fleet.
struct Machine {
    id: HubId,
    hub: Hub,
    way: Rc<FarQueue>,
}

impl Machine {
    fn new(id: u64) -> Self {
        let way = Rc::new(FarQueue::default());
        let members = BusMembers::new(Arc::new(Metrics::new()));
        let hub = Hub::new(members, FarHubs::over(way.clone()));
        hub.far.link(&hub);
        Self { id: HubId(id), hub, way }
    }

    fn join(&self, member: MemberId) -> Rc<LinkOutbox> {
        let outbox = Rc::new(LinkOutbox::default());
        let hello: LinkHello = serde_json::from_str(&format!(
            r#"{{"version": 1, "upstream": "app", "path": "/socket.io", "member": "{:016x}", "pid": 1}}"#,
            member.0
        ))
        .unwrap();
        let group = self.hub.groups.borrow_mut().entry(key()).or_default().clone();
        let is_first = group.borrow().near().next().is_none();
        group.borrow_mut().join(Instant::now(), &hello, &outbox, 0);
        self.hub.far.changed(&key(), &mut group.borrow_mut(), is_first);
        outbox
    }

    fn group(&self) -> Rc<RefCell<BusGroup>> {
        self.hub.groups.borrow().get(&key()).unwrap().clone()
    }

    fn publish(&self, origin: MemberId, sequence: u64, text: &'static str) -> FarOutcome {
        let payload = Bytes::from_static(text.as_bytes());
        let publish = Publish { sequence, after: 0, audience: None, broadcast: true, payload };
        self.hub.far.publish(&key(), &self.group().borrow(), origin, &publish)
    }

    /// Carries everything that waits to another machine.
    fn carry(&self, to: &Self) -> Vec<FarTarget> {
        let all: Vec<_> = self.way.queue.borrow_mut().drain(..).collect();
        self.way.bytes.set(0);
        all.into_iter()
            .map(|(target, message)| {
                if !matches!(target, FarTarget::Hub(id) if id != to.id) {
                    assert!(to.hub.far.hear(&to.hub, self.id, message, Instant::now()));
                }
                target
            })
            .collect()
    }
}

fn key() -> GroupKey {
    ("app".to_owned(), "/socket.io".to_owned())
}

/// Two machines that know each other, with the members A here and B there.
fn linked() -> (Machine, Rc<LinkOutbox>, Machine, Rc<LinkOutbox>) {
    let (here, there) = (Machine::new(1), Machine::new(2));
    let (a, b) = (here.join(A), there.join(B));
    here.carry(&there);
    there.carry(&here);
    here.carry(&there);
    (here, a, there, b)
}

/// Types and ids or payloads of the frames that wait for a member.
fn frames(outbox: &LinkOutbox) -> Vec<(u8, Vec<u8>)> {
    outbox.take_all().iter().map(|frame| (frame[4], frame[5..].to_vec())).collect()
}

fn id(member: MemberId) -> Vec<u8> {
    member.0.to_be_bytes().to_vec()
}

#[test]
fn members_of_two_machines_are_peers() {
    let (here, a, there, b) = linked();
    assert_eq!(frames(&a).pop(), Some((5, id(B))), "joined");
    assert_eq!(frames(&b).pop(), Some((5, id(A))));
    assert_eq!(here.publish(A, 1, "hello"), FarOutcome::Sent);
    here.carry(&there);
    let [(2, message)] = &frames(&b)[..] else { panic!("one message") };
    assert_eq!((&message[6..14], &message[20..]), (&id(A)[..], &b"hello"[..]));
    there.hub.far.direct(&key(), &there.group().borrow(), B, A, b"answer");
    assert_eq!(there.carry(&here), [FarTarget::Hub(HubId(1))]);
    assert_eq!(frames(&a), [(3, [id(B), b"answer".to_vec()].concat())]);
    // Who joins later finds the peer on the other machine in the welcome.
    let c = here.join(C);
    let (kind, welcome) = frames(&c).remove(0);
    let welcome: serde_json::Value = serde_json::from_slice(&welcome).unwrap();
    assert!(kind == 1 && welcome["members"].as_array().unwrap().len() == 2, "{welcome}");
}

#[test]
fn a_message_that_comes_twice_is_handed_on_once() {
    let (here, _, there, b) = linked();
    for _ in 0..2 {
        here.publish(A, 1, "once");
    }
    here.carry(&there);
    assert_eq!(frames(&b).iter().filter(|(kind, _)| *kind == 2).count(), 1);
}

#[test]
fn a_lost_way_ends_all_peers_at_once() {
    let (here, a, there, b) = linked();
    frames(&a);
    here.publish(A, 1, "waits");
    here.hub.far.lose(&here.hub);
    assert_eq!((frames(&a), here.hub.far.members()), (vec![(6, id(B))], 0), "left");
    assert_eq!(here.way.take_dropped(), 1);
    assert_eq!(here.publish(A, 2, "alone"), FarOutcome::Alone);
    // The other machine hears nothing more, and forgets this one.
    frames(&b);
    there.hub.far.tick(&there.hub, Instant::now() + SILENT);
    assert_eq!(frames(&b), [(6, id(A))]);
    // Back again: each asks for the members of the others.
    here.hub.far.link(&here.hub);
    here.carry(&there);
    there.carry(&here);
    assert_eq!(frames(&a), [(5, id(B))]);
    assert_eq!(frames(&b), [(5, id(A))]);
}

/// A frozen Redis hands on what it had received before this machine uses it again; messages sent then were lost, and
/// calls waited for machines that they did not reach.
#[test]
fn members_that_nothing_reaches_are_not_waited_for() {
    let (here, a, there, _b) = linked();
    here.hub.far.lose(&here.hub);
    frames(&a);
    there.hub.far.ask(&there.hub);
    there.carry(&here);
    assert_eq!((here.hub.far.members(), frames(&a)), (0, vec![]));
    // A new subscription does not open the way.
    here.hub.far.ask(&here.hub);
    assert!(here.way.queue.borrow().is_empty());
    assert_eq!(here.publish(A, 1, "alone"), FarOutcome::Alone);
    here.hub.far.link(&here.hub);
    here.carry(&there);
    there.carry(&here);
    assert_eq!((here.hub.far.members(), here.publish(A, 2, "all")), (1, FarOutcome::Sent));
}

#[test]
fn a_hub_that_ends_says_so() {
    let (here, _, there, b) = linked();
    frames(&b);
    here.hub.far.leave(&here.hub);
    here.carry(&there);
    assert_eq!((frames(&b), there.hub.far.members()), (vec![(6, id(A))], 0));
}

#[test]
fn nothing_goes_to_other_machines_where_nobody_is() {
    let here = Machine::new(1);
    here.join(A);
    here.way.clear();
    assert_eq!(here.publish(A, 1, "left"), FarOutcome::Alone);
    assert!(here.way.queue.borrow().is_empty());
    assert_eq!(here.way.wanted(0), [key()], "but messages of the group are wanted");
}

#[test]
fn what_waits_for_the_way_is_bounded() {
    let (here, ..) = linked();
    let payload = Bytes::from(vec![0; 512 * 1024]);
    for sequence in 1..=40 {
        let publish = Publish { sequence, after: 0, audience: None, broadcast: true, payload: payload.clone() };
        here.hub.far.publish(&key(), &here.group().borrow(), A, &publish);
    }
    assert!(here.way.bytes.get() <= WAITING);
    assert_eq!(here.way.take_dropped(), 40 - here.way.queue.borrow().len() as u64);
    let publish =
        Publish { sequence: 41, after: 0, audience: None, broadcast: true, payload: Bytes::from(vec![0; LONGEST]) };
    assert_eq!(here.hub.far.publish(&key(), &here.group().borrow(), A, &publish), FarOutcome::TooLong);
}

proptest! {
    #[test]
    fn no_bytes_of_another_hub_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (here, ..) = linked();
        here.hub.far.hear(&here.hub, HubId(9), bytes.into(), Instant::now());
    }

    /// What a hub writes is what another one reads.
    #[test]
    fn a_published_message_survives_the_way(
        sequence in 0..1_u64 << 48, after in 0..1_u64 << 48, broadcast: bool, rooms: Option<Vec<String>>,
        payload: Vec<u8>,
    ) {
        let audience = rooms.map(|rooms| frame::Audience {
            nsp: "/".to_owned(),
            id: "x".to_owned(),
            rooms: rooms.into_iter().map(Into::into).collect(),
            except: Vec::new(),
        });
        let sent = Publish { sequence, after, audience, broadcast, payload: payload.into() };
        let Some((_, FarMessage::Published { origin, publish })) = read(published(&key(), A, &sent)) else {
            return Err(TestCaseError::fail("not read"));
        };
        prop_assert_eq!(origin, A);
        prop_assert_eq!(format!("{publish:?}"), format!("{sent:?}"));
    }
}
