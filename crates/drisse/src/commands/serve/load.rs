//! From arguments to served models: inspect first, so that a wrong file is told before anything starts.

use crate::cli::{ModelArgument, Serve};
use crate::failure::Failure;
use anyhow::Context;
use drisse_core::{Engine, Error, ErrorKind, Inputs, ModelName, Signature};
use drisse_registry::{Evidence, ModelSource, PublicKey, SignatureError, Signed, verify_files};
use drisse_scoring::{App, LoadedModel, ModelSpec, Repository, Resident, Tuner};
use drisse_wire::score;
use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A sample that is made up is no larger than this: a picture of 1024 × 1024 × 3 floats in JSON.
const MAX_MADE_SAMPLE: usize = 16 << 20;

/// What is longer is no request's body, and broken off no JSON.
const MAX_SAMPLE: u64 = 100 << 20;

/// A model that was inspected, under the name it will be served.
pub(super) struct Source {
    name: ModelName,
    version: String,
    model: ModelSource,
}

/// A model that is served, as the banner shows it.
pub(super) struct Served {
    pub(super) name: ModelName,
    pub(super) version: String,
    /// Where it is loaded.
    pub(super) digest: Option<String>,
    pub(super) signature: Signature,
    pub(super) sample: Sample,
}

/// Where a model's sample comes from.
pub(in crate::commands) enum Sample {
    /// A file of the user's.
    File(PathBuf),
    /// Zeros in the smallest shape the signature allows.
    Made(String),
    /// JSON cannot carry the inputs, or they are too large to make up.
    None,
}

/// Inspects every model and checks that their names differ.
pub(super) fn open(arguments: &Serve) -> Result<Vec<Source>, Failure> {
    if arguments.sample.is_some() && arguments.models.len() > 1 {
        return Err(Failure::new("--sample is for one model, and there are several"));
    }
    let mut names = HashSet::new();
    let mut sources = Vec::new();
    for argument in &arguments.models {
        let source = one(argument, arguments)?;
        if !names.insert(source.name.clone()) {
            let failure = Failure::new(format!("two models are called `{}`", source.name));
            return Err(failure.hint("give each a name of its own: NAME=MODEL"));
        }
        sources.push(source);
    }
    Ok(sources)
}

fn one(argument: &ModelArgument, arguments: &Serve) -> Result<Source, Failure> {
    let path = argument.path.display();
    let signed = signed(&argument.path, arguments)?;
    let mut model =
        ModelSource::open_to_run(&argument.path).with_context(|| format!("cannot serve {path}"))?;
    if let Some(signed) = signed {
        let file = &model.inspection.path;
        let external = model.inspection.external_data.iter().map(|data| file.with_file_name(&data.location));
        for file in std::iter::once(file.clone()).chain(external) {
            signed.covers(&file).map_err(|error| unsigned(&argument.path, error))?;
        }
        // Anybody may have put a sample there.
        model.sample = model.sample.filter(|sample| signed.covers(sample).is_ok());
    }
    let name = argument.name.as_ref().unwrap_or(&model.name);
    let name = ModelName::served(name).map_err(|error| {
        Failure::from(anyhow::Error::new(error)).hint(format!("name it on the command line: 'NAME={path}'"))
    })?;
    let version = argument.version.clone().unwrap_or_else(|| "1".to_owned());
    ModelName::served(&version).map_err(|_| Failure::new(format!("`{version}` is no version")))?;
    Ok(Source { name, version, model })
}

/// Looks whether a model is signed, before a byte of it is understood; nothing where nobody has to have signed it.
fn signed(model: &Path, arguments: &Serve) -> Result<Option<Signed>, Failure> {
    let Some(file) = &arguments.trusted_keys else { return Ok(None) };
    let text = std::fs::read_to_string(file);
    let text = text.with_context(|| format!("cannot read the keys that count from {}", file.display()))?;
    let verified = PublicKey::all_in(&text).and_then(|keys| {
        let folder = if model.is_dir() { model } else { model.parent().unwrap_or(Path::new("")) };
        let beside = folder.join(".drisse");
        let evidence = Evidence::read(arguments.evidence.as_deref().unwrap_or(&beside))?;
        verify_files(model, &evidence, &keys)
    });
    verified.map(Some).map_err(|error| unsigned(model, error))
}

fn unsigned(model: &Path, error: SignatureError) -> Failure {
    let hint = error.hint();
    let error = anyhow::Error::new(error).context(format!("cannot serve {}", model.display()));
    Failure::from(error).hint(hint)
}

/// What loads this server's models, at the start and when somebody asks.
pub(super) struct Loader {
    arguments: Serve,
    engine: Box<dyn Engine>,
    tuner: Tuner,
    /// Names and versions, in the order of the arguments.
    models: Vec<(String, String)>,
}

/// Starts the engine, loads and warms up each model, then says that the server is ready. `None` when the
/// server was told to stop meanwhile.
pub(super) fn all(
    app: &App,
    sources: Vec<Source>,
    arguments: &Serve,
    tuner: Tuner,
    engine: impl FnOnce() -> Result<Box<dyn Engine>, Failure>,
) -> Result<Option<Vec<Served>>, Failure> {
    if app.is_draining() {
        return Ok(None);
    }
    let models = sources.iter().map(|source| (source.name.to_string(), source.version.clone())).collect();
    let loader = Loader { arguments: arguments.clone(), engine: engine()?, tuner, models };
    if let Some(bound) = arguments.model_memory {
        let served =
            sources.iter().map(|source| Served::unloaded(source, arguments)).collect::<Result<_, _>>()?;
        let resident = |source: &Source| {
            let found = &source.model.inspection;
            let bytes = found.size + found.external_data.iter().map(|file| file.size).sum::<u64>();
            Resident { name: source.name.to_string(), bytes }
        };
        app.load_on_demand(sources.iter().map(resident).collect(), bound as u64);
        app.set_repository(Box::new(loader));
        app.set_ready();
        return Ok(Some(served));
    }
    let mut served = Vec::new();
    for source in sources {
        if app.is_draining() {
            return Ok(None);
        }
        let (model, shown) = loader.load_source(source)?;
        app.add(model);
        served.push(shown);
    }
    app.set_repository(Box::new(loader));
    app.set_ready();
    Ok(Some(served))
}

