//! One connection's transport: a client that does not take its answer loses its place.
//!
//! hyper stops asking a body for more while the socket takes nothing, for as long as that lasts. A client of
//! `stream=true` that stops reading would hold its request for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::connections::ConnectionPermit;

/// How slow a client may be.
#[derive(Debug, Clone, Copy)]
pub struct Transfer {
    /// In each such time spent waiting for the client …
    pub period: Duration,
    /// … it must take so many bytes each second of what there is for it; one in all at the least.
    pub bytes_per_second: u64,
}

impl Transfer {
    fn least(&self) -> u64 {
        let bytes = self.bytes_per_second as f64 * self.period.as_secs_f64();
        (bytes as u64).max(1)
    }
}

/// Unsent bytes that the system keeps for a connection: enough for a fast reader, too few to hide one that has stopped.
const SEND_BUFFER_BYTES: usize = 256 << 10;
/// Idle time before the system asks whether the other side is still there, and between its questions.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Sets what an accepted connection needs: small answers leave at once, a peer that is gone is noticed.
pub(super) fn prepare(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    let keep_alive = socket2::TcpKeepalive::new().with_time(KEEP_ALIVE);
    #[cfg(any(target_os = "linux", target_os = "macos", windows))]
    let keep_alive = keep_alive.with_interval(KEEP_ALIVE / 4);
    // Each is a bound or a convenience; the connection works without.
    let _ = socket.set_tcp_keepalive(&keep_alive);
    let _ = socket.set_send_buffer_size(SEND_BUFFER_BYTES);
    let _ = socket.set_tcp_nodelay(true);
}

/// Start of the answer after which a connection is no longer HTTP (RFC 9110 section 15.2.2).
const SWITCHING: &[u8] = b"HTTP/1.1 101";

/// A stream whose writes fail when the other side takes less than the floor.
#[derive(Debug)]
pub(super) struct Floored<S> {
    stream: S,
    transfer: Transfer,
    /// Bytes taken in this period, and the time of it spent waiting.
    taken: u64,
    waited: Duration,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
    /// An upgraded connection has rules of its own: a WebSocket may be silent for an hour.
    upgraded: bool,
    /// Its place among all connections, also after an upgrade.
    #[allow(dead_code, reason = "held for its end")]
    permit: Option<ConnectionPermit>,
}

impl<S> Floored<S> {
    pub(super) fn new(stream: S, transfer: Transfer) -> Self {
        Self {
            stream,
            transfer,
            taken: 0,
            waited: Duration::ZERO,
            waiting: None,
            upgraded: false,
            permit: None,
        }
    }

    /// Keeps the connection's place until it is closed.
    pub(super) fn holding(mut self, permit: ConnectionPermit) -> Self {
        self.permit = Some(permit);
        self
    }

    /// Notes what a write came to; `Err` when the period is over and too little was taken.
    fn judge<T>(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
        bytes: impl Fn(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        if self.upgraded {
            return outcome;
        }
        if let Poll::Ready(done) = outcome {
            if let Some((since, _)) = self.waiting.take() {
                self.waited += since.elapsed();
            }
            self.taken += done.as_ref().map_or(0, |done| bytes(done) as u64);
            if self.waited >= self.transfer.period {
                self.period_ends()?;
            }
            return Poll::Ready(done);
        }
        let left = self.transfer.period.saturating_sub(self.waited);
        let (_, sleep) = self
            .waiting
            .get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(left))));
        ready!(sleep.as_mut().poll(context));
        self.waiting = None;
        self.period_ends()?;
        // A new period begins; it is waited for as well.
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn period_ends(&mut self) -> io::Result<()> {
        let enough = self.taken >= self.transfer.least();
        self.taken = 0;
        self.waited = Duration::ZERO;
        if enough {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client does not read its answer",
        ))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Floored<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Floored<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.upgraded |= bytes.starts_with(SWITCHING);
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, outcome, |count| *count)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.upgraded |= bytes.first().is_some_and(|first| first.starts_with(SWITCHING));
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.judge(context, outcome, |count| *count)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const TRANSFER: Transfer = Transfer {
        period: Duration::from_secs(30),
        bytes_per_second: 1024,
    };

    #[tokio::test(start_paused = true)]
    async fn who_stops_reading_is_given_up_and_who_reads_slowly_is_not() {
        for (bytes, pause, whole) in [
            (0, 1, false),
            (10, 1, false),
            (4096, 1, true),
            (1 << 16, 10, true),
        ] {
            let (here, mut there) = tokio::io::duplex(1 << 10);
            let mut floored = Floored::new(here, TRANSFER);
            let reader = tokio::spawn(async move {
                let mut buffer = vec![0; bytes.max(1)];
                loop {
                    tokio::time::sleep(Duration::from_secs(pause)).await;
                    let mut taken = 0;
                    while taken < bytes {
                        match there.read(&mut buffer[taken..]).await {
                            Ok(0) | Err(_) => return,
                            Ok(count) => taken += count,
                        }
                    }
                }
            });
            let began = Instant::now();
            let outcome = floored.write_all(&vec![7; 1 << 18]).await;
            assert_eq!(outcome.is_ok(), whole, "{bytes} bytes each {pause} s");
            if !whole {
                assert!(began.elapsed() <= Duration::from_secs(61));
                assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::TimedOut);
            }
            reader.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_upgraded_connection_is_left_alone() {
        let (here, mut there) = tokio::io::duplex(1 << 10);
        let mut floored = Floored::new(here, TRANSFER);
        floored
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
            .await
            .unwrap();
        let writing = tokio::spawn(async move { floored.write_all(&[7; 2000]).await });
        tokio::time::sleep(Duration::from_secs(3600)).await;
        there.read_exact(&mut [0; 2036]).await.unwrap();
        writing.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_there_yet_is_nobodys_slowness() {
        let (here, mut there) = tokio::io::duplex(1 << 10);
        let mut floored = Floored::new(here, TRANSFER);
        for _ in 0..3 {
            floored.write_all(b"a").await.unwrap();
            tokio::time::sleep(Duration::from_secs(3600)).await;
            there.read_u8().await.unwrap();
        }
    }
}
