//! A change of one of the settings that the workspace keeps.

/// A change of a setting, which is stored for the next start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Change<T> {
    /// Keeps the setting.
    #[default]
    Keep,
    /// Sets a new value.
    Set(T),
    /// Removes the setting.
    Clear,
}

impl<T> Change<T> {
    pub(crate) fn of(self, kept: Option<T>) -> Option<T> {
        match self {
            Self::Keep => kept,
            Self::Set(value) => Some(value),
            Self::Clear => None,
        }
    }
}
