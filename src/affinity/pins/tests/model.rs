//! All operations of the table at once, against a naive model.

use super::*;

struct ModelPin {
    key: Key,
    address: u64,
    deadline: u32,
    ttl: u32,
    open: u32,
    /// Number of the operation that was its last activity.
    active: usize,
    life: usize,
}

/// Naive model of the table; times are in ticks.
struct Model {
    pins: Vec<ModelPin>,
    per_shard: usize,
    per_address: usize,
}

impl Model {
    fn live(&mut self, key: Key, now: u32) -> Option<&mut ModelPin> {
        self.pins.retain(|pin| pin.key != key || pin.open > 0 || pin.deadline > now);
        self.pins.iter_mut().find(|pin| pin.key == key)
    }

    fn evict(&mut self, shard: u64, fits: impl Fn(&ModelPin) -> bool) -> bool {
        let idle = |pin: &&ModelPin| pin.key.0 == shard && pin.open == 0 && fits(pin);
        let Some(life) = self.pins.iter().filter(idle).min_by_key(|pin| pin.active).map(|pin| pin.life) else {
            return false;
        };
        self.pins.retain(|pin| pin.life != life);
        true
    }

    fn insert(&mut self, key: Key, address: u64, ttl: u32, now: u32, op: usize) -> Inserted<()> {
        if let Some(pin) = self.live(key, now) {
            (pin.deadline, pin.active) = (now + pin.ttl + 1, op);
            return Inserted::Kept(());
        }
        let mut evicted = 0;
        let mine = self.pins.iter().filter(|pin| pin.address == address).count();
        if self.pins.len() * 2 > self.per_shard * SHARDS && mine >= self.per_address {
            if !self.evict(key.0, |pin| pin.address == address) {
                return Inserted::Refused((), PinsFull::Address);
            }
            evicted += 1;
        }
        if self.pins.iter().filter(|pin| pin.key.0 == key.0).count() >= self.per_shard {
            if !self.evict(key.0, |_| true) {
                return Inserted::Refused((), PinsFull::Table);
            }
            evicted += 1;
        }
        self.pins.push(ModelPin { key, address, deadline: now + ttl + 1, ttl, open: 0, active: op, life: op });
        Inserted::New { evicted }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Insert(Key, u64, u32),
    Touch(Key),
    Peek(Key),
    Open(Key),
    Close(prop::sample::Index, Option<u32>),
    Remove(Key),
    Sweep(usize),
    Wait(u32),
}

fn operation() -> impl Strategy<Value = Op> {
    let key = || (0u64..64, 0u64..5).prop_map(|(shard, n)| key(shard, n));
    prop_oneof![
        16 => (key(), 1u64..6, 1u32..500).prop_map(|(key, address, ttl)| Op::Insert(key, address, ttl)),
        3 => key().prop_map(Op::Touch),
        2 => key().prop_map(Op::Peek),
        3 => key().prop_map(Op::Open),
        3 => (any::<prop::sample::Index>(), prop::option::of(0u32..100))
            .prop_map(|(which, shorten)| Op::Close(which, shorten)),
        1 => key().prop_map(Op::Remove),
        1 => (0..SHARDS).prop_map(Op::Sweep),
        2 => (0u32..20).prop_map(Op::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Shards hold one to three pins, so that half full, over quota and full all happen within some hundred operations.
    #[test]
    fn agrees_with_a_model(
        ops in prop::collection::vec(operation(), 1..1200),
        per_address in 1usize..30,
        per_shard in 1usize..4,
    ) {
        let (base, owner) = (Instant::now(), Arc::new(()));
        let pins = Pins::new(per_shard * SHARDS, per_address, base);
        let mut model = Model { pins: Vec::new(), per_shard, per_address };
        let (mut now, mut holds) = (0, Vec::new());
        for (op, what) in ops.into_iter().enumerate() {
            let at = base + TICK * now;
            match what {
                Op::Insert(key, address, ttl) => {
                    let known = match pins.insert(key, owner.clone(), AddressHash::new(address), TICK * ttl, at) {
                        Inserted::New { evicted } => Inserted::New { evicted },
                        Inserted::Kept(_) => Inserted::Kept(()),
                        Inserted::Refused(_, why) => Inserted::Refused((), why),
                    };
                    prop_assert_eq!(known, model.insert(key, address, ttl, now, op));
                }
                Op::Touch(key) => {
                    let known = model.live(key, now).map(|pin| (pin.deadline, pin.active) = (now + pin.ttl + 1, op));
                    prop_assert_eq!(pins.touch(key, at, |_| ()), known);
                }
                Op::Peek(key) => prop_assert_eq!(pins.peek(key, at, |_| ()), model.live(key, now).map(|_| ())),
                Op::Open(key) => {
                    let hold = pins.open(key, at, |_| ()).map(|(hold, ())| hold);
                    let pin = model.live(key, now);
                    prop_assert_eq!(hold.is_some(), pin.is_some());
                    if let (Some(hold), Some(pin)) = (hold, pin) {
                        pin.open += 1;
                        holds.push((key, hold, pin.life));
                    }
                }
                Op::Close(which, shorten) if !holds.is_empty() => {
                    let (key, hold, life) = holds.swap_remove(which.index(holds.len()));
                    pins.close(key, hold, at, shorten.map(|ticks| TICK * ticks));
                    if let Some(pin) = model.pins.iter_mut().find(|pin| pin.life == life) {
                        pin.open -= 1;
                        if pin.open == 0 {
                            pin.deadline = now + shorten.map_or(pin.ttl, |s| s.min(pin.ttl)) + 1;
                            pin.active = op;
                        }
                    }
                }
                Op::Close(..) => {}
                Op::Remove(key) => {
                    let before = model.pins.len();
                    model.pins.retain(|pin| pin.key != key);
                    prop_assert_eq!(pins.remove(key).is_some(), model.pins.len() < before);
                }
                Op::Sweep(shard) => {
                    let before = model.pins.len();
                    model.pins.retain(|pin| pin.key.0 != shard as u64 || pin.open > 0 || pin.deadline > now);
                    prop_assert_eq!(pins.sweep(shard, at), before - model.pins.len());
                }
                Op::Wait(ticks) => now += ticks,
            }
            prop_assert_eq!(pins.len(), model.pins.len());
            prop_assert_eq!(Arc::strong_count(&owner), 1 + model.pins.len(), "owners are dropped with their pins");
        }
        for address in 1..6 {
            let mine = model.pins.iter().filter(|pin| pin.address == address).count();
            prop_assert_eq!(pins.addresses.count(fold(AddressHash::new(address))), mine);
        }
    }
}
