//! `/score` bodies: no panic, and what is taken is consistent and can be sent again.
#![no_main]

mod signature;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    for signature in [signature::every_datatype(), signature::one_input()] {
        if let Ok(inputs) = drisse_wire::score::decode(body, &signature) {
            signature::consistent(&inputs);
            let _ = drisse_wire::score::encode(&signature, &inputs);
        }
    }
});
