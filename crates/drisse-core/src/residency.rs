//! Which models are in memory, where not all of them fit: loaded when they are asked for, and those that were not used
//! for longest unloaded to make room.
//!
//! ```text
//! Unloaded ──► Loading ──► Ready ──► Draining ──► Unloaded
//!     ▲           │ failed                           │
//!     └───────────┴──────────────────────────────────┘
//! ```

/// A model's place among the others.
pub type ModelPlace = usize;

/// What a model is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Residence {
    /// Not in memory.
    Unloaded,
    /// On its way there: its memory counts.
    Loading,
    /// It is served.
    Ready,
    /// It takes no more requests, and is in memory until it has answered those it has.
    Draining,
}

/// What to do for a model that is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// It is ready.
    Serve,
    /// Load it: it is `Loading` now.
    Load,
    /// Stop serving these, which are `Draining` now, then ask again.
    Unload(Vec<ModelPlace>),
    /// Ask again when something has changed.
    Wait,
}

/// All models, and how much memory they may have together.
#[derive(Clone, Debug)]
pub struct Residency {
    bound: u64,
    models: Vec<Model>,
}

#[derive(Clone, Copy, Debug)]
struct Model {
    residence: Residence,
    /// What it takes, or will likely take.
    bytes: u64,
}

impl Residency {
    /// Models that will likely take so many `bytes` each, none of them loaded, in `bound` bytes.
    pub fn new(bound: u64, bytes: impl IntoIterator<Item = u64>) -> Self {
        let model = |bytes| Model { residence: Residence::Unloaded, bytes };
        Self { bound, models: bytes.into_iter().map(model).collect() }
    }

    /// What a model is about.
    pub fn of(&self, place: ModelPlace) -> Residence {
        self.models[place].residence
    }

    /// What all models take together that are in memory.
    pub fn taken(&self) -> u64 {
        self.resident(|_| true)
    }

    /// What to do now for the model at `place`. Of others, those go first that `last_used` has the lowest number of.
    pub fn next(&mut self, place: ModelPlace, last_used: impl Fn(ModelPlace) -> u64) -> Next {
        match self.of(place) {
            Residence::Ready => return Next::Serve,
            Residence::Loading | Residence::Draining => return Next::Wait,
            Residence::Unloaded => {}
        }
        let unloading = self.make_room(self.models[place].bytes, None, last_used);
        if !unloading.is_empty() {
            return Next::Unload(unloading);
        }
        // One that is larger than all it may have is loaded when nothing else is there: refusing it helps nobody.
        let taken = self.taken();
        if taken > 0 && taken + self.models[place].bytes > self.bound {
            return Next::Wait;
        }
        self.models[place].residence = Residence::Loading;
        Next::Load
    }

    /// The model is loaded and takes so many bytes. Which others have to go because it is larger than was thought:
    /// they are `Draining` now.
    pub fn loaded(
        &mut self,
        place: ModelPlace,
        bytes: u64,
        last_used: impl Fn(ModelPlace) -> u64,
    ) -> Vec<ModelPlace> {
        self.models[place] = Model { residence: Residence::Ready, bytes };
        self.make_room(0, Some(place), last_used)
    }

    /// The model takes no more requests, whoever said so.
    pub fn draining(&mut self, place: ModelPlace) {
        if self.of(place) == Residence::Ready {
            self.models[place].residence = Residence::Draining;
        }
    }

    /// The model could not be loaded, or has answered its last request: its memory is free.
    pub fn unloaded(&mut self, place: ModelPlace) {
        self.models[place].residence = Residence::Unloaded;
    }

    /// Lets models drain, `kept` not among them, until `bytes` more fit once those are gone that drain.
    fn make_room(
        &mut self,
        bytes: u64,
        kept: Option<ModelPlace>,
        last_used: impl Fn(ModelPlace) -> u64,
    ) -> Vec<ModelPlace> {
        let mut staying = self.resident(|residence| residence != Residence::Draining);
        let mut ready: Vec<ModelPlace> = (0..self.models.len())
            .filter(|&place| self.of(place) == Residence::Ready && Some(place) != kept)
            .collect();
        ready.sort_by_key(|&place| last_used(place));
        let mut gone = Vec::new();
        for place in ready {
            if staying + bytes <= self.bound {
                break;
            }
            staying -= self.models[place].bytes;
            self.models[place].residence = Residence::Draining;
            gone.push(place);
        }
        gone
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

    /// Used in the order of their places.
    fn in_order(place: ModelPlace) -> u64 {
        place as u64
    }

    fn with_ready(bound: u64, bytes: &[u64], ready: &[ModelPlace]) -> Residency {
        let mut models = Residency::new(bound, bytes.iter().copied());
        for &place in ready {
            assert_eq!(models.next(place, in_order), Next::Load);
            assert_eq!(models.loaded(place, bytes[place], in_order), []);
        }
        models
    }

    #[test]
    fn what_was_not_used_for_longest_makes_room() {
        let mut models = with_ready(10, &[4, 4, 5], &[0, 1]);
        let used = |place| if place == 0 { 9 } else { 1 };
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
        fn memory_is_bounded_and_whoever_waits_is_served_in_the_end(
            bytes in prop::collection::vec(1_u64..8, 1..6),
            asked in prop::collection::vec((0_usize..6, 0_u64..9), 1..40),
        ) {
            let bound = 10;
            let mut models = Residency::new(bound, bytes.iter().copied());
            for (place, salt) in asked {
                let place = place % bytes.len();
                let last_used = |other: ModelPlace| (other as u64 * 7 + salt) % 5;
                let mut steps = 0;
                loop {
                    steps += 1;
                    prop_assert!(steps < 40, "{models:?} never serves {place}");
                    match models.next(place, last_used) {
                        Next::Serve => break,
                        Next::Load => prop_assert!(models.loaded(place, bytes[place], last_used).is_empty()),
                        Next::Unload(gone) => prop_assert!(!gone.is_empty() && !gone.contains(&place)),
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
