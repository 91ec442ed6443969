//! The images of revisions, which are built here and brought into the engine once.

use super::engine::{Engine, EngineError, with_source};
use super::offer::Offer;
use super::{ContainerConfig, refused};
use drisse_core::{Event, EventSink, RevisionSpec, ServiceName, TargetError, crash_point, lock};
use drisse_net::blocking;
use drisse_net::http::escaped;
use drisse_registry::{Image, ImageError, ImageModel, RELEASED, RuntimeParts, Runtimes};
use serde_json::Value;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// The size of a write buffer in bytes.
pub(super) const CHUNK: usize = 256 << 10;

/// The host in the names of the images: they come from no registry.
const HOST: &str = "localhost";

/// A label of all images that Drisse builds.
const LABEL: &str = "drisse.runtime";

/// An image that can be written out.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) image: Image,
    /// Keeps the layer of the runtime in the cache.
    pub(super) _runtimes: Runtimes,
}

/// Images by service and revision.
#[derive(Debug)]
pub(super) struct Images {
    config: Arc<ContainerConfig>,
    brought: Mutex<HashMap<(ServiceName, u64), String>>,
    /// Held while an image is brought: the next image can then use the layers of this one.
    bringing: tokio::sync::Mutex<()>,
}

impl Images {
    pub(super) fn new(config: Arc<ContainerConfig>) -> Self {
        Self { config, brought: Mutex::default(), bringing: tokio::sync::Mutex::default() }
    }

    /// Brings a revision's image into the engine if it is not there, and returns its id.
    pub(super) async fn bring(
        &self,
        engine: &Engine,
        revision: &RevisionSpec,
        events: &dyn EventSink,
    ) -> Result<String, TargetError> {
        let key = (revision.service.clone(), revision.revision);
        let there = |images: &Self| lock(&images.brought).get(&key).cloned();
        if let Some(id) = there(self) {
            return Ok(id);
        }
        let _one = self.bringing.lock().await;
        if let Some(id) = there(self) {
            return Ok(id);
        }
        let began = Instant::now();
        let built = Arc::new(self.build(revision).await?);
        let image = &built.image;
        let (repository, tag) = (self.repository(&revision.service), format!("r{}", revision.revision));
        if image.architecture() != engine.architecture {
            let (ours, theirs) = (image.architecture(), &engine.architecture);
            return Err(TargetError::permanent(format!(
                "the image is for {ours}, but {} runs {theirs}",
                engine.name
            )));
        }
        let what = format!("bring the image {repository}:{tag} into {}", engine.name);
        let failed = |error: EngineError| refused(&what, &error);
        // Engines identify an image by the digest of its config, or (with containerd's store) of its manifest.
        let (config, manifest) = (image.id().to_owned(), image.digest.clone());
        let names = [&*config, &*manifest];
        let mut found = engine.image(&names).await.map_err(failed)?;
        let mut pulled = None;
        if found.is_none() {
            let size = image.size() >> 20;
            events.event(Event(format!("bringing the image into {}, {size} MiB", engine.name)));
            let name = format!("{repository}:{tag}");
            pulled = match pull(engine, Arc::clone(&built), &name).await {
                Ok(pulled) => Some(pulled),
                Err(error) if error.is_final() => return Err(failed(error)),
                // The engine cannot reach this machine's loopback, or its configuration forbids it.
                Err(why) => {
                    tracing::warn!("{} does not pull from Drisse, and gets an archive: {why}", engine.name);
                    let loaded = load(engine, Arc::clone(&built), format!("{HOST}/{name}")).await;
                    loaded.map_err(|error| not_built(revision, &error))?.map_err(failed)?;
                    None
                }
            };
            crash_point("an image is brought in");
            let took = began.elapsed().as_secs_f64();
            events.event(Event(format!("the image is in the engine after {took:.1} s")));
            found = engine.image(&names).await.map_err(failed)?;
        }
        let id = found.ok_or_else(|| TargetError::new(format!("cannot {what}: it was removed meanwhile")))?;
        let path = format!("/images/{id}/tag?repo={HOST}/{repository}&tag={tag}");
        engine.post(&path, None).await.map_err(failed)?;
        if let Some(pulled) = pulled {
            engine.delete(&format!("/images/{pulled}")).await.map_err(failed)?;
        }
        // Images that are still in use are removed after a later revision.
        if let Err(error) = self.tidy(engine, revision).await {
            tracing::warn!("cannot remove unused images from {}: {error}", engine.name);
        }
        lock(&self.brought).insert(key, id.clone());
        Ok(id)
    }

    /// Forgets a revision's image, because it was removed from the engine from outside.
    pub(super) fn forget(&self, revision: &RevisionSpec) {
        lock(&self.brought).remove(&(revision.service.clone(), revision.revision));
    }

