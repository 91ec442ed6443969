//! What gRPC clients send: frames, and the requests in them. No panic, and what is taken is consistent.
#![no_main]

mod signature;

use bytes::BytesMut;
use drisse_wire::grpc::inference::ModelInferRequest;
use drisse_wire::grpc::{decode, parse, take_frame};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let signature = signature::every_datatype();
    let mut frames = BytesMut::from(body);
    let mut messages = vec![body.to_vec().into()];
    while let Ok(Some(frame)) = take_frame(&mut frames, 1 << 20) {
        messages.push(frame.message);
    }
    for message in messages {
        let Ok(request) = parse::<ModelInferRequest>(message) else { continue };
        let Ok(request) = decode(request, &signature) else { continue };
        signature::consistent(&request.inputs);
        assert!(request.forms.len() == request.outputs.len());
        assert!(request.outputs.iter().all(|&place| place < signature.outputs.len()));
    }
});
