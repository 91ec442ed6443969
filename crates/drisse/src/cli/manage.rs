//! What manages models and services.

use super::serve::{address, loopback};
use super::service::pair;
use crate::units::duration;
use clap::{Args, Subcommand, ValueEnum};
use drisse_conformance::Protocol;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// The service
    pub(crate) service: String,
    /// Which revision [default: the one before]
    #[arg(long, value_name = "N")]
    pub(crate) revision: Option<u64>,
    /// How long this may take [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// Return at once
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The service
    pub(crate) service: String,
    /// Forget it though its target does not answer; what it left there is removed when `drisse up` finds it again
    #[arg(long)]
    pub(crate) force: bool,
    /// Return at once
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Score {
    /// The service
    pub(crate) service: String,
    /// The request's body, as /score takes it; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "sample")]
    pub(crate) file: Option<PathBuf>,
    /// Score the sample that is kept with the model (the default)
    #[arg(long)]
    pub(crate) sample: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Services {
    #[command(subcommand)]
    pub(crate) command: Option<ServicesCommand>,
    #[command(flatten)]
    pub(crate) filter: ServiceFilter,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServicesCommand {
    /// Show a service, its revisions and what runs
    Show {
        /// The service
        service: String,
    },
}

#[derive(Debug, Default, Args)]
pub(crate) struct ServiceFilter {
    /// Only those on this target
    #[arg(long)]
    pub(crate) target: Option<String>,
    /// Only those in this state, such as Ready
    #[arg(long)]
    pub(crate) state: Option<String>,
    /// Only those that serve this model: NAME or NAME:VERSION
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// Only those with this tag
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub(crate) tag: Option<String>,
    #[command(flatten)]
    pub(crate) page: Page,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Page {
    /// At most this many, up to 1000 [default: 50]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: Option<u32>,
    /// Go on where the page before ended
    #[arg(long, value_name = "LAST")]
    pub(crate) after: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// The service
    pub(crate) service: String,
    /// Go on with lines to come, across restarts and updates
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// The last lines that are there
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) lines: usize,
}

#[derive(Debug, Args)]
pub(crate) struct Keys {
    /// The service
    pub(crate) service: String,
    /// Print the primary key as a header, for `curl -H @<(drisse keys SERVICE --header)`
    #[arg(long, conflicts_with_all = ["regenerate", "set"])]
    pub(crate) header: bool,
    /// Replace a key by a new one; done once everything has confirmed it
    #[arg(long, value_name = "KEY", value_enum)]
    pub(crate) regenerate: Option<WhichKey>,
    /// Replace a key by one of your own, read from standard input: it must not stand in a command line
    #[arg(long, value_name = "KEY", value_enum, conflicts_with = "regenerate")]
    pub(crate) set: Option<WhichKey>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum WhichKey {
    Primary,
    Secondary,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Models {
    #[command(subcommand)]
    pub(crate) command: Option<ModelsCommand>,
    #[command(flatten)]
    pub(crate) filter: ModelFilter,
}

#[derive(Debug, Default, Args)]
pub(crate) struct ModelFilter {
    /// Only versions of this model
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Only those with this tag
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub(crate) tag: Option<String>,
    /// Only those with this property
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub(crate) property: Option<String>,
    /// Only those made with this framework
    #[arg(long)]
    pub(crate) framework: Option<String>,
    #[command(flatten)]
    pub(crate) page: Page,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// Register a model file or folder; the same files are the same version
    Register {
        /// The file or folder
        path: PathBuf,
        /// The model's name [default: the file's]
        #[arg(long)]
        name: Option<String>,
        /// Tags; those given replace all
        #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = pair)]
        tags: Vec<(String, String)>,
        /// Properties, which are only ever added
        #[arg(long = "property", value_name = "KEY=VALUE", value_parser = pair)]
        properties: Vec<(String, String)>,
        /// A /score body, instead of the sample.json beside the model
        #[arg(long, value_name = "FILE")]
        sample: Option<PathBuf>,
    },
    /// Show a version, the newest unless one is named
    Show {
        /// NAME[:VERSION]
        model: String,
    },
    /// Change tags, add properties
    Tag {
        /// NAME[:VERSION]
        model: String,
        /// Tags to set
        #[arg(value_name = "KEY=VALUE", value_parser = pair)]
        tags: Vec<(String, String)>,
        /// Tags to remove
        #[arg(long, value_name = "KEY")]
        remove: Vec<String>,
        /// Properties to add
        #[arg(long = "property", value_name = "KEY=VALUE", value_parser = pair)]
        properties: Vec<(String, String)>,
    },
    /// Make a key that signs models: FILE, and FILE.pub for who verifies
    Keygen {
        /// Where it is written; never over what is there
        #[arg(value_name = "FILE", default_value = "drisse.key")]
        file: PathBuf,
    },
    /// Sign a model, so that others know whose it is; the signature goes along with `push`
    Sign {
        /// NAME[:VERSION]
        model: String,
        /// The key that signs, in PEM (`models keygen`)
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Show whose signature a model needs to run in this workspace, or add and remove keys
    Trust {
        /// Public keys to add, in PEM; with the first one, models without a signature do not run any more
        #[arg(value_name = "FILE")]
        keys: Vec<PathBuf>,
        /// Keys to remove, by the beginning of their ids
        #[arg(long, value_name = "ID")]
        remove: Vec<String>,
        /// Remove all: models need no signature
        #[arg(long, conflicts_with_all = ["keys", "remove"])]
        none: bool,
    },
    /// Read every byte that is kept and compare it with its digest; and signatures, where there are keys
    Verify {
        /// NAME[:VERSION] [default: all]
        model: Option<String>,
        /// Write anew what is damaged, from the files models were registered from and from what else is there
        #[arg(long)]
        repair: bool,
        /// Files and folders that may have what is missing
        #[arg(long, value_name = "PATH", requires = "repair", num_args = 1..)]
        from: Vec<PathBuf>,
        /// Public keys of which one has to have signed, in PEM [default: those that count in the workspace]
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// Delete a version that no service uses
    Delete {
        /// NAME[:VERSION]
        model: String,
    },
    /// Push a model to a registry; what is there already is not sent
    Push {
        /// NAME[:VERSION]
        model: String,
        /// Where to: oci://HOST/REPOSITORY[:TAG] [default tag: the version]
        #[arg(value_name = "REFERENCE")]
        to: String,
        #[command(flatten)]
        registry: RegistryOptions,
    },
    /// Pull a model from a registry and register it; a pull that was cut goes on where it was
    Pull {
        /// Where from: oci://HOST/REPOSITORY[:TAG|@DIGEST]
        #[arg(value_name = "REFERENCE")]
        from: String,
        /// The model's name [default: the last part of the repository's]
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        registry: RegistryOptions,
    },
    /// Remove blobs that no registered model has
    Prune,
}

/// How registries are reached. Logins are podman's and Docker's.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct RegistryOptions {
    /// Certificates of authorities to trust beside the system's, in PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) registry_ca: Option<PathBuf>,
    /// Ask a registry without TLS that is not on this machine
    #[arg(long)]
    pub(crate) plain_http: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Targets {
    #[command(subcommand)]
    pub(crate) command: Option<TargetsCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TargetsCommand {
    /// Show a target
    Show {
        /// Its name
        target: String,
    },
    /// Attach a target, or change how it is attached: its limits at any time, the rest where nothing runs on it
    Attach {
        /// Its name, for --target; `container` is there already and may be changed
        target: String,
        /// What it is
        #[arg(long, value_enum)]
        kind: TargetKind,
        /// The Unix socket of its engine [default: the one this machine has]
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
        /// Services at most [default: 20 of containers]
        #[arg(long, value_name = "N")]
        max_services: Option<u32>,
    },
    /// Detach a target that nothing runs on
    Detach {
        /// Its name
        target: String,
    },
    /// Say whether a target can be used; exits with 1 where it cannot
    Check {
        /// Its name
        target: String,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum TargetKind {
    /// Processes of this machine
    Local,
    /// Containers of podman or Docker
    Container,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Operations {
    #[command(subcommand)]
    pub(crate) command: Option<OperationsCommand>,
    /// Only those of this service or model
    #[arg(long)]
    pub(crate) subject: Option<String>,
    #[command(flatten)]
    pub(crate) page: Page,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OperationsCommand {
    /// Follow an operation to its end
    Show {
        /// Its number
        id: i64,
    },
    /// End an operation before it is done; what was before is wanted again
    Cancel {
        /// Its number
        id: i64,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// Model file or folder
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Profile {
    /// Model file or folder, or the name of a registered model
    pub(crate) model: String,
    /// A /score body to run with, instead of the model's sample.json
    #[arg(long, value_name = "FILE")]
    pub(crate) sample: Option<PathBuf>,
    /// What 99 of 100 runs may take [default: twice the fastest, or 1ms]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) latency: Option<Duration>,
    /// How long each way to run it is tried
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = duration)]
    pub(crate) time: Duration,
    /// Write a page with the table and the plot
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Let this machine's servers run the model as recommended from now on
    #[arg(long)]
    pub(crate) keep: bool,
    /// ONNX Runtime library to load [default: beside the binary, in the cache, or downloaded there]
    #[arg(long, value_name = "FILE", env = "DRISSE_ONNXRUNTIME")]
    pub(crate) onnxruntime: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Conformance {
    /// Where the server speaks HTTP: http(s)://HOST:PORT
    #[arg(required_unless_present_any = ["models", "list"])]
    pub(crate) url: Option<String>,
    /// Where it speaks gRPC, if elsewhere
    #[arg(long, value_name = "URL", requires = "url")]
    pub(crate) grpc: Option<String>,
    /// What to check: v2, v2-binary, v2-extensions, grpc, v1; may be repeated [default: all the server speaks]
    #[arg(long, value_name = "PROTOCOL")]
    pub(crate) protocol: Vec<Protocol>,
    /// Only cases whose names have this in them
    #[arg(long, value_name = "TEXT")]
    pub(crate) case: Option<String>,
    /// File whose first line is the server's key
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// Certificate of who signed the server's, in PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// An answer that takes longer is a failure
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Fail on what is only recommended, too
    #[arg(long)]
    pub(crate) strict: bool,
    /// Write a JUnit report
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
    /// Write the models the cases ask for, as DIR/NAME.onnx
    // Not `exclusive`: that forbids what stands in the environment too.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["url", "list", "protocol", "case", "junit"])]
    pub(crate) models: Option<PathBuf>,
    /// List the cases
    #[arg(long, conflicts_with = "url")]
    pub(crate) list: bool,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Up {
    /// Where requests are taken [default: as before, at first 127.0.0.1:4790]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    pub(crate) gateway: Option<SocketAddr>,
    /// Certificate chain the gateway serves HTTPS with, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The certificate's key, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Also serve the control API here, for who has the token in control.token
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    pub(crate) control: Option<SocketAddr>,
    /// Serve the control API on its Unix socket alone again
    #[arg(long, conflicts_with = "control")]
    pub(crate) no_control: bool,
    /// Certificate chain of the control API, in PEM; needed beyond this machine
    #[arg(long, value_name = "FILE", requires_all = ["control_key", "control"])]
    pub(crate) control_cert: Option<PathBuf>,
    /// That certificate's key, in PEM
    #[arg(long, value_name = "FILE", requires = "control_cert")]
    pub(crate) control_key: Option<PathBuf>,
    /// Serve /metrics of the gateway and of all services here, for Prometheus; whoever can connect may read them
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    pub(crate) metrics: Option<SocketAddr>,
    /// Serve no /metrics any more
    #[arg(long, conflicts_with = "metrics")]
    pub(crate) no_metrics: bool,
    /// Serve registered models here as a registry does, to be read: oci://ADDRESS:PORT/MODEL:VERSION; on this machine
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = loopback)]
    pub(crate) registry: Option<SocketAddr>,
    /// Serve no models as a registry any more
    #[arg(long, conflicts_with = "registry")]
    pub(crate) no_registry: bool,
    /// Take the database's backup in place of a damaged one, which is kept; what was changed since then is lost
    #[arg(long, conflicts_with = "boot")]
    pub(crate) restore: bool,
    /// Start at boot: install a systemd unit
    #[arg(long)]
    pub(crate) boot: bool,
    /// Write the unit to this file instead of installing it
    #[arg(long, value_name = "FILE", requires = "boot")]
    pub(crate) unit: Option<PathBuf>,
    /// ONNX Runtime library to load [default: beside the binary, in the cache, or downloaded there]
    #[arg(long, value_name = "FILE", env = "DRISSE_ONNXRUNTIME")]
    pub(crate) onnxruntime: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Control {
    #[command(flatten)]
    pub(crate) up: Up,
}

#[derive(Debug, Args)]
pub(crate) struct Gateway {
    /// WORKSPACE/ID
    #[arg(long)]
    pub(crate) gateway: String,
    #[arg(long)]
    pub(crate) admin: PathBuf,
    #[arg(long)]
    pub(crate) pass: PathBuf,
    #[arg(long)]
    pub(crate) routes: PathBuf,
    #[arg(long)]
    pub(crate) log_file: PathBuf,
    #[arg(long)]
    pub(crate) tls_cert: Option<PathBuf>,
    #[arg(long)]
    pub(crate) tls_key: Option<PathBuf>,
}
