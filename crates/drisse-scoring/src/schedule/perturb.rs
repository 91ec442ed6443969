//! Random variations of a model's sample inputs, with the same shapes, for experiments with the model.

use drisse_core::{Data, DataType, Inputs, Tensor};
use half::{bf16, f16};

/// Returns inputs of the same shapes with random values; the same `seed` gives the same values.
///
/// A float is at most `reach` times as far from zero as the input's largest; it can be negative if the input has a
/// negative float or `reach` is greater than 1. The other datatypes change only if `all` is true: integers are
/// drawn between the input's smallest and largest, booleans at random, and strings are rotated.
pub(super) fn perturbed(inputs: &Inputs, seed: u64, reach: f64, all: bool) -> Inputs {
    let mut perturbed = inputs.clone();
    let mut random = Random(seed);
    perturbed.given_mut().for_each(|(_, tensor)| perturb(tensor, &mut random, reach, all));
    perturbed
}

/// Returns `inputs` with the first row as [`perturbed`] makes it. Each input must have rows.
pub(super) fn first_row_perturbed(inputs: &Inputs, seed: u64, reach: f64, all: bool) -> Inputs {
    let mut changed = perturbed(inputs, seed, reach, all);
    for ((_, changed), (_, tensor)) in changed.given_mut().zip(inputs.given()) {
        let rows = usize::try_from(tensor.shape[0]).unwrap_or(1).max(1);
        match (&mut changed.data, &tensor.data) {
            (Data::Raw(changed), Data::Raw(buffer)) => {
                let row = buffer.bytes().len() / rows;
                changed.bytes_mut()[row..].copy_from_slice(&buffer.bytes()[row..]);
            }
            (Data::Strings(changed), Data::Strings(strings)) => {
                let row = strings.len() / rows;
                *changed = changed.iter().take(row).chain(strings.iter().skip(row)).collect();
            }
            _ => {}
        }
    }
    changed
}

fn perturb(tensor: &mut Tensor, random: &mut Random, reach: f64, all: bool) {
    let bytes = match &mut tensor.data {
        Data::Raw(buffer) => buffer.bytes_mut(),
        Data::Strings(strings) => {
            let turned = (random.next() % strings.len().max(1) as u64) as usize;
            let others = strings.iter().skip(turned).chain(strings.iter().take(turned));
            if all {
                *strings = others.collect();
            }
            return;
        }
    };
    match tensor.datatype {
        DataType::Fp32 => floats(bytes, random, reach, f32::from_le_bytes, |v| (v as f32).to_le_bytes()),
        DataType::Fp64 => floats(bytes, random, reach, f64::from_le_bytes, f64::to_le_bytes),
        DataType::Fp16 => {
            floats(bytes, random, reach, f16::from_le_bytes, |v| f16::from_f64(v).to_le_bytes())
        }
        DataType::Bf16 => {
            floats(bytes, random, reach, bf16::from_le_bytes, |v| bf16::from_f64(v).to_le_bytes())
        }
        _ if !all => {}
        DataType::Bool => bytes.iter_mut().for_each(|byte| *byte = (random.next() & 1) as u8),
        DataType::Uint8 => wholes(bytes, random, |b| u8::from_le_bytes(b).into()),
        DataType::Uint16 => wholes(bytes, random, |b| u16::from_le_bytes(b).into()),
        DataType::Uint32 => wholes(bytes, random, |b| u32::from_le_bytes(b).into()),
        DataType::Uint64 => wholes(bytes, random, |b| u64::from_le_bytes(b).into()),
        DataType::Int8 => wholes(bytes, random, |b| i8::from_le_bytes(b).into()),
        DataType::Int16 => wholes(bytes, random, |b| i16::from_le_bytes(b).into()),
        DataType::Int32 => wholes(bytes, random, |b| i32::from_le_bytes(b).into()),
        DataType::Int64 => wholes(bytes, random, |b| i64::from_le_bytes(b).into()),
        _ => {}
    }
}

