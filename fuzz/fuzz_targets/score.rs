//! `/score` bodies: decoding never panics, and decoded inputs are consistent and can be encoded again.

use crate::signature;
use drisse_wire::score::{decode, encode};

pub fn fuzz(body: &[u8]) {
    for signature in [signature::every_datatype(), signature::one_input()] {
        let Ok(inputs) = decode(body, &signature) else { continue };
        signature::consistent(&inputs);
        let Some(again) = encode(&signature, &inputs) else { continue };
        // `[]` does not tell the shape of an empty tensor, and `null` for an optional input means that it is absent.
        if !again.contains("[]") && !again.contains("null") {
            let read = decode(again.as_bytes(), &signature).expect("an encoded body can be decoded");
            assert_eq!(encode(&signature, &read), Some(again));
        }
    }
}
