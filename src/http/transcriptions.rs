//! `…/audio/transcriptions` and `…/audio/translations` in the three dialects: the straight walk.

use std::time::Duration;

use axum::extract::{Extension, Request, State};
use axum::http::{Method, Uri, header};
use axum::response::Response;
use axum::routing::{any, post};
use axum::{Router, response::IntoResponse};

use super::dialect::DeploymentPath;
use super::drain::{BodyLimits, SharedBody};
use super::edge::RequestContext;
use super::error::ApiError;
use super::form::{self, Asked, FormKind, FormRules, TranscriptionRequest};
use super::{AppState, fast_transcription, models, stream};
use crate::audio::AudioError;
use crate::config::mebibytes;
use crate::jobs::{JobEvent, JobHandle};
use crate::render::{self, Family, Presentation};
use crate::transcript::{Task, Transcript};

/// Paths that take recordings, beside those below `/openai/deployments/`.
pub(super) const PATHS: [(&str, Task); 6] = [
    ("/v1/audio/transcriptions", Task::Transcribe),
    ("/v1/audio/translations", Task::Translate),
    ("/openai/v1/audio/transcriptions", Task::Transcribe),
    ("/openai/v1/audio/translations", Task::Translate),
    // @ai-sdk/azure asks this of hosts that are not Azure's.
    ("/openai/audio/transcriptions", Task::Transcribe),
    ("/openai/audio/translations", Task::Translate),
];

pub(super) fn routes() -> Router<AppState> {
    let router = Router::new()
        .route("/openai/deployments/{*rest}", any(deployment))
        .route(fast_transcription::PATH, post(fast));
    PATHS.iter().fold(router, |router, (path, task)| {
        let task = *task;
        let handler = move |State(app): State<AppState>,
                            Extension(context): Extension<RequestContext>,
                            request: Request| async move {
            serve(&app, &context, FormKind::Fields(task), None, request).await
        };
        router.route(path, post(handler))
    })
}

/// Azure's fast transcription names no deployment: the default model serves.
async fn fast(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    let default = String::new();
    serve(
        &app,
        &context,
        FormKind::FastTranscription,
        Some(default),
        request,
    )
    .await
}

/// Everything below `/openai/deployments/`: ids may hold slashes, which a router's patterns cannot say.
async fn deployment(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    method: Method,
    uri: Uri,
    request: Request,
) -> Result<Response, ApiError> {
    let rest = uri
        .path()
        .strip_prefix("/openai/deployments/")
        .unwrap_or_default();
    let path = DeploymentPath::parse(rest);
    let (allowed, ok) = match path {
        DeploymentPath::Models | DeploymentPath::Deployment(_) => {
            ("GET,HEAD", method == Method::GET || method == Method::HEAD)
        }
        _ => ("POST", method == Method::POST),
    };
    if !ok {
        let error = ApiError::MethodNotAllowed {
            request: format!("{method} {}", uri.path()),
        };
        return Ok(([("allow", allowed)], error).into_response());
    }
    match path {
        DeploymentPath::Transcriptions(name) => {
            serve(
                &app,
                &context,
                FormKind::Fields(Task::Transcribe),
                Some(name),
                request,
            )
            .await
        }
        DeploymentPath::Translations(name) => {
            serve(
                &app,
                &context,
                FormKind::Fields(Task::Translate),
                Some(name),
                request,
            )
            .await
        }
        DeploymentPath::Models => Ok(models::list(&app, context.dialect).await),
        DeploymentPath::Deployment(name) => models::deployment(&app, &name).await,
        DeploymentPath::Foreign {
            deployment,
            operation,
        } => {
            models::lookup(&app, &deployment).await?;
            Err(ApiError::ForeignOperation {
                operation,
                deployment,
            })
        }
    }
}

/// From an authenticated request to its answer.
///
/// # Cancel safety
///
/// Dropped when the client leaves; the job's handle goes with it and ends the work.
async fn serve(
    app: &AppState,
    context: &RequestContext,
    kind: FormKind,
    deployment: Option<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let server = &app.config.server;
    let limit = mebibytes(server.max_file_size_mb);
    let announced = context.content_length;
    if let Some(seen) = announced.filter(|bytes| *bytes > limit) {
        return Err(ApiError::TooLarge { limit, seen });
    }
    let arrival = app
        .admission
        .enter(context.id.clone(), context.client, announced)?;
    let spool_memory_bytes = mebibytes(app.config.audio.spool_memory_mb as u64) as usize;
    if let (Some(announced), Some(room)) = (announced, app.spool_folder.room())
        && announced > room
        && announced > spool_memory_bytes as u64
    {
        return Err(ApiError::Audio {
            error: AudioError::StorageFull,
            family: Family::Whisper,
            has_extension: true,
        });
    }
    let asked = match deployment {
        Some(name) if !arrival.may_use(&name) => return Err(ApiError::UnknownModel { name }),
        Some(name) => Some(Asked {
            lease: app.jobs.resolve(&name).await?,
            name,
        }),
        None => None,
    };

    let rules = FormRules {
        limits: BodyLimits {
            bytes: limit,
            period: Duration::from_secs(server.body_idle_timeout_seconds.max(1)),
            bytes_per_second: server.min_transfer_bytes_per_second,
        },
        spool_memory_bytes,
        spool_folder: app.spool_folder.clone(),
        stream_whisper_1: server.stream_whisper_1,
    };
    let leftover = request.extensions().get::<SharedBody>().cloned();
    let (parts, body) = request.into_parts();
    let ended = arrival.cancel.clone();
    let (admitted, form) = tokio::select! {
        form = form::read(&rules, &*app.jobs, &parts.headers, body, kind, arrival, asked) => form?,
        () = ended.cancelled() => return Err(ApiError::Stopping),
    };
    let TranscriptionRequest {
        audio,
        options,
        presentation: shown,
        has_extension,
    } = form;
    tracing::debug!(bytes = audio.len(), format = ?shown.format, stream = shown.stream, "upload complete");

    if let Some(body) = leftover {
        body.drain();
    }

    let job = app.jobs.start(admitted, audio, options);
    if shown.stream {
        let (dialect, keep_alive) = (context.dialect, app.keep_alive);
        return stream::response(
            job,
            stream::StreamTerms {
                shown,
                dialect,
                has_extension,
                keep_alive,
            },
        )
        .await;
    }
    finished(job, shown.family, has_extension)
        .await
        .and_then(|transcript| rendered(&transcript, &shown))
}

fn rendered(transcript: &Transcript, shown: &Presentation) -> Result<Response, ApiError> {
    let (content_type, body) = render::body(transcript, shown).map_err(|error| ApiError::Internal {
        detail: format!("render: {error}"),
        permanent: true,
    })?;
    Ok(([(header::CONTENT_TYPE, content_type)], body).into_response())
}

async fn finished(mut job: JobHandle, family: Family, has_extension: bool) -> Result<Transcript, ApiError> {
    while let Some(event) = job.events.recv().await {
        match event {
            Ok(JobEvent::Segments(_)) => {}
            Ok(JobEvent::Finished(transcript)) => return Ok(*transcript),
            Err(error) => return Err(ApiError::from_job(error, family, has_extension)),
        }
    }
    Err(stream::no_result())
}
