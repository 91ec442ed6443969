//! Messages that describe models, with the same content as the documents over HTTP.

use super::inference::{
    DataType as ConfigType, InferStatistics, ModelConfig, ModelInput, ModelMetadataResponse, ModelOutput,
    ModelStatistics, StatisticDuration, model_metadata_response::TensorMetadata,
};
use crate::documents::{Duration, Model, Statistics, carried_outputs, v2_tensor};
use crate::v2::properties;
use drisse_core::{DataType, Port};

/// Returns the response of `ModelMetadata`.
pub fn metadata<'a>(model: Model<'_>, versions: impl Iterator<Item = &'a str>) -> ModelMetadataResponse {
    let tensor = |port: &Port| {
        let (datatype, shape) = v2_tensor(&port.kind);
        TensorMetadata { name: port.name.clone(), datatype: datatype.name().to_owned(), shape }
    };
    let properties = properties(model.signature);
    ModelMetadataResponse {
        name: model.name.to_owned(),
        versions: versions.map(str::to_owned).collect(),
        platform: model.platform.to_owned(),
        inputs: model.signature.inputs.iter().map(tensor).collect(),
        outputs: carried_outputs(model.signature).map(tensor).collect(),
        properties: properties.into_iter().map(|(name, text)| (name.to_owned(), text)).collect(),
    }
}

/// Returns the configuration in the response of `ModelConfig`.
pub fn config(model: Model<'_>) -> ModelConfig {
    let input = |port: &Port| {
        let (datatype, dims) = v2_tensor(&port.kind);
        let data_type = config_type(datatype).into();
        ModelInput { name: port.name.clone(), data_type, dims, optional: port.optional }
    };
    let output = |port: &Port| {
        let (datatype, dims) = v2_tensor(&port.kind);
        ModelOutput { name: port.name.clone(), data_type: config_type(datatype).into(), dims }
    };
    ModelConfig {
        name: model.name.to_owned(),
        platform: model.platform.to_owned(),
        max_batch_size: 0,
        input: model.signature.inputs.iter().map(input).collect(),
        output: carried_outputs(model.signature).map(output).collect(),
        default_model_filename: "model.onnx".to_owned(),
        backend: model.platform.split('_').next().unwrap_or_default().to_owned(),
    }
}

fn config_type(datatype: DataType) -> ConfigType {
    match datatype {
        DataType::Bool => ConfigType::TypeBool,
        DataType::Uint8 => ConfigType::TypeUint8,
        DataType::Uint16 => ConfigType::TypeUint16,
        DataType::Uint32 => ConfigType::TypeUint32,
        DataType::Uint64 => ConfigType::TypeUint64,
        DataType::Int8 => ConfigType::TypeInt8,
        DataType::Int16 => ConfigType::TypeInt16,
        DataType::Int32 => ConfigType::TypeInt32,
        DataType::Int64 => ConfigType::TypeInt64,
        DataType::Fp16 => ConfigType::TypeFp16,
        DataType::Fp32 => ConfigType::TypeFp32,
        DataType::Fp64 => ConfigType::TypeFp64,
        DataType::Bytes => ConfigType::TypeString,
        DataType::Bf16 => ConfigType::TypeBf16,
        _ => ConfigType::TypeInvalid,
    }
}

/// Returns one model's entry in the response of `ModelStatistics`.
pub fn statistics(model: Model<'_>, all: Statistics) -> ModelStatistics {
    let duration = |duration: Duration| Some(StatisticDuration { count: duration.count, ns: duration.ns });
    let none = duration(Duration::default());
    ModelStatistics {
        name: model.name.to_owned(),
        version: model.version.to_owned(),
        last_inference: all.last_inference,
        inference_count: all.success.count,
        execution_count: all.runs,
        inference_stats: Some(InferStatistics {
            success: duration(all.success),
            fail: duration(all.fail),
            queue: duration(all.queue),
            compute_input: none,
            compute_infer: duration(all.compute),
            compute_output: duration(all.encode),
            cache_hit: none,
            cache_miss: none,
        }),
    }
}
