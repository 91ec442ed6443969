//! From any state the plan converges, keeps enough replicas serving, and stops only replicas of its own service.

use super::*;
use crate::{Restart, RevisionSpec, ServiceName};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

fn name(name: &str) -> ServiceName {
    name.parse().unwrap()
}

fn want(revisions: &[(u64, u32)]) -> ServiceSpec {
    let wanted = |&(revision, replicas): &(u64, u32)| Wanted {
        revision: RevisionSpec::new(
            name("s"),
            revision,
            format!("sha256:{revision}"),
            format!("sha256:p{revision}"),
        ),
        replicas,
        weight: 1,
    };
    ServiceSpec {
        service: name("s"),
        wanted: revisions.iter().map(wanted).collect(),
        in_use: BTreeSet::new(),
        start_timeout: Duration::from_secs(300),
    }
}

fn replica(id: usize, service: &str, revision: u64, state: ReplicaState) -> Replica {
    let id = ReplicaId::new(&format!("r{id}")).unwrap();
    Replica { id, service: name(service), revision, outdated: false, state }
}

fn ready(seconds: u64) -> ReplicaState {
    ReplicaState::Ready {
        since: at(seconds),
        address: "unix:/s".to_owned(),
        admin: None,
        concurrency: 1,
        keys_confirmed: true,
    }
}

fn dead(seconds: u64, before_ready: bool, permanent: bool) -> ReplicaState {
    ReplicaState::Dead(Death {
        at: at(seconds),
        reason: "exited with code 1".to_owned(),
        failed: true,
        before_ready,
        permanent,
        log: vec![],
    })
}

/// A simulated place and gateway that take every step of the plan, round by round.
struct World {
    have: Vec<Replica>,
    in_use: BTreeSet<ReplicaId>,
    next: usize,
    now: u64,
}

impl World {
    /// Runs one round of the control plane: route, confirm, plan, act. Replicas that are starting become ready.
    fn round(&mut self, mut want: ServiceSpec) -> Plan {
        want.in_use = self.in_use.clone();
        let routed: BTreeSet<_> = routes(&want, &self.have)
            .iter()
            .flat_map(|group| &group.replicas)
            .map(|r| r.id.clone())
            .collect();
        self.in_use = routed.clone();
        want.in_use = routed;
        let plan = plan(&want, &self.have, at(self.now));
        for replica in &mut self.have {
            if replica.service == want.service && matches!(replica.state, ReplicaState::Starting { .. }) {
                replica.state = ready(self.now);
            }
        }
        for step in &plan.steps {
            match step {
                Step::Start { index } => {
                    self.next += 1;
                    let revision = want.wanted[*index].revision.revision;
                    let since = at(self.now);
                    self.have.push(replica(self.next, "s", revision, ReplicaState::Starting { since }));
                }
                Step::Stop(id) => {
                    let there = self.have.iter().find(|replica| replica.id == *id).unwrap();
                    assert_eq!(there.service, name("s"), "only replicas of this service are stopped");
                    assert!(!(self.in_use.contains(id) && there.is_ready()), "{id} accepts requests");
                    self.have.retain(|replica| replica.id != *id);
                }
            }
        }
        self.now += 31;
        plan
    }

    fn serving(&self) -> usize {
        self.have.iter().filter(|r| self.in_use.contains(&r.id) && r.is_ready()).count()
    }
}

fn states() -> impl Strategy<Value = ReplicaState> {
    prop_oneof![
        (0..50u64).prop_map(|since| ReplicaState::Starting { since: at(since) }),
        (0..50u64).prop_map(ready),
        Just(ReplicaState::Stopping),
        (0..50u64, any::<bool>()).prop_map(|(at, early)| dead(at, early, false)),
    ]
}

