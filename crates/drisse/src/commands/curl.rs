//! The curl line that `deploy` and `serve` print: it works in sh, bash, zsh and fish, and from any folder.

use crate::printer::quoted;
use std::path::{Path, PathBuf};

/// Bytes. A sample up to this length is written into the line.
const MAX_INLINE: usize = 240;

/// Environment variables that make curl send a request to a proxy.
const PROXIES: [&str; 5] = ["http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];

/// A scoring request as a command line. It contains no key: other users can see command lines.
#[derive(Debug, Default)]
pub(crate) struct Curl<'a> {
    /// A command that prints the header with the key; `None` if the server asks for no key.
    pub(crate) header: Option<String>,
    /// The socket to connect to instead of the URI's host.
    pub(crate) socket: Option<&'a Path>,
    /// The certificate to trust.
    pub(crate) certificate: Option<&'a Path>,
    pub(crate) uri: String,
    /// The file that holds the sample, if it is the user's.
    pub(crate) file: Option<&'a Path>,
    /// The sample; `None` if there is none.
    pub(crate) sample: Option<&'a [u8]>,
    /// The URI of the sample at the server, for a sample that is too long for the line.
    pub(crate) sample_uri: String,
    /// The URI to request if there is no sample.
    pub(crate) description_uri: String,
}

impl Curl<'_> {
    /// Returns the line.
    pub(crate) fn line(&self) -> String {
        let sample = self.sample.and_then(|sample| std::str::from_utf8(sample).ok());
        match (self.file, sample) {
            (Some(file), _) => self.send(&format!("-d @{}", shown(file)), &self.uri),
            (None, Some(sample)) if sample.len() <= MAX_INLINE => {
                self.send(&format!("-d {}", quoted(sample.trim_end())), &self.uri)
            }
            (None, Some(_)) => {
                // The key's header needs standard input, so the sample goes through a file.
                let file = shown(Path::new("sample.json"));
                let fetch = self.send(&format!("-s -o {file}"), &self.sample_uri);
                format!("{fetch} && {}", self.send(&format!("-d @{file}"), &self.uri))
            }
            (None, None) => self.send("", &self.description_uri),
        }
    }

    fn send(&self, options: &str, uri: &str) -> String {
        let header = self.header.as_ref().map(|command| format!("{command} | "));
        let mut words = vec![format!("{}curl", header.as_deref().unwrap_or_default())];
        words.extend(header.is_some().then(|| "-H @-".to_owned()));
        words.extend(self.socket.map(|path| format!("--unix-socket {}", shown(path))));
        words.extend(self.certificate.map(|path| format!("--cacert {}", shown(path))));
        let local = ["://127.", "://[::1]", "://localhost"].iter().any(|host| uri.contains(host));
        if local && PROXIES.iter().any(|name| std::env::var_os(name).is_some()) {
            words.push("--noproxy '*'".to_owned());
        }
        words.extend((!options.is_empty()).then(|| options.to_owned()));
        words.push(quoted(uri));
        words.join(" ")
    }
}

/// Returns how to call this program from a shell: `drisse` if it is in `PATH`, else its path.
pub(crate) fn this_program() -> String {
    let Ok(program) = std::env::current_exe() else { return "drisse".to_owned() };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&path).map(|folder| folder.join("drisse"));
    if found.any(|found| found.canonicalize().is_ok_and(|found| found == program)) {
        return "drisse".to_owned();
    }
    shown(&program)
}

/// Returns the absolute path, quoted for a shell.
pub(crate) fn shown(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
    quoted(&absolute.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curl() -> Curl<'static> {
        Curl {
            header: Some("drisse keys m --header".to_owned()),
            uri: "http://[::1]:1/score".to_owned(),
            sample_uri: "http://[::1]:1/sample".to_owned(),
            ..Curl::default()
        }
    }

    #[test]
    fn a_line_names_files_by_their_full_paths_and_quotes_what_a_shell_would_read() {
        let line = Curl { file: Some(Path::new("a b/s.json")), ..curl() }.line();
        let folder = std::env::current_dir().unwrap();
        let file = quoted(&folder.join("a b/s.json").display().to_string());
        assert_eq!(line, format!("drisse keys m --header | curl -H @- -d @{file} 'http://[::1]:1/score'"));
        let line = Curl { sample: Some(br#"{"x": "it's"}"#), header: None, ..curl() }.line();
        assert_eq!(line, r#"curl -d '{"x": "it'\''s"}' 'http://[::1]:1/score'"#);
    }

    #[test]
    fn a_long_sample_is_fetched_from_the_server_first() {
        let long = vec![b'1'; MAX_INLINE + 1];
        let line = Curl { sample: Some(&long), ..curl() }.line();
        let (fetch, score) = line.split_once(" && ").unwrap();
        assert!(fetch.ends_with("sample.json 'http://[::1]:1/sample'"), "{fetch}");
        assert!(score.contains("sample.json 'http://[::1]:1/score'"), "{score}");
    }
}
