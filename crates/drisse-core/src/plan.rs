//! The plan: computes the next steps from the desired and the current state. Pure, so that tests can try every state.
//!
//! An update starts the new replicas beside the old ones. Once all of them are ready, [`routes`] returns only the new
//! replicas. Once the gateway has confirmed these routes, the old replicas are not in use any more and are stopped.

use crate::{Death, Replica, ReplicaId, ReplicaState, ServiceSpec, Wanted};
use std::time::{Duration, SystemTime};

/// The pause before the replacement of a replica after the second death, doubled with each further death. The first
/// death causes no pause.
const BACKOFF: Duration = Duration::from_millis(200);

/// The longest pause, also used after a permanent death.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// How many deaths per wanted replica are remembered for the length of the pause: 200 ms · 2⁷ = 25.6 s.
const REMEMBERED: usize = 9;

/// If a replica has been ready for this long, earlier deaths are forgotten.
const STEADY: Duration = Duration::from_secs(10);

/// After so many deaths per wanted replica, each before the replica was ready, an operation stops waiting.
const HOPELESS: usize = 3;

/// The next steps towards the desired state.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    /// The steps, in order. Repeating a step is harmless.
    pub steps: Vec<Step>,
    /// When to plan again even if nothing changes; `None`: only after a change.
    pub again: Option<SystemTime>,
}

/// One action of a plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Start one more replica of a wanted revision.
    Start {
        /// The index of the revision in [`ServiceSpec::wanted`].
        index: usize,
    },
    /// Stop a replica, or forget a dead one.
    Stop(ReplicaId),
}

/// The replicas of one revision that receive requests.
#[derive(Clone, PartialEq, Debug)]
pub struct Routed<'a> {
    /// The revision's number.
    pub revision: u64,
    /// The revision's share of the requests, relative to the weights of the other revisions.
    pub weight: u32,
    /// The ready replicas; not empty.
    pub replicas: Vec<&'a Replica>,
}

/// Computes the next steps from the replicas that exist, `have`, to the desired state, `want`. Replicas of other
/// services are ignored. [`ReplicaSet`](crate::ReplicaSet) takes the steps in its [`Place`](crate::Place).
///
/// ```
/// use drisse_core::{Plan, ServiceSpec, plan};
/// use std::{collections::BTreeSet, time::{Duration, SystemTime}};
///
/// let service = "digits".parse()?;
/// let start_timeout = Duration::from_secs(300);
/// let want = ServiceSpec { service, wanted: vec![], in_use: BTreeSet::new(), start_timeout };
/// assert_eq!(plan(&want, &[], SystemTime::now()), Plan::default(), "nothing to start or stop");
/// # Ok::<(), drisse_core::InvalidNameError>(())
/// ```
pub fn plan(want: &ServiceSpec, have: &[Replica], now: SystemTime) -> Plan {
    let mut plan = Plan::default();
    let ours = || have.iter().filter(|replica| replica.service == want.service);
    let stop = |replica: &Replica| Step::Stop(replica.id.clone());
    for (index, wanted) in want.wanted.iter().enumerate() {
        let mut up: Vec<_> = ours().filter(|replica| fits(replica, wanted) && replica.is_up()).collect();
        up.retain(|replica| match replica.state {
            // A start time far in the future means that the clock was set back, and the age is not known.
            ReplicaState::Starting { since }
                if passed(since + want.start_timeout, now) || passed(now + want.start_timeout, since) =>
            {
                plan.steps.push(stop(replica));
                false
            }
            _ => true,
        });
        let wants = wanted.replicas as usize;
        let needed = wants.saturating_sub(ended_for_good(have, wanted));
        if let Some(missing) = needed.checked_sub(up.len()).filter(|&missing| missing > 0) {
            match restart_at(&deaths(have, wanted), wants, now) {
                Some(later) => plan.again = Some(plan.again.map_or(later, |again| again.min(later))),
                None => plan.steps.extend((0..missing).map(|_| Step::Start { index })),
            }
        }
        let spare = up.len().saturating_sub(wants);
        up.sort_by_key(|replica| (keep_first(replica), replica.id.clone()));
        let free = up.iter().rev().filter(|replica| !want.in_use.contains(&replica.id));
        plan.steps.extend(free.take(spare).map(|replica| stop(replica)));
        plan.steps.extend(forgettable(have, wanted, now).into_iter().map(stop));
    }
    let unwanted = ours().filter(|replica| !want.wanted.iter().any(|wanted| fits(replica, wanted)));
    for replica in unwanted {
        let in_use = want.in_use.contains(&replica.id) && replica.is_up();
        let stopping = replica.state == ReplicaState::Stopping;
        // If no revision is wanted, dead replicas are kept, because their logs say why they failed.
        let remembered = want.wanted.is_empty() && replica.death().is_some();
        if !in_use && !stopping && !remembered {
            plan.steps.push(stop(replica));
        }
    }
    plan
}

