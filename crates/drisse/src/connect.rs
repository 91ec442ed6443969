//! Reaching a workspace's control plane: the one that runs, or one that is started.

use crate::cli::Up;
use crate::commands::TAKEN;
use crate::failure::Failure;
use crate::{printer, wiring};
use anyhow::Context;
use drisse_client::{Client, ClientError};
use drisse_control::Workspace;
use drisse_net::http::Address;
use drisse_net::{Build, Exit, Launch, Process, Tls};
use drisse_wire::control::{Shutdown, Status};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::ffi::OsString;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A control plane that is not up by then does not come up.
const PATIENCE: Duration = Duration::from_secs(30);

/// A control plane that is not up by then is told as failing: a machine may stand still for half a minute.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// After this long it is said what is waited for.
const SILENCE: Duration = Duration::from_secs(2);

/// A workspace that was taken is tried again after this, then twice as long each time.
const RETAKE: Duration = Duration::from_millis(50);

/// glibc gives memory back, and has one heap: the control plane works in short bursts on many threads.
pub(crate) const FRUGAL: [(&str, &str); 3] =
    [("MALLOC_ARENA_MAX", "1"), ("MALLOC_TRIM_THRESHOLD_", "131072"), ("MALLOC_MMAP_THRESHOLD_", "65536")];

const ASK_AGAIN: Duration = Duration::from_millis(2);

/// A workspace, as the user named it.
#[derive(Debug)]
pub(crate) enum Place {
    /// A folder on this machine.
    Folder(Box<Workspace>),
    /// Somebody's control plane.
    Remote(Client, String),
}

impl Place {
    /// The place of this name; a folder that is not there is made.
    pub(crate) fn new(named: Option<&str>) -> Result<Self, Failure> {
        Self::at(named, Workspace::open)
    }

    /// The same for who only looks, or ends what is there: nothing is made.
    pub(crate) fn existing(named: Option<&str>) -> Result<Self, Failure> {
        Self::at(named, Workspace::existing)
    }

    fn at(named: Option<&str>, open: fn(&Path) -> std::io::Result<Workspace>) -> Result<Self, Failure> {
        if let Some(url) = named.filter(|named| named.contains("://")) {
            return remote(url);
        }
        let root = named.map_or_else(default_folder, |named| Ok(PathBuf::from(named)))?;
        let workspace = open(&root)
            .with_context(|| format!("cannot open the workspace {}", root.display()))
            .map_err(|error| Failure::from(error).hint("name another folder with --workspace DIR"))?;
        Ok(Self::Folder(Box::new(workspace)))
    }

    /// What a command line needs to reach this workspace again.
    pub(crate) fn flag(&self) -> String {
        match self {
            Self::Folder(workspace) => {
                let usual = default_folder().ok().and_then(|folder| folder.canonicalize().ok());
                if usual.as_deref() == Some(&*workspace.root)
                    || std::env::var_os("DRISSE_WORKSPACE").is_some()
                {
                    String::new()
                } else {
                    format!(" --workspace {}", printer::quoted(&workspace.root.display().to_string()))
                }
            }
            Self::Remote(_, url) => format!(" --workspace {url}"),
        }
    }

    /// The folder; commands about processes need one.
    pub(crate) fn folder(&self) -> Result<&Workspace, Failure> {
        match self {
            Self::Folder(workspace) => Ok(workspace),
            Self::Remote(_, url) => Err(Failure::new(format!("{url} is managed on its own machine"))),
        }
    }

    /// The control plane, if it runs.
    pub(crate) async fn running(&self) -> Option<(Client, Status)> {
        let client = self.client();
        let status = tokio::time::timeout(PATIENCE, client.status()).await.ok()?.ok()?;
        Some((client, status))
    }

    /// The control plane, started where it does not run, replaced where it is older than this binary.
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        self.connect_with(&Up { onnxruntime: env_onnxruntime(), ..Up::default() })
            .await
            .map(|(client, _)| client)
    }

    /// The same, with what `up` was told.
    pub(crate) async fn connect_with(&self, up: &Up) -> Result<(Client, Status), Failure> {
        up.check()?;
        let client = self.client();
        let workspace = match self {
            Self::Folder(workspace) => workspace,
            Self::Remote(client, _) => {
                let status = client.status().await?;
                return Ok((client.clone(), status));
            }
        };
        let asked = {
            let mut asking = std::pin::pin!(client.status());
            match tokio::time::timeout(SILENCE, &mut asking).await {
                Err(_) => {
                    printer::note("waiting: the control plane does not answer");
                    tokio::time::timeout(PATIENCE, asking).await
                }
                asked => asked,
            }
        };
        let asked = asked.map_err(|_| {
            let failure = Failure::new("the control plane does not answer");
            Failure { code: 2, ..failure }
                .hint("`pgrep -af 'drisse control'` shows it; kill it, and try again")
        })?;
        match asked {
            Ok(status) if !is_older(&status) && !up.changes_something() => return Ok((client, status)),
            Ok(status) => {
                if is_older(&status) {
                    let text = format!(
                        "the control plane that runs is older ({}): taking over from it",
                        status.build
                    );
                    printer::note(&text);
                }
                hand_over(&client, &status).await?;
            }
            Err(ClientError::Unreachable(_)) => {}
            // One that speaks otherwise is another version.
            Err(_) => {}
        }
        let status = start(workspace, up, &client).await?;
        Ok((client, status))
    }

    /// Asks what changes nothing; once more where the control plane was killed meanwhile.
    pub(crate) async fn ask<T>(
        &self,
        client: &Client,
        ask: impl AsyncFn(&Client) -> Result<T, ClientError>,
    ) -> Result<T, Failure> {
        match ask(client).await {
            Err(ClientError::Unreachable(_)) => Ok(ask(&self.connect().await?).await?),
            other => Ok(other?),
        }
    }

    fn client(&self) -> Client {
        match self {
            Self::Folder(workspace) => Client::new(Address::unix(&workspace.control_socket()), None),
            Self::Remote(client, _) => client.clone(),
        }
    }
}

