//! Approximate equality of outputs: equal except for rounding.

use drisse_core::{DataType, DataView, TensorView, Value, ValueView};
use half::{bf16, f16};

/// How much floats may differ, relative to the tensor's largest: enough for sums in another order, not for other sums.
/// FP32 has 24 significant bits (6e-8), and long sums lose some of them.
const TOLERANCE: f64 = 1e-4;

/// The tolerance for FP16 and BF16, which have 11 and 8 significant bits.
const HALF_TOLERANCE: f64 = 2e-2;

/// Returns whether both values are equal except for rounding: of FP32 and FP64 by up to 1e-4, of FP16 and BF16 by up to
/// 2e-2 of the tensor's largest element. NaN equals NaN.
pub(super) fn approx_eq(one: ValueView<'_>, other: ValueView<'_>) -> bool {
    match (one, other) {
        (ValueView::Tensor(one), ValueView::Tensor(other)) => tensors(one, other),
        (ValueView::Other(one), ValueView::Other(other)) => others(one, other),
        _ => false,
    }
}

fn others(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Sequence(one), Value::Sequence(other)) => {
            one.len() == other.len()
                && one.iter().zip(other).all(|(one, other)| approx_eq(one.view(), other.view()))
        }
        (Value::Map { keys, values }, Value::Map { keys: other_keys, values: other_values }) => {
            keys == other_keys && tensors(values.view(), other_values.view())
        }
        (one, other) => one == other,
    }
}

fn tensors(one: TensorView<'_>, other: TensorView<'_>) -> bool {
    if one.datatype != other.datatype || one.shape != other.shape {
        return false;
    }
    let datatype = one.datatype;
    match (one.data, other.data) {
        (DataView::Raw(one), DataView::Raw(other)) => match datatype {
            DataType::Fp32 => floats(one, other, TOLERANCE, f32::from_le_bytes),
            DataType::Fp64 => floats(one, other, TOLERANCE, f64::from_le_bytes),
            DataType::Fp16 => floats(one, other, HALF_TOLERANCE, f16::from_le_bytes),
            DataType::Bf16 => floats(one, other, HALF_TOLERANCE, bf16::from_le_bytes),
            _ => one == other,
        },
        (DataView::Strings(one), DataView::Strings(other)) => one == other,
        _ => false,
    }
}

fn floats<T, const N: usize>(one: &[u8], other: &[u8], tolerance: f64, read: fn([u8; N]) -> T) -> bool
where
    T: Into<f64>,
{
    let numbers = |bytes: &[u8]| -> Vec<f64> {
        bytes.as_chunks::<N>().0.iter().map(|&bytes| read(bytes).into()).collect()
    };
    let (one, other) = (numbers(one), numbers(other));
    let finite = one.iter().filter(|number| number.is_finite());
    let largest = finite.fold(0.0, |most: f64, number| most.max(number.abs()));
    one.len() == other.len()
        && one.iter().zip(&other).all(|(&one, &other)| {
            one == other || (one.is_nan() && other.is_nan()) || (one - other).abs() <= tolerance * largest
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use drisse_core::{Buffer, Data, Tensor};

    fn tensor(numbers: &[f32]) -> Value {
        let mut buffer = Buffer::new();
        numbers.iter().for_each(|&number| buffer.push(number));
        let shape = [numbers.len() as i64].as_slice().into();
        Value::Tensor(Tensor { datatype: DataType::Fp32, shape, data: Data::Raw(buffer) })
    }

    #[test]
    fn rounding_is_close_and_anything_else_is_not() {
        let close = |one: &[f32], other: &[f32]| approx_eq(tensor(one).view(), tensor(other).view());
        assert!(close(&[1.0, 1e-9, f32::NAN], &[1.000_001, 2e-9, f32::NAN]));
        assert!(close(&[f32::INFINITY], &[f32::INFINITY]));
        assert!(!close(&[1.0, 0.5], &[1.0, 0.501]));
        assert!(!close(&[1.0, f32::NAN], &[1.0, 0.0]));
        assert!(!close(&[1.0], &[1.0, 1.0]));
    }
}
