//! The core types of Drisse: tensors, signatures, models, engines, targets, plans and errors.
//!
//! The seams are traits: an [`Engine`] loads models, a [`Scorer`] runs one, a [`Target`] runs services and a
//! [`Place`] runs single replicas. The crate has no I/O, no async runtime and no HTTP, so that a unit test can call
//! everything in it.

mod batch;
mod buffer;
mod cancel;
#[cfg(feature = "conformance")]
pub mod conformance;
mod crash_points;
mod datatype;
mod engine;
mod error;
mod inputs;
mod limits;
mod lock;
mod max_wait;
mod model;
mod plan;
mod printable;
mod replica;
mod replica_set;
mod row_outputs;
mod service_time;
mod signature;
mod target;
mod tensor;

pub use buffer::{Buffer, Element};
pub use cancel::{Cancel, OnCancel};
pub use crash_points::{crash_point, watch_crash_points};
pub use datatype::DataType;
pub use engine::{
    Engine, EngineOptions, LoadedPackage, ModelTraits, Scorer, ScorerLimits, Sink, UnavailableError, Work,
};
pub use error::{Error, ErrorKind, Result};
pub use inputs::Inputs;
pub use limits::{Bound, Capacity, Demand, Limits, Restart, cores, size};
pub use lock::lock;
pub use max_wait::MaxWait;
pub use model::{InvalidNameError, ModelName, ServiceName};
pub use plan::{Plan, Routed, Step, failure, is_complete, plan, routes};
pub use printable::printable;
pub use replica::{Death, Replica, ReplicaId, ReplicaState};
pub use replica_set::{Place, ReplicaSet};
pub use row_outputs::RowOutputs;
pub use service_time::ServiceTime;
pub use signature::{Dim, Port, Signature, TensorType, ValueType};
pub use target::{
    Applied, BoxStream, Capabilities, Environment, Event, EventSink, LogOptions, RevisionSpec, ServiceSpec,
    Serving, Target, TargetError, Trust, Wanted,
};
pub use tensor::{Data, DataView, Shape, Strings, Tensor, TensorView, Value, ValueView, element_count};
