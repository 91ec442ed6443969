//! What every engine promises, one function per promise.
//!
//! An engine's test calls [`all`], with models of its own as [`Fixture`] describes them. A broken promise panics.

use crate::{
    Cancel, DataType, Engine, EngineOptions, ErrorKind, Inputs, LoadedPackage, Result, Scorer, Sink, Tensor,
    ValueView, Work,
};
use std::time::{Duration, Instant};

/// The models that the suite runs.
#[derive(Debug)]
pub struct Fixture {
    /// A model that returns its one `FP32 [n]` input as its one output.
    pub echo: LoadedPackage,
    /// A model that takes an `INT64 [1]` and runs for that many steps: 2^40 outlasts any test.
    pub slow: LoadedPackage,
    /// A model that cannot be loaded, and a text that the error must contain.
    pub broken: (LoadedPackage, &'static str),
}

/// A sink that keeps copies of the outputs.
#[derive(Debug, Default)]
pub struct Collected(pub Vec<(usize, crate::Value)>);

impl Sink for Collected {
    fn output(&mut self, index: usize, value: ValueView<'_>) -> Result<()> {
        let value = match value {
            ValueView::Tensor(tensor) => crate::Value::Tensor(tensor.to_owned()),
            ValueView::Other(value) => value.clone(),
        };
        self.0.push((index, value));
        Ok(())
    }
}

fn load(engine: &dyn Engine, package: &LoadedPackage) -> Box<dyn Scorer> {
    engine.load(package, &EngineOptions::default()).expect("the fixture's model loads")
}

fn one_input(package: &LoadedPackage, tensor: Tensor) -> Inputs {
    let mut inputs = Inputs::new(&package.signature);
    inputs.set(&package.signature, 0, tensor).expect("no input was given before");
    inputs
}

fn floats(values: &[f32]) -> Tensor {
    let data = crate::Data::Raw(crate::Buffer::copy_from(bytemuck::cast_slice(values)));
    Tensor { datatype: DataType::Fp32, shape: [values.len() as i64].as_slice().into(), data }
}

fn echo(scorer: &dyn Scorer, package: &LoadedPackage, values: &[f32]) {
    let inputs = one_input(package, floats(values));
    let mut out = Collected::default();
    let work = Work { inputs: &inputs, outputs: &[0] };
    scorer.score(work, &Cancel::new(), &mut out).expect("an echo succeeds");
    assert_eq!(out.0, [(0, crate::Value::Tensor(floats(values)))]);
}

/// `check` succeeds where the tests run, and the engine has a name.
pub fn the_engine_is_available(engine: &dyn Engine) {
    assert!(!engine.name().is_empty());
    engine.check().expect("the engine can run where the tests run");
}

/// An echo returns its input unchanged: empty, small and larger tensors.
pub fn outputs_are_those_of_the_inputs(engine: &dyn Engine, fixture: &Fixture) {
    let scorer = load(engine, &fixture.echo);
    for length in [0, 1, 7, 100_000] {
        echo(&*scorer, &fixture.echo, &(0..length).map(|i| i as f32).collect::<Vec<_>>());
    }
}

/// The useful concurrency is at least 1.
pub fn limits_allow_at_least_one_run(engine: &dyn Engine, fixture: &Fixture) {
    assert!(load(engine, &fixture.echo).limits().concurrency >= 1);
}

/// Eight threads on one loaded model get the same outputs as one thread.
pub fn runs_at_once_do_not_mix(engine: &dyn Engine, fixture: &Fixture) {
    let scorer = load(engine, &fixture.echo);
    std::thread::scope(|scope| {
        for thread in 0..8_usize {
            let scorer = &*scorer;
            scope.spawn(move || {
                for round in 0..200 {
                    let values: Vec<_> =
                        (0..(thread * 31 + round) % 97).map(|i| (thread * i) as f32).collect();
                    echo(scorer, &fixture.echo, &values);
                }
            });
        }
    });
}

/// A raised flag ends a run that would otherwise not end.
pub fn a_cancelled_run_ends(engine: &dyn Engine, fixture: &Fixture) {
    let scorer = load(engine, &fixture.slow);
    let steps = crate::Data::Raw(crate::Buffer::copy_from(&(1_i64 << 40).to_le_bytes()));
    let steps = Tensor { datatype: DataType::Int64, shape: [1].as_slice().into(), data: steps };
    let inputs = one_input(&fixture.slow, steps);
    let cancel = Cancel::new();
    let started = Instant::now();
    let error = std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            scorer.score(Work { inputs: &inputs, outputs: &[0] }, &cancel, &mut Collected::default())
        });
        // Both orders are valid: the flag is raised before the run starts, or during the run.
        std::thread::park_timeout(Duration::from_millis(20));
        cancel.cancel();
        run.join().expect("a cancelled run does not panic").expect_err("a cancelled run does not succeed")
    });
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    assert!(started.elapsed() < Duration::from_secs(10), "ended after {:?}", started.elapsed());
}

/// The error of a model that cannot be loaded says why, in one line.
pub fn a_broken_model_says_why(engine: &dyn Engine, fixture: &Fixture) {
    let (package, why) = &fixture.broken;
    let Err(error) = engine.load(package, &EngineOptions::default()) else { panic!("a broken model loaded") };
    assert!(error.message().contains(why), "`{error}` does not name `{why}`");
    assert!(!error.message().contains('\n'), "more than one line: {error}");
}

/// An option or a device that the engine does not know is refused by its name.
pub fn unknown_options_are_refused(engine: &dyn Engine, fixture: &Fixture) {
    let device = EngineOptions { device: Some("no-such-device".to_owned()), ..EngineOptions::default() };
    let option = ("no-such-option".to_owned(), "1".to_owned());
    let option = EngineOptions { options: [option].into(), ..EngineOptions::default() };
    for (options, name) in [(device, "no-such-device"), (option, "no-such-option")] {
        let Err(error) = engine.load(&fixture.echo, &options) else { panic!("`{name}` was accepted") };
        assert!(error.message().contains(name), "`{error}` does not name `{name}`");
    }
}

/// Checks every promise, in order.
pub fn all(engine: &dyn Engine, fixture: &Fixture) {
    the_engine_is_available(engine);
    outputs_are_those_of_the_inputs(engine, fixture);
    limits_allow_at_least_one_run(engine, fixture);
    runs_at_once_do_not_mix(engine, fixture);
    a_cancelled_run_ends(engine, fixture);
    a_broken_model_says_why(engine, fixture);
    unknown_options_are_refused(engine, fixture);
}