impl Up {
    /// Whether the control plane has to start again for it.
    fn changes_something(&self) -> bool {
        let addresses = [self.gateway, self.control, self.metrics, self.registry];
        let none = self.no_control || self.no_metrics || self.no_registry;
        addresses.iter().any(Option::is_some) || self.tls_cert.is_some() || none
    }

    /// Refuses files that cannot be used, before anything that works is ended.
    fn check(&self) -> Result<(), Failure> {
        for (certificate, key) in [(&self.tls_cert, &self.tls_key), (&self.control_cert, &self.control_key)] {
            if let (Some(certificate), Some(key)) = (certificate, key) {
                Tls::open(certificate, key).context("cannot serve HTTPS")?;
            }
        }
        Ok(())
    }
}

pub(crate) fn env_onnxruntime() -> Option<PathBuf> {
    std::env::var_os("DRISSE_ONNXRUNTIME").map(PathBuf::from)
}

fn default_folder() -> Result<PathBuf, Failure> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
    let data = data.ok_or_else(|| {
        Failure::new("cannot find the user's data folder: HOME is not set").hint("name one: --workspace DIR")
    })?;
    Ok(data.join("drisse"))
}

fn remote(url: &str) -> Result<Place, Failure> {
    let token = std::env::var("DRISSE_TOKEN").ok().map(|token| token.trim().to_owned());
    let token = token.ok_or_else(|| {
        Failure::new(format!("cannot reach {url}: there is no token"))
            .hint("put what is in the workspace's control.token into DRISSE_TOKEN")
    })?;
    let address = match url.trim_end_matches('/').split_once("://") {
        Some(("http", host)) => Address::Http(host.to_owned()),
        Some(("https", host)) => {
            let authority = std::env::var_os("DRISSE_CA").map(PathBuf::from).ok_or_else(|| {
                Failure::new(format!("cannot trust {url}: no certificate is named"))
                    .hint("name the certificate of who signed it, in PEM: DRISSE_CA=FILE")
            })?;
            Address::Https(host.to_owned(), trusting(&authority)?)
        }
        _ => {
            return Err(
                Failure::new(format!("`{url}` is no workspace")).hint("a folder, or http(s)://HOST:PORT")
            );
        }
    };
    Ok(Place::Remote(Client::new(address, Some(token)), url.to_owned()))
}

/// A TLS configuration that trusts the certificates in a PEM file, and no others.
pub(crate) fn trusting(certificates: &Path) -> Result<Arc<rustls::ClientConfig>, Failure> {
    let read = || -> anyhow::Result<_> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(certificates)? {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
    };
    Ok(read().with_context(|| format!("cannot use the certificate {}", certificates.display()))?)
}

fn is_older(status: &Status) -> bool {
    Build::parse(&status.build).is_none_or(|theirs| theirs < Build::current(VERSION))
}

/// Ends the control plane alone: what it started goes on.
async fn hand_over(client: &Client, status: &Status) -> Result<(), Failure> {
    let process = status.control.pid.and_then(|pid| Process::of(pid).ok());
    client.shutdown(Shutdown::Handover).await?;
    if let Some(mut process) = process {
        let ended = tokio::time::timeout(PATIENCE, process.ended()).await;
        ended.map_err(|_| Failure { code: 2, ..Failure::new("the older control plane does not end") })?;
    }
    Ok(())
}

