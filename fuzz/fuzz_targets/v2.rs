//! V2 infer bodies: no panic, and what is taken is consistent.
#![no_main]

mod signature;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let signature = signature::every_datatype();
    if let Ok(request) = drisse_wire::v2::decode(body, &signature) {
        signature::consistent(&request.inputs);
        assert!(request.outputs.iter().all(|&place| place < signature.outputs.len()));
    }
});
