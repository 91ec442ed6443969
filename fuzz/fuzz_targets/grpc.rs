//! gRPC frames with requests of the Open Inference Protocol or TensorFlow Serving: decoding never panics, and decoded
//! requests are consistent.

use crate::signature;
use bytes::BytesMut;
use drisse_wire::grpc::inference::ModelInferRequest;
use drisse_wire::grpc::tensorflow::serving::PredictRequest;
use drisse_wire::grpc::{decode, parse, parse_predict, peek, predict, take_frame};
use drisse_wire::shared_memory::NoRegions;

pub fn fuzz(body: &[u8]) {
    let _ = (peek("ModelInfer", body), peek("Predict", body));
    let signature = signature::every_datatype();
    let mut frames = BytesMut::from(body);
    let mut messages = vec![body.to_vec().into()];
    while let Ok(Some(frame)) = take_frame(&mut frames, 1 << 20) {
        messages.push(frame.message);
    }
    for message in messages {
        if let Ok(request) = parse_predict::<PredictRequest>(message.clone())
            && let Ok((inputs, outputs)) = predict::decode(request, &signature)
        {
            signature::consistent(&inputs);
            assert!(outputs.iter().all(|wanted| wanted.index < signature.outputs.len()));
        }
        let Ok(request) = parse::<ModelInferRequest>(message) else { continue };
        let Ok(request) = decode(request, &NoRegions, &signature) else { continue };
        signature::consistent(&request.inputs);
        assert!(request.forms.iter().all(|form| request.outputs.contains(&form.wanted.index)));
        assert!(request.outputs.iter().all(|&index| index < signature.outputs.len()));
    }
}
