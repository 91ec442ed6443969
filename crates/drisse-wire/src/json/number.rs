//! Parses floats in one pass: digits are checked and added up together, which is all that most numbers need.

use super::reader::well_formed;

/// Powers of ten that an f64 holds exactly.
const EXACT: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// The inverses of [`EXACT`], each the nearest f64.
const TENTHS: [f64; EXACT.len()] = [
    1e0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12, 1e-13, 1e-14, 1e-15,
    1e-16, 1e-17, 1e-18, 1e-19, 1e-20, 1e-21, 1e-22,
];

/// 2^53: an f64 represents every integer up to here exactly.
const WHOLE: u64 = 1 << 53;

/// A float datatype that numbers can be parsed as.
pub(super) trait Float: Copy + std::str::FromStr {
    const NAN: Self;
    const INFINITY: Self;
    const NEG_INFINITY: Self;
    fn is_infinite(self) -> bool;
    /// Returns ±`mantissa` / 10^`places`, correctly rounded; `None` if that takes more than a few instructions.
    /// `places` is less than [`EXACT`]'s length.
    fn scaled(negative: bool, mantissa: u64, places: usize) -> Option<Self>;
}

/// Applies the sign without a branch, which the CPU could not predict.
#[inline]
fn signed(negative: bool, value: f64) -> f64 {
    f64::from_bits(value.to_bits() | u64::from(negative) << 63)
}

impl Float for f64 {
    const NAN: Self = Self::NAN;
    const INFINITY: Self = Self::INFINITY;
    const NEG_INFINITY: Self = Self::NEG_INFINITY;

    fn is_infinite(self) -> bool {
        self.is_infinite()
    }

