//! The arguments of the commands that manage services, models, targets and daemons.

use super::serve::{address, loopback, public_url};
use super::service::pair;
use crate::units::{duration, idle_time};
use clap::{Args, Subcommand, ValueEnum};
use drisse_conformance::Protocol;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// Name of the service
    pub(crate) service: String,
    /// Revision to return to [default: the previous one]
    #[arg(long, value_name = "N")]
    pub(crate) revision: Option<u64>,
    /// Maximum time for the rollback [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// Return at once, without waiting for the operation
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Name of the service
    pub(crate) service: String,
    /// Delete even if the target does not answer; its leftovers are removed once `drisse up` reaches the target again
    #[arg(long)]
    pub(crate) force: bool,
    /// Return at once, without waiting for the operation
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Score {
    /// Name of the service
    pub(crate) service: String,
    /// File with the body of the /score request; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "sample")]
    pub(crate) file: Option<PathBuf>,
    /// Send the sample request stored with the model (the default)
    #[arg(long)]
    pub(crate) sample: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Services {
    #[command(subcommand)]
    pub(crate) command: Option<ServicesCommand>,
    /// List only services on this target
    #[arg(long)]
    pub(crate) target: Option<String>,
    /// List only services in this state, such as Ready
    #[arg(long)]
    pub(crate) state: Option<String>,
    /// List only services that serve this model: NAME[:VERSION]
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// List only services with this tag
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub(crate) tag: Option<String>,
    #[command(flatten)]
    pub(crate) page: Page,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServicesCommand {
    /// Show a service, its revisions and its replicas
    Show {
        /// Name of the service
        service: String,
    },
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Page {
    /// Maximum number of entries to list, up to 1000 [default: 50]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: Option<u32>,
    /// List the entries after LAST, the last entry of the previous page
    #[arg(long, value_name = "LAST")]
    pub(crate) after: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Name of the service
    pub(crate) service: String,
    /// Wait for new lines, across restarts and updates
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Number of recent lines to show
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) lines: usize,
}

#[derive(Debug, Args)]
pub(crate) struct Keys {
    /// Name of the service
    pub(crate) service: String,
    /// Print the primary key as an HTTP header, for `drisse keys SERVICE --header | curl -H @- …`
    #[arg(long, conflicts_with_all = ["regenerate", "set"])]
    pub(crate) header: bool,
    /// Replace a key with a generated one; returns once all replicas and the gateway use it
    #[arg(long, value_name = "KEY", value_enum)]
    pub(crate) regenerate: Option<WhichKey>,
    /// Replace a key with your own, read from standard input
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
    /// List only versions of this model
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// List only models with this tag
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub(crate) tag: Option<String>,
    /// List only models with this property
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub(crate) property: Option<String>,
    /// List only models made with this framework
    #[arg(long)]
    pub(crate) framework: Option<String>,
    #[command(flatten)]
    pub(crate) page: Page,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// Register a model file or folder; identical files give the same version
    Register {
        /// Model file or folder
        path: PathBuf,
        /// Name of the model [default: the file's name]
        #[arg(long)]
        name: Option<String>,
        /// Tag of the model; may be repeated; replaces the existing tags
        #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = pair)]
        tags: Vec<(String, String)>,
        /// Property of the model; may be repeated; cannot be changed later
        #[arg(long = "property", value_name = "KEY=VALUE", value_parser = pair)]
        properties: Vec<(String, String)>,
        /// Sample request (a /score body), instead of the sample.json next to the model
        #[arg(long, value_name = "FILE")]
        sample: Option<PathBuf>,
        /// Follow links in the model's folder to files outside of it
        #[arg(long)]
        follow_links: bool,
    },
    /// Show a version of a model, by default the newest
    Show {
        /// Registered model: NAME[:VERSION]
        model: String,
    },
    /// Change the tags of a model and add properties
    Tag {
        /// Registered model: NAME[:VERSION]
        model: String,
        /// Tags to set
        #[arg(value_name = "KEY=VALUE", value_parser = pair)]
        tags: Vec<(String, String)>,
        /// Tag to remove; may be repeated
        #[arg(long, value_name = "KEY")]
        remove: Vec<String>,
        /// Property to add; may be repeated; cannot be changed later
        #[arg(long = "property", value_name = "KEY=VALUE", value_parser = pair)]
        properties: Vec<(String, String)>,
    },
    /// Create a key pair for signing models: FILE and FILE.pub
    Keygen {
        /// File for the private key; existing files are not overwritten
        #[arg(value_name = "FILE", default_value = "drisse.key")]
        file: PathBuf,
    },
    /// Sign a model; `push` sends its signatures too
    Sign {
        /// Registered model: NAME[:VERSION]
        model: String,
        /// Private key to sign with (PEM), from `drisse models keygen`
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Show, add or remove the keys that the workspace trusts to sign models
    Trust {
        /// Public keys to add (PEM); once the workspace trusts a key, it does not run unsigned models
        #[arg(value_name = "FILE")]
        keys: Vec<PathBuf>,
        /// Key to remove, by the start of its ID; may be repeated
        #[arg(long, value_name = "ID")]
        remove: Vec<String>,
        /// Remove all keys: models need no signature
        #[arg(long, conflicts_with_all = ["keys", "remove"])]
        none: bool,
    },
    /// Check stored models against their digests, and their signatures if there are keys
    Verify {
        /// Registered model: NAME[:VERSION] [default: all models]
        model: Option<String>,
        /// Restore damaged files, from the files the model was registered from or from --from
        #[arg(long)]
        repair: bool,
        /// Files and folders to restore from
        #[arg(long, value_name = "PATH", requires = "repair", num_args = 1..)]
        from: Vec<PathBuf>,
        /// Public keys to check signatures with (PEM) [default: the keys that the workspace trusts]
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// Delete a model version that no service uses
    Delete {
        /// Registered model: NAME[:VERSION]
        model: String,
    },
    /// Push a model to a registry; blobs that it already has are not sent
    Push {
        /// Registered model: NAME[:VERSION]
        model: String,
        /// Destination: oci://HOST/REPOSITORY[:TAG] [default tag: the version]
        #[arg(value_name = "REFERENCE")]
        to: String,
        #[command(flatten)]
        registry: RegistryOptions,
    },
    /// Pull a model from a registry and register it; an interrupted pull resumes
    Pull {
        /// Source: oci://HOST/REPOSITORY[:TAG|@DIGEST]
        #[arg(value_name = "REFERENCE")]
        from: String,
        /// Name of the model [default: the last part of the repository's name]
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        registry: RegistryOptions,
    },
    /// Remove blobs that belong to no registered model
    Prune,
}

/// How to connect to registries. Logins are read from the files of podman and Docker.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct RegistryOptions {
    /// CA certificates to trust in addition to the system's (PEM)
    #[arg(long, value_name = "FILE")]
    pub(crate) registry_ca: Option<PathBuf>,
    /// Connect to a registry on another machine without TLS
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
        /// Name of the target
        target: String,
    },
    /// Attach a target, or change its settings; while it runs services, only its limits can change
    Attach {
        /// Name of the target; the built-in `local` and `container` can be changed too
        target: String,
        /// Kind of the target
        #[arg(long, value_enum)]
        kind: TargetKind,
        /// Unix socket of the container engine [default: the one found on this machine]
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
        /// Maximum number of services [default: 20 for containers]
        #[arg(long, value_name = "N")]
        max_services: Option<u32>,
    },
    /// Detach a target that runs no services
    Detach {
        /// Name of the target
        target: String,
    },
    /// Check whether a target can be used; exits with 1 if not
    Check {
        /// Name of the target
        target: String,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum TargetKind {
    /// Processes on this machine
    Local,
    /// Containers of podman or Docker
    Container,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Operations {
    #[command(subcommand)]
    pub(crate) command: Option<OperationsCommand>,
    /// List only operations on this service or model
    #[arg(long)]
    pub(crate) subject: Option<String>,
    #[command(flatten)]
    pub(crate) page: Page,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OperationsCommand {
    /// Follow an operation until it ends, and show its result
    Show {
        /// ID of the operation
        id: i64,
    },
    /// Cancel an operation and return to the state before it
    Cancel {
        /// ID of the operation
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
    /// Model file or folder, or registered NAME[:VERSION]
    pub(crate) model: String,
    /// Request to measure with (a /score body), instead of the model's sample.json
    #[arg(long, value_name = "FILE")]
    pub(crate) sample: Option<PathBuf>,
    /// Goal for the p99 latency [default: twice that of the fastest setting, at least 1ms]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) latency: Option<Duration>,
    /// How long to measure each setting
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = duration)]
    pub(crate) time: Duration,
    /// Write a report with a table and a plot to this HTML file
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Use the recommended settings for this model on this machine from now on
    #[arg(long)]
    pub(crate) keep: bool,
    /// ONNX Runtime library to load [default: next to the binary, in the cache, or downloaded]
    #[arg(long, value_name = "FILE", env = "DRISSE_ONNXRUNTIME")]
    pub(crate) onnxruntime: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Conformance {
    /// URL of the server: http(s)://HOST:PORT
    #[arg(required_unless_present_any = ["models", "list"])]
    pub(crate) url: Option<String>,
    /// URL for gRPC, if it differs
    #[arg(long, value_name = "URL", requires = "url")]
    pub(crate) grpc: Option<String>,
    /// Protocol to test: v2, v2-binary, v2-extensions, grpc or v1; may be repeated [default: all]
    #[arg(long, value_name = "PROTOCOL")]
    pub(crate) protocol: Vec<Protocol>,
    /// Run only the cases whose name contains this text
    #[arg(long, value_name = "TEXT")]
    pub(crate) case: Option<String>,
    /// File whose first line is the server's key
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// CA certificate that signed the server's certificate (PEM)
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Maximum time for each answer
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Also fail if the server does not follow a recommendation
    #[arg(long)]
    pub(crate) strict: bool,
    /// Write a JUnit report to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
    /// Write the models that the cases need to DIR/NAME.onnx
    // Not `exclusive`: that would also conflict with options set by environment variables.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["url", "list", "protocol", "case", "junit"])]
    pub(crate) models: Option<PathBuf>,
    /// List the cases without running them
    #[arg(long, conflicts_with = "url")]
    pub(crate) list: bool,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Up {
    /// Address of the gateway [default: the previous one, at first 127.0.0.1:4790]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    pub(crate) gateway: Option<SocketAddr>,
    /// Certificate chain for HTTPS at the gateway (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Private key of the gateway's certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Close connections of the gateway that were idle for this time; longer than load balancers keep them [default: the
    /// previous one, at first 75s]
    #[arg(long, value_name = "TIME", value_parser = idle_time)]
    pub(crate) idle_timeout: Option<Duration>,
    /// What clients connect to, if it is not the gateway's address, such as a load balancer [default: the first name in
    /// the certificate]
    #[arg(long, value_name = "URL", value_parser = public_url)]
    pub(crate) public_url: Option<String>,
    /// Forget the public URL
    #[arg(long, conflicts_with = "public_url")]
    pub(crate) no_public_url: bool,
    /// Also serve the control API at this address; clients need the token in control.token
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    pub(crate) control: Option<SocketAddr>,
    /// Serve the control API only on its Unix socket
    #[arg(long, conflicts_with = "control")]
    pub(crate) no_control: bool,
    /// Certificate chain for HTTPS at the control API (PEM); required beyond this machine
    #[arg(long, value_name = "FILE", requires_all = ["control_key", "control"])]
    pub(crate) control_cert: Option<PathBuf>,
    /// Private key of the control API's certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "control_cert")]
    pub(crate) control_key: Option<PathBuf>,
    /// Serve the Prometheus metrics of all services and the gateway at this address, without authentication
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    pub(crate) metrics: Option<SocketAddr>,
    /// Stop serving metrics
    #[arg(long, conflicts_with = "metrics")]
    pub(crate) no_metrics: bool,
    /// Serve registered models as a read-only registry (oci://ADDRESS:PORT/MODEL:VERSION); loopback addresses only
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = loopback)]
    pub(crate) registry: Option<SocketAddr>,
    /// Stop serving the registry
    #[arg(long, conflicts_with = "registry")]
    pub(crate) no_registry: bool,
    /// Replace a damaged database with its backup; later changes are lost, and the damaged file is kept
    #[arg(long, conflicts_with = "boot")]
    pub(crate) restore: bool,
    /// Install a systemd unit that starts the workspace at boot
    #[arg(long)]
    pub(crate) boot: bool,
    /// Write the systemd unit to this file instead of installing it
    #[arg(long, value_name = "FILE", requires = "boot")]
    pub(crate) unit: Option<PathBuf>,
    /// ONNX Runtime library to load [default: next to the binary, in the cache, or downloaded]
    #[arg(long, value_name = "FILE", env = "DRISSE_ONNXRUNTIME")]
    pub(crate) onnxruntime: Option<PathBuf>,
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
    #[arg(long, value_parser = idle_time, default_value = "75s")]
    pub(crate) idle_timeout: Duration,
}
