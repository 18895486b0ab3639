//! `doctor`: the diagnosis without a server.

use std::process::ExitCode;
use std::sync::Arc;

use super::{CommonOptions, say};
use crate::app::App;
use crate::http::health::Health;
use crate::locale::Locale;
use crate::models::Silent;

/// Starts the engine as `serve` would, reports, and ends it.
pub(super) async fn run(common: &CommonOptions, json: bool) -> anyhow::Result<ExitCode> {
    let mut loaded = common.load(false)?;
    // A diagnosis changes nothing: a model that is not there is not fetched, though `serve` would.
    let fetches = std::mem::replace(&mut loaded.config.whisper.auto_download, false);
    let app = App::new(&loaded)?;
    app.load(Arc::new(Silent), &tokio_util::sync::CancellationToken::new())
        .await;
    app.measure_speed().await;
    let report = app.status.gpu_report(app.locale).await;
    let health = app.status.health();
    let code = if health.is_serving() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    };
    app.jobs.registry().stop();
    if json {
        let body = serde_json::json!({ "health": Health::from(health), "gpu": report });
        say(&serde_json::to_string_pretty(&body)?);
        return Ok(code);
    }
    say(&report.to_text(app.locale == Locale::Japanese));
    match (&health.model, &health.reason) {
        (Some(model), None) => say(&format!("{}: {model}", app.locale.pick("Model", "モデル"))),
        (_, reason) => say(&format!(
            "{}: {}",
            app.locale.model_missing(),
            reason
                .as_deref()
                .unwrap_or(app.locale.pick("no reason given", "理由は不明です"))
        )),
    }
    if !health.is_serving() && fetches {
        say(app.locale.pick(
            "`serve` fetches the model when it starts.",
            "`serve`は起動時にモデルを取得します。",
        ));
    }
    if let Some(advice) = app.status.speed_advice() {
        say(&format!("⚠ {}", advice.say(app.locale)));
    }
    Ok(code)
}
