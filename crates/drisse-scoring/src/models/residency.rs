//! Which models are in memory if not all of them fit: a model is loaded when it is requested, and the least recently
//! used models are unloaded to make space.
//!
//! ```text
//! Unloaded ──► Loading ──► Ready ──► Draining ──► Unloaded
//!     ▲           │ failed                           │
//!     └───────────┴──────────────────────────────────┘
//! ```

/// The index of a model in the list of [`Residency::new`].
pub(crate) type ModelIndex = usize;

/// The state of a model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Residence {
    /// The model is not in memory.
    Unloaded,
    /// The model is being loaded; its memory counts.
    Loading,
    /// The model is in memory and accepts requests.
    Ready,
    /// The model accepts no more requests, and stays in memory until it has answered the requests that it has.
    Draining,
}

/// What to do for a requested model.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Serve the request: the model is ready.
    Serve,
    /// Load the model, which is `Loading` now.
    Load,
    /// Unload these models, which are `Draining` now, then call [`Residency::next`] again.
    Unload(Vec<ModelIndex>),
    /// Call [`Residency::next`] again after the next change.
    Wait,
}

/// The states of all models, and the memory that they may use together.
#[derive(Clone, Debug)]
pub(crate) struct Residency {
    bound: u64,
    models: Vec<Model>,
}

#[derive(Clone, Copy, Debug)]
struct Model {
    residence: Residence,
    /// The measured or estimated memory use.
    bytes: u64,
}

impl Residency {
    /// Creates the states of unloaded models. `bytes`: the estimated memory use of each; `bound`: the largest sum.
    pub(crate) fn new(bound: u64, bytes: impl IntoIterator<Item = u64>) -> Self {
        let model = |bytes| Model { residence: Residence::Unloaded, bytes };
        Self { bound, models: bytes.into_iter().map(model).collect() }
    }

    /// Returns the state of a model.
    pub(crate) fn of(&self, index: ModelIndex) -> Residence {
        self.models[index].residence
    }

    /// Returns the memory use of all models that are not unloaded, in bytes.
    pub(crate) fn taken(&self) -> u64 {
        self.resident(|_| true)
    }

    /// Returns what to do for the requested model at `index`, and changes the states accordingly. Models with the
    /// lowest `last_used` are unloaded first.
    pub(crate) fn next(&mut self, index: ModelIndex, last_used: impl Fn(ModelIndex) -> u64) -> Next {
        match self.of(index) {
            Residence::Ready => return Next::Serve,
            Residence::Loading | Residence::Draining => return Next::Wait,
            Residence::Unloaded => {}
        }
        let unloading = self.drain_for(self.models[index].bytes, None, last_used);
        if !unloading.is_empty() {
            return Next::Unload(unloading);
        }
        // A model that is larger than the bound is loaded alone: to refuse it would help no client.
        let taken = self.taken();
        if taken > 0 && taken + self.models[index].bytes > self.bound {
            return Next::Wait;
        }
        self.models[index].residence = Residence::Loading;
        Next::Load
    }

    /// Records that the model is loaded and uses this many bytes. Returns the models to unload because it is larger than
    /// estimated: they are `Draining` now.
    pub(crate) fn loaded(
        &mut self,
        index: ModelIndex,
        bytes: u64,
        last_used: impl Fn(ModelIndex) -> u64,
    ) -> Vec<ModelIndex> {
        self.models[index] = Model { residence: Residence::Ready, bytes };
        self.drain_for(0, Some(index), last_used)
    }

    /// Records that the model, if it is ready, accepts no more requests.
    pub(crate) fn draining(&mut self, index: ModelIndex) {
        if self.of(index) == Residence::Ready {
            self.models[index].residence = Residence::Draining;
        }
    }

    /// Records that the model is not in memory: it could not be loaded, or it has answered its last request.
    pub(crate) fn unloaded(&mut self, index: ModelIndex) {
        self.models[index].residence = Residence::Unloaded;
    }

