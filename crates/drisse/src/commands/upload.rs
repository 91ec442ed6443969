//! Uploads models to the control plane of another machine, which cannot read files of this one.

use super::models::absolute;
use super::transfer::Bar;
use crate::connect::WorkspaceRef;
use crate::error::{CliError, Result};
use crate::{printer, units};
use anyhow::Context;
use drisse_client::{Client, ClientError};
use drisse_registry::{ModelSource, Store, Transfer};
use drisse_wire::control::{ModelChoice, RegisterRequest, UploadedFiles};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often an upload is tried that does not get further. The server notices a broken connection after 30 s.
const TRIES: u32 = 12;

/// The first pause between two tries, which doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause between two tries.
const PAUSE: Duration = Duration::from_secs(5);

/// The size of the parts in which a file is read, in bytes.
const BLOCK: usize = 256 << 10;

/// A model's files as requests name them.
pub(super) struct Given {
    /// Its path; empty if the files were uploaded.
    path: String,
    uploaded: Option<UploadedFiles>,
    /// The path of the sample, or its name among the uploaded files.
    pub(super) sample: Option<String>,
}

impl Given {
    /// Returns how requests name the model at `path`: by that path or, for the control plane of another machine, as the
    /// files that this uploads.
    pub(super) async fn new(
        workspace: &WorkspaceRef,
        client: &Client,
        path: &Path,
        source: &ModelSource,
        sample: Option<&Path>,
    ) -> Result<Self> {
        if let WorkspaceRef::Folder(..) = workspace {
            let sample = sample.map(absolute).transpose()?;
            return Ok(Self { path: absolute(path)?, uploaded: None, sample });
        }
        let mut parts = Vec::new();
        for (name, path) in source.contents() {
            let name = name.into_os_string().into_string();
            let name =
                name.map_err(|_| CliError::new(format!("the name of {} is not UTF-8", path.display())))?;
            parts.push(Part::new(name, source.open_file(&path).map_err(anyhow::Error::new)?, &path)?);
        }
        let model = parts[0].name.clone();
        // In a folder of its own, so that it has no other file's name.
        let given = |path: &Path| Some(format!("given/{}", path.file_name()?.to_str()?));
        let named = sample.map(|path| given(path).unwrap_or("given/sample.json".to_owned()));
        if let (Some(path), Some(name)) = (sample, &named) {
            let opened = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            parts.push(Part::new(name.clone(), opened, path)?);
        }
        send(client, &parts).await?;
        let files = parts.into_iter().map(|part| (part.name, part.digest)).collect();
        let uploaded = UploadedFiles { model, files, stem: Some(source.name.clone()) };
        Ok(Self { path: String::new(), uploaded: Some(uploaded), sample: named })
    }

    /// Returns the model to deploy.
    pub(super) fn choice(self) -> ModelChoice {
        self.uploaded.map_or(ModelChoice::Path(self.path), ModelChoice::Uploaded)
    }

    /// Returns the request to register the model.
    pub(super) fn registration(self) -> RegisterRequest {
        let Self { path, uploaded, sample } = self;
        RegisterRequest { path, uploaded, sample, ..RegisterRequest::default() }
    }
}

/// A file to upload.
pub(super) struct Part {
    /// Its path in the model's folder.
    name: String,
    digest: String,
    size: u64,
    file: Arc<File>,
}

impl Part {
    /// Computes the digest of a file. `path` is for the error.
    pub(super) fn new(name: String, file: File, path: &Path) -> Result<Self> {
        let hashed = || -> io::Result<_> {
            let size = file.metadata()?.len();
            Ok((size, drisse_registry::digest_of_file(file.try_clone()?)?))
        };
        let (size, hex) = hashed().with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { name, digest: format!("sha256:{hex}"), size, file: Arc::new(file) })
    }
}

/// Uploads all blobs of an image layout.
pub(super) async fn layout(client: &Client, store: &Store) -> Result<()> {
    let blobs = store.blobs().map_err(anyhow::Error::new)?;
    let part = |(digest, path): (String, PathBuf)| {
        let opened = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Part::new(digest, opened, &path)
    };
    send(client, &blobs.into_iter().map(part).collect::<Result<Vec<_>>>()?).await
}

/// Uploads what is missing of these files, with a progress bar.
pub(super) async fn send(client: &Client, parts: &[Part]) -> Result<()> {
    let (bar, total) = (Arc::new(Bar::new("uploading")), parts.iter().map(|part| part.size).sum());
    bar.total(total);
    let (mut before, mut sent) = (0, 0);
    for part in parts {
        let at = |bytes: u64| bar.set(before + bytes);
        let attempt = |error: CliError| error.context(format!("cannot upload {}", part.name));
        sent += send_part(client, part, &bar, &at).await.map_err(attempt)?;
        before += part.size;
        bar.set(before);
    }
    drop(bar);
    printer::note(&format!("uploaded {}, {} already there", units::shown(sent), units::shown(total - sent)));
    Ok(())
}

/// Uploads what is missing of a file, and continues after a broken connection. Calls `at` with the number of bytes that
/// are there. Returns the number of bytes that were missing.
async fn send_part(client: &Client, part: &Part, bar: &Arc<Bar>, at: &dyn Fn(u64)) -> Result<u64> {
    let (mut tries, mut furthest, mut missing, mut noted) = (0, 0, None, String::new());
    loop {
        let sent = match client.uploaded(&part.digest).await {
            Ok(there) if there.complete => return Ok(missing.unwrap_or(0)),
            Ok(there) => {
                if there.received > furthest {
                    (tries, furthest) = (0, there.received);
                }
                at(there.received);
                missing.get_or_insert(part.size.saturating_sub(there.received));
                send_rest(client, part, there.received, bar).await?
            }
            Err(error) => Err(error),
        };
        // A conflict is another client that sends the same file, which may have ended.
        match sent {
            Ok(()) => return Ok(missing.unwrap_or(0)),
            Err(error @ (ClientError::Unreachable(_) | ClientError::Refused(_, 408 | 409)))
                if tries < TRIES =>
            {
                let waiting = format!("waiting: {error}; the upload will continue from where it stopped");
                if waiting != noted {
                    bar.note(&waiting);
                    noted = waiting;
                }
                tokio::time::sleep((FIRST_PAUSE * 2_u32.pow(tries)).min(PAUSE)).await;
                tries += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Sends a file from `offset` to its end. The inner error is that of the call.
async fn send_rest(
    client: &Client,
    part: &Part,
    offset: u64,
    bar: &Arc<Bar>,
) -> Result<Result<(), ClientError>> {
    let (file, bar) = (Arc::clone(&part.file), Arc::clone(bar));
    let write = move |body: &mut dyn Write| -> io::Result<()> {
        let mut file = &*file;
        file.seek(SeekFrom::Start(offset))?;
        let mut block = vec![0; BLOCK];
        loop {
            let count = file.read(&mut block)?;
            if count == 0 {
                return Ok(());
            }
            body.write_all(&block[..count])?;
            bar.moved(count as i64);
        }
    };
    match client.upload(&part.digest, part.size, offset, write).await {
        (Ok(there), None) if !there.complete => Err(CliError::new("the file changed while it was sent")
            .hint("try again when it is completely written")),
        // The connection was closed, which the error of the call explains.
        (answer, Some(failed)) if failed.kind() == io::ErrorKind::BrokenPipe => Ok(answer.map(drop)),
        (_, Some(failed)) => Err(anyhow::Error::new(failed).into()),
        (answer, None) => Ok(answer.map(drop)),
    }
}
