//! From a method and a path to what is asked.

use drisse_core::{Error, ErrorKind, Result};
use hyper::Method;

/// What a path asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Route<'a> {
    Healthy,
    Live,
    Ready,
    ServerMetadata,
    Swagger,
    Sample(Target<'a>),
    ModelReady(Target<'a>),
    ModelMetadata(Target<'a>),
    Score(Target<'a>),
    Infer(Target<'a>),
}

/// The model a path names, if it does, and its version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Target<'a> {
    pub(super) name: Option<&'a str>,
    pub(super) version: Option<&'a str>,
}

impl<'a> Route<'a> {
    pub(super) fn of(method: &Method, path: &'a str) -> Result<Self> {
        let only = Target { name: None, version: None };
        let named = |name| Target { name: Some(name), version: None };
        let versioned = |name, version| Target { name: Some(name), version: Some(version) };
        let mut parts = [""; 8];
        let mut count = 0;
        for part in path.strip_prefix('/').unwrap_or(path).split('/') {
            *parts.get_mut(count).ok_or_else(|| unknown(path))? = part;
            count += 1;
        }
        let (route, post) = match &parts[..count] {
            ["score"] => (Self::Score(only), true),
            ["score", name] => (Self::Score(named(name)), true),
            ["v2", "models", name, "infer"] => (Self::Infer(named(name)), true),
            ["v2", "models", name, "versions", version, "infer"] => {
                (Self::Infer(versioned(name, version)), true)
            }
            [""] => (Self::Healthy, false),
            ["health" | "ping"] => (Self::Ready, false),
            ["swagger.json"] => (Self::Swagger, false),
            ["sample"] => (Self::Sample(only), false),
            ["sample", name] => (Self::Sample(named(name)), false),
            ["v2"] | ["v2", ""] => (Self::ServerMetadata, false),
            ["v2", "health", "live"] => (Self::Live, false),
            ["v2", "health", "ready"] => (Self::Ready, false),
            ["v2", "models", name] => (Self::ModelMetadata(named(name)), false),
            ["v2", "models", name, "ready"] => (Self::ModelReady(named(name)), false),
            ["v2", "models", name, "versions", version] => {
                (Self::ModelMetadata(versioned(name, version)), false)
            }
            ["v2", "models", name, "versions", version, "ready"] => {
                (Self::ModelReady(versioned(name, version)), false)
            }
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

    /// The methods a path takes, as `Allow` lists them.
    pub(super) fn methods(path: &'a str) -> &'static str {
        if Self::of(&Method::POST, path).is_ok() { "POST" } else { "GET, HEAD" }
    }

    /// Whether it is answered without a key: probes have none.
    pub(super) fn is_open(self) -> bool {
        matches!(self, Self::Healthy | Self::Live | Self::Ready | Self::ModelReady(_))
    }
}

fn unknown(path: &str) -> Error {
    let shown = &path[..path.floor_char_boundary(80)];
    let message =
        format!("there is no path `{shown}`; there are /score, /v2/models/NAME/infer, /v2, /swagger.json");
    Error::new(ErrorKind::NotFound, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_what_they_name() {
        let infer = Route::of(&Method::POST, "/v2/models/m/versions/1/infer").unwrap();
        assert_eq!(infer, Route::Infer(Target { name: Some("m"), version: Some("1") }));
        assert_eq!(Route::of(&Method::HEAD, "/").unwrap(), Route::Healthy);
        for (method, path, kind) in [
            (Method::GET, "/score", ErrorKind::MethodNotAllowed),
            (Method::POST, "/v2", ErrorKind::MethodNotAllowed),
            (Method::GET, "/nothing", ErrorKind::NotFound),
            (Method::GET, "/a/b/c/d/e/f/g/h/i/j", ErrorKind::NotFound),
            (Method::POST, "/score/a/b", ErrorKind::NotFound),
        ] {
            assert_eq!(Route::of(&method, path).unwrap_err().kind(), kind, "{method} {path}");
        }
    }
}
