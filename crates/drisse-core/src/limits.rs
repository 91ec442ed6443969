//! Limits of replicas, the capacity of a target, and the check that the demand of all services fits.

use crate::Death;

/// The limits of one replica. `None`: not limited.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// CPU time, in thousandths of a core: `--cpu 0.5` is 500.
    pub cpu: Option<u32>,
    /// Memory, in bytes.
    pub memory: Option<u64>,
}

impl Limits {
    /// The smallest CPU limit: the kernel's scheduler gives at least 1 ms of every 100 ms.
    pub const MIN_CPU: u32 = 10;

    /// The smallest memory limit, in bytes: no scoring server starts with less.
    pub const MIN_MEMORY: u64 = 16 << 20;
}

/// Whether a replica that ended is replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Restart {
    /// It is always replaced.
    #[default]
    Always,
    /// It is replaced if it failed.
    OnFailure,
    /// It is never replaced.
    Never,
}

impl Restart {
    /// Returns whether a replica that ended in this way is not replaced.
    pub fn leaves(self, death: &Death) -> bool {
        match self {
            Self::Always => false,
            Self::OnFailure => !death.failed,
            Self::Never => true,
        }
    }
}

/// The capacity of a target, for all services together.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Capacity {
    /// CPU time, in thousandths of a core.
    pub cpu: Bound,
    /// Memory, in bytes.
    pub memory: Bound,
    /// The largest number of services; `None`: not limited.
    pub services: Option<u32>,
}

/// The capacity of one resource, and whether a limit on it can be enforced.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bound {
    /// The capacity; `None` if it is not known.
    pub most: Option<u64>,
    /// Why the target cannot enforce a replica's limit; `None` if it can.
    pub unenforceable: Option<String>,
}

/// What one or more services need of a target's capacity.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Demand {
    /// The number of services.
    pub services: u64,
    /// CPU time, in thousandths of a core.
    pub cpu: u64,
    /// Memory, in bytes.
    pub memory: u64,
}

impl Demand {
    /// Returns the demand of a service with so many replicas.
    pub fn of(limits: Limits, replicas: u32) -> Self {
        let all = |one: u64| one.saturating_mul(u64::from(replicas));
        Self {
            services: 1,
            cpu: all(limits.cpu.unwrap_or(0).into()),
            memory: all(limits.memory.unwrap_or(0)),
        }
    }

    /// Adds two demands.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            services: self.services.saturating_add(other.services),
            cpu: self.cpu.saturating_add(other.cpu),
            memory: self.memory.saturating_add(other.memory),
        }
    }
}

impl Capacity {
    /// Checks that a service that asks for `asks` fits beside the `others`. It always fits if it already `holds` as
    /// much.
    ///
    /// # Errors
    /// Returns what was requested, what is available and what the other services use of the first resource that does
    /// not suffice.
    pub fn fits(&self, others: Demand, holds: Demand, asks: Demand) -> Result<(), String> {
        let check = |most: Option<u64>, used: u64, holds: u64, asks: u64, show: &dyn Fn(u64) -> String| {
            let Some(most) = most else { return Ok(()) };
            if asks <= holds || used.saturating_add(asks) <= most {
                return Ok(());
            }
            let (free, used, asks) = (show(most.saturating_sub(used)), show(used), show(asks));
            let most = show(most);
            Err(format!("{asks} requested, {free} available ({used} of {most} used by other services)"))
        };
        let services = |number: u64| format!("{number} service{}", if number == 1 { "" } else { "s" });
        check(self.services.map(u64::from), others.services, holds.services, asks.services, &services)?;
        check(self.cpu.most, others.cpu, holds.cpu, asks.cpu, &cores)?;
        check(self.memory.most, others.memory, holds.memory, asks.memory, &|bytes| size(bytes))
    }

    /// Checks that the target can enforce `limits`.
    ///
    /// # Errors
    /// Returns the reason if a limit is set that the target cannot enforce.
    pub fn keeps(&self, limits: Limits) -> Result<(), String> {
        let broken = |bound: &Bound, what: &str| {
            bound.unenforceable.as_ref().map(|why| format!("a {what} limit cannot be enforced: {why}"))
        };
        let cpu = limits.cpu.and_then(|_| broken(&self.cpu, "cpu"));
        let memory = limits.memory.and_then(|_| broken(&self.memory, "memory"));
        cpu.or(memory).map_or(Ok(()), Err)
    }
}

/// Formats thousandths of a core for people: `0.5 cpu`.
pub fn cores(thousandths: u64) -> String {
    format!("{} cpu", thousandths as f64 / 1000.0)
}

/// Formats a number of bytes for people: `512 MiB`, `1.5 GiB`.
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
            memory: Bound { most: Some(4 << 30), unenforceable: Some("the kernel is too old".to_owned()) },
            services: Some(20),
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_is_requested_available_and_used() {
        let asks = |cpu, memory, replicas| Demand::of(Limits { cpu, memory }, replicas);
        let others = Demand { services: 19, cpu: 1500, memory: 3 << 30 };
        let nothing = Demand::default();
        assert_eq!(capacity().fits(others, nothing, asks(Some(250), None, 2)), Ok(()));
        assert_eq!(
            capacity().fits(others, nothing, asks(Some(1_000_000), None, 1)).unwrap_err(),
            "1000 cpu requested, 0.5 cpu available (1.5 cpu of 2 cpu used by other services)"
        );
        assert_eq!(
            capacity().fits(others, nothing, asks(None, Some(768 << 20), 2)).unwrap_err(),
            "1.5 GiB requested, 1 GiB available (3 GiB of 4 GiB used by other services)"
        );
        assert_eq!(
            capacity().fits(Demand { services: 20, ..nothing }, nothing, asks(None, None, 1)).unwrap_err(),
            "1 service requested, 0 services available (20 services of 20 services used by other services)"
        );
        let full = Demand { services: 25, ..others };
        assert_eq!(capacity().fits(full, asks(Some(800), None, 1), asks(Some(700), None, 1)), Ok(()));
        let most = Demand { services: u64::MAX, cpu: u64::MAX, memory: u64::MAX };
        assert!(capacity().fits(most, nothing, asks(Some(u32::MAX), Some(u64::MAX), u32::MAX)).is_err());
    }

    #[test]
    fn a_limit_that_cannot_be_kept_is_refused_and_no_limit_always_can() {
        assert_eq!(capacity().keeps(Limits { cpu: Some(500), memory: None }), Ok(()));
        assert_eq!(
            capacity().keeps(Limits { cpu: None, memory: Some(1 << 30) }).unwrap_err(),
            "a memory limit cannot be enforced: the kernel is too old"
        );
    }

    #[test]
    fn sizes_are_shown_in_the_largest_unit_that_they_have_one_of() {
        assert_eq!([size(5), size(512 << 20), size(3 << 29)], ["5 bytes", "512 MiB", "1.5 GiB"]);
    }
}
