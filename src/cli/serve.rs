//! `serve`: the server, from settings to the last answer.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::progress::Shown;
use super::{CommonOptions, say, supervisor};
use crate::app::App;
use crate::config::{ServerConfig, TlsSetting};
use crate::locale::Locale;
use crate::tls::Tls;

/// Pause between two looks at whether a speed was measured.
const SPEED_LOOK: Duration = Duration::from_secs(1);

pub(super) async fn run(common: &CommonOptions) -> anyhow::Result<ExitCode> {
    // Before anything else: a signal that comes while the settings are read is heard as well.
    let stop = CancellationToken::new();
    let mut signals = Signals::new()?;
    let signalled = stop.clone();
    tokio::spawn(async move {
        signals.next().await;
        tracing::info!("stopping: no new requests; running ones may finish");
        supervisor::stopping();
        signalled.cancel();
        signals.next().await;
        // Asked twice: the user means it.
        std::process::exit(130);
    });
    let loaded = common.load(true)?;
    crate::telemetry::init(loaded.config.log);
    let app = App::new(&loaded)?;
    if loaded.written {
        let path = loaded
            .path
            .as_deref()
            .map(|p| p.display().to_string())
            .unwrap_or_default();
        tracing::info!(
            "{path}: {}",
            app.locale
                .pick("written with the defaults", "既定値で作成しました")
        );
    }
    let tls = Tls::open(&app.config.server, &loaded.folder())?;
    let listener = match supervisor::inherited_listener() {
        Ok(Some(inherited)) => inherited,
        Ok(None) => listen(&app.config.server).await?,
        Err(error) => bail!("the socket that the service manager opened cannot be used: {error}"),
    };
    let metrics = match app.config.metrics.listen.as_str() {
        "" => None,
        at => {
            let listener = TcpListener::bind(at).await;
            Some(listener.with_context(|| format!("cannot listen on `{at}` (metrics.listen)"))?)
        }
    };
    let address = listener.local_addr().context("the listener has no address")?;
    if app.admission.keys().is_open() {
        tracing::warn!(
            "{}",
            app.locale.pick(
                "no server.api_keys and no [[keys]] are set: everybody who reaches this port is served",
                "server.api_keysも[[keys]]も未設定です: このポートに届く全員が利用できます",
            )
        );
    }

    let loading = {
        let (app, stop) = (app.clone(), stop.clone());
        tokio::spawn(async move {
            let shown = Arc::new(Shown::new());
            app.load(shown.clone(), &stop).await;
            shown.finish();
            if stop.is_cancelled() {
                return;
            }
            let report = app.status.gpu_report(app.locale).await;
            let health = app.status.health();
            if health.is_serving() {
                for line in app.locale.banner(&app.status.banner(&report)) {
                    say(&line);
                }
                for recommendation in &report.recommendations {
                    say(&format!("→ {recommendation}"));
                }
                if let Some(notice) = health.model_notice {
                    say(&format!("⚠ {notice}"));
                }
                for line in invitation(
                    app.locale,
                    address,
                    &app.config.server,
                    app.admission.keys().is_open(),
                ) {
                    say(&line);
                }
                if app.status.may_be_slow() {
                    app.measure_speed().await;
                }
                // Otherwise the first recordings tell how fast the model is here.
                while !app.status.speed_is_known() {
                    tokio::time::sleep(SPEED_LOOK).await;
                }
                if let Some(advice) = app.status.speed_advice() {
                    say(&format!("⚠ {}", advice.say(app.locale)));
                }
            } else if let Some(reason) = health.reason {
                tracing::error!("no transcription is possible: {reason}");
            }
        })
    };
    #[cfg(unix)]
    tokio::spawn(reload_on_hangup(app.clone(), common.clone(), tls.clone()));
    let scheme = if tls.is_some() { "https" } else { "http" };
    say(&format!(
        "{} {scheme}://{address}",
        app.locale.pick("Listening on", "待ち受け中:")
    ));
    for line in tls
        .iter()
        .filter(|tls| tls.is_own())
        .flat_map(|tls| trust(app.locale, tls))
    {
        say(&line);
    }
    supervisor::ready();
    tokio::spawn(supervisor::watchdog(app.clone()));
    app.serve(listener, tls, metrics, stop).await;
    loading.abort();
    Ok(ExitCode::SUCCESS)
}

