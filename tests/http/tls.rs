//! HTTPS on the real accept loop: certificates of the server's own, reloading, old protocols, silent clients.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use whisper_backend_api::config::{ServerConfig, TlsSetting};
use whisper_backend_api::http::{Connections, HEAD_TIMEOUT, serve};
use whisper_backend_api::tls::{self, Tls};

use crate::support::*;

fn settings() -> ServerConfig {
    ServerConfig {
        tls: TlsSetting::SelfSigned,
        ..ServerConfig::default()
    }
}

async fn listen(tls: &Arc<Tls>) -> (std::net::SocketAddr, CancellationToken) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let router = plain().router;
    tokio::spawn(serve(
        listener,
        router,
        HEAD_TIMEOUT,
        TRANSFER,
        Some(tls.clone()),
        Connections::new(1000),
        stop.clone(),
    ));
    (address, stop)
}

async fn get(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin) -> String {
    stream
        .write_all(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

async fn get_over_tls(address: std::net::SocketAddr, folder: &Path) -> std::io::Result<String> {
    let stream = TcpStream::connect(address).await?;
    let stream = tls::trusting(&settings(), folder, "localhost", stream).await?;
    Ok(get(stream).await)
}

#[tokio::test]
async fn the_server_s_own_certificate_is_made_once_and_trusted_by_who_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let tls = Tls::open(&settings(), folder.path()).unwrap().unwrap();
    assert!(
        tls.is_own() && tls.fingerprint().len() == 95,
        "{}",
        tls.fingerprint()
    );
    let again = Tls::open(&settings(), folder.path()).unwrap().unwrap();
    assert_eq!(tls.fingerprint(), again.fingerprint());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let key = std::fs::metadata(folder.path().join("tls/key.pem")).unwrap();
        assert_eq!(key.permissions().mode() & 0o777, 0o600);
    }
    let (address, _stop) = listen(&tls).await;
    let answer = get_over_tls(address, folder.path()).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let stranger = tempfile::tempdir().unwrap();
    Tls::open(&settings(), stranger.path()).unwrap();
    assert!(
        get_over_tls(address, stranger.path()).await.is_err(),
        "another certificate"
    );
}

#[tokio::test]
async fn plain_http_is_answered_on_the_same_port_only_where_it_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    for allowed in [false, true] {
        let settings = ServerConfig {
            tls_allow_http: allowed,
            ..settings()
        };
        let tls = Tls::open(&settings, folder.path()).unwrap().unwrap();
        let (address, _stop) = listen(&tls).await;
        let answer = get(TcpStream::connect(address).await.unwrap()).await;
        let wanted = if allowed { "HTTP/1.1 200" } else { "HTTP/1.1 400" };
        assert!(answer.starts_with(wanted), "{answer}");
        assert!(
            get_over_tls(address, folder.path())
                .await
                .unwrap()
                .starts_with("HTTP/1.1 200")
        );
    }
}

#[tokio::test]
async fn old_protocols_are_refused_and_others_served_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let tls = Tls::open(&settings(), folder.path()).unwrap().unwrap();
    let (address, _stop) = listen(&tls).await;
    // One that has begun a handshake and never goes on.
    let mut silent = TcpStream::connect(address).await.unwrap();
    silent.write_all(&[0x16, 0x03, 0x01]).await.unwrap();
    // A ClientHello of TLS 1.0 (RFC 2246 section 7.4.1.2): version, random, no session, one suite, no compression.
    let mut hello = vec![0x03, 0x01];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0x00, 0x2F, 1, 0]);
    let mut message = vec![1, 0, 0, hello.len() as u8];
    message.extend(&hello);
    let mut record = vec![0x16, 0x03, 0x01, 0, message.len() as u8];
    record.extend(&message);
    let mut old = TcpStream::connect(address).await.unwrap();
    old.write_all(&record).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), old.read_to_end(&mut answer))
        .await
        .unwrap();
    assert_eq!(answer.first(), Some(&0x15), "an alert: {answer:?}");
    assert!(
        get_over_tls(address, folder.path())
            .await
            .unwrap()
            .starts_with("HTTP/1.1 200")
    );
}