/// Returns the replicas that should receive requests: the wanted replicas once all of them are ready. Until then, the
/// replicas that are in use stay, and if these are fewer than wanted, ready wanted replicas are added.
pub fn routes<'a>(want: &ServiceSpec, have: &'a [Replica]) -> Vec<Routed<'a>> {
    if want.wanted.is_empty() {
        return Vec::new();
    }
    let ours = || have.iter().filter(|replica| replica.service == want.service && replica.is_ready());
    let mut groups = Vec::new();
    let mut complete = true;
    for wanted in want.wanted.iter().filter(|wanted| wanted.weight > 0) {
        let mut replicas: Vec<_> = ours().filter(|replica| fits(replica, wanted)).collect();
        replicas.sort_by_key(|replica| (keep_first(replica), replica.id.clone()));
        replicas.truncate(wanted.replicas as usize);
        complete &= replicas.len() == wanted.replicas as usize;
        groups.push(Routed { revision: wanted.revision.revision, weight: wanted.weight, replicas });
    }
    groups.retain(|group| !group.replicas.is_empty());
    if complete && !groups.is_empty() {
        return groups;
    }
    let chosen =
        |replica: &Replica| groups.iter().flat_map(|group| &group.replicas).any(|r| r.id == replica.id);
    let before: Vec<_> =
        ours().filter(|replica| want.in_use.contains(&replica.id) && !chosen(replica)).collect();
    let wanted: u32 = want.wanted.iter().map(|wanted| wanted.replicas).sum();
    if before.len() >= (wanted as usize).max(1) {
        groups.clear();
    }
    for replica in before {
        match groups.iter_mut().find(|group| group.revision == replica.revision) {
            Some(group) => group.replicas.push(replica),
            None => groups.push(Routed { revision: replica.revision, weight: 1, replicas: vec![replica] }),
        }
    }
    groups
}

/// Returns whether every wanted revision has at least as many ready replicas as wanted.
pub fn is_complete(want: &ServiceSpec, have: &[Replica]) -> bool {
    want.wanted.iter().all(|wanted| {
        let ready = have.iter().filter(|replica| fits(replica, wanted) && replica.is_ready()).count();
        ready >= wanted.replicas as usize
    })
}

/// Returns the death that shows that a wanted revision cannot become ready, so that waiting for it cannot succeed;
/// `None` if it still can.
pub fn failure<'a>(want: &ServiceSpec, have: &'a [Replica]) -> Option<&'a Death> {
    want.wanted.iter().find_map(|wanted| {
        let counts = |death: &&Death| death.before_ready || stays_dead(death, wanted);
        let early: Vec<_> = deaths(have, wanted).into_iter().filter(counts).collect();
        let last = *early.iter().max_by_key(|death| death.at)?;
        (last.permanent
            || stays_dead(last, wanted)
            || early.len() >= HOPELESS * (wanted.replicas as usize).max(1))
        .then_some(last)
    })
}

fn fits(replica: &Replica, wanted: &Wanted) -> bool {
    let spec = &wanted.revision;
    replica.service == spec.service && replica.revision == spec.revision && !replica.outdated
}

/// The sort key of the replicas to keep: ready before starting, the oldest first.
fn keep_first(replica: &Replica) -> (bool, SystemTime) {
    match replica.state {
        ReplicaState::Ready { since, .. } => (false, since),
        ReplicaState::Starting { since } => (true, since),
        _ => (true, SystemTime::UNIX_EPOCH),
    }
}

fn deaths<'a>(have: &'a [Replica], wanted: &Wanted) -> Vec<&'a Death> {
    have.iter().filter(|replica| fits(replica, wanted)).filter_map(Replica::death).collect()
}

/// Returns whether a dead replica is not replaced.
fn stays_dead(death: &Death, wanted: &Wanted) -> bool {
    wanted.revision.restart.leaves(death)
}

fn ended_for_good(have: &[Replica], wanted: &Wanted) -> usize {
    deaths(have, wanted).into_iter().filter(|death| stays_dead(death, wanted)).count()
}

/// Returns when to start the next replica; `None`: now. Deaths count per wanted replica, because several replicas that
/// are killed together are not a crash loop.
fn restart_at(deaths: &[&Death], replicas: usize, now: SystemTime) -> Option<SystemTime> {
    // A death in the future (the clock was set back) counts, but the pause does not start from it.
    let last = deaths.iter().filter(|death| passed(death.at, now)).max_by_key(|death| death.at)?;
    let pause = if last.permanent {
        MAX_BACKOFF
    } else {
        let rounds = deaths.len().div_ceil(replicas.max(1));
        let doublings = u32::try_from(rounds.checked_sub(2)?).unwrap_or(u32::MAX).min(16);
        BACKOFF.saturating_mul(1 << doublings).min(MAX_BACKOFF)
    };
    let at = last.at + pause;
    (!passed(at, now)).then_some(at)
}

/// Returns the dead replicas to forget: the oldest beyond [`REMEMBERED`], or all once a replica is [`STEADY`].
fn forgettable<'a>(have: &'a [Replica], wanted: &Wanted, now: SystemTime) -> Vec<&'a Replica> {
    let steady = have.iter().any(|replica| match replica.state {
        ReplicaState::Ready { since, .. } => fits(replica, wanted) && passed(since + STEADY, now),
        _ => false,
    });
    // A replica that must not be replaced is remembered: forgetting it would start a replacement.
    let replaced = |death: &Death| !stays_dead(death, wanted);
    let mut dead: Vec<_> = have
        .iter()
        .filter(|replica| fits(replica, wanted) && replica.death().is_some_and(replaced))
        .collect();
    // Deaths in the future are from before the clock was set back: they are the oldest.
    let age = |death: &Death| (passed(death.at, now), death.at);
    dead.sort_by_key(|replica| std::cmp::Reverse(replica.death().map(age)));
    let remembered = REMEMBERED * (wanted.replicas as usize).max(1);
    dead.split_off(if steady { 0 } else { remembered.min(dead.len()) })
}

fn passed(at: SystemTime, now: SystemTime) -> bool {
    at <= now
}

#[cfg(test)]
mod tests;