fn floats<T: Into<f64>, const N: usize>(
    bytes: &mut [u8],
    random: &mut Random,
    reach: f64,
    read: fn([u8; N]) -> T,
    write: fn(f64) -> [u8; N],
) {
    let elements = bytes.as_chunks_mut::<N>().0;
    let finite = || elements.iter().map(|&element| read(element).into()).filter(|number| number.is_finite());
    let signed = reach > 1.0 || finite().any(f64::is_sign_negative);
    let most = finite().fold(0.0, |most: f64, number| most.max(number.abs()));
    let most = reach * if most > 0.0 { most } else { 1.0 };
    for element in elements {
        let part = random.part();
        *element = write(most * if signed { 2.0 * part - 1.0 } else { part });
    }
}

/// Draws integers between the smallest and the largest element. If all are equal: between 0 and the element, or
/// between 0 and 1 if the element is 0.
fn wholes<const N: usize>(bytes: &mut [u8], random: &mut Random, read: fn([u8; N]) -> i128) {
    let elements = bytes.as_chunks_mut::<N>().0;
    let numbers = || elements.iter().map(|&element| read(element));
    let (mut least, mut most) = (numbers().min().unwrap_or_default(), numbers().max().unwrap_or_default());
    if least == most {
        (least, most) = (least.min(0), most.max(if most == 0 { 1 } else { 0 }));
    }
    for element in elements {
        let number = least + i128::from(random.next()) % (most - least + 1);
        element.copy_from_slice(&number.to_le_bytes()[..N]);
    }
}

/// SplitMix64: <https://prng.di.unimi.it/splitmix64.c>.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Returns a number from 0 (inclusive) to 1 (exclusive).
    fn part(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drisse_core::{Buffer, Element};
    use std::collections::BTreeSet;

    fn perturbed<T: Element>(datatype: DataType, numbers: &[T], reach: f64, all: bool) -> Vec<T> {
        let mut buffer = Buffer::new();
        numbers.iter().for_each(|&number| buffer.push(number));
        let shape = [numbers.len() as i64].as_slice().into();
        let mut tensor = Tensor { datatype, shape, data: Data::Raw(buffer) };
        perturb(&mut tensor, &mut Random(7), reach, all);
        let Data::Raw(buffer) = &tensor.data else { panic!("strings") };
        buffer.elements().to_vec()
    }

    #[test]
    fn floats_are_of_the_size_asked_for_and_have_a_sign_where_that_is_usual() {
        let within = |numbers: &[f32], reach, range: std::ops::Range<f32>| {
            let numbers = perturbed(DataType::Fp32, numbers, reach, false);
            assert!(numbers.iter().all(|number| range.contains(number)), "{numbers:?}");
            assert!(numbers.windows(2).all(|pair| pair[0] != pair[1]), "{numbers:?}");
            numbers.iter().any(|number| *number < 0.0)
        };
        assert!(!within(&[0.0; 32], 1.0, 0.0..1.0));
        assert!(!within(&[3.0; 32], 1.0, 0.0..3.0));
        assert!(within(&[-3.0; 32], 1.0, -3.0..3.0));
        assert!(within(&[0.5; 32], 100.0, -50.0..50.0));
        assert!(within(&[f32::NAN; 32], 10.0, -10.0..10.0));
    }

    #[test]
    fn whole_numbers_are_of_those_that_a_model_likely_takes() {
        let of = |numbers: &[i64]| {
            perturbed(DataType::Int64, numbers, 1.0, true).into_iter().collect::<BTreeSet<_>>()
        };
        assert_eq!(of(&[0; 40]), BTreeSet::from([0, 1]));
        assert_eq!(of(&[2; 40]), BTreeSet::from([0, 1, 2]));
        assert_eq!(of(&[-1; 40]), BTreeSet::from([-1, 0]));
        assert!(of(&[101, 2054, 0, 1].repeat(10)).iter().all(|number| (0..=2054).contains(number)));
        of(&[i64::MIN, i64::MAX]);
        assert_eq!(perturbed(DataType::Int64, &[5_i64, 9], 1.0, false), [5, 9]);
        assert_eq!(perturbed(DataType::Uint8, &[255_u8; 9], 1.0, true).len(), 9);
    }
}
