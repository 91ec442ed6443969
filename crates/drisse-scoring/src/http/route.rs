//! From a method and a path to a route.

use drisse_core::{Error, ErrorKind, Result};
use hyper::Method;

/// What a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Route<'a> {
    /// `OPTIONS` of `/score`, which Azure ML answers with 200.
    Options,
    Healthy,
    Live,
    Ready,
    Version,
    Swagger,
    Sample(Target<'a>),
    ServerMetadata,
    ModelReady(Target<'a>),
    ModelMetadata(Target<'a>),
    ModelConfig(Target<'a>),
    Statistics(Target<'a>),
    V1Models,
    V1Status(Target<'a>),
    V1Metadata(Target<'a>),
    Repository(RepositoryAction<'a>),
    SharedMemory(MemoryKind, SharedMemoryAction<'a>),
    Run(Protocol, Target<'a>),
}

/// The protocol of a request that scores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Protocol {
    /// `/score`.
    Azure,
    /// `/v2/models/NAME/infer`.
    V2,
    /// `/v1/models/NAME:predict`.
    V1,
    /// `/invocations`.
    Invocations,
}

impl Protocol {
    /// Returns the protocol's path, as spans name it.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Azure => "/score",
            Self::V2 => "/v2/models/{model}/infer",
            Self::V1 => "/v1/models/{model}:predict",
            Self::Invocations => "/invocations",
        }
    }
}

/// What to do with the models that can be loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RepositoryAction<'a> {
    Index,
    Load(&'a str),
    Unload(&'a str),
}

/// The memory that clients share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MemoryKind {
    System,
    /// Of a GPU, which no engine uses yet.
    Cuda,
}

/// What to do with one region of the memory that clients share, or with all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SharedMemoryAction<'a> {
    Status(Option<&'a str>),
    Register(&'a str),
    Unregister(Option<&'a str>),
}

/// The model and the version that a path names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Target<'a> {
    pub(super) name: Option<&'a str>,
    pub(super) version: Option<&'a str>,
}

impl<'a> Route<'a> {
    pub(crate) fn of(method: &Method, path: &'a str) -> Result<Self> {
        use RepositoryAction::{Index, Load, Unload};
        let only = Target { name: None, version: None };
        let named = |name| Target { name: Some(name), version: None };
        let versioned = |name, version| Target { name: Some(name), version: Some(version) };
        let (mut parts, mut count) = ([""; 8], 0);
        let mut rest = path.strip_prefix('/').unwrap_or(path);
        loop {
            // The parts are short: a plain loop is faster than a search with a setup.
            let end = rest.bytes().position(|byte| byte == b'/');
            *parts.get_mut(count).ok_or_else(|| unknown(path))? = &rest[..end.unwrap_or(rest.len())];
            count += 1;
            let Some(end) = end else { break };
            rest = &rest[end + 1..];
        }
        let (route, post) = match &parts[..count] {
            ["score"] | ["score", _] if method == Method::OPTIONS => return Ok(Self::Options),
            ["score"] => (Self::Run(Protocol::Azure, only), true),
            ["score", name] => (Self::Run(Protocol::Azure, named(name)), true),
            ["invocations"] => (Self::Run(Protocol::Invocations, only), true),
            ["v1", "models"] => (Self::V1Models, false),
            ["v1", "models", rest @ ..] => v1(rest).ok_or_else(|| unknown(path))?,
            ["v2", "models", "stats"] => (Self::Statistics(only), false),
            ["v2", "models", name] => (Self::ModelMetadata(named(name)), false),
            ["v2", "models", name, what] => v2(what, named(name)).ok_or_else(|| unknown(path))?,
            ["v2", "models", name, "versions", version] => {
                (Self::ModelMetadata(versioned(name, version)), false)
            }
            ["v2", "models", name, "versions", version, what] => {
                v2(what, versioned(name, version)).ok_or_else(|| unknown(path))?
            }
            ["v2", "repository", "index"] => (Self::Repository(Index), true),
            ["v2", "repository", "models", name, "load"] => (Self::Repository(Load(name)), true),
            ["v2", "repository", "models", name, "unload"] => (Self::Repository(Unload(name)), true),
            ["v2", "systemsharedmemory", rest @ ..] => {
                shared(MemoryKind::System, rest).ok_or_else(|| unknown(path))?
            }
            ["v2", "cudasharedmemory", rest @ ..] => {
                shared(MemoryKind::Cuda, rest).ok_or_else(|| unknown(path))?
            }
            [""] => (Self::Healthy, false),
            ["health" | "ping"] => (Self::Ready, false),
            ["version"] => (Self::Version, false),
            ["swagger.json"] => (Self::Swagger, false),
            ["sample"] => (Self::Sample(only), false),
            ["sample", name] => (Self::Sample(named(name)), false),
            ["v2"] => (Self::ServerMetadata, false),
            ["v2", "health", "live"] => (Self::Live, false),
            ["v2", "health", "ready"] => (Self::Ready, false),
            _ => return Err(unknown(path)),
        };
        let allowed =
            if post { method == Method::POST } else { matches!(*method, Method::GET | Method::HEAD) };
        if allowed {
            return Ok(route);
        }
        let wanted = if post { "POST" } else { "GET" };
        Err(Error::new(ErrorKind::MethodNotAllowed, format!("this path takes {wanted}, not {method}")))
    }

    /// Returns the methods that a path accepts, for `Allow`.
    pub(super) fn methods(path: &'a str) -> &'static str {
        match Self::of(&Method::POST, path) {
            Ok(Self::Run(Protocol::Azure, _)) => "POST, OPTIONS",
            Ok(_) => "POST",
            Err(_) => "GET, HEAD",
        }
    }

    /// Returns whether the route is answered without a key, because probes have none.
    pub(super) fn is_open(self) -> bool {
        matches!(self, Self::Options | Self::Healthy | Self::Live | Self::Ready | Self::ModelReady(_))
    }
}

/// Routes below `/v2/models/NAME/` and `/v2/models/NAME/versions/VERSION/`, and whether they require POST.
fn v2<'a>(what: &str, target: Target<'a>) -> Option<(Route<'a>, bool)> {
    Some(match what {
        "infer" => (Route::Run(Protocol::V2, target), true),
        "ready" => (Route::ModelReady(target), false),
        "config" => (Route::ModelConfig(target), false),
        "stats" => (Route::Statistics(target), false),
        _ => return None,
    })
}

/// Routes below `/v2/systemsharedmemory/` and `/v2/cudasharedmemory/`, and whether they require POST.
fn shared<'a>(kind: MemoryKind, parts: &[&'a str]) -> Option<(Route<'a>, bool)> {
    use SharedMemoryAction::{Register, Status, Unregister};
    let (name, what) = match parts {
        ["region", name, what] => (Some(*name), *what),
        [what] => (None, *what),
        _ => return None,
    };
    let (action, post) = match (what, name) {
        ("status", name) => (Status(name), false),
        ("register", Some(name)) => (Register(name), true),
        ("unregister", name) => (Unregister(name), true),
        _ => return None,
    };
    Some((Route::SharedMemory(kind, action), post))
}

/// Routes below `/v1/models/`, and whether they require POST. A verb follows a colon in the last part.
fn v1<'a>(parts: &[&'a str]) -> Option<(Route<'a>, bool)> {
    let (last, before) = parts.split_last()?;
    let (last, predict) = match last.split_once(':') {
        Some((last, "predict")) => (last, true),
        Some(_) => return None,
        None => (*last, false),
    };
    let (name, version, metadata) = match (before, last) {
        (_, "") => return None,
        ([], name) => (name, None, false),
        ([name], "metadata") if !predict => (*name, None, true),
        ([name, "versions"], version) => (*name, Some(version), false),
        ([name, "versions", version], "metadata") if !predict => (*name, Some(*version), true),
        _ => return None,
    };
    let target = Target { name: Some(name), version };
    Some(match (predict, metadata) {
        (true, _) => (Route::Run(Protocol::V1, target), true),
        (false, true) => (Route::V1Metadata(target), false),
        (false, false) => (Route::V1Status(target), false),
    })
}

fn unknown(path: &str) -> Error {
    let shown = &path[..path.floor_char_boundary(80)];
    let message = format!(
        "there is no path `{shown}`; there are /score, /v2/models/NAME/infer, \
         /v1/models/NAME:predict, /invocations, /v2, /swagger.json"
    );
    Error::new(ErrorKind::NotFound, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_what_they_name() {
        let infer = Route::of(&Method::POST, "/v2/models/m/versions/1/infer").unwrap();
        let target = Target { name: Some("m"), version: Some("1") };
        assert_eq!(infer, Route::Run(Protocol::V2, target));
        let predict = Route::of(&Method::POST, "/v1/models/m/versions/1:predict").unwrap();
        assert_eq!(predict, Route::Run(Protocol::V1, target));
        let metadata = Route::of(&Method::GET, "/v1/models/m/versions/1/metadata").unwrap();
        assert_eq!(metadata, Route::V1Metadata(target));
        assert_eq!(Route::of(&Method::HEAD, "/").unwrap(), Route::Healthy);
        assert_eq!(Route::of(&Method::OPTIONS, "/score/m").unwrap(), Route::Options);
        for (method, path, kind) in [
            (Method::GET, "/score", ErrorKind::MethodNotAllowed),
            (Method::POST, "/v2", ErrorKind::MethodNotAllowed),
            (Method::GET, "/nothing", ErrorKind::NotFound),
            (Method::GET, "/a/b/c/d/e/f/g/h/i/j", ErrorKind::NotFound),
            (Method::POST, "/score/a/b", ErrorKind::NotFound),
            (Method::POST, "/v1/models/m:explain", ErrorKind::NotFound),
            (Method::POST, "/v1/models/:predict", ErrorKind::NotFound),
            (Method::GET, "/v1/models/m:predict", ErrorKind::MethodNotAllowed),
            (Method::GET, "/v2/models/m/versions/1/nothing", ErrorKind::NotFound),
        ] {
            assert_eq!(Route::of(&method, path).unwrap_err().kind(), kind, "{method} {path}");
        }
    }
}
