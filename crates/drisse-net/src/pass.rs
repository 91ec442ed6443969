//! Passes a listening socket between processes over a Unix socket, so that the listening socket stays open while
//! processes end and start.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// How long to wait for a process to pass its socket.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends a copy of `descriptor` to each process that connects to `listener`. Blocks the thread; returns only on error.
///
/// # Errors
/// Returns the system's error if accepting a connection fails.
pub fn pass_descriptor(listener: &UnixListener, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    listener.set_nonblocking(false)?;
    loop {
        let (stream, _) = listener.accept()?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor];
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        // The process may have closed its connection already.
        let _ = sendmsg(&stream, &[IoSlice::new(b"L")], &mut ancillary, SendFlags::empty());
    }
}

/// Receives the descriptor that the process listening at `path` passes. Blocks the thread for at most 2 s.
///
/// # Errors
/// Returns the system's error if no process listens at `path` or none answers in time, or an error if the process
/// passes no descriptor.
pub fn take_descriptor(path: &Path) -> io::Result<OwnedFd> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0; 1];
    recvmsg(stream.as_fd(), &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let passed = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    passed.ok_or_else(|| io::Error::other("no socket was passed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_passed_socket_is_the_same_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pass");
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let unix = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || pass_descriptor(&unix, tcp.as_fd()));
        let copy = TcpListener::from(take_descriptor(&path).unwrap());
        assert_eq!(copy.local_addr().unwrap(), address);
        let _client = TcpStream::connect(address).unwrap();
        copy.accept().unwrap();
    }
}