    #[inline]
    fn scaled(negative: bool, mantissa: u64, places: usize) -> Option<Self> {
        // Both operands are exact, so the division rounds correctly.
        (mantissa <= WHOLE).then(|| signed(negative, mantissa as Self / EXACT[places]))
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
    fn scaled(negative: bool, mantissa: u64, places: usize) -> Option<Self> {
        // Three roundings of at most half a unit each: the product differs from the number by at most three units in
        // the last place of an f64. Rounding it to an f32, which drops 29 bits, gives the same result as rounding the
        // number itself, unless the midpoint of two f32 is that close. Subnormal f32 drop more bits.
        const DROPPED: u64 = (1 << 29) - 1;
        const MIDDLE: u64 = 1 << 28;
        let mantissa = i64::try_from(mantissa).ok()?;
        let value = signed(negative, mantissa as f64 * TENTHS[places]);
        let dropped = value.to_bits() & DROPPED;
        let near_middle = (MIDDLE - 3..=MIDDLE + 3).contains(&dropped);
        let normal = mantissa == 0 || value.abs() >= f64::from(Self::MIN_POSITIVE);
        (normal && !near_middle).then_some(value as Self)
    }
}

/// Returns the value of the digits at the start of `chunk`, and their number.
///
/// Handles all eight bytes at once, as one integer. A byte is not a digit if `byte ^ b'0'` is over 9, which the
/// addition carries into the byte's highest bit. The bytes after the digits are shifted out, so that zeros precede the
/// digits; then neighbors are combined: digits to pairs, pairs to fours, fours to eights.
#[inline]
fn eight_digits(chunk: [u8; 8]) -> (u64, usize) {
    let digits = u64::from_le_bytes(chunk) ^ 0x3030_3030_3030_3030;
    let others = (digits.wrapping_add(0x7676_7676_7676_7676) | digits) & 0x8080_8080_8080_8080;
    let count = others.trailing_zeros() / 8;
    // In two halves: without any digit, all 64 bits are shifted out, which a single shift cannot do.
    let digits = digits << (32 - 4 * count) << (32 - 4 * count);
    let twos = digits.wrapping_mul(10).wrapping_add(digits >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = twos.wrapping_mul(100).wrapping_add(twos >> 16) & 0x0000_ffff_0000_ffff;
    (fours.wrapping_mul(10_000).wrapping_add(fours >> 32) & 0xffff_ffff, count as usize)
}

/// Appends a number with the given count of digits to `mantissa`.
#[inline]
fn appended(mantissa: u64, (value, digits): (u64, usize)) -> u64 {
    const TENS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];
    mantissa.wrapping_mul(TENS[digits]).wrapping_add(value)
}

/// Appends the digits at the start of `bytes` to `mantissa` and returns their number. After 19 digits `mantissa` wraps.
#[inline]
fn digits(bytes: &[u8], mantissa: &mut u64) -> usize {
    let mut at = 0;
    loop {
        let rest = &bytes[at..];
        let mut chunk = [0; 8];
        let length = rest.len().min(8);
        chunk[..length].copy_from_slice(&rest[..length]);
        let eight = eight_digits(chunk);
        *mantissa = appended(*mantissa, eight);
        at += eight.1;
        if eight.1 < 8 {
            return at;
        }
    }
}

/// The bytes that [`usual`] inspects: up to seven digits, a point, 24 digits, and the byte after them.
const USUAL: usize = 7 + 1 + 24 + 1;

/// Parses a number with up to seven digits before the point and returns it with its length, without a loop over the
/// digits after the point. `None` if another form has to be tried.
#[inline]
fn usual<T: Float>(negative: bool, text: &[u8; USUAL]) -> Option<(T, usize)> {
    let eight = |at: usize| eight_digits(*text[at..].first_chunk().expect("`USUAL` covers all three chunks"));
    let (mut mantissa, mut point, mut places) = (0, 0, 0);
    // Usually one or two digits, so the CPU predicts the loop and starts on the rest early.
    while let digit @ 0..=9 = text[point].wrapping_sub(b'0') {
        mantissa = 10 * mantissa + u64::from(digit);
        point += 1;
        if point > 7 {
            return None;
        }
    }
    if point == 0 || (point > 1 && text[0] == b'0') {
        return None;
    }
    // A zero before the point adds no digit.
    let significant = if mantissa > 0 { point } else { 0 };
    let mut end = point;
    if text[point] == b'.' {
        let one = eight(point + 1);
        let two = eight(point + 9);
        // No branch: the CPU cannot predict whether a float has up to eight decimals or more. It can for sixteen.
        let two = if one.1 == 8 { two } else { (0, 0) };
        mantissa = appended(appended(mantissa, one), two);
        places = one.1 + two.1;
        if two.1 == 8 {
            let three = eight(point + 17);
            mantissa = appended(mantissa, three);
            places += three.1;
        }
        if places == 0 {
            return None;
        }
        end = point + 1 + places;
    }
    if significant + places > 19 || places >= EXACT.len() || matches!(text[end], b'e' | b'E') {
        return None;
    }
    Some((T::scaled(negative, mantissa, places)?, end))
}

/// Parses the number at the start of `bytes` and returns it with its length; `None` if it is not a JSON number.
#[inline]
pub(super) fn read<T: Float>(bytes: &[u8]) -> Option<(T, usize)> {
    let negative = bytes.first() == Some(&b'-');
    let first = usize::from(negative);
    if let Some((value, length)) = bytes[first..].first_chunk().and_then(|text| usual(negative, text)) {
        return Some((value, first + length));
    }
    let (mut mantissa, mut at) = (0_u64, first);
    // Usually one or two digits.
    while let Some(digit) = bytes.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|&digit| digit < 10) {
        mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
    let whole = at - first;
    if whole == 0 || (whole > 1 && bytes[first] == b'0') {
        return None;
    }
    let mut fraction = 0;
    if bytes.get(at) == Some(&b'.') {
        fraction = digits(&bytes[at + 1..], &mut mantissa);
        at += 1 + fraction;
        if fraction == 0 {
            return None;
        }
    }
    // 19 digits fit in a u64, not counting a leading zero. The standard library handles exponents and more digits.
    let significant = fraction + if bytes[first] == b'0' { 0 } else { whole };
    if significant <= 19
        && fraction < EXACT.len()
        && !matches!(bytes.get(at), Some(b'e' | b'E'))
        && let Some(value) = T::scaled(negative, mantissa, fraction)
    {
        return Some((value, at));
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
        // At the end of a body, and with more bytes after the number.
        for text in [text, &format!("{number},{}", "1.5, ".repeat(6))] {
            let wanted = number.parse::<f32>().ok().filter(|_| well_formed(number.as_bytes()));
            let got = read::<f32>(text.as_bytes()).filter(|(_, len)| *len == number.len());
            assert_eq!(got.map(|(value, _)| value.to_bits()), wanted.map(f32::to_bits), "{text} as f32");
            let wanted = number.parse::<f64>().ok().filter(|_| well_formed(number.as_bytes()));
            let got = read::<f64>(text.as_bytes()).filter(|(_, len)| *len == number.len());
            assert_eq!(got.map(|(value, _)| value.to_bits()), wanted.map(f64::to_bits), "{text} as f64");
        }
    }

    #[test]
    fn the_middle_between_two_floats_is_rounded_once() {
        // 2^24 + 1 is the midpoint of two f32; a late digit decides.
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
        fn numbers_beside_the_middle_of_two_floats_are_rounded_once(
            value in 1e-6..1e9_f32,
            places in 0..19_usize,
            beside in -5..=5_i64,
        ) {
            let above = f32::from_bits(value.to_bits() + 1);
            let middle = (f64::from(value) + f64::from(above)) / 2.0;
            let near = f64::from_bits(middle.to_bits().wrapping_add_signed(beside));
            for text in [format!("{near}"), format!("-{near:.places$}"), format!("{near:.18}]")] {
                agrees(&text);
            }
        }

        #[test]
        fn what_is_not_a_number_is_none(text in "[-+.eE0-9]{1,8}") {
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
