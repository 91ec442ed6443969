//! Runs of a model's sample that show which outputs have one entry per row, where the signature does not tell.

use super::perturb::{first_row_perturbed, perturbed};
use super::runner::Runner;
use super::trial::Outputs;
use drisse_core::{Cancel, Inputs, Result};

/// How far random floats are from zero, relative to the sample's.
const REACH: f64 = 10.0;

/// The number of variations of a sample's first row.
const VARIATIONS: u64 = 3;

/// Learns which outputs of `model` have rows. Blocks.
pub(crate) fn probe_rows(model: &Runner, sample: &Inputs, cancel: &Cancel) {
    if model.row_outputs.is_sure() || sample.rows().is_none() {
        return;
    }
    let run = |inputs: &Inputs| Outputs::of(&*model.scorer, inputs, model.signature.outputs.len(), cancel);
    let probe = if model.signature.has_free_rows() { by_count } else { by_change };
    // Indices into a table cannot be arbitrary: if the model fails on random integers, the sample's stay.
    if ![true, false].into_iter().any(|all| probe(model, sample, all, &run).is_ok()) {
        tracing::debug!(model = %model.name, "cannot learn which outputs have rows");
    }
}

type Run<'a> = &'a dyn Fn(&Inputs) -> Result<Outputs>;

/// Compares the numbers of entries of one and of three samples.
fn by_count(model: &Runner, sample: &Inputs, all: bool, run: Run<'_>) -> Result<()> {
    let others = [1, 2].map(|seed| perturbed(sample, seed, REACH, all));
    for inputs in [&Inputs::joined(&[sample, &others[0], &others[1]]), sample] {
        for (output, value) in run(inputs)?.0.iter().enumerate() {
            model.row_outputs.has_rows(output, &value.view(), inputs.rows().unwrap_or_default());
        }
    }
    Ok(())
}

/// Changes the first row of a model whose number of rows is fixed: only the first entry of an output with rows changes.
fn by_change(model: &Runner, sample: &Inputs, all: bool, run: Run<'_>) -> Result<()> {
    let before = run(sample)?;
    let rows = sample.rows().unwrap_or_default();
    let mut changes = vec![false; before.0.len()];
    for seed in 0..VARIATIONS {
        let after = run(&first_row_perturbed(sample, seed, REACH, all))?;
        for (output, (before, after)) in before.0.iter().zip(&after.0).enumerate() {
            if !model.row_outputs.has_rows(output, &before.view(), rows) || after.rows() != Some(rows) {
                continue;
            }
            changes[output] |= before.row(0) != after.row(0);
            if (1..rows).any(|row| before.row(row) != after.row(row)) {
                model.row_outputs.set_without_rows(output);
            }
        }
    }
    let constant = changes.iter().enumerate().filter(|(_, changes)| !**changes);
    constant.for_each(|(output, _)| model.row_outputs.set_without_rows(output));
    Ok(())
}