proptest! {
    #[test]
    fn converges_from_any_state_and_never_serves_from_fewer_replicas_than_wanted(
        states in prop::collection::vec((0..4u64, any::<bool>(), any::<bool>(), states()), 0..12),
        revisions in prop::collection::btree_map(1..4u64, 1..4u32, 1..3),
    ) {
        let mut have = Vec::new();
        let mut in_use = BTreeSet::new();
        for (id, (revision, ours, used, state)) in states.into_iter().enumerate() {
            let replica = replica(id, if ours { "s" } else { "other" }, revision, state);
            if used && ours && replica.is_ready() {
                in_use.insert(replica.id.clone());
            }
            have.push(replica);
        }
        let others: Vec<_> = have.iter().filter(|r| r.service != name("s")).cloned().collect();
        let revisions: Vec<_> = revisions.into_iter().collect();
        let total: u32 = revisions.iter().map(|(_, replicas)| replicas).sum();
        let mut world = World { have, in_use, next: 100, now: 60 };
        let before = world.serving();
        for _ in 0..8 {
            world.round(want(&revisions));
            prop_assert!(world.serving() >= before.min(total as usize));
        }
        for (revision, replicas) in &revisions {
            let up = world.have.iter().filter(|r| r.revision == *revision && r.service == name("s"));
            prop_assert_eq!(up.filter(|r| r.is_ready()).count(), *replicas as usize);
        }
        prop_assert_eq!(world.serving(), total as usize);
        let left = world.round(want(&revisions));
        prop_assert_eq!(left, Plan::default());
        // If no revision is wanted, no replica serves; only dead replicas and those of other services are left.
        for _ in 0..3 {
            world.round(want(&[]));
        }
        prop_assert_eq!(world.serving(), 0);
        prop_assert!(world.have.iter().all(|r| r.service != name("s") || !r.is_up()));
        prop_assert!(others.iter().all(|other| world.have.contains(other)));
    }
}

#[test]
fn an_update_starts_the_new_beside_the_old_and_stops_the_old_once_it_is_out_of_use() {
    let mut world = World { have: vec![], in_use: BTreeSet::new(), next: 0, now: 0 };
    for _ in 0..3 {
        world.round(want(&[(1, 2)]));
    }
    assert_eq!(world.serving(), 2);
    assert_eq!(world.round(want(&[(2, 2)])).steps, vec![Step::Start { index: 0 }; 2]);
    assert!(world.have.iter().filter(|r| world.in_use.contains(&r.id)).all(|r| r.revision == 1));
    // The new replicas became ready at the end of the round; the next rounds move the requests and stop the old.
    world.round(want(&[(2, 2)]));
    world.round(want(&[(2, 2)]));
    assert!(world.have.iter().all(|r| r.revision == 2), "{:?}", world.have);
    assert_eq!(world.serving(), 2);
}

#[test]
fn deaths_back_off_and_are_forgotten_once_a_replica_stays() {
    let want = want(&[(1, 1)]);
    let one = vec![replica(0, "s", 1, dead(100, false, false))];
    assert_eq!(plan(&want, &one, at(100)).steps, [Step::Start { index: 0 }], "the first death: no pause");
    let wrong = vec![replica(0, "s", 1, dead(100, true, true))];
    assert_eq!(plan(&want, &wrong, at(100)).steps, [], "a wrong model is not tried again and again");
    let three: Vec<_> = (0..3).map(|id| replica(id, "s", 1, dead(100, false, false))).collect();
    let waiting = plan(&want, &three, at(100));
    assert_eq!((waiting.steps, waiting.again), (vec![], Some(at(100) + 2 * BACKOFF)));
    assert_eq!(plan(&want, &three, at(101)).steps.len(), 1);
    let mut stays = three;
    stays.push(replica(9, "s", 1, ready(101)));
    assert_eq!(plan(&want, &stays, at(105)), Plan::default());
    assert_eq!(plan(&want, &stays, at(111)).steps.len(), 3, "all three deaths are forgotten");
}

