//! V2 infer bodies, with and without binary tensors after the JSON: decoding never panics, and decoded requests are
//! consistent.

use crate::signature;
use drisse_wire::shared_memory::NoRegions;

pub fn fuzz(body: &[u8]) {
    let signature = signature::every_datatype();
    // The first NUL byte ends the JSON, which cannot contain one.
    let length = body.iter().position(|&byte| byte == 0).unwrap_or(body.len());
    let (json, binary) = body.split_at(length);
    let decoded = match json {
        [] => drisse_wire::v2::decode_raw(binary, &signature),
        _ => drisse_wire::v2::decode(
            json,
            binary.strip_prefix(b"\0").unwrap_or(binary),
            &NoRegions,
            &signature,
        ),
    };
    if let Ok(request) = decoded {
        signature::consistent(&request.inputs);
        assert!(request.forms.iter().all(|form| request.outputs.contains(&form.wanted.index)));
        assert!(request.outputs.iter().all(|&index| index < signature.outputs.len()));
    }
}
