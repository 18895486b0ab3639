//! What a service manager gives and wants to hear: sockets, readiness, a sign of life (`sd_notify(3)`). Without one, nothing.

use std::time::Duration;

use tokio::net::TcpListener;

use crate::app::App;

/// The listening socket that the service manager opened, if it did.
pub(super) fn inherited_listener() -> std::io::Result<Option<TcpListener>> {
    #[cfg(unix)]
    {
        let Some(listener) = listenfd::ListenFd::from_env().take_tcp_listener(0)? else {
            return Ok(None);
        };
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener).map(Some)
    }
    #[cfg(not(unix))]
    Ok(None)
}

/// Connections are accepted; the model may still be on its way, and `/health` says how far it is.
pub(super) fn ready() {
    #[cfg(target_os = "linux")]
    notify(&[sd_notify::NotifyState::Ready]);
}

/// Requests inside may finish.
pub(super) fn stopping() {
    #[cfg(target_os = "linux")]
    notify(&[sd_notify::NotifyState::Stopping]);
}

/// Gives signs of life while the runtime turns and windows finish. One that no longer finishes any although they wait is
/// restarted by the service manager.
pub(super) async fn watchdog(app: App) {
    #[cfg(target_os = "linux")]
    {
        let Some(period) = sd_notify::watchdog_enabled() else {
            return;
        };
        loop {
            let health = app.status.health();
            let line = health.reason.unwrap_or_else(|| "serving".to_owned());
            let mut state = vec![sd_notify::NotifyState::Status(&line)];
            if !app.status.is_stalled() {
                state.push(sd_notify::NotifyState::Watchdog);
            }
            notify(&state);
            tokio::time::sleep((period / 3).max(Duration::from_millis(100))).await;
        }
    }
    #[cfg(not(target_os = "linux"))]
    drop((app, Duration::ZERO));
}

#[cfg(target_os = "linux")]
fn notify(state: &[sd_notify::NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager does not listen");
    }
}
