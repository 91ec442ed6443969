//! Passes listening sockets between processes over a Unix socket, so that they stay open while processes end and start.

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

/// The largest number of sockets that are passed at once.
const MOST: usize = 8;

/// Sends copies of `descriptors` to each process that connects to `listener`. Blocks the thread; returns only on error.
///
/// # Errors
/// Returns the system's error if accepting a connection fails.
pub fn pass_descriptors(listener: &UnixListener, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    listener.set_nonblocking(false)?;
    loop {
        let (stream, _) = listener.accept()?;
        // The process may have closed its connection already.
        let _ = send_descriptors(&stream, descriptors);
    }
}

/// Receives the descriptors that the process listening at `path` passes. Blocks the thread for at most 2 s.
///
/// # Errors
/// Returns the system's error if no process listens at `path` or none answers in time, or an error if the process
/// passes no descriptor.
pub fn take_descriptors(path: &Path) -> io::Result<Vec<OwnedFd>> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    receive_descriptors(stream)
}

/// Sends copies of descriptors, at most 8, over a Unix socket.
///
/// # Errors
/// Returns the system's error if they cannot be sent, or `InvalidInput` if there are too many.
pub fn send_descriptors(stream: impl AsFd, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if descriptors.len() > MOST || !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(stream, &[IoSlice::new(b"L")], &mut ancillary, SendFlags::empty())?;
    Ok(())
}

/// Receives descriptors that were sent over a Unix socket at once.
///
/// # Errors
/// Returns the system's error, or an error if no descriptor was sent.
pub fn receive_descriptors(stream: impl AsFd) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0; 1];
    recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let passed = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors.collect()),
        _ => None,
    });
    passed.ok_or_else(|| io::Error::other("no socket was passed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn passed_sockets_are_the_same_sockets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pass");
        let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let addresses = [&sockets[0], &sockets[1]].map(|socket| socket.local_addr().unwrap());
        let unix = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            pass_descriptors(&unix, &[sockets[0].as_fd(), sockets[1].as_fd()]).unwrap();
        });
        for (copy, address) in take_descriptors(&path).unwrap().into_iter().zip(addresses) {
            let copy = TcpListener::from(copy);
            assert_eq!(copy.local_addr().unwrap(), address);
            let _client = TcpStream::connect(address).unwrap();
            copy.accept().unwrap();
        }
        let (ours, theirs) = UnixStream::pair().unwrap();
        let many = [ours.as_fd(); MOST + 1];
        assert!(send_descriptors(&ours, &many).is_err());
        send_descriptors(&ours, &many[..1]).unwrap();
        assert_eq!(receive_descriptors(&theirs).unwrap().len(), 1);
    }
}
