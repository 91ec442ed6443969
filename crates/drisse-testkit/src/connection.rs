//! An HTTP/1.1 connection on which tests send any bytes, and play either side.

use crate::PATIENCE;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A socket of a connection.
pub trait Stream: Read + Write {
    /// Sets how long a read may take.
    ///
    /// # Errors
    /// Those of the operating system.
    fn set_patience(&self, patience: Duration) -> io::Result<()>;

    /// Announces that no more bytes will be sent.
    ///
    /// # Errors
    /// Those of the operating system, for example if the other side has closed the connection.
    fn shut(&self) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(patience))
    }

    fn shut(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Stream for UnixStream {
    fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(patience))
    }

    fn shut(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// A response.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The status line and the headers, in lower case.
    pub headers: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// Returns a header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }
}

/// Returns the value of a header in a message's head.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Returns a POST request. Each line of `headers` ends with `\r\n`.
pub fn post(path: &str, headers: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: h\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

/// A keep-alive connection. A read that takes longer than [`PATIENCE`] fails.
#[derive(Debug)]
pub struct Connection<S = TcpStream>(BufReader<S>);

impl Connection {
    /// Connects to a TCP address.
    ///
    /// # Errors
    /// Those of connecting.
    pub fn tcp(address: impl ToSocketAddrs) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self::new(stream))
    }
}

impl Connection<UnixStream> {
    /// Connects to a Unix socket.
    ///
    /// # Errors
    /// Those of connecting.
    pub fn unix(path: &Path) -> io::Result<Self> {
        UnixStream::connect(path).map(Self::new)
    }
}

impl<S: Stream> Connection<S> {
    /// Takes over a socket.
    pub fn new(stream: S) -> Self {
        stream.set_patience(PATIENCE).unwrap();
        Self(BufReader::new(stream))
    }

    /// Changes how long a read may take.
    #[must_use]
    pub fn patient_for(self, patience: Duration) -> Self {
        self.0.get_ref().set_patience(patience).unwrap();
        self
    }

    /// Announces that no more bytes will be sent.
    pub fn shut(&self) {
        let _ = self.0.get_ref().shut();
    }
}

impl<S: Read + Write> Connection<S> {
    /// Takes over any stream, whose reads may take as long as they want.
    pub fn over(stream: S) -> Self {
        Self(BufReader::new(stream))
    }

    /// Sends a request and reads the response.
    ///
    /// # Errors
    /// As [`Self::read`]. Errors of writing are ignored: a server may refuse a request before it has read everything.
    pub fn send(&mut self, request: impl AsRef<[u8]>) -> io::Result<Answer> {
        self.push(request);
        self.read()
    }

    /// Sends a POST request with a JSON body, and returns the response.
    pub fn post(&mut self, path: &str, body: &str) -> Answer {
        self.post_with(path, "content-type: application/json\r\n", body)
    }

    /// Sends a POST request with these headers, each of which ends with `\r\n`, and returns the response.
    pub fn post_with(&mut self, path: &str, headers: &str, body: &str) -> Answer {
        self.send(post(path, headers, body)).expect("an answer")
    }

    /// Sends bytes and returns everything that arrives until the other side closes the connection.
    ///
    /// # Errors
    /// Those of reading. Errors of writing are ignored: a server may refuse a request before it has read everything.
    pub fn exchange(mut self, bytes: impl AsRef<[u8]>) -> io::Result<String> {
        self.push(bytes);
        let mut answer = String::new();
        self.0.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Writes bytes; panics if that fails.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// Writes bytes and ignores errors: if the other side has closed the connection, the next read shows it.
    pub fn push(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.0.get_mut().write_all(bytes.as_ref());
    }

    /// Writes a response.
    pub fn answer(&mut self, status: &str, headers: &str, body: &str) {
        let length = body.len();
        self.write(format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}"));
    }

    /// Reads a response.
    ///
    /// # Errors
    /// `UnexpectedEof` if the other side closed the connection, `InvalidData` if the response has no status, and those
    /// of reading.
    pub fn read(&mut self) -> io::Result<Answer> {
        let (head, body) = self.try_message()?;
        let headers = head.to_ascii_lowercase();
        let status = headers.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "no status"))?;
        Ok(Answer { status, headers, body })
    }

    /// Reads a request or response with a content length: head and body. Both are empty if the other side closed the
    /// connection.
    pub fn message(&mut self) -> (String, String) {
        self.try_message().unwrap_or_default()
    }

    /// Reads the head of a message. It is empty if the other side closed the connection.
    pub fn head(&mut self) -> String {
        self.try_head().unwrap_or_default()
    }

    fn try_message(&mut self) -> io::Result<(String, String)> {
        let head = self.try_head()?;
        let length = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok((head, String::from_utf8(body).expect("a body in UTF-8")))
    }

    fn try_head(&mut self) -> io::Result<String> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut head)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(head)
    }

    /// Reads one line, with its end.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }

    /// Reads until `bytes` is full.
    pub fn take(&mut self, bytes: &mut [u8]) {
        self.0.read_exact(bytes).unwrap();
    }

    /// Reads everything until the other side closes or resets the connection.
    pub fn read_rest(&mut self, into: &mut Vec<u8>) {
        let _ = self.0.read_to_end(into);
    }

    /// Waits until the other side sends bytes or closes the connection, and returns whether it closed it without sending
    /// anything. A reset counts as closing.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        let read = self.0.read_to_end(&mut rest);
        read.map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |_| rest.is_empty())
    }

    /// Returns the bytes that have arrived; waits for the first of them. Empty if the other side has closed the connection.
    ///
    /// # Errors
    /// Those of reading.
    pub fn arrived(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_of_an_exchange_are_read() {
        let (client, server) = UnixStream::pair().unwrap();
        let (mut client, mut server) = (Connection::new(client), Connection::new(server));
        client.write(post("/score", "x-a: B\r\n", "body"));
        let (head, body) = server.message();
        assert_eq!((header(&head, "X-A"), &*body), (Some("B"), "body"));
        server.answer("503 Service Unavailable", "Retry-After: 1\r\n", "full");
        let answer = client.read().unwrap();
        assert_eq!((answer.status, answer.header("retry-after"), &*answer.body), (503, Some("1"), "full"));
        drop(server);
        assert_eq!(client.read().unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
