//! Watching the system calls of real programs, and making some of them fail: `strace`.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What changes a disk, or says that it is to be kept.
const TRACED: &str = "openat,write,pwrite64,writev,pwritev,lseek,ftruncate,fallocate,rename,renameat,renameat2,\
                      link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,fsync,fdatasync,copy_file_range,sendfile";

/// Longer than anything that is written at once.
const LONGEST: &str = "4194304";

/// A system call, or, of one that others came between, its beginning or its end.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Microseconds since 1970, when the line was begun.
    pub(crate) at: u64,
    pub(crate) thread: u32,
    pub(crate) name: String,
    pub(crate) ended: bool,
    /// Numbers and flags, as they were printed.
    pub(crate) words: Vec<String>,
    /// Paths of descriptors.
    pub(crate) descriptors: Vec<PathBuf>,
    pub(crate) strings: Vec<Vec<u8>>,
    pub(crate) result: i64,
}

/// Whether there is an strace that may trace.
pub(crate) fn is_there() -> bool {
    super::tools::there(&["strace", "-o", "/dev/null", "true"], "strace")
}

/// The command under strace, with everything it starts; what they do is written to `trace`.
pub(crate) fn recorded(command: &Command, trace: &Path) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-f", "--seccomp-bpf", "-ttt", "-y", "-xx", "-s", LONGEST, "-e"]);
    strace.arg(format!("trace={TRACED}")).arg("-o").arg(trace);
    strace.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    strace
}

/// The calls of a trace, in the order in which they began or ended.
pub(crate) fn calls(trace: &Path) -> Vec<Call> {
    let text = std::fs::read_to_string(trace).unwrap();
    let mut begun = HashMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let (thread, rest) = line.split_once(' ').unwrap();
        let (at, rest) = rest.trim_start().split_once(' ').unwrap();
        if rest.starts_with("+++") || rest.starts_with("---") {
            continue;
        }
        let thread = thread.parse().unwrap();
        let at = at.replace('.', "").parse().unwrap();
        if let Some(first) = rest.strip_suffix(" <unfinished ...>") {
            calls.push(call(at, thread, first, false));
            begun.insert(thread, first.to_owned());
        } else if let Some(second) = rest.strip_prefix("<... ") {
            // It began before the first line, or was interrupted: nothing is known of it.
            let Some(first) = begun.remove(&thread) else { continue };
            let second = second.split_once('>').unwrap().1;
            calls.push(call(at, thread, &(first + second), true));
        } else {
            calls.push(call(at, thread, rest, true));
        }
    }
    calls
}

fn call(at: u64, thread: u32, text: &str, ended: bool) -> Call {
    let (name, rest) = text.split_once('(').unwrap();
    let (mut words, mut descriptors, mut strings) = (Vec::new(), Vec::new(), Vec::new());
    let (arguments, result) = rest.rsplit_once(") = ").map_or((rest, ""), |(a, r)| (a, r.trim_start()));
    let mut word = String::new();
    let mut left = arguments.trim_end();
    while let Some(next) = left.chars().next() {
        match next {
            '"' => {
                let (inside, after) = left[1..].split_once('"').unwrap();
                assert!(!after.starts_with("..."), "a string is too long for the trace");
                strings.push(bytes(inside));
                left = after;
            }
            '<' => {
                let (inside, after) = left[1..].split_once('>').unwrap();
                descriptors.push(PathBuf::from(OsString::from_vec(bytes(inside))));
                left = after;
            }
            ',' => {
                words.push(std::mem::take(&mut word));
                left = left[1..].trim_start();
            }
            _ => {
                word.push(next);
                left = &left[next.len_utf8()..];
            }
        }
    }
    words.push(word);
    let number: String = result.chars().take_while(|c| c.is_ascii_digit() || *c == '-').collect();
    let result = number.parse().unwrap_or(-1);
    Call { at, thread, name: name.to_owned(), ended, words, descriptors, strings, result }
}

/// What `\x41\x42` stands for.
fn bytes(text: &str) -> Vec<u8> {
    let digits = |pair: &str| u8::from_str_radix(pair, 16);
    match text.strip_prefix("\\x") {
        Some(hex) => hex.split("\\x").map(|pair| digits(pair).unwrap_or(b'?')).collect(),
        None => text.as_bytes().to_vec(),
    }
}

/// A strace that watches calls of running programs, and makes some fail or take long.
pub(crate) struct Faults {
    strace: Child,
    trace: tempfile::NamedTempFile,
}

impl Faults {
    /// Injects `what`, in strace's words: `fsync,fdatasync:error=EIO:when=2` fails the second call of each thread,
    /// `fsync:delay_enter=3000000` delays every call by 3 s.
    pub(crate) fn start(pids: &[u64], what: &str) -> Self {
        Self::attach(pids, what.split(':').next().unwrap(), &["-e", &format!("inject={what}")])
    }

    /// Only watches `calls`.
    pub(crate) fn watch(pids: &[u64], calls: &str) -> Self {
        Self::attach(pids, calls, &[])
    }

    fn attach(pids: &[u64], calls: &str, more: &[&str]) -> Self {
        let trace = tempfile::NamedTempFile::new().unwrap();
        let mut strace = Command::new("strace");
        strace.args(["-f", "-e", &format!("trace={calls}")]).args(more).arg("-o");
        strace.arg(trace.path()).args(pids.iter().flat_map(|pid| ["-p".to_owned(), pid.to_string()]));
        let mut strace = strace.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(strace.stderr.take().unwrap()).lines();
        for _ in pids {
            lines.by_ref().map(Result::unwrap).find(|line| line.contains("attached")).unwrap();
        }
        // The rest of its output must be read, or it would block.
        std::thread::spawn(move || lines.for_each(drop));
        Self { strace, trace }
    }

    /// Stops, and returns how many calls failed or were delayed.
    pub(crate) fn end(self) -> usize {
        let injected = |line: &&str| line.ends_with("(INJECTED)") || line.ends_with("(DELAYED)");
        self.stop().lines().filter(injected).count()
    }

    /// Stops, and returns the calls that were seen, each with the thread that made it.
    pub(crate) fn threads(self) -> Vec<(u64, String)> {
        let call = |line: &str| {
            let (thread, call) = line.split_once(' ')?;
            Some((thread.parse().ok()?, call.trim_start().to_owned()))
        };
        let text = self.stop();
        text.lines().filter_map(call).filter(|(_, call)| !call.starts_with(['+', '-', '<'])).collect()
    }

    fn stop(mut self) -> String {
        crate::workspace::kill(self.strace.id(), "-INT");
        let _ = self.strace.wait();
        std::fs::read_to_string(self.trace.path()).unwrap()
    }
}