#[test]
fn a_clock_set_back_a_day_neither_keeps_a_service_down_nor_ends_the_backing_off() {
    let day = 24 * 60 * 60;
    let mut have: Vec<_> = (0..9).map(|id| replica(id, "s", 1, dead(day + id as u64, true, false))).collect();
    let steps = |have: &[Replica], now| plan(&want(&[(1, 1)]), have, at(now));
    assert_eq!(steps(&have, day + 9).steps, [], "it backs off");
    assert_eq!(steps(&have, 9).steps, [Step::Start { index: 0 }], "deaths in the future cause no pause");
    // The next death is in the past, and causes a pause again.
    have.push(replica(9, "s", 1, dead(10, true, false)));
    let planned = steps(&have, 11);
    assert!(planned.again.is_some_and(|again| again <= at(10 + 30)), "{planned:?}");
    let forgotten: Vec<_> = planned.steps.iter().collect();
    assert_eq!(forgotten, [&Step::Stop(ReplicaId::new("r0").unwrap())], "the oldest is forgotten");
    let starting = [replica(0, "s", 1, ReplicaState::Starting { since: at(day) })];
    assert!(
        steps(&starting, 0).steps.contains(&Step::Start { index: 0 }),
        "a replica with a start time far in the future is replaced"
    );
    assert_eq!(steps(&starting, day - 1).steps, [], "a start time one second in the future is accepted");
}

#[test]
fn replicas_that_were_killed_together_are_replaced_at_once() {
    let killed: Vec<_> = (0..10).map(|id| replica(id, "s", 1, dead(100, false, false))).collect();
    let plan = plan(&want(&[(1, 10)]), &killed, at(100));
    assert_eq!(plan.steps, vec![Step::Start { index: 0 }; 10]);
}

#[test]
fn waiting_is_in_vain_when_the_model_is_wrong_or_three_replicas_died_before_they_were_ready() {
    let want = want(&[(2, 1)]);
    let hopeless = |deaths: &[(bool, bool)]| {
        let have: Vec<_> = deaths
            .iter()
            .enumerate()
            .map(|(id, &(early, permanent))| replica(id, "s", 2, dead(1, early, permanent)))
            .collect();
        failure(&want, &have).is_some()
    };
    assert!(hopeless(&[(true, true)]));
    assert!(!hopeless(&[(true, false), (true, false)]));
    assert!(hopeless(&[(true, false), (true, false), (true, false)]));
    assert!(!hopeless(&[(false, false), (false, false), (false, false)]), "the replicas were ready before");
}

#[test]
fn a_replica_of_an_older_drisse_is_replaced_like_one_of_an_older_revision() {
    let mut old = replica(0, "s", 1, ready(0));
    old.outdated = true;
    let mut world = World { in_use: [old.id.clone()].into(), have: vec![old], next: 1, now: 60 };
    world.round(want(&[(1, 1)]));
    assert_eq!(world.serving(), 1, "the old one serves until the new one is ready");
    world.round(want(&[(1, 1)]));
    world.round(want(&[(1, 1)]));
    assert!(world.have.iter().all(|replica| !replica.outdated));
}

#[test]
fn a_replica_that_is_not_to_be_restarted_stays_dead_and_is_remembered() {
    let mut want = want(&[(1, 2)]);
    want.wanted[0].revision.restart = Restart::Never;
    let mut have = vec![replica(1, "s", 1, ready(0)), replica(2, "s", 1, dead(5, false, false))];
    assert_eq!(plan(&want, &have, at(100)), Plan::default());
    have.push(replica(3, "s", 1, dead(6, true, false)));
    assert!(failure(&want, &have).is_some(), "no further start is awaited");
    want.wanted[0].replicas = 4;
    assert_eq!(plan(&want, &have, at(100)).steps, [Step::Start { index: 0 }]);
    let worked = [replica(2, "s", 1, dead(5, false, false))];
    assert!(failure(&want, &worked).is_some(), "also if the replica was ready before");

    want.wanted[0].revision.restart = Restart::OnFailure;
    want.wanted[0].replicas = 2;
    let mut ended = replica(2, "s", 1, dead(5, false, false));
    let have = |ended: &Replica| vec![replica(1, "s", 1, ready(99)), ended.clone()];
    assert_eq!(plan(&want, &have(&ended), at(100)).steps, [Step::Start { index: 0 }]);
    if let ReplicaState::Dead(death) = &mut ended.state {
        death.failed = false;
    }
    assert_eq!(plan(&want, &have(&ended), at(100)), Plan::default());
}
