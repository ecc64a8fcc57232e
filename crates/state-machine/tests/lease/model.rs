//! Random calls against a model that looks at every lease every time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use retcd_state_machine::lease::{Config, GrantError, KeepAliveError, Lessor, NotFound};

const MIN_TTL: i64 = 2;
const INTERVAL: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(7);

#[derive(Debug, Clone, Copy)]
enum Step {
    Grant(i64, i64),
    Revoke(i64),
    Attach(i64, u8),
    Detach(i64, u8),
    KeepAlive(i64),
    Wait(u64),
    Expired(usize),
    Due(usize),
    Checkpoint(i64, i64),
    Promote(u64),
    Demote,
    Restart,
}

#[derive(Debug, Clone, Default)]
struct Lease {
    granted: i64,
    remaining: i64,
    keys: BTreeSet<Vec<u8>>,
    /// Only on a primary.
    expiry: Duration,
    handed_out_until: Option<Duration>,
    checkpoint_due: Duration,
    /// A remainder may be on its way into the log.
    has_checkpoint: bool,
    number: usize,
}

#[derive(Default)]
struct Model {
    leases: BTreeMap<i64, Lease>,
    is_primary: bool,
    now: Duration,
    /// From when on the clocks run since the last promotion.
    start: Duration,
    grants: usize,
}

fn secs(secs: i64) -> Duration {
    Duration::from_secs(secs.unsigned_abs())
}

impl Model {
    fn start(&mut self, extend: Duration) {
        self.is_primary = true;
        self.start = self.now + extend;
        for lease in self.leases.values_mut() {
            let full = if lease.remaining > 0 { lease.remaining } else { lease.granted };
            lease.expiry = self.start + secs(full);
            lease.has_checkpoint = false;
            lease.handed_out_until = None;
            lease.checkpoint_due = self.now + INTERVAL;
        }
    }

    /// In the order in which they are due: by expiry, or by the time of the next try.
    fn expired(&mut self, limit: usize) -> Vec<i64> {
        let mut due: Vec<(Duration, usize, i64)> = Vec::new();
        for (id, lease) in &self.leases {
            let time = lease.handed_out_until.unwrap_or_default().max(lease.expiry);
            if self.is_primary && time <= self.now {
                due.push((time, lease.number, *id));
            }
        }
        due.sort_unstable();
        due.truncate(limit);
        for (_, _, id) in &due {
            self.leases.get_mut(id).unwrap().handed_out_until = Some(self.now + RETRY);
        }
        due.into_iter().map(|(_, _, id)| id).collect()
    }

    /// All that are due and say something, by id.
    fn due(&mut self) -> BTreeMap<i64, i64> {
        let mut due = BTreeMap::new();
        for (id, lease) in &mut self.leases {
            let left = lease.expiry.saturating_sub(self.now);
            if !self.is_primary
                || lease.checkpoint_due > self.now
                || secs(lease.granted) <= INTERVAL
            {
                continue;
            }
            lease.checkpoint_due = self.now + INTERVAL;
            let ceil = left.as_secs() + u64::from(left.subsec_nanos() > 0);
            if left > INTERVAL && i64::try_from(ceil).unwrap() < lease.granted {
                lease.has_checkpoint = true;
                due.insert(*id, i64::try_from(ceil).unwrap());
            }
        }
        due
    }
}

fn step() -> impl Strategy<Value = Step> {
    let id = || prop_oneof![8 => -2_i64..6, 1 => Just(i64::MIN)];
    prop_oneof![
        6 => (id(), -1_i64..90).prop_map(|(id, ttl)| Step::Grant(id, ttl)),
        2 => id().prop_map(Step::Revoke),
        3 => (id(), any::<u8>()).prop_map(|(id, key)| Step::Attach(id, key % 4)),
        1 => (id(), any::<u8>()).prop_map(|(id, key)| Step::Detach(id, key % 4)),
        5 => id().prop_map(Step::KeepAlive),
        8 => (1_u64..20_000).prop_map(Step::Wait),
        4 => (1_usize..5).prop_map(Step::Expired),
        2 => Just(Step::Due(usize::MAX)),
        2 => (id(), 0_i64..60).prop_map(|(id, remaining)| Step::Checkpoint(id, remaining)),
        1 => (0_u64..5).prop_map(Step::Promote),
        1 => Just(Step::Demote),
        1 => Just(Step::Restart),
    ]
}

struct World {
    lessor: Lessor,
    model: Model,
}

fn lessor() -> Lessor {
    Lessor::new(Config {
        min_ttl_secs: MIN_TTL,
        checkpoint_interval: INTERVAL,
        revoke_retry: RETRY,
    })
}

impl World {
    fn new() -> Self {
        World { lessor: lessor(), model: Model::default() }
    }

