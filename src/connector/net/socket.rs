//! A TCP connection that need not be watched all the time.
//!
//! The runtime watches its connections: whatever arrives at one wakes a thread up, though nobody asks for it at the
//! moment. Where bytes come in thousands of small portions a second, that costs several times what the bytes do.

use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection, which is watched again as soon as something has to be waited for.
pub enum Socket {
    Watched(TcpStream),
    Unwatched(std::net::TcpStream),
    /// It could not be handed over between the two.
    Lost,
}

impl Socket {
    /// What arrives from here on wakes nobody up, until a read finds nothing.
    pub fn unwatch(&mut self) {
        if let Socket::Watched(_) = self
            && let Socket::Watched(stream) = std::mem::replace(self, Socket::Lost)
            && let Ok(stream) = stream.into_std()
        {
            *self = Socket::Unwatched(stream);
        }
    }

    fn watch(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        if let Socket::Unwatched(_) = self
            && let Socket::Unwatched(stream) = std::mem::replace(self, Socket::Lost)
        {
            *self = Socket::Watched(TcpStream::from_std(stream)?);
        }
        match self {
            Socket::Watched(stream) => Ok(Pin::new(stream)),
            Socket::Unwatched(_) | Socket::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Socket {
        Socket::Watched(stream)
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        if let Socket::Unwatched(stream) = socket {
            // It does not block, as all that the runtime has made.
            match stream.read(buffer.initialize_unfilled()) {
                Ok(read) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        socket.watch()?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().watch()?.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().watch()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().watch()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        (near.into(), far)
    }

    #[tokio::test]
    async fn what_arrives_while_nobody_watches_is_read_as_ever() {
        let (mut near, mut far) = pair().await;
        let mut buffer = [0; 8];
        for word in [b"first", b"other"] {
            near.unwatch();
            far.write_all(word).await.unwrap();
            let mut read = 0;
            while read < word.len() {
                read += near.read(&mut buffer[read..]).await.unwrap();
            }
            assert_eq!(&buffer[..read], word);
        }
        // Nothing is there: the read has to be woken up.
        near.unwatch();
        let (read, ()) = tokio::join!(near.read(&mut buffer), async { far.write_all(b"late").await.unwrap() });
        assert_eq!(&buffer[..read.unwrap()], b"late");
        assert!(matches!(near, Socket::Watched(_)));
    }

    #[tokio::test]
    async fn an_unwatched_connection_can_be_written_to_and_ends() {
        let (mut near, mut far) = pair().await;
        near.unwatch();
        near.write_all(b"word").await.unwrap();
        let mut buffer = [0; 8];
        assert_eq!(far.read(&mut buffer).await.unwrap(), 4);
        near.unwatch();
        drop(far);
        assert_eq!(near.read(&mut buffer).await.unwrap(), 0);
    }
}