async fn listen(server: &ServerConfig) -> anyhow::Result<TcpListener> {
    let address = (server.host.as_str(), server.port);
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => bail!(
            "port {} is in use; stop the other program, or set server.port in config.toml, or start with --port {}",
            server.port,
            server.port.wrapping_add(1).max(1024)
        ),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            bail!(
                "port {} needs administrator rights; start with --port 8080",
                server.port
            )
        }
        Err(error) => {
            bail!(
                "cannot listen on `{}` port {} (server.host, server.port): {error}",
                server.host,
                server.port
            )
        }
    }
}

/// What clients need to trust the server's own certificate.
fn trust(locale: Locale, tls: &Tls) -> [String; 5] {
    let path = std::path::absolute(tls.certificate()).unwrap_or_else(|_| tls.certificate().to_owned());
    let path = path.display();
    [
        format!("{} {path}", locale.pick("Certificate:", "証明書:")),
        format!("  SHA-256 {}", tls.fingerprint()),
        format!("  Node:    NODE_EXTRA_CA_CERTS={path}"),
        format!("  Python:  SSL_CERT_FILE={path}"),
        format!("  curl:    --cacert {path}"),
    ]
}

/// What to type next.
fn invitation(
    locale: Locale,
    address: std::net::SocketAddr,
    server: &ServerConfig,
    open: bool,
) -> Vec<String> {
    let host = if address.ip().is_unspecified() {
        "localhost".to_owned()
    } else {
        address.ip().to_string()
    };
    let host = if address.is_ipv6() && host.contains(':') {
        format!("[{host}]")
    } else {
        host
    };
    let scheme = match server.tls {
        TlsSetting::Off => "http",
        TlsSetting::Files | TlsSetting::SelfSigned => "https",
    };
    let key = if open { "" } else { " -H \"api-key: $KEY\"" };
    let sample = ["tests/fixtures/jfk.wav"]
        .into_iter()
        .find(|p| std::path::Path::new(p).exists());
    let mut lines = vec![
        locale.pick("Try it:", "お試しください:").to_owned(),
        format!(
            // Quoted: zsh takes a bare `?` for a pattern and refuses the line.
            "  curl '{scheme}://{host}:{}/openai/deployments/whisper/audio/transcriptions?api-version=2024-02-01'{key} -F 'file=@{}'",
            address.port(),
            sample.unwrap_or("recording.wav")
        ),
    ];
    if server.page {
        let open = locale.pick(
            "or open this page in a browser:",
            "またはブラウザーでこのページを開いてください:",
        );
        lines.push(format!("  {open} http://{host}:{}/", address.port()));
    }
    lines
}

/// SIGHUP: the settings are read again, and GPUs that were given up are tried.
#[cfg(unix)]
async fn reload_on_hangup(app: App, common: CommonOptions, tls: Option<Arc<Tls>>) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut hangup) = signal(SignalKind::hangup()) else {
        return;
    };
    while hangup.recv().await.is_some() {
        app.jobs.registry().probe_gpus();
        if let Some(Err(error)) = tls.as_ref().map(|tls| tls.reload()) {
            tracing::error!(%error, "the certificate stays as it was");
        }
        match common.load(false) {
            Ok(loaded) => app.reload(loaded.config).await,
            Err(error) => tracing::error!("the settings stay as they were: {error:#}"),
        }
    }
}

/// SIGTERM and Ctrl-C.
#[cfg(unix)]
struct Signals(tokio::signal::unix::Signal, tokio::signal::unix::Signal);

#[cfg(unix)]
impl Signals {
    fn new() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| signal(kind).context("cannot listen to signals");
        Ok(Self(
            listen(SignalKind::terminate())?,
            listen(SignalKind::interrupt())?,
        ))
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

/// Ctrl-C.
#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