/// Starts a control plane and waits until it answers.
async fn start(workspace: &Workspace, up: &Up, client: &Client) -> Result<Status, Failure> {
    let library = wiring::onnx_library(up.onnxruntime.as_deref())?;
    let program = std::env::current_exe().context("cannot find this program's file")?;
    let logs = workspace.logs();
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&logs);
    made.with_context(|| format!("cannot write in the workspace {}", workspace.root.display()))?;
    let log = logs.join("control.log");
    let written = std::fs::metadata(&log).map_or(0, |metadata| metadata.len());
    let launch = || -> Result<Process, Failure> {
        let arguments = arguments(workspace, up, &library);
        let launch = Launch { program: &program, arguments, settings: &FRUGAL, log: &log, stdin: None };
        let started = Process::start(launch).context("cannot start the control plane");
        started.map_err(|error| {
            Failure::from(error).hint("`drisse doctor` says whether the workspace can be written")
        })
    };
    let mut process = launch()?;
    let began = Instant::now();
    let (mut told, mut taken, mut killed): (_, Option<Instant>, _) = (false, None, false);
    let mut pause = RETAKE;
    loop {
        if let Ok(status) = client.status().await {
            if let Some(note) = &status.gateway.note {
                printer::note(note);
            }
            return Ok(status);
        }
        tokio::select! {
            exit = process.ended(), if taken.is_none() => {
                // Somebody else was faster: theirs is as good, once it answers.
                if exit == Exit::Code(i32::from(TAKEN)) {
                    taken = Some(Instant::now());
                    continue;
                }
                // Killed, once, by whoever needed memory or meant another one: it is started again.
                if matches!(exit, Exit::Signal(_)) && !killed {
                    killed = true;
                    process = launch()?;
                    continue;
                }
                return Err(said(&log, written, &format!("the control plane {exit}")));
            }
            () = tokio::time::sleep(ASK_AGAIN) => {}
        }
        // It may have been one that was killed a moment ago, or `drisse down`, which is through in a while: both
        // leave none behind.
        if taken.is_some_and(|since| since.elapsed() > pause) {
            process = launch()?;
            taken = None;
            pause = (pause * 2).min(SILENCE);
        }
        if began.elapsed() > SILENCE && !told {
            printer::note(&format!("waiting for the control plane to start (it logs to {})", log.display()));
            told = true;
        }
        if began.elapsed() > START_PATIENCE {
            let failure = Failure::new(format!(
                "the control plane did not start within {} s",
                START_PATIENCE.as_secs()
            ));
            return Err(Failure { code: 2, ..failure.hint(format!("its log is {}", log.display())) });
        }
    }
}

fn arguments(workspace: &Workspace, up: &Up, library: &Path) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["control".into()];
    let mut add = |flag: &str, value: OsString| arguments.extend([flag.into(), value]);
    add("--workspace", workspace.root.clone().into());
    add("--onnxruntime", library.into());
    let addresses = [
        ("--gateway", up.gateway),
        ("--control", up.control),
        ("--metrics", up.metrics),
        ("--registry", up.registry),
    ]
    .into_iter();
    for (flag, address) in addresses.filter_map(|(flag, address)| Some((flag, address?))) {
        add(flag, address.to_string().into());
    }
    for (flag, is_set) in
        [("--no-control", up.no_control), ("--no-metrics", up.no_metrics), ("--no-registry", up.no_registry)]
    {
        arguments.extend(is_set.then(|| flag.into()));
    }
    let mut add = |flag: &str, value: OsString| arguments.extend([flag.into(), value]);
    let files = [
        ("--tls-cert", &up.tls_cert),
        ("--tls-key", &up.tls_key),
        ("--control-cert", &up.control_cert),
        ("--control-key", &up.control_key),
    ];
    for (flag, file) in files {
        if let Some(file) = file {
            add(flag, std::path::absolute(file).unwrap_or_else(|_| file.clone()).into());
        }
    }
    arguments
}

/// What a daemon that ended said last, as a failure of its own.
fn said(log: &Path, from: u64, otherwise: &str) -> Failure {
    let read = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(log)?;
        file.seek(SeekFrom::Start(from))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().unwrap_or_default();
    let mut lines = text.lines().skip_while(|line| !line.starts_with("error: "));
    let Some(error) = lines.next().and_then(|line| line.strip_prefix("error: ")) else {
        let failure = Failure::new(otherwise).hint(format!("its log is {}", log.display()));
        return unwritable(log).unwrap_or(Failure { code: 2, ..failure });
    };
    let rest: Vec<_> = lines.collect();
    let causes = rest.iter().filter_map(|line| line.trim_start().strip_prefix("Caused by: "));
    let told = drisse_wire::control::Failure {
        causes: causes.map(str::to_owned).collect(),
        hint: rest.iter().find_map(|line| line.strip_prefix("hint: ").map(str::to_owned)),
        ..drisse_wire::control::Failure::new(error)
    };
    told.into()
}

/// Why a log says nothing: its disk takes nothing.
fn unwritable(log: &Path) -> Option<Failure> {
    let folder = log.parent()?;
    let tried = tempfile::tempfile_in(folder).and_then(|mut file| file.write_all(&[0; 4096]));
    let error = tried.err()?;
    let failure = Failure::new(format!("cannot write in {}: {error}", folder.display()));
    Some(match drisse_registry::disk_hint(&error) {
        Some(hint) => failure.hint(hint),
        None => failure,
    })
}
