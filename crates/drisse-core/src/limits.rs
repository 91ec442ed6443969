//! What a replica may use, what a target has, and whether what is asked for fits.

use crate::Death;

/// What one replica may use, where that is said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// Thousandths of a core: `--cpu 0.5` is 500.
    pub cpu: Option<u32>,
    /// Bytes.
    pub memory: Option<u64>,
}

impl Limits {
    /// Less of a core is no limit a kernel knows: its scheduler gives a millisecond of every hundred.
    pub const MIN_CPU: u32 = 10;

    /// In less memory no scoring server starts.
    pub const MIN_MEMORY: u64 = 16 << 20;
}

/// Whether a replica that ended is replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Restart {
    /// Whatever it ended with.
    #[default]
    Always,
    /// Unless it ended as if it had been told to.
    OnFailure,
    /// Not.
    Never,
}

impl Restart {
    /// Whether nothing takes the place of a replica that ended so.
    pub fn leaves(self, death: &Death) -> bool {
        match self {
            Self::Always => false,
            Self::OnFailure => !death.failed,
            Self::Never => true,
        }
    }
}

/// What a target has for all services together.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Capacity {
    /// Thousandths of a core.
    pub cpu: Bound,
    /// Bytes.
    pub memory: Bound,
    /// Services at most.
    pub groups: Option<u32>,
}

/// How much there is of something, and whether a limit on it can be kept.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bound {
    /// How much; unknown where nothing is said.
    pub most: Option<u64>,
    /// Why a replica cannot be kept from using more than it may.
    pub unenforceable: Option<String>,
}

/// What services ask of a target together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Demand {
    /// Services.
    pub groups: u64,
    /// Thousandths of a core.
    pub cpu: u64,
    /// Bytes.
    pub memory: u64,
}

impl Demand {
    /// A service's.
    pub fn of(limits: Limits, replicas: u32) -> Self {
        let all = |one: u64| one.saturating_mul(u64::from(replicas));
        Self { groups: 1, cpu: all(limits.cpu.unwrap_or(0).into()), memory: all(limits.memory.unwrap_or(0)) }
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            groups: self.groups.saturating_add(other.groups),
            cpu: self.cpu.saturating_add(other.cpu),
            memory: self.memory.saturating_add(other.memory),
        }
    }
}

impl Capacity {
    /// Whether a service fits beside the others: why not. What it holds already it may keep.
    pub fn fits(&self, others: Demand, holds: Demand, asks: Demand) -> Result<(), String> {
        let check = |most: Option<u64>, used: u64, holds: u64, asks: u64, show: &dyn Fn(u64) -> String| {
            let Some(most) = most else { return Ok(()) };
            if asks <= holds || used.saturating_add(asks) <= most {
                return Ok(());
            }
            let (free, used, asks) = (show(most.saturating_sub(used)), show(used), show(asks));
            Err(format!("{asks} asked for, {used} of {} used by others: {free} would fit", show(most)))
        };
        let services = |number: u64| format!("{number} service{}", if number == 1 { "" } else { "s" });
        check(self.groups.map(u64::from), others.groups, holds.groups, asks.groups, &services)?;
        check(self.cpu.most, others.cpu, holds.cpu, asks.cpu, &cores)?;
        check(self.memory.most, others.memory, holds.memory, asks.memory, &|bytes| size(bytes))
    }

    /// Why limits cannot be kept, if so.
    pub fn keeps(&self, limits: Limits) -> Result<(), String> {
        let broken = |bound: &Bound, what: &str| {
            bound.unenforceable.as_ref().map(|why| format!("no limit on {what} can be kept: {why}"))
        };
        let cpu = limits.cpu.and_then(|_| broken(&self.cpu, "cpu"));
        let memory = limits.memory.and_then(|_| broken(&self.memory, "memory"));
        cpu.or(memory).map_or(Ok(()), Err)
    }
}

/// Thousandths of a core, for people: `0.5 cpu`.
pub fn cores(thousandths: u64) -> String {
    format!("{} cpu", thousandths as f64 / 1000.0)
}

/// Bytes of memory, for people: `512 MiB`, `1.5 GiB`.
pub fn size(bytes: u64) -> String {
    let (unit, name) = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]
        .into_iter()
        .find(|(unit, _)| bytes >= *unit)
        .unwrap_or((1, "bytes"));
    let number = format!("{:.1}", bytes as f64 / unit as f64);
    format!("{} {name}", number.trim_end_matches(".0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacity() -> Capacity {
        Capacity {
            cpu: Bound { most: Some(2000), unenforceable: None },
            memory: Bound { most: Some(4 << 30), unenforceable: Some("it is an old kernel".to_owned()) },
            groups: Some(20),
        }
    }

    #[test]
    fn what_does_not_fit_is_told_with_what_is_used_asked_and_would_fit() {
        let asks = |cpu, memory, replicas| Demand::of(Limits { cpu, memory }, replicas);
        let others = Demand { groups: 19, cpu: 1500, memory: 3 << 30 };
        let nothing = Demand::default();
        assert_eq!(capacity().fits(others, nothing, asks(Some(250), None, 2)), Ok(()));
        assert_eq!(
            capacity().fits(others, nothing, asks(Some(1_000_000), None, 1)).unwrap_err(),
            "1000 cpu asked for, 1.5 cpu of 2 cpu used by others: 0.5 cpu would fit"
        );
        assert_eq!(
            capacity().fits(others, nothing, asks(None, Some(768 << 20), 2)).unwrap_err(),
            "1.5 GiB asked for, 3 GiB of 4 GiB used by others: 1 GiB would fit"
        );
        assert_eq!(
            capacity().fits(Demand { groups: 20, ..nothing }, nothing, asks(None, None, 1)).unwrap_err(),
            "1 service asked for, 20 services of 20 services used by others: 0 services would fit"
        );
        let full = Demand { groups: 25, ..others };
        assert_eq!(capacity().fits(full, asks(Some(800), None, 1), asks(Some(700), None, 1)), Ok(()));
        let most = Demand { groups: u64::MAX, cpu: u64::MAX, memory: u64::MAX };
        assert!(capacity().fits(most, nothing, asks(Some(u32::MAX), Some(u64::MAX), u32::MAX)).is_err());
    }

    #[test]
    fn a_limit_that_cannot_be_kept_is_refused_and_no_limit_always_can() {
        assert_eq!(capacity().keeps(Limits { cpu: Some(500), memory: None }), Ok(()));
        assert_eq!(
            capacity().keeps(Limits { cpu: None, memory: Some(1 << 30) }).unwrap_err(),
            "no limit on memory can be kept: it is an old kernel"
        );
    }

    #[test]
    fn sizes_are_shown_in_the_largest_unit_that_they_have_one_of() {
        assert_eq!([size(5), size(512 << 20), size(3 << 29)], ["5 bytes", "512 MiB", "1.5 GiB"]);
    }
}
