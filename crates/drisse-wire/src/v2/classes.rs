//! The highest elements of an output in the form of V2's classification extension: `VALUE:INDEX`.
//!
//! Source: <https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md>

use drisse_core::{
    Buffer, Data, DataType, DataView, Element, Error, Result, Shape, Strings, Tensor, TensorView,
};
use half::{bf16, f16};
use std::cmp::Ordering;

/// Returns the `count` highest elements along the last dimension, highest first; equal elements keep their order. NaN
/// is lower than every number.
pub(crate) fn classes(tensor: &TensorView<'_>, count: usize) -> Result<Tensor> {
    let DataView::Raw(bytes) = tensor.data else {
        return Err(Error::invalid(
            "`classification` is only for outputs of numbers, and this output has strings",
        ));
    };
    let buffer = Buffer::copy_from(bytes);
    let (row, rows) = match tensor.shape {
        [] => (1, &[][..]),
        [rows @ .., row] => (usize::try_from(*row).unwrap_or(0), rows),
    };
    let count = count.min(row);
    let strings = match tensor.datatype {
        DataType::Uint8 | DataType::Bool => highest::<u8>(&buffer, row, count, |v| v.to_string()),
        DataType::Uint16 => highest::<u16>(&buffer, row, count, |v| v.to_string()),
        DataType::Uint32 => highest::<u32>(&buffer, row, count, |v| v.to_string()),
        DataType::Uint64 => highest::<u64>(&buffer, row, count, |v| v.to_string()),
        DataType::Int8 => highest::<i8>(&buffer, row, count, |v| v.to_string()),
        DataType::Int16 => highest::<i16>(&buffer, row, count, |v| v.to_string()),
        DataType::Int32 => highest::<i32>(&buffer, row, count, |v| v.to_string()),
        DataType::Int64 => highest::<i64>(&buffer, row, count, |v| v.to_string()),
        // Six decimals, as Triton prints them.
        DataType::Fp16 => highest::<f16>(&buffer, row, count, |v| format!("{:.6}", v.to_f32())),
        DataType::Bf16 => highest::<bf16>(&buffer, row, count, |v| format!("{:.6}", v.to_f32())),
        DataType::Fp32 => highest::<f32>(&buffer, row, count, |v| format!("{v:.6}")),
        DataType::Fp64 => highest::<f64>(&buffer, row, count, |v| format!("{v:.6}")),
        other => return Err(Error::invalid(format!("`classification` cannot order {other} elements"))),
    };
    let mut shape: Shape = rows.into();
    shape.push(i64::try_from(count).unwrap_or(i64::MAX));
    Ok(Tensor { datatype: DataType::Bytes, shape, data: Data::Strings(strings) })
}

fn highest<T>(buffer: &Buffer, row: usize, count: usize, print: impl Fn(T) -> String) -> Strings
where
    T: Element + PartialOrd,
{
    let highest_first = |row: &[T], one: usize, two: usize| {
        let number = |value: &T| value.partial_cmp(value).is_some();
        row[two].partial_cmp(&row[one]).unwrap_or_else(|| match (number(&row[one]), number(&row[two])) {
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            _ => Ordering::Equal,
        })
    };
    let mut strings = Strings::default();
    for row in buffer.elements::<T>().chunks_exact(row.max(1)) {
        let mut order: Vec<_> = (0..row.len()).collect();
        order.sort_by(|&one, &two| highest_first(row, one, two));
        for &index in &order[..count] {
            strings.push(format!("{}:{index}", print(row[index])).as_bytes());
        }
    }
    strings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f32], shape: &[i64], count: usize) -> (Vec<String>, Vec<i64>) {
        let mut buffer = Buffer::new();
        values.iter().for_each(|&value| buffer.push(value));
        let tensor = Tensor { datatype: DataType::Fp32, shape: shape.into(), data: Data::Raw(buffer) };
        let classes = classes(&tensor.view(), count).unwrap();
        let Data::Strings(strings) = &classes.data else { panic!("numbers") };
        (strings.iter().map(|s| String::from_utf8_lossy(s).into_owned()).collect(), classes.shape.to_vec())
    }

    #[test]
    fn the_highest_come_first_along_the_last_dimension() {
        let (strings, shape) = of(&[1.0, 5.0, 10.0, 4.0], &[4], 2);
        assert_eq!((strings, shape), (vec!["10.000000:2".into(), "5.000000:1".into()], vec![2]));
        let (strings, shape) = of(&[0.0, 1.0, 3.0, 2.0], &[2, 2], 1);
        assert_eq!((strings, shape), (vec!["1.000000:1".into(), "3.000000:0".into()], vec![2, 1]));
    }

    #[test]
    fn there_are_no_more_than_there_are_and_nan_is_last() {
        let (strings, shape) = of(&[f32::NAN, 1.0, 1.0], &[1, 3], 9);
        assert_eq!((strings.len(), shape), (3, vec![1, 3]));
        assert_eq!(strings, ["1.000000:1", "1.000000:2", "NaN:0"]);
        assert_eq!(of(&[], &[0, 3], 1), (vec![], vec![0, 1]));
        assert_eq!(of(&[], &[2, 0], 1), (vec![], vec![2, 0]));
    }
}
