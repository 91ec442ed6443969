//! `grpc.reflection.v1.ServerReflection`: lists the services for clients without .proto files.

use super::messages::Messages;
use super::{Answer, Call, end};
use crate::body::ResponseBody;
use drisse_core::Result;
use drisse_wire::grpc::reflection::{
    ErrorResponse, FileDescriptorResponse, ListServiceResponse, ServerReflectionRequest,
    ServerReflectionResponse, ServiceResponse, server_reflection_request::MessageRequest,
    server_reflection_response::MessageResponse,
};
use drisse_wire::grpc::{Files, frame, parse};
use futures_util::stream::unfold;
use hyper::body::{Frame, Incoming};

pub(super) const SERVICE: &str = "grpc.reflection.v1.ServerReflection";
pub(super) const SERVICE_ALPHA: &str = "grpc.reflection.v1alpha.ServerReflection";

pub(super) fn answer(call: Call, body: Incoming) -> Result<Answer> {
    if call.method != "ServerReflectionInfo" {
        return Err(super::unknown(&format!("{SERVICE}/{}", call.method)));
    }
    Ok(Answer::Stream(stream(call.messages(body))))
}

fn stream(messages: Messages) -> ResponseBody {
    let answers = unfold(Some((messages, Files::of_all())), |state| async move {
        let (mut messages, files) = state?;
        let request = match messages.next().await {
            Ok(Some(read)) => parse::<ServerReflectionRequest>(read.bytes.clone()),
            Ok(None) => return Some((end(Ok(())), None)),
            Err(error) => Err(error),
        };
        match request {
            Ok(request) => Some((Frame::data(frame(&reply(&files, request))), Some((messages, files)))),
            Err(error) => Some((end(Err(error)), None)),
        }
    });
    ResponseBody::stream(answers)
}

fn reply(files: &Files, request: ServerReflectionRequest) -> ServerReflectionResponse {
    let file = |found: Option<Vec<u8>>, what: &str| match found {
        Some(file) => MessageResponse::FileDescriptorResponse(FileDescriptorResponse {
            file_descriptor_proto: vec![file],
        }),
        None => not_found(what),
    };
    let answer = match &request.message_request {
        Some(MessageRequest::ListServices(_)) => {
            let service = files.services().map(|name| ServiceResponse { name }).collect();
            MessageResponse::ListServicesResponse(ListServiceResponse { service })
        }
        Some(MessageRequest::FileByFilename(name)) => file(files.named(name), name),
        Some(MessageRequest::FileContainingSymbol(symbol)) => file(files.containing(symbol), symbol),
        // There are no extensions.
        Some(MessageRequest::FileContainingExtension(asked)) => not_found(&asked.containing_type),
        Some(MessageRequest::AllExtensionNumbersOfType(name)) => not_found(name),
        None => not_found("nothing"),
    };
    ServerReflectionResponse {
        valid_host: request.host.clone(),
        original_request: Some(request),
        message_response: Some(answer),
    }
}

fn not_found(what: &str) -> MessageResponse {
    let what = &what[..what.floor_char_boundary(80)];
    // gRPC's NOT_FOUND.
    MessageResponse::ErrorResponse(ErrorResponse {
        error_code: 5,
        error_message: format!("there is no {what}"),
    })
}