    fn step(&mut self, step: Step) {
        let World { lessor, model } = self;
        let now = model.now;
        match step {
            Step::Grant(id, ttl) => self.grant(id, ttl),
            Step::Revoke(id) => {
                let expected = model.leases.remove(&id).ok_or(NotFound(id));
                let keys = lessor.revoke(id).map(|keys| keys.into_iter().map(Vec::from).collect());
                assert_eq!(keys, expected.map(|lease| lease.keys.into_iter().collect::<Vec<_>>()));
            }
            Step::Attach(id, key) => {
                let lease = model.leases.get_mut(&id);
                assert_eq!(lessor.attach(id, &[key]), lease.is_some());
                lease.map(|lease| lease.keys.insert(vec![key]));
            }
            Step::Detach(id, key) => {
                lessor.detach(id, &[key]);
                model.leases.get_mut(&id).map(|lease| lease.keys.remove(&[key][..]));
            }
            Step::KeepAlive(id) => self.keep_alive(id),
            Step::Wait(millis) => model.now += Duration::from_millis(millis),
            Step::Expired(limit) => {
                assert_eq!(lessor.take_expired(now, limit), model.expired(limit));
            }
            Step::Due(limit) => {
                let due = lessor.due_checkpoints(now, limit);
                let due = due.iter().map(|due| (due.id, due.remaining_ttl)).collect();
                assert_eq!(model.due(), due);
            }
            Step::Checkpoint(id, remaining) => {
                lessor.checkpoint(id, remaining);
                if let Some(lease) = model.leases.get_mut(&id) {
                    lease.remaining = remaining;
                    if model.is_primary && remaining == 0 {
                        lease.expiry = lease.expiry.max(model.start + secs(lease.granted));
                    }
                }
            }
            Step::Promote(extend) => {
                lessor.promote(now, Duration::from_secs(extend));
                model.start(Duration::from_secs(extend));
            }
            Step::Demote => {
                lessor.demote();
                model.is_primary = false;
            }
            Step::Restart => self.restart(),
        }
        self.check();
    }

    fn grant(&mut self, id: i64, ttl: i64) {
        let World { lessor, model } = self;
        let result = lessor.grant(id, ttl, model.now);
        if id == 0 {
            assert_eq!(result, Err(GrantError::NoId));
        } else if model.leases.contains_key(&id) {
            assert_eq!(result, Err(GrantError::Exists(id)));
        } else {
            let granted = ttl.max(MIN_TTL);
            assert_eq!(result.map(|lease| (lease.id, lease.ttl_secs)), Ok((id, granted)));
            model.grants += 1;
            let lease = Lease {
                granted,
                expiry: model.now + secs(granted),
                checkpoint_due: model.now + INTERVAL,
                number: model.grants,
                ..Lease::default()
            };
            model.leases.insert(id, lease);
        }
    }

    fn keep_alive(&mut self, id: i64) {
        let World { lessor, model } = self;
        let result = lessor.keep_alive(id, model.now);
        match model.leases.get_mut(&id) {
            _ if !model.is_primary => assert_eq!(result, Err(KeepAliveError::NotPrimary)),
            None => assert_eq!(result, Err(KeepAliveError::NotFound(id))),
            Some(lease) if lease.expiry <= model.now => {
                assert_eq!(result, Err(KeepAliveError::Expired(id)));
            }
            Some(lease) => {
                lease.expiry = model.now + secs(lease.granted);
                lease.handed_out_until = None;
                let renewed = result.unwrap();
                assert_eq!(renewed.ttl_secs, lease.granted);
                assert_eq!(
                    renewed.needs_checkpoint_clear,
                    lease.remaining > 0 || lease.has_checkpoint
                );
            }
        }
    }

    /// What is stored is all that is needed; keys are attached again.
    fn restart(&mut self) {
        let ids: Vec<i64> = self.model.leases.keys().copied().collect();
        let stored: Vec<_> = ids.iter().map(|id| self.lessor.to_stored(*id).unwrap()).collect();
        self.lessor = lessor();
        self.lessor.restore(stored);
        self.model.is_primary = false;
        for (id, number) in ids.into_iter().zip(1..) {
            self.model.grants = number;
            let lease = self.model.leases.get_mut(&id).unwrap();
            lease.number = number;
            lease.keys.iter().for_each(|key| assert!(self.lessor.attach(id, key)));
        }
    }

    fn check(&self) {
        let World { lessor, model } = self;
        let mut ids: Vec<i64> = model.leases.keys().copied().collect();
        if model.is_primary {
            ids.sort_by_key(|id| (model.leases[id].expiry, model.leases[id].number));
        }
        assert_eq!(lessor.leases(), ids);
        assert_eq!(lessor.len(), ids.len());
        assert_eq!(lessor.is_primary(), model.is_primary);
        for (id, lease) in &model.leases {
            let keys: Vec<&[u8]> = lessor.keys(*id).unwrap().collect();
            assert_eq!(keys, lease.keys.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let ttl = lessor.time_to_live(*id, model.now).unwrap();
            assert_eq!(ttl.granted_ttl_secs, lease.granted);
            let left = lease.expiry.as_nanos().cast_signed() - model.now.as_nanos().cast_signed();
            let remaining = i64::try_from(left / 1_000_000_000).unwrap();
            assert_eq!(ttl.remaining_secs, model.is_primary.then_some(remaining));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn agrees_with_a_model_that_looks_at_every_lease(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
    }
}