/// Who trusts these certificates, and no others.
fn trusting_both(one: &Path, other: &Path) -> (ServerConfig, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let certificates = [one, other].map(|folder| std::fs::read(folder.join("tls/certificate.pem")).unwrap());
    std::fs::write(folder.path().join("both.pem"), certificates.concat()).unwrap();
    let settings = ServerConfig {
        tls: TlsSetting::Files,
        tls_certificate: "both.pem".to_owned(),
        ..ServerConfig::default()
    };
    (settings, folder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_change_under_load_without_losing_a_request() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let made = folders
        .each_ref()
        .map(|folder| Tls::open(&settings(), folder.path()).unwrap().unwrap());
    let pairs = folders.each_ref().map(|folder| {
        ["tls/certificate.pem", "tls/key.pem"].map(|name| std::fs::read(folder.path().join(name)).unwrap())
    });
    let tls = made[0].clone();
    let served = folders[0].path().join("tls");
    let place = |number: usize| {
        std::fs::write(served.join("certificate.pem"), &pairs[number][0]).unwrap();
        std::fs::write(served.join("key.pem"), &pairs[number][1]).unwrap();
    };
    let (trusts, bundle) = trusting_both(folders[0].path(), folders[1].path());
    let (address, stop) = listen(&tls).await;
    // Opened before, used after.
    let stream = TcpStream::connect(address).await.unwrap();
    let early = tls::trusting(&trusts, bundle.path(), "localhost", stream)
        .await
        .unwrap();

    let done = CancellationToken::new();
    let (trusts, bundle) = (Arc::new(trusts), Arc::new(bundle));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (done, trusts, bundle) = (done.clone(), trusts.clone(), bundle.clone());
        clients.spawn(async move {
            let mut answers = 0;
            while !done.is_cancelled() {
                let stream = TcpStream::connect(address).await.unwrap();
                let stream = tls::trusting(&trusts, bundle.path(), "localhost", stream)
                    .await
                    .unwrap();
                assert!(get(stream).await.starts_with("HTTP/1.1 200"));
                answers += 1;
            }
            answers
        });
    }
    for round in 1..=20 {
        place(round % 2);
        tls.reload().unwrap();
        assert_eq!(tls.fingerprint(), made[round % 2].fingerprint());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Half of a change leaves things as they are.
    std::fs::write(served.join("key.pem"), &pairs[1][1]).unwrap();
    assert!(tls.reload().is_err());
    assert_eq!(tls.fingerprint(), made[0].fingerprint());
    // And nobody has to ask: the files are watched.
    let following = tokio::spawn({
        let (tls, stop) = (tls.clone(), stop.clone());
        async move { tls.follow(stop).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    place(1);
    let changed = async {
        while tls.fingerprint() != made[1].fingerprint() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), changed)
        .await
        .expect("the files changed, and nobody saw it");
    done.cancel();
    let mut answers = 0;
    while let Some(answered) = clients.join_next().await {
        answers += answered.unwrap();
    }
    assert!(answers > 20, "{answers} requests are no load");
    assert!(get(early).await.starts_with("HTTP/1.1 200"));
    stop.cancel();
    following.await.unwrap();
}

#[tokio::test]
async fn who_does_not_finish_a_handshake_in_ten_seconds_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let tls = Tls::open(&settings(), folder.path()).unwrap().unwrap();
    let (address, _stop) = listen(&tls).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut halting = TcpStream::connect(address).await.unwrap();
    halting.write_all(&[0x16, 0x03, 0x01, 0x02]).await.unwrap();
    for stream in [&mut silent, &mut halting] {
        let mut rest = Vec::new();
        tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut rest))
            .await
            .expect("the connection stays open")
            .ok();
        assert!(rest.is_empty(), "{rest:?}");
    }
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let settings = ServerConfig {
        tls: TlsSetting::Files,
        tls_certificate: "absent.pem".to_owned(),
        tls_key: "key.pem".to_owned(),
        ..ServerConfig::default()
    };
    let error = Tls::open(&settings, folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("absent.pem") && error.contains("tls_certificate"),
        "{error}"
    );
    std::fs::write(folder.path().join("absent.pem"), "no certificate").unwrap();
    let error = Tls::open(&settings, folder.path()).unwrap_err().to_string();
    assert!(error.contains("BEGIN CERTIFICATE"), "{error}");
}