    /// Removes the images of older revisions, except for the last one, so that a rollback to it is fast. A rollback to
    /// an older one brings the image again.
    async fn tidy(&self, engine: &Engine, new: &RevisionSpec) -> Result<(), EngineError> {
        let number = |tag: &str| tag.rsplit_once(":r")?.1.parse::<u64>().ok();
        let tags = self.tags(engine, &new.service).await?;
        let mut before: Vec<_> = tags.iter().filter_map(|tag| Some((number(tag)?, tag))).collect();
        before.retain(|(number, _)| *number < new.revision);
        let last = before.iter().map(|(number, _)| *number).max();
        for (number, tag) in before.into_iter().filter(|(number, _)| Some(*number) != last) {
            lock(&self.brought).remove(&(new.service.clone(), number));
            match engine.delete(&format!("/images/{tag}")).await {
                // 409: a container uses the image.
                Ok(()) | Err(EngineError::Refused(409, _)) => {}
                Err(error) => return Err(error),
            }
        }
        prune(engine).await
    }

    /// Removes a service's images from the engine. Identical images of other services stay.
    pub(super) async fn remove(&self, engine: &Engine, service: &ServiceName) -> Result<(), EngineError> {
        lock(&self.brought).retain(|(of, _), _| of != service);
        for tag in self.tags(engine, service).await? {
            engine.delete(&format!("/images/{tag}?force=true")).await?;
        }
        prune(engine).await
    }

    /// Returns the names of a service's images in the engine.
    async fn tags(&self, engine: &Engine, service: &ServiceName) -> Result<Vec<String>, EngineError> {
        let ours = format!("/{}:", self.repository(service));
        let filters = escaped(&serde_json::json!({"label": [LABEL]}).to_string());
        let images = engine.get(&format!("/images/json?filters={filters}")).await?;
        let tags = images.as_array().into_iter().flatten().filter_map(|image| image["RepoTags"].as_array());
        // With any host: an image may have been pulled from the temporary registry and not been renamed.
        let ours = |tag: &&str| tag.contains(&*ours);
        Ok(tags.flatten().filter_map(Value::as_str).filter(ours).map(str::to_owned).collect())
    }

    /// Returns the path of the model file in the image.
    pub(super) async fn model(&self, revision: &RevisionSpec) -> Result<PathBuf, TargetError> {
        let (store, of) = (self.config.store.clone(), revision.clone());
        let model = blocking(move || ImageModel::of_package(&store, &of.digest, &of.package)).await;
        let model = model.map_err(|error| not_built(revision, &error.into()))?;
        model.path().ok_or_else(|| not_built(revision, &ImageError::NoFiles))
    }

    async fn build(&self, revision: &RevisionSpec) -> Result<Built, TargetError> {
        let (config, of) = (Arc::clone(&self.config), revision.clone());
        let build = move || {
            let runtimes = Runtimes::open(&config.cache)?;
            let parts = RuntimeParts {
                program: &config.program,
                version: &config.version,
                onnxruntime: &config.onnxruntime,
                onnxruntime_version: &|| (config.onnxruntime_version)(&config.onnxruntime),
            };
            let runtime = runtimes.build(&parts, |_| ())?;
            let model = ImageModel::of_package(&config.store, &of.digest, &of.package)?;
            let image = Image::new(&runtimes, &runtime, &model, None, RELEASED)?;
            Ok(Built { image, _runtimes: runtimes })
        };
        blocking(build).await.map_err(|error| not_built(revision, &error))
    }

    /// Returns the name of a service's images without host and tag. The tag is the revision.
    fn repository(&self, service: &ServiceName) -> String {
        format!("drisse/{}/{}", self.config.workspace, service.label())
    }
}

/// Has the engine pull the layers of an image that it lacks, and returns the name of the image in the engine.
async fn pull(engine: &Engine, built: Arc<Built>, name: &str) -> Result<String, EngineError> {
    let offer = Offer::new(built).map_err(|error| EngineError::Refused(0, with_source(&error)))?;
    let (reference, login) = (format!("{}/{name}", offer.registry()), offer.login());
    offer.during(engine.pull(&reference, &login)).await?;
    Ok(reference)
}

/// Sends a whole image as an archive.
async fn load(
    engine: &Engine,
    built: Arc<Built>,
    reference: String,
) -> Result<Result<Value, EngineError>, ImageError> {
    let write = move |out: &mut dyn std::io::Write| {
        let out = std::io::BufWriter::with_capacity(CHUNK, out);
        built.image.write_archive(out, &reference, &|_| ())
    };
    engine.load(write).await
}

/// Removes Drisse's images that have no name: a newer Drisse has built its own image under that name.
async fn prune(engine: &Engine) -> Result<(), EngineError> {
    let filters = serde_json::json!({"dangling": ["true"], "label": [LABEL]});
    engine.post(&format!("/images/prune?filters={}", escaped(&filters.to_string())), None).await.map(drop)
}

fn not_built(revision: &RevisionSpec, error: &ImageError) -> TargetError {
    let message = format!("cannot build the image of `{}`: {}", revision.service, with_source(error));
    TargetError { hint: error.hint(), ..TargetError::permanent(message) }
}
