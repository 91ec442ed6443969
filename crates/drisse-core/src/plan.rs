//! From what is wanted and what is there to the next steps: pure, so that every situation can be tested.
//!
//! An update is: start what is wanted beside what runs; once all of it is ready, [`routes`] names it and
//! no longer the old; once the gateway has confirmed that, the old is no longer in use and is stopped.

use crate::{Death, Replica, ReplicaId, ReplicaState, ServiceSpec, Wanted};
use std::time::{Duration, SystemTime};

/// After the first death a replica is replaced at once; from the second on it waits this long, doubled
/// with each death …
const BACKOFF: Duration = Duration::from_millis(200);

/// … up to this, which is also the pause after a death that trying again does not mend.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// Deaths of one revision that are remembered per wanted replica, so that the pause can grow: 200 ms · 2⁷ = 25.6 s.
const REMEMBERED: usize = 9;

/// A replica that has been ready this long shows that the deaths before it were no loop.
const STEADY: Duration = Duration::from_secs(10);

/// A revision each of whose replicas has died this often before it was ever ready is given up by who waits.
const HOPELESS: usize = 3;

/// What to do next.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    /// In order; each is harmless when repeated.
    pub steps: Vec<Step>,
    /// When to plan again though nothing changes.
    pub again: Option<SystemTime>,
}

/// One step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Start one more replica of a wanted revision.
    Start {
        /// Its place in [`ServiceSpec::wanted`].
        place: usize,
    },
    /// Tell a replica to end, or forget one that is dead.
    Stop(ReplicaId),
}

/// Requests go here: the replicas of one revision and its share.
#[derive(Clone, PartialEq, Debug)]
pub struct Routed<'a> {
    /// The revision.
    pub revision: u64,
    /// Relative to the others.
    pub weight: u32,
    /// Ready replicas; not empty.
    pub replicas: Vec<&'a Replica>,
}

/// The next steps. `have` may hold replicas of other services: they are left alone.
pub fn plan(want: &ServiceSpec, have: &[Replica], now: SystemTime) -> Plan {
    let mut plan = Plan::default();
    let ours = || have.iter().filter(|replica| replica.service == want.service);
    let stop = |replica: &Replica| Step::Stop(replica.id.clone());
    for (place, wanted) in want.wanted.iter().enumerate() {
        let mut up: Vec<_> = ours().filter(|replica| fits(replica, wanted) && replica.is_up()).collect();
        up.retain(|replica| match replica.state {
            // Of one that started in what is the future now nobody can say for how long it has been starting.
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
                None => plan.steps.extend((0..missing).map(|_| Step::Start { place })),
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
        // What ran before the last failure is kept, dead, as long as nothing is wanted: its log says why.
        let remembered = want.wanted.is_empty() && replica.death().is_some();
        if !in_use && !stopping && !remembered {
            plan.steps.push(stop(replica));
        }
    }
    plan
}

/// Where requests go now: to what is wanted once all of it is ready; until then to what they go to
/// already, helped by what is ready of the wanted.
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

/// Why waiting for what is wanted is in vain, if it is.
pub fn failure<'a>(want: &ServiceSpec, have: &'a [Replica]) -> Option<&'a Death> {
    want.wanted.iter().find_map(|wanted| {
        let vain = |death: &&Death| death.before_ready || stays_dead(death, wanted);
        let early: Vec<_> = deaths(have, wanted).into_iter().filter(vain).collect();
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

/// Ready ones before starting ones, the oldest first.
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

/// Whether nothing takes a dead replica's place.
fn stays_dead(death: &Death, wanted: &Wanted) -> bool {
    wanted.revision.restart.leaves(death)
}

fn ended_for_good(have: &[Replica], wanted: &Wanted) -> usize {
    deaths(have, wanted).into_iter().filter(|death| stays_dead(death, wanted)).count()
}

/// When to start the next replica, if not now. Deaths count per wanted replica: that several were killed
/// together is no loop.
fn restart_at(deaths: &[&Death], replicas: usize, now: SystemTime) -> Option<SystemTime> {
    // One in the future was told by a clock that has been set back since: it counts, and nothing waits for it.
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

/// Dead replicas that say nothing any more: the oldest ones, and all once one has been ready for long.
fn forgettable<'a>(have: &'a [Replica], wanted: &Wanted, now: SystemTime) -> Vec<&'a Replica> {
    let steady = have.iter().any(|replica| match replica.state {
        ReplicaState::Ready { since, .. } => fits(replica, wanted) && passed(since + STEADY, now),
        _ => false,
    });
    // Who is not replaced is remembered: otherwise somebody would be.
    let replaced = |death: &Death| !stays_dead(death, wanted);
    let mut dead: Vec<_> = have
        .iter()
        .filter(|replica| fits(replica, wanted) && replica.death().is_some_and(replaced))
        .collect();
    // What is dated in the future was before everything that is not.
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
