//! Floats read in one pass: the digits are checked and gathered together, and most numbers need no more.

use super::reader::well_formed;

/// Powers of ten that an f64 holds exactly.
const EXACT: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// Up to here an f64 holds every whole number: 2^53.
const WHOLE: u64 = 1 << 53;

/// A float datatype and how a number is read as one.
pub(super) trait Float: Copy + std::str::FromStr {
    const NAN: Self;
    const INFINITY: Self;
    const NEG_INFINITY: Self;
    fn is_infinite(self) -> bool;
    /// From an f64 that is the correctly rounded value; `None` when rounding it again could differ
    /// from rounding the number itself.
    fn rounded(value: f64) -> Option<Self>;
}

impl Float for f64 {
    const NAN: Self = Self::NAN;
    const INFINITY: Self = Self::INFINITY;
    const NEG_INFINITY: Self = Self::NEG_INFINITY;

    fn is_infinite(self) -> bool {
        self.is_infinite()
    }

    #[inline]
    fn rounded(value: f64) -> Option<Self> {
        Some(value)
    }
}

impl Float for f32 {
    const NAN: Self = Self::NAN;
    const INFINITY: Self = Self::INFINITY;
    const NEG_INFINITY: Self = Self::NEG_INFINITY;

    fn is_infinite(self) -> bool {
        self.is_infinite()
    }

    #[inline]
    fn rounded(value: f64) -> Option<Self> {
        // The 29 bits an f32 drops: only at the middle between two f32, or beside it, can the first
        // rounding have decided the second. Subnormal f32 drop more bits.
        const DROPPED: u64 = (1 << 29) - 1;
        const MIDDLE: u64 = 1 << 28;
        let dropped = value.to_bits() & DROPPED;
        let near_middle = (MIDDLE - 1..=MIDDLE + 1).contains(&dropped);
        let normal = value == 0.0 || value.abs() >= f64::from(Self::MIN_POSITIVE);
        (normal && !near_middle).then_some(value as Self)
    }
}

/// The number at the start of `bytes` and its length; `None` when there is none by JSON's grammar.
#[inline]
pub(super) fn read<T: Float>(bytes: &[u8]) -> Option<(T, usize)> {
    let negative = bytes.first() == Some(&b'-');
    let first = usize::from(negative);
    let (mut mantissa, mut at) = (0_u64, first);
    let digit = |at: usize| bytes.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|&digit| digit < 10);
    while let Some(digit) = digit(at) {
        mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
    let mut digits = at - first;
    if digits == 0 || (digits > 1 && bytes[first] == b'0') {
        return None;
    }
    let mut fraction = 0;
    if bytes.get(at) == Some(&b'.') {
        at += 1;
        let start = at;
        while let Some(digit) = digit(at) {
            mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit));
            at += 1;
        }
        fraction = at - start;
        digits += fraction;
        if fraction == 0 {
            return None;
        }
    }
    // 19 digits fit a u64; an exponent, or anything longer, is for the standard library.
    let plain = digits <= 19
        && mantissa <= WHOLE
        && fraction < EXACT.len()
        && !matches!(bytes.get(at), Some(b'e' | b'E'));
    if plain {
        // Both are exact, so that the quotient is the number, correctly rounded.
        let value = mantissa as f64 / EXACT[fraction];
        if let Some(value) = T::rounded(if negative { -value } else { value }) {
            return Some((value, at));
        }
    }
    slow(bytes)
}

#[cold]
fn slow<T: Float>(bytes: &[u8]) -> Option<(T, usize)> {
    let part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    let number = &bytes[..bytes.iter().position(|byte| !part(byte)).unwrap_or(bytes.len())];
    let text = std::str::from_utf8(number).ok().filter(|_| well_formed(number))?;
    Some((text.parse().ok()?, number.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn agrees(text: &str) {
        let number = text.trim_end_matches(']');
        let wanted = number.parse::<f32>().ok().filter(|_| well_formed(number.as_bytes()));
        let got = read::<f32>(text.as_bytes()).filter(|(_, len)| *len == number.len());
        assert_eq!(got.map(|(value, _)| value.to_bits()), wanted.map(f32::to_bits), "{text} as f32");
        let wanted = number.parse::<f64>().ok().filter(|_| well_formed(number.as_bytes()));
        let got = read::<f64>(text.as_bytes()).filter(|(_, len)| *len == number.len());
        assert_eq!(got.map(|(value, _)| value.to_bits()), wanted.map(f64::to_bits), "{text} as f64");
    }

    #[test]
    fn the_middle_between_two_floats_is_rounded_once() {
        // 2^24 + 1 is the middle of two f32; a digit far behind decides.
        for text in [
            "16777217",
            "16777217.0000000001",
            "16777216.9999999999",
            "0.1",
            "-0.0",
            "9007199254740993",
            "1e-46",
        ] {
            agrees(text);
        }
    }

    proptest! {
        #[test]
        fn numbers_are_those_of_the_standard_library(text in "-?[0-9]{1,20}(\\.[0-9]{1,24})?([eE][+-]?[0-9]{1,3})?\\]?") {
            agrees(&text);
        }

        #[test]
        fn what_is_no_number_is_none(text in "[-+.eE0-9]{1,8}") {
            agrees(&text);
        }

        #[test]
        fn printed_floats_are_read_as_they_were(value in any::<f32>(), wide in any::<f64>()) {
            prop_assume!(value.is_finite() && wide.is_finite());
            agrees(&format!("{value}"));
            agrees(&format!("{wide}"));
            agrees(&format!("{value:e}"));
        }
    }
}
