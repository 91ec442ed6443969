//! The paths of requests: the service that a path names, and the path at its replicas.

use drisse_wire::ErrorShape;

/// What a request's path names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Route<'a> {
    /// The gateway itself.
    Own(OwnPath),
    /// A service.
    Service {
        name: &'a str,
        /// The path at its replicas, which begins with `/`.
        path: &'a str,
    },
    Unknown,
}

/// The paths that the gateway answers itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OwnPath {
    Healthy,
    Live,
    Ready,
    Metadata,
}

const PREFIX: &str = "/api/v1/service/";

impl<'a> Route<'a> {
    pub(crate) fn of(path: &'a str) -> Self {
        if let Some(rest) = path.strip_prefix(PREFIX) {
            let (name, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            return match name {
                "" => Self::Unknown,
                name => Self::Service { name, path: if path.is_empty() { "/" } else { path } },
            };
        }
        for prefix in ["/v2/models/", "/v1/models/"] {
            if let Some(rest) = path.strip_prefix(prefix) {
                // The name ends at a colon too: `/v1/models/NAME:predict`.
                let name = &rest[..rest.find(['/', ':']).unwrap_or(rest.len())];
                return if name.is_empty() { Self::Unknown } else { Self::Service { name, path } };
            }
        }
        match path {
            "/" => Self::Own(OwnPath::Healthy),
            "/ping" | "/health" | "/v2/health/ready" => Self::Own(OwnPath::Ready),
            "/v2/health/live" => Self::Own(OwnPath::Live),
            "/v2" => Self::Own(OwnPath::Metadata),
            _ => Self::Unknown,
        }
    }
}

/// Returns whether replicas answer this path without a key, because it is a probe.
pub(crate) fn is_open(path: &str) -> bool {
    match path {
        "/" | "/ping" | "/health" | "/v2/health/live" | "/v2/health/ready" => true,
        _ => path.strip_prefix("/v2/models/").is_some_and(|rest| {
            let mut parts = rest.split('/').skip(1);
            matches!(
                (parts.next(), parts.next(), parts.next(), parts.next()),
                (Some("ready"), None, ..) | (Some("versions"), Some(_), Some("ready"), None)
            )
        }),
    }
}

/// Returns whether this path at a replica is Azure ML's for scoring.
pub(crate) fn is_score(path: &str) -> bool {
    path == "/score" || path.strip_prefix("/score/").is_some_and(|name| !name.contains('/'))
}

/// Returns the shape of errors on this path.
pub(crate) fn shape(path: &str) -> ErrorShape {
    let inner = path.strip_prefix(PREFIX).map_or(path, |rest| &rest[rest.find('/').unwrap_or(rest.len())..]);
    ErrorShape::of(inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_name_services() {
        let service = |name, path| Route::Service { name, path };
        assert_eq!(Route::of("/api/v1/service/digits/score"), service("digits", "/score"));
        assert_eq!(Route::of("/api/v1/service/digits"), service("digits", "/"));
        assert_eq!(Route::of("/v2/models/digits/infer"), service("digits", "/v2/models/digits/infer"));
        assert_eq!(Route::of("/v1/models/digits:predict"), service("digits", "/v1/models/digits:predict"));
        assert_eq!(Route::of("/v2/health/live"), Route::Own(OwnPath::Live));
        for unknown in ["/score", "/api/v1/service/", "/api/v1/service//score", "/v2/models/", "/v3", ""] {
            assert_eq!(Route::of(unknown), Route::Unknown, "{unknown}");
        }
        assert!(is_open("/v2/models/m/ready") && is_open("/v2/models/m/versions/1/ready"));
        assert!(!is_open("/v2/models/m") && !is_open("/score") && !is_open("/v2/models/m/ready/x"));
        assert_eq!(shape("/api/v1/service/x/score"), ErrorShape::Message);
        assert_eq!(shape("/api/v1/service/x/v2/models/x/infer"), ErrorShape::Error);
        assert_eq!(shape("/api/v1/service/x/invocations"), ErrorShape::Code);
    }

    proptest! {
        #[test]
        fn every_path_leads_somewhere_and_what_replicas_see_begins_with_a_slash(path in "(/|[a-z0-9:.]{1,6}|/v2/models|/api/v1/service){0,6}") {
            if let Route::Service { name, path: inner } = Route::of(&path) {
                prop_assert!(inner.starts_with('/') && !name.is_empty() && !name.contains('/'));
            }
            let _ = (shape(&path), is_open(&path));
        }
    }
}
