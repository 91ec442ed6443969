//! Request and response bodies of the control API: parsing never panics, and what is parsed survives being written and
//! read again, because operations are stored.

use drisse_core::{ModelName, ServiceName};
use drisse_wire::control::{
    DeployRequest, FailureBody, KeyRequest, Keys, Model, ModelChange, Operation, Page, Progress,
    RegisterRequest, RollbackRequest, Service, Shutdown, Status, TargetInfo,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

fn kept<T: Serialize + DeserializeOwned + PartialEq + Debug>(body: &[u8]) {
    if let Ok(read) = serde_json::from_slice::<T>(body) {
        let value = serde_json::to_value(&read).expect("a parsed value can be written");
        let text = value.to_string();
        assert_eq!(serde_json::from_value::<T>(value).expect("a written value can be read"), read);
        assert_eq!(serde_json::from_str::<T>(&text).expect("a written value can be read"), read);
    }
}

pub fn fuzz(body: &[u8]) {
    let Ok(text) = std::str::from_utf8(body) else { return };
    let stem = text.split('\n').next().unwrap_or_default();
    for name in [stem.parse::<ServiceName>().ok(), ServiceName::of_stem(stem)].into_iter().flatten() {
        assert!(name.as_str().parse::<ServiceName>().is_ok() && name.as_str().parse::<ModelName>().is_ok());
        assert!(name.label().len() <= 48 && name.label().starts_with(|c: char| c.is_ascii_lowercase()));
    }
    let all: [fn(&[u8]); 15] = [
        kept::<DeployRequest>,
        kept::<RegisterRequest>,
        kept::<ModelChange>,
        kept::<RollbackRequest>,
        kept::<KeyRequest>,
        kept::<Shutdown>,
        kept::<Keys>,
        kept::<Model>,
        kept::<Page<Model>>,
        kept::<Page<Service>>,
        kept::<Operation>,
        kept::<Progress>,
        kept::<Status>,
        kept::<TargetInfo>,
        kept::<FailureBody>,
    ];
    all.iter().for_each(|kept| kept(body));
}
