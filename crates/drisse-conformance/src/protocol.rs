//! The protocols that servers are checked against.

use std::fmt;
use std::str::FromStr;

/// A protocol; each has a file of cases. Protocols are checked in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Protocol {
    /// The Open Inference Protocol over HTTP, in JSON.
    V2,
    /// The binary tensor data extension of V2.
    Binary,
    /// The other extensions of V2: classification, statistics, configuration, repository, shared memory.
    Extensions,
    /// The Open Inference Protocol over gRPC.
    Grpc,
    /// KServe's V1 protocol.
    V1,
}

impl Protocol {
    /// All protocols.
    pub const ALL: [Self; 5] = [Self::V2, Self::Binary, Self::Extensions, Self::Grpc, Self::V1];

    /// The protocol's name and its cases, in TOML.
    pub(crate) fn parts(self) -> (&'static str, &'static str) {
        match self {
            Self::V2 => ("v2", include_str!("../cases/v2.toml")),
            Self::Binary => ("v2-binary", include_str!("../cases/v2-binary.toml")),
            Self::Extensions => ("v2-extensions", include_str!("../cases/v2-extensions.toml")),
            Self::Grpc => ("grpc", include_str!("../cases/grpc.toml")),
            Self::V1 => ("v1", include_str!("../cases/v1.toml")),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.parts().0)
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(|protocol| protocol.to_string()).join(", ");
        let found = Self::ALL.into_iter().find(|protocol| protocol.to_string() == name);
        found.ok_or_else(|| format!("the protocols are {}", known()))
    }
}
