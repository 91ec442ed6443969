//! A temporary registry on loopback with one image, from which an engine pulls. The engine fetches only the layers that
//! it lacks, and writes each once. An archive would contain all layers, and engines store it twice while loading it.
//!
//! Source: <https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md>, pull.

use super::engine::EngineError;
use super::images::{Built, CHUNK};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use bytes::Bytes;
use drisse_net::http::written;
use drisse_net::{BindError, Handler, Listener, bind_tcp, random_id, serve_small};
use drisse_registry::MANIFEST;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, WWW_AUTHENTICATE};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;
use std::io::{self, BufWriter};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::sync::watch;

/// The user name with which an engine logs in. The password is random.
const USER: &str = "drisse";

const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// An image that engines of this machine can pull with a password.
#[derive(Debug)]
pub(super) struct Offer {
    listener: std::net::TcpListener,
    address: SocketAddr,
    password: String,
    built: Arc<Built>,
}

impl Offer {
    pub(super) fn new(built: Arc<Built>) -> Result<Self, BindError> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = bind_tcp(any)?;
        let address = listener.local_addr().map_err(|source| BindError::Tcp { address: any, source })?;
        Ok(Self { listener, address, password: random_id(), built })
    }

    /// Returns the address of the registry, `HOST:PORT`.
    pub(super) fn registry(&self) -> String {
        self.address.to_string()
    }

    /// Returns the credentials for an engine: the value of the header `X-Registry-Auth` of Docker's API.
    pub(super) fn login(&self) -> String {
        let login = json!({ "username": USER, "password": self.password, "serveraddress": self.registry() });
        URL_SAFE.encode(login.to_string())
    }

    /// Serves the image until `pull` completes, and returns the result of `pull`.
    pub(super) async fn during<T>(
        self,
        pull: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, EngineError> {
        let (_end, ends) = watch::channel(false);
        let authorization = format!("Basic {}", STANDARD.encode(format!("{USER}:{}", self.password)));
        let server = ImageServer { built: self.built, authorization: authorization.into() };
        let failed = |why: io::Error| EngineError::Refused(0, why.to_string());
        let serving = serve_small(Listener::Tcp(self.listener), server, ends).map_err(failed)?;
        tokio::select! {
            pulled = pull => pulled,
            () = serving => Err(failed(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

#[derive(Clone)]
struct ImageServer {
    built: Arc<Built>,
    authorization: Arc<str>,
}

impl Handler for ImageServer {
    type Body = Body;

    async fn handle(self, request: Request<Incoming>) -> Response<Body> {
        let image = &self.built.image;
        let known = request.headers().get(AUTHORIZATION).is_some_and(|given| *given == *self.authorization);
        let path: Vec<_> = request.uri().path().split('/').skip(1).collect();
        let answer = Response::builder();
        let answer = match *path {
            _ if !known => answer
                .status(StatusCode::UNAUTHORIZED)
                .header(WWW_AUTHENTICATE, "Basic realm=\"drisse\"")
                .body(whole(b"")),
            ["v2"] => answer.header(CONTENT_TYPE, "application/json").body(whole(b"{}")),
            ["v2", .., "manifests", _] => answer
                .header(CONTENT_TYPE, MANIFEST)
                .header(CONTENT_LENGTH, image.manifest().len())
                .header(DIGEST, &image.digest)
                .body(whole(image.manifest())),
            ["v2", .., "blobs", digest] => match (image.size_of(digest), request.method()) {
                (Some(size), &Method::GET) => {
                    answer.header(CONTENT_LENGTH, size).body(self.blob(digest.to_owned()))
                }
                (Some(size), _) => answer.header(CONTENT_LENGTH, size).body(whole(b"")),
                (None, _) => answer.status(StatusCode::NOT_FOUND).body(whole(b"")),
            },
            _ => answer.status(StatusCode::NOT_FOUND).body(whole(b"")),
        };
        answer.expect("the header values are digests and numbers")
    }
}

impl ImageServer {
    fn blob(&self, digest: String) -> Body {
        let built = Arc::clone(&self.built);
        let (body, _) = written(move |out| {
            let mut out = BufWriter::with_capacity(CHUNK, out);
            built.image.write_blob(&digest, &mut out)?;
            io::Write::flush(&mut out)
        });
        body.boxed_unsync()
    }
}

fn whole(bytes: &[u8]) -> Body {
    Full::new(Bytes::copy_from_slice(bytes)).map_err(|never| match never {}).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;
    use drisse_net::hex;
    use drisse_net::http::{Address, Ask};
    use drisse_registry::{Image, ImageModel, Runtimes};
    use sha2::{Digest, Sha256};

    fn digest(bytes: &[u8]) -> String {
        format!("sha256:{}", hex(&Sha256::digest(bytes)))
    }

    #[tokio::test]
    async fn an_image_is_served_whole_to_clients_with_the_password_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.onnx");
        std::fs::write(&file, vec![7; 1 << 20]).unwrap();
        let model = ImageModel {
            name: "x".to_owned(),
            version: "1".to_owned(),
            digest: digest(&[7]),
            files: vec![("x.onnx".into(), file)],
            evidence: None,
        };
        let built = Built {
            image: Image::of_model(&model).unwrap(),
            _runtimes: Runtimes::open(&folder.path().join("cache")).unwrap(),
        };
        let offer = Offer::new(Arc::new(built)).unwrap();
        let (address, login) = (Address::Http(offer.registry()), offer.login());
        let login: serde_json::Value = serde_json::from_slice(&URL_SAFE.decode(login).unwrap()).unwrap();
        let known =
            format!("{}:{}", login["username"].as_str().unwrap(), login["password"].as_str().unwrap());
        let ask = async |path: &str, login: Option<&str>| {
            let ask = Ask::get(path);
            let ask = match login {
                Some(login) => {
                    let basic = format!("Basic {}", STANDARD.encode(login)).parse().unwrap();
                    ask.with([(AUTHORIZATION, basic)].into_iter().collect())
                }
                None => ask,
            };
            address.ask(ask).await.unwrap()
        };
        let asked = async {
            let manifest = "/v2/drisse/w/x/manifests/r1";
            for login in [None, Some("drisse:"), Some("drisse:x")] {
                assert_eq!(ask(manifest, login).await.0, 401);
            }
            assert_eq!(ask("/v2/", Some(&known)).await.0, 200);
            let (status, text) = ask(manifest, Some(&known)).await;
            let document: serde_json::Value = serde_json::from_slice(&text).unwrap();
            assert_eq!((status, &document["mediaType"]), (200, &MANIFEST.into()));
            for part in [&document["config"], &document["layers"][0]] {
                let name = part["digest"].as_str().unwrap();
                let (status, bytes) = ask(&format!("/v2/drisse/w/x/blobs/{name}"), Some(&known)).await;
                assert_eq!((status, digest(&bytes)), (200, name.to_owned()));
                assert_eq!(part["size"], bytes.len());
            }
            let absent = format!("/v2/drisse/w/x/blobs/{}", digest(b"else"));
            assert_eq!(ask(&absent, Some(&known)).await.0, 404);
            Ok(())
        };
        offer.during(asked).await.unwrap();
        assert!(address.ask(Ask::get("/v2/")).await.is_err(), "the registry ends with the pull");
    }
}
