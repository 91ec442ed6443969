//! `drisse models keygen`, `sign` and `trust`, and the signature check of `verify`.

use crate::cli::Output;
use crate::connect::WorkspaceRef;
use crate::error::{CliError, Result};
use crate::printer;
use anyhow::Context;
use drisse_client::Client;
use drisse_registry::{Bundle, Image, ImageModel, PublicKey, SignatureError, SigningKey, Store};
use drisse_wire::control::{Model, TrustDocument};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

/// Maximum size of a file of keys, in bytes; one key has about 180.
const MAX_KEYS: u64 = 1 << 20;

impl From<SignatureError> for CliError {
    fn from(error: SignatureError) -> Self {
        let hint = error.hint();
        Self::from(anyhow::Error::new(error)).hint(hint)
    }
}

/// `drisse models keygen`.
pub(crate) fn keygen(file: &Path, output: Output) -> Result<ExitCode> {
    let key = SigningKey::generate()?;
    let public = SigningKey::from_pem(&key)?.public();
    let mut beside = file.as_os_str().to_owned();
    beside.push(".pub");
    let beside = Path::new(&beside);
    for (path, text, mode) in [(file, key, 0o600), (beside, public.to_pem(), 0o644)] {
        let write = || {
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
    }
    let (id, file, beside) = (public.id(), file.display().to_string(), beside.display().to_string());
    let document = || json!({ "id": id, "key": file, "public_key": beside });
    let text = || {
        format!(
            "key {id}\n{file}: private key, keep it secret\n{beside}: public key, trust it with `drisse models trust {beside}`\n"
        )
    };
    printer::result(output, document, text);
    Ok(ExitCode::SUCCESS)
}

/// `drisse models sign`.
pub(crate) async fn sign(
    workspace: &WorkspaceRef,
    model: &str,
    key: &Path,
    output: Output,
) -> Result<ExitCode> {
    let key = read_key(key, SigningKey::from_pem)?;
    let folder = super::transfer::beside(workspace, "sign")?;
    let client = workspace.reach().await?;
    let (name, version) = super::models::parse(model)?;
    let model = client.model(name, version).await?;
    let store = Store::existing(&folder.store());
    // The signature also covers the model as an image without a runtime layer, as image volumes mount it.
    let image = ImageModel::of_package(&store, &model.digest, &model.manifest_digest);
    let image = Image::of_model(&image.context("cannot read the model")?).context("cannot read the model")?;
    let label = format!("{}:{}", model.name, model.version);
    let subjects = [(&*label, &*model.manifest_digest), (&*label, &*image.digest)];
    let bundle = Bundle::sign(&key, &subjects)?;
    client.sign(name, Some(model.version), bundle).await?;
    let by = key.public().id();
    let document = || json!({ "model": label, "manifest_digest": model.manifest_digest, "image_digest": image.digest, "key": by });
    printer::result(output, document, || {
        format!("signed {label} ({}) with key {by}\n", model.manifest_digest)
    });
    Ok(ExitCode::SUCCESS)
}

/// `drisse models trust`.
pub(crate) async fn trust(
    workspace: &WorkspaceRef,
    keys: &[impl AsRef<Path>],
    remove: &[String],
    none: bool,
    output: Output,
) -> Result<ExitCode> {
    let mut added = Vec::new();
    for key in keys {
        added.extend(read_key(key.as_ref(), PublicKey::all_in)?);
    }
    let client = workspace.reach().await?;
    let mut trusted = trusted_by(&client).await?;
    if !added.is_empty() || !remove.is_empty() || none {
        trusted.retain(|key| !none && !remove.iter().any(|id| !id.is_empty() && key.id().starts_with(id)));
        added.retain(|key| !trusted.contains(key));
        trusted.extend(added);
        let document = TrustDocument { keys: trusted.iter().map(PublicKey::to_pem).collect() };
        client.trust(&document).await?;
    }
    let ids: Vec<_> = trusted.iter().map(PublicKey::id).collect();
    let text = || match ids.is_empty() {
        true => "no trusted keys: models need no signature\n".to_owned(),
        false => format!("models must be signed by one of these keys:\n{}\n", ids.join("\n")),
    };
    printer::result(output, || json!({ "keys": ids }), text);
    Ok(ExitCode::SUCCESS)
}

/// Checks the signatures of one model or of all. Returns the ID of the key that signed each model; empty if there
/// are no keys to check with.
pub(crate) async fn verify(
    client: &Client,
    model: Option<&str>,
    key: Option<&Path>,
) -> Result<BTreeMap<String, String>> {
    let keys = match key {
        Some(file) => read_key(file, PublicKey::all_in)?,
        None => trusted_by(client).await?,
    };
    if keys.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut signed = BTreeMap::new();
    let models = match model {
        Some(model) => {
            let (name, version) = super::models::parse(model)?;
            vec![client.model(name, version).await?]
        }
        None => all(client).await?,
    };
    for Model { name, version, manifest_digest, .. } in &models {
        let signatures = client.signatures(name, Some(*version)).await?;
        let bundles = signatures.iter().map(|signature| signature.bundle.as_bytes());
        let by = drisse_registry::verify(manifest_digest, bundles, &keys).map_err(|error| {
            let hint = error.hint();
            let what = format!("cannot verify the signature of model `{name}:{version}`");
            CliError::from(anyhow::Error::new(error).context(what)).hint(hint)
        })?;
        printer::note(&format!("{name}:{version} is signed by key {by}"));
        signed.insert(format!("{name}:{version}"), by);
    }
    Ok(signed)
}

/// Lists all registered models, page by page.
async fn all(client: &Client) -> Result<Vec<Model>> {
    let mut models = Vec::new();
    let mut after = None;
    loop {
        let query = super::models::query(&[("limit", Some("1000")), ("after", after.as_deref())]);
        let page = client.models(&query).await?;
        models.extend(page.items);
        after = page.next;
        if after.is_none() {
            return Ok(models);
        }
    }
}

/// Returns the keys that the workspace trusts.
async fn trusted_by(client: &Client) -> Result<Vec<PublicKey>> {
    let document = client.trusted().await?;
    let keys = document.keys.iter().map(|key| PublicKey::all_in(key)).collect::<Result<Vec<_>, _>>()?;
    Ok(keys.concat())
}

/// Reads and parses a file of keys.
fn read_key<T>(file: &Path, parse: fn(&str) -> Result<T, SignatureError>) -> Result<T> {
    let mut text = String::new();
    let read = std::fs::File::open(file).and_then(|file| file.take(MAX_KEYS).read_to_string(&mut text));
    read.with_context(|| format!("cannot read the key {}", file.display()))?;
    Ok(parse(&text).map_err(|error| match error {
        SignatureError::Key { why, .. } => SignatureError::Key { what: file.display().to_string(), why },
        other => other,
    })?)
}