    /// Drains models, except `kept`, until `bytes` more fit once all draining models are unloaded.
    fn drain_for(
        &mut self,
        bytes: u64,
        kept: Option<ModelIndex>,
        last_used: impl Fn(ModelIndex) -> u64,
    ) -> Vec<ModelIndex> {
        let mut staying = self.resident(|residence| residence != Residence::Draining);
        let mut ready: Vec<ModelIndex> = (0..self.models.len())
            .filter(|&index| self.of(index) == Residence::Ready && Some(index) != kept)
            .collect();
        ready.sort_by_key(|&index| last_used(index));
        let mut drained = Vec::new();
        for index in ready {
            if staying + bytes <= self.bound {
                break;
            }
            staying -= self.models[index].bytes;
            self.models[index].residence = Residence::Draining;
            drained.push(index);
        }
        drained
    }

    fn resident(&self, counts: impl Fn(Residence) -> bool) -> u64 {
        let resident = |model: &&Model| model.residence != Residence::Unloaded && counts(model.residence);
        self.models.iter().filter(resident).map(|model| model.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The models were used in the order of their indices.
    fn in_order(index: ModelIndex) -> u64 {
        index as u64
    }

    fn with_ready(bound: u64, bytes: &[u64], ready: &[ModelIndex]) -> Residency {
        let mut models = Residency::new(bound, bytes.iter().copied());
        for &index in ready {
            assert_eq!(models.next(index, in_order), Next::Load);
            assert!(models.loaded(index, bytes[index], in_order).is_empty());
        }
        models
    }

    #[test]
    fn what_was_not_used_for_longest_makes_room() {
        let mut models = with_ready(10, &[4, 4, 5], &[0, 1]);
        let used = |index| if index == 0 { 9 } else { 1 };
        assert_eq!(models.next(2, used), Next::Unload(vec![1]));
        assert_eq!((models.next(2, used), models.of(1)), (Next::Wait, Residence::Draining));
        models.unloaded(1);
        assert_eq!((models.next(2, used), models.next(2, used)), (Next::Load, Next::Wait));
        assert_eq!((models.loaded(2, 5, used), models.next(2, used)), (vec![], Next::Serve));
    }

    #[test]
    fn one_that_is_larger_than_was_thought_sends_others_away() {
        let mut models = with_ready(10, &[4, 1], &[0]);
        assert_eq!(models.next(1, in_order), Next::Load);
        assert_eq!(models.loaded(1, 8, in_order), [0]);
    }

    #[test]
    fn one_larger_than_everything_is_loaded_alone() {
        let mut models = with_ready(10, &[4, 99], &[0]);
        assert_eq!(models.next(1, in_order), Next::Unload(vec![0]));
        models.unloaded(0);
        assert_eq!(models.next(1, in_order), Next::Load);
    }

    #[test]
    fn one_that_drains_is_loaded_again_when_it_has_ended() {
        let mut models = with_ready(10, &[4], &[0]);
        models.draining(0);
        assert_eq!(models.next(0, in_order), Next::Wait);
        models.unloaded(0);
        assert_eq!(models.next(0, in_order), Next::Load);
        models.unloaded(0);
        assert_eq!(models.of(0), Residence::Unloaded);
    }

    proptest! {
        #[test]
        fn memory_is_bounded_and_every_requested_model_is_served_in_the_end(
            bytes in prop::collection::vec(1_u64..8, 1..6),
            requests in prop::collection::vec((0_usize..6, 0_u64..9), 1..40),
        ) {
            let bound = 10;
            let mut models = Residency::new(bound, bytes.iter().copied());
            for (index, salt) in requests {
                let index = index % bytes.len();
                let last_used = |other: ModelIndex| (other as u64 * 7 + salt) % 5;
                let mut steps = 0;
                loop {
                    steps += 1;
                    prop_assert!(steps < 40, "{models:?} never serves {index}");
                    match models.next(index, last_used) {
                        Next::Serve => break,
                        Next::Load => prop_assert!(models.loaded(index, bytes[index], last_used).is_empty()),
                        Next::Unload(gone) => prop_assert!(!gone.is_empty() && !gone.contains(&index)),
                        Next::Wait => {
                            let all = 0..bytes.len();
                            let drains = all.into_iter().find(|&other| models.of(other) == Residence::Draining);
                            prop_assert!(drains.is_some(), "{models:?} waits for nothing");
                            models.unloaded(drains.unwrap());
                        }
                    }
                    prop_assert!(models.taken() <= bound, "{models:?}");
                }
            }
        }
    }
}
