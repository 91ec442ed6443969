//! `:predict` and `/invocations` bodies, including tables and CSV: decoding never panics, and decoded inputs are
//! consistent.

use crate::signature;
use drisse_wire::invocations::{self, Format};
use drisse_wire::v1;

pub fn fuzz(body: &[u8]) {
    for signature in [signature::every_datatype(), signature::one_input()] {
        if let Ok((inputs, _)) = v1::decode(body, &signature) {
            signature::consistent(&inputs);
        }
        for format in [Format::Json, Format::Split, Format::Records, Format::Csv] {
            if let Ok(body) = invocations::decode(body, format, &signature) {
                signature::consistent(&body.inputs);
            }
        }
    }
}
