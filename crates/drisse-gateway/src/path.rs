//! From a path to the service it names and to the path its replicas know.

use drisse_wire::ErrorShape;

/// Where a request's path leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Route<'a> {
    /// To the gateway itself.
    Own(Own),
    /// To a service.
    Service {
        name: &'a str,
        /// What its replicas are asked for, always beginning with `/`.
        path: &'a str,
    },
    Unknown,
}

/// What the gateway answers itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Own {
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
                // `/v1/models/NAME:predict` too.
                let name = &rest[..rest.find(['/', ':']).unwrap_or(rest.len())];
                return if name.is_empty() { Self::Unknown } else { Self::Service { name, path } };
            }
        }
        match path {
            "/" => Self::Own(Own::Healthy),
            "/ping" | "/health" | "/v2/health/ready" => Self::Own(Own::Ready),
            "/v2/health/live" => Self::Own(Own::Live),
            "/v2" | "/v2/" => Self::Own(Own::Metadata),
            _ => Self::Unknown,
        }
    }
}

/// Whether a replica answers this path without a key: probes have none.
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

/// The shape in which errors on this path are told.
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
        assert_eq!(Route::of("/v2/health/live"), Route::Own(Own::Live));
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
