//! The URL that clients connect to, if the user has not set it.

use drisse_net::Tls;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Returns the URL of a gateway that listens on `address`: by the first public name in its certificate, unless that is
/// for the address itself.
pub(super) fn of(address: SocketAddr, tls: Option<&Tls>) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let by_address = SocketAddr::new(ip, address.port());
    let Some(tls) = tls else { return format!("http://{by_address}") };
    let name = tls.dns_names().into_iter().find(|name| name != "localhost");
    match name {
        Some(name) if address.ip().is_unspecified() || !tls.is_for_ip(ip) => match address.port() {
            443 => format!("https://{name}"),
            port => format!("https://{name}:{port}"),
        },
        _ => format!("https://{by_address}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(address: &str, names: &[&str]) -> String {
        let made =
            rcgen::generate_simple_self_signed(names.iter().map(ToString::to_string).collect::<Vec<_>>());
        let made = made.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("c"), folder.path().join("k"));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        of(address.parse().unwrap(), Some(&Tls::open(&certificate, &key).unwrap()))
    }

    #[test]
    fn clients_are_given_the_name_that_the_certificate_is_for() {
        assert_eq!(url("0.0.0.0:443", &["models.example"]), "https://models.example");
        assert_eq!(url("0.0.0.0:8443", &["models.example", "127.0.0.1"]), "https://models.example:8443");
        assert_eq!(url("127.0.0.1:443", &["models.example"]), "https://models.example");
        assert_eq!(url("127.0.0.1:443", &["models.example", "127.0.0.1"]), "https://127.0.0.1:443");
        assert_eq!(url("0.0.0.0:443", &["*.example", "localhost"]), "https://127.0.0.1:443");
        assert_eq!(url("[::]:443", &["*.example"]), "https://[::1]:443");
        assert_eq!(of("0.0.0.0:80".parse().unwrap(), None), "http://127.0.0.1:80");
    }
}
