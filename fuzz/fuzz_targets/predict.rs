//! `:predict` and `/invocations` bodies, including tables and CSV: decoding never panics, and decoded inputs are
//! consistent.
#![no_main]

mod signature;

use drisse_wire::invocations::{self, Format};
use drisse_wire::v1;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    for signature in [signature::every_datatype(), signature::one_input()] {
        if let Ok((inputs, _)) = v1::decode(body, &signature) {
            signature::consistent(&inputs);
        }
        for format in [Format::Json, Format::Split, Format::Records, Format::Csv] {
            if let Ok(inputs) = invocations::decode(body, format, &signature) {
                signature::consistent(&inputs);
            }
        }
    }
});
