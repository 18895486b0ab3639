//! Connections: who comes in, and how long a request may take to say what it is.
//!
//! `axum::serve` waits for the head of a request for ever; a few hundred connections that send a byte a minute would
//! take all the files this process may open ([`super::connections`] bounds them). Bodies have their own watch in [`super::drain`].

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{self, Floored, Transfer};
use super::connections::{ConnectionPermit, Connections};
use crate::tls::Tls;

/// Longest wait for a complete request head, also of a connection that is kept alive between two requests. Longer
/// than the clients of our examples keep theirs (5 s for `openai` in Python, 4 s in Node, 60 s behind nginx).
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// Serves until `stop` fires, then ends idle connections at once and the others behind their answer. Connections that have
/// become WebSockets are no longer counted here.
pub async fn serve(
    mut listener: TcpListener,
    router: Router,
    head_timeout: Duration,
    transfer: Transfer,
    tls: Option<Arc<Tls>>,
    places: Connections,
    stop: CancellationToken,
) {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(head_timeout);
    let plain = tls.is_none();
    let door = Door {
        server,
        router,
        transfer,
        tls,
        stop: stop.clone(),
    };
    let connections = TaskTracker::new();
    loop {
        // Goes on after errors by itself, with a pause when no more files can be opened.
        let (stream, _) = tokio::select! {
            accepted = Listener::accept(&mut listener) => accepted,
            () = stop.cancelled() => break,
        };
        connection::prepare(&stream);
        let Some((stream, permit)) = places.admit(stream, plain) else {
            continue;
        };
        connections.spawn(door.clone().serve(stream, permit));
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// First byte of a TLS handshake (RFC 8446 section 5.1, `ContentType`); no HTTP method begins with it.
const TLS_HANDSHAKE: u8 = 0x16;
/// For clients that speak HTTP where HTTPS is spoken.
const SPEAK_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\nThis port speaks HTTPS; \
    server.tls_allow_http lets it speak HTTP too.\n";

/// What every connection needs.
#[derive(Clone)]
struct Door {
    server: http1::Builder,
    router: Router,
    transfer: Transfer,
    tls: Option<Arc<Tls>>,
    stop: CancellationToken,
}

impl Door {
    async fn serve(self, stream: TcpStream, permit: ConnectionPermit) {
        let Some(tls) = self.tls.clone() else {
            let stream = Floored::new(stream, self.transfer).holding(permit);
            return self.speak(stream).await;
        };
        // A handshake takes its time in this task: a slow one holds up nobody.
        let first = tokio::select! {
            first = first_byte(&stream, tls.patience()) => first,
            () = self.stop.cancelled() => return,
        };
        let mut stream = Floored::new(stream, self.transfer).holding(permit);
        match first {
            Ok(TLS_HANDSHAKE) => match tls.accept(stream).await {
                Ok(stream) => self.speak(stream).await,
                Err(error) => tracing::debug!(%error, "a TLS handshake failed"),
            },
            Ok(_) if tls.allows_http() => self.speak(stream).await,
            Ok(_) => {
                let _ = stream.write_all(SPEAK_TLS).await;
                let _ = stream.shutdown().await;
            }
            Err(error) => tracing::debug!(%error, "a connection said nothing"),
        }
    }

    async fn speak<S>(&self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = TowerToHyperService::new(self.router.clone());
        let connection = self.server.serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection.with_upgrades());
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}

/// Looks at a connection's first byte and leaves it there.
async fn first_byte(stream: &TcpStream, patience: Duration) -> std::io::Result<u8> {
    let mut byte = [0];
    match tokio::time::timeout(patience, stream.peek(&mut byte)).await?? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(byte[0]),
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::AsyncReadExt;

    use super::*;

    const TRANSFER: Transfer = Transfer {
        period: Duration::from_secs(30),
        bytes_per_second: 1024,
    };

    /// A server that answers after `pause`, and its token.
    async fn start(
        head_timeout: Duration,
        pause: Duration,
        connections: usize,
    ) -> (
        std::net::SocketAddr,
        CancellationToken,
        tokio::task::JoinHandle<()>,
    ) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = move || async move {
            tokio::time::sleep(pause).await;
            "here"
        };
        let router = Router::new().route("/", get(answer));
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(
            listener,
            router,
            head_timeout,
            TRANSFER,
            None,
            Connections::new(connections),
            stop.clone(),
        ));
        (address, stop, serving)
    }

    #[tokio::test]
    async fn a_head_that_never_ends_ends_the_connection() {
        let (address, stop, serving) = start(Duration::from_millis(200), Duration::ZERO, 9).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX-").await.unwrap();
        let (mut read, mut write) = slow.into_split();
        let drip = tokio::spawn(async move {
            while write.write_all(b"a").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        // Without the timeout these would wait for ever.
        let mut rest = Vec::new();
        let _ = read.read_to_end(&mut rest).await;
        assert!(!rest.starts_with(b"HTTP/1.1 200"), "{rest:?}");
        drip.await.unwrap();
        let _ = silent.read_to_end(&mut rest).await;
        // Others are served as before.
        let mut good = TcpStream::connect(address).await.unwrap();
        good.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        good.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("here"),
            "{answer}"
        );
        stop.cancel();
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn an_answer_takes_longer_than_a_head_may_and_a_stop_waits_for_it() {
        let (address, stop, serving) = start(Duration::from_millis(100), Duration::from_millis(600), 9).await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        let mut busy = TcpStream::connect(address).await.unwrap();
        busy.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        stop.cancel();
        let mut answer = String::new();
        busy.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("here"), "{answer}");
        let mut rest = Vec::new();
        let _ = idle.read_to_end(&mut rest).await;
        assert!(rest.is_empty());
        serving.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err(), "it still listens");
    }

    #[tokio::test]
    async fn one_connection_too_many_is_told_so_and_the_next_one_finds_the_place() {
        let (address, stop, serving) = start(Duration::from_secs(60), Duration::ZERO, 2).await;
        let ask = |mut stream: TcpStream| async move {
            let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
            stream.write_all(request).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let silent = [
            TcpStream::connect(address).await.unwrap(),
            TcpStream::connect(address).await.unwrap(),
        ];
        let refused = ask(TcpStream::connect(address).await.unwrap()).await;
        assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
        assert!(
            refused.contains("retry-after: 5") && refused.contains("taken"),
            "{refused}"
        );
        drop(silent);
        let mut answer = String::new();
        for _ in 0..100 {
            answer = ask(TcpStream::connect(address).await.unwrap()).await;
            if answer.starts_with("HTTP/1.1 200 ") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(answer.ends_with("here"), "{answer}");
        stop.cancel();
        serving.await.unwrap();
    }
}
