//! How long a request may wait for its turn.

use std::time::{Duration, Instant};

/// How long a request may wait for its turn before it is refused. Servers and gateways follow the same rule.
///
/// ```
/// use drisse_core::MaxWait;
/// use std::time::Duration;
///
/// let second = Duration::from_secs(1);
/// assert_eq!(MaxWait::Auto.of(second), 4 * second);
/// assert_eq!(MaxWait::Auto.of(second / 1000), MaxWait::LEAST);
/// assert_eq!(MaxWait::Fixed(second / 5).of(second), second / 5);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum MaxWait {
    /// Four times the time that one request takes, and at least [`MaxWait::LEAST`].
    #[default]
    Auto,
    /// This time.
    Fixed(Duration),
}

impl MaxWait {
    /// The shortest time of [`MaxWait::Auto`]: 500 ms.
    pub const LEAST: Duration = Duration::from_millis(500);

    /// Returns the longest estimated wait that a request may have, if one request takes `mean`.
    pub fn of(self, mean: Duration) -> Duration {
        match self {
            Self::Auto => mean.saturating_mul(4).max(Self::LEAST),
            Self::Fixed(time) => time,
        }
    }

    /// Returns the end of the wait of a request that was admitted at `since`: `deadline` at the latest. With
    /// [`MaxWait::Auto`] it may wait twice as long as was estimated, because the requests ahead may take longer than others
    /// did. Before the first measurement `mean` is zero, and there is no other end than the deadline.
    pub fn until(self, since: Instant, mean: Duration, deadline: Instant) -> Instant {
        let longest = match self {
            Self::Auto if mean.is_zero() => return deadline,
            Self::Auto => self.of(mean).saturating_mul(2),
            Self::Fixed(time) => time,
        };
        since.checked_add(longest).map_or(deadline, |until| until.min(deadline))
    }

    /// Returns when to call [`MaxWait::until`] again, if a wait ends at `until`: `mean` is learned meanwhile.
    pub fn look_again(self, until: Instant) -> Instant {
        match self {
            Self::Auto => until.min(Instant::now() + Self::LEAST),
            Self::Fixed(_) => until,
        }
    }
}
