//! Inspects the models before anything starts: their names, their engines, their signatures.

use crate::config::{Config, ModelPath, TrustFiles};
use crate::engines::EngineTable;
use crate::error::ServeError;
use drisse_core::ModelName;
use drisse_registry::{Evidence, ModelSource, PublicKey, SignatureError, Signed, verify_files};
use std::collections::HashSet;
use std::path::Path;

/// An inspected version of a model, and the name under which it is served.
pub(crate) struct InspectedModel {
    /// How its operator named it.
    pub(crate) path: ModelPath,
    pub(crate) name: ModelName,
    pub(crate) version: String,
    pub(crate) source: ModelSource,
}

/// Inspects all models, and checks that their names or versions differ and that there are their engines.
pub(crate) fn inspect_all(config: &Config, engines: &EngineTable) -> Result<Vec<InspectedModel>, ServeError> {
    if config.sample.is_some() && config.models.len() > 1 {
        return Err(ServeError::SampleForSeveral);
    }
    let mut served = HashSet::new();
    let mut models = Vec::new();
    for model in &config.models {
        for model in inspect(model, config, engines)? {
            // A model that is loaded on demand has one version.
            let version = config.model_memory.is_none().then(|| model.version.clone());
            if !served.insert((model.name.clone(), version)) {
                return Err(ServeError::SameName { name: model.name.to_string() });
            }
            models.push(model);
        }
    }
    let mut names: HashSet<_> = models.iter().map(|model| model.name.clone()).collect();
    if !config.aliases.is_empty() && names.len() != 1 {
        return Err(ServeError::AliasesForSeveral);
    }
    for alias in aliases(config)? {
        if !names.insert(alias.clone()) {
            return Err(ServeError::SameName { name: alias.to_string() });
        }
    }
    Ok(models)
}

/// Returns the further names of the model.
pub(crate) fn aliases(config: &Config) -> Result<Vec<ModelName>, ServeError> {
    let alias = |name: &String| {
        let path = config.models.first().map(|model| model.path.clone()).unwrap_or_default();
        ModelName::served(name).map_err(|why| ServeError::Name { path, why })
    };
    config.aliases.iter().map(alias).collect()
}

/// Inspects the versions of one model that are served together.
pub(crate) fn inspect(
    model: &ModelPath,
    config: &Config,
    engines: &EngineTable,
) -> Result<Vec<InspectedModel>, ServeError> {
    let signed = config.trust.as_ref().map(|trust| signed(&model.path, trust)).transpose()?;
    let sources = match (&model.version, config.model_memory) {
        (None, None) => ModelSource::open_versions_to_run(&model.path),
        _ => ModelSource::open_to_run(&model.path).map(|source| vec![source]),
    };
    let sources = sources.map_err(|source| ServeError::Inspect { path: model.path.clone(), source })?;
    sources.into_iter().map(|source| inspect_version(model, source, signed.as_ref(), engines)).collect()
}

fn inspect_version(
    model: &ModelPath,
    mut source: ModelSource,
    signed: Option<&Signed>,
    engines: &EngineTable,
) -> Result<InspectedModel, ServeError> {
    let path = || model.path.clone();
    let unsigned = |source| ServeError::Signature { path: path(), source };
    if let Some(signed) = signed {
        let file = &source.inspection.path;
        let external = source.inspection.external_data.iter().map(|data| file.with_file_name(&data.location));
        // The description chooses the engine.
        for file in std::iter::once(file.clone()).chain(external).chain(source.description.clone()) {
            signed.covers(&file).map_err(unsigned)?;
        }
        // A sample that is not signed is not used.
        source.sample = source.sample.filter(|sample| signed.covers(sample).is_ok());
    }
    engines.check(&source.engine).map_err(|source| ServeError::UnknownEngine { path: path(), source })?;
    let name = model.name.as_ref().unwrap_or(&source.name);
    let name = ModelName::served(name).map_err(|why| ServeError::Name { path: path(), why })?;
    let version = model.version.as_ref().or(source.configured.version.as_ref());
    let version = version.cloned().unwrap_or_else(|| "1".to_owned());
    match ModelName::served(&version) {
        Ok(_) => Ok(InspectedModel { path: model.clone(), name, version, source }),
        Err(_) => Err(ServeError::Version { version }),
    }
}

/// Verifies the signature of a model before any of its files is parsed.
fn signed(model: &Path, trust: &TrustFiles) -> Result<Signed, ServeError> {
    let text = std::fs::read_to_string(&trust.keys)
        .map_err(|source| ServeError::TrustedKeys { path: trust.keys.clone(), source })?;
    let verify = || -> Result<Signed, SignatureError> {
        let keys = PublicKey::all_in(&text)?;
        let folder = if model.is_dir() { model } else { model.parent().unwrap_or(Path::new("")) };
        let beside = folder.join(".drisse");
        let evidence = Evidence::read(trust.evidence.as_deref().unwrap_or(&beside))?;
        verify_files(model, &evidence, &keys)
    };
    verify().map_err(|source| ServeError::Signature { path: model.to_owned(), source })
}
