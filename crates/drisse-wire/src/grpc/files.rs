//! The .proto files of the services, for server reflection.

use super::DESCRIPTORS;
use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet};

/// The descriptors of all of `proto/*.proto`.
#[derive(Debug)]
pub struct Files(Vec<FileDescriptorProto>);

impl Files {
    /// Returns all files.
    pub fn of_all() -> Self {
        Self(FileDescriptorSet::decode(DESCRIPTORS).unwrap_or_default().file)
    }

    /// Returns the full names of all services.
    pub fn services(&self) -> impl Iterator<Item = String> {
        let of = |file: &FileDescriptorProto| {
            let package = file.package().to_owned();
            let names: Vec<_> =
                file.service.iter().map(|service| format!("{package}.{}", service.name())).collect();
            names
        };
        self.0.iter().flat_map(of)
    }

    /// Returns the file with this name as a serialized `FileDescriptorProto`; `None` if it does not exist.
    pub fn named(&self, name: &str) -> Option<Vec<u8>> {
        self.0.iter().find(|file| file.name() == name).map(Message::encode_to_vec)
    }

    /// Returns the file that defines a message, enum, service or method, given its full name, as a serialized
    /// `FileDescriptorProto`; `None` if it does not exist.
    pub fn containing(&self, symbol: &str) -> Option<Vec<u8>> {
        let contains = |file: &&FileDescriptorProto| {
            let within = symbol.strip_prefix(file.package()).and_then(|rest| rest.strip_prefix('.'));
            let first = within.and_then(|within| within.split('.').next());
            let messages = file.message_type.iter().map(|message| message.name());
            let enums = file.enum_type.iter().map(|one| one.name());
            let services = file.service.iter().map(|service| service.name());
            first.is_some_and(|first| messages.chain(enums).chain(services).any(|name| name == first))
        };
        self.0.iter().find(contains).map(Message::encode_to_vec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_messages_and_methods_lead_to_their_file() {
        let files = Files::of_all();
        assert!(files.services().any(|name| name == "inference.GRPCInferenceService"));
        let file = files.named("inference.proto").unwrap();
        for symbol in [
            "inference.GRPCInferenceService",
            "inference.GRPCInferenceService.ModelInfer",
            "inference.ModelInferRequest.InferInputTensor",
            "inference.DataType",
        ] {
            assert_eq!(files.containing(symbol).as_ref(), Some(&file), "{symbol}");
        }
        for symbol in ["", "inference", "inference.", "inference.Nothing", "inferenceX.DataType"] {
            assert_eq!(files.containing(symbol), None, "{symbol}");
        }
    }
}