impl Served {
    /// One that is loaded when it is asked for.
    fn unloaded(source: &Source, arguments: &Serve) -> Result<Self, Failure> {
        let (_, sample, _) = sample(&source.model, arguments.sample.as_deref())?;
        let (name, version) = (source.name.clone(), source.version.clone());
        Ok(Self { name, version, digest: None, signature: source.model.inspection.signature.clone(), sample })
    }
}

impl Repository for Loader {
    fn models(&self) -> Vec<(String, String)> {
        self.models.clone()
    }

    fn load(&self, name: &str) -> drisse_core::Result<LoadedModel> {
        let place = self.models.iter().position(|(known, _)| known == name);
        let argument = place.and_then(|place| self.arguments.models.get(place)).ok_or_else(|| {
            let known: Vec<_> = self.models.iter().map(|(name, _)| format!("`{name}`")).collect();
            let message =
                format!("this server was started without a model `{name}`: it has {}", known.join(", "));
            Error::new(ErrorKind::NotFound, message)
        })?;
        let loaded = one(argument, &self.arguments).and_then(|source| self.load_source(source));
        // What is wrong with the file is its operator's to mend.
        loaded
            .map(|(model, _)| model)
            .map_err(|failure| Error::new(ErrorKind::Unavailable, format!("{:#}", failure.error)))
    }
}

impl Loader {
    /// Loads a model.
    fn load_source(&self, source: Source) -> Result<(LoadedModel, Served), Failure> {
        let Source { name, version, model } = source;
        let signature = model.inspection.signature.clone();
        let package = model.inspection.package();
        let failed = || format!("cannot load model `{name}` from {}", package.path.display());
        let (inputs, sample, text) = self::sample(&model, self.arguments.sample.as_deref())?;
        let likeness = model.likeness();
        // What the files are is found out while they are loaded, unless that disturbed what is tried out then.
        let load = || self.tuner.load(&*self.engine, &package, &likeness, inputs.as_ref());
        let (loaded, digest) = std::thread::scope(|scope| {
            let hashing = scope.spawn(|| model.digest());
            match self.tuner.knows(&likeness) {
                true => (load(), hashing.join()),
                false => {
                    let digest = hashing.join();
                    (load(), digest)
                }
            }
        });
        let (scorer, tuning) = loaded.with_context(failed)?;
        let digest =
            digest.map_err(|_| Failure::new("the digest's thread panicked"))?.with_context(failed)?;
        if let Some(expected) = self.arguments.digest.as_deref().filter(|expected| *expected != digest) {
            let what =
                format!("the files of model `{name}` are damaged: their digest is {digest}, not {expected}");
            return Err(Failure::new(what).hint(
                "`drisse models verify --repair` mends what it can; or deploy the model's file again",
            ));
        }
        let spec = ModelSpec {
            name: name.clone(),
            version: version.clone(),
            digest: digest.clone(),
            signature: signature.clone(),
            platform: "onnxruntime_onnx",
            sample: text,
            workers: Some(tuning.workers),
            scorer,
        };
        let served = Served { name, version, digest: Some(digest), signature, sample };
        Ok((LoadedModel { spec, warm_up: inputs }, served))
    }
}

/// The inputs to warm up with, where they come from, and their text. A file the user named must fit;
/// a `sample.json` that happens to lie there need not.
pub(in crate::commands) fn sample(
    model: &ModelSource,
    given: Option<&Path>,
) -> Result<(Option<Inputs>, Sample, Option<String>), Failure> {
    let signature = &model.inspection.signature;
    let read = |path: &Path| -> anyhow::Result<(Inputs, String)> {
        let mut text = String::new();
        File::open(path)?.take(MAX_SAMPLE).read_to_string(&mut text)?;
        let inputs = score::decode(text.as_bytes(), signature)?;
        inputs.check(signature)?;
        Ok((inputs, text))
    };
    if let Some(path) = given {
        let (inputs, text) = read(path).with_context(|| format!("cannot use sample {}", path.display()))?;
        return Ok((Some(inputs), Sample::File(path.to_owned()), Some(text)));
    }
    if let Some(path) = &model.sample {
        match read(path) {
            Ok((inputs, text)) => return Ok((Some(inputs), Sample::File(path.clone()), Some(text))),
            Err(error) => tracing::warn!("{} is no sample for this model: {error}", path.display()),
        }
    }
    for port in signature.inputs.iter().filter(|port| !port.optional) {
        if !port.tensor().is_some_and(|tensor| tensor.datatype.has_json_form()) {
            tracing::warn!(
                "input `{}` is {}, which JSON cannot carry: requests will be refused",
                port.name,
                port.kind
            );
        }
    }
    let made = Inputs::smallest(signature, MAX_MADE_SAMPLE);
    let text = made.as_ref().and_then(|inputs| score::encode(signature, inputs));
    let sample = text.clone().map_or(Sample::None, Sample::Made);
    Ok((made, sample, text))
}
