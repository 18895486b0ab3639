//! Models and deployments: `/v1/models`, `/openai/v1/models`, `/openai/models`, `/openai/deployments`.

use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use super::dialect::{Dialect, decode};
use super::edge::RequestContext;
use super::error::ApiError;
use crate::jobs::JobRunner;
use crate::render::Family;
use crate::serving::ModelInfo;

/// Paths that list models; each has `/{id}` below it.
pub(super) const PATHS: [&str; 3] = ["/v1/models", "/openai/v1/models", "/openai/models"];

pub(super) fn routes() -> Router<AppState> {
    let router = Router::new().route("/openai/deployments", get(deployments));
    PATHS.iter().fold(router, |router, path| {
        router
            .route(path, get(list_models))
            .route(&format!("{path}/{{*id}}"), get(retrieve_model))
    })
}

/// The name every OpenAI client knows; listed where unknown names are served.
const WHISPER_1: &str = "whisper-1";
/// When OpenAI published `whisper-1`, in seconds since 1970 (recorded response).
const WHISPER_1_CREATED: i64 = 1_677_532_384;

/// `GET /v1/models` and its sisters.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    /// `list`
    pub object: &'static str,
    /// Models on this machine and names that lead to them.
    pub data: Vec<Model>,
}

/// One model. Azure's keys come only on Azure's classic routes.
#[derive(Debug, Serialize, ToSchema)]
pub struct Model {
    /// What to send as `model`, or to put into the path.
    pub id: String,
    /// `model`
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: i64,
    /// `local`
    pub owned_by: &'static str,
    /// `succeeded`
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub status: Option<&'static str>,
    /// Seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub created_at: Option<i64>,
    /// `generally-available`
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub lifecycle_status: Option<&'static str>,
    /// Empty: local models are not withdrawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub deprecation: Option<Deprecation>,
    /// What it can do.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub capabilities: Option<Capabilities>,
}

/// No dates.
#[derive(Debug, Serialize, ToSchema)]
pub struct Deprecation {}

/// Azure's list of abilities.
#[derive(Debug, Serialize, ToSchema)]
pub struct Capabilities {
    /// Never.
    pub fine_tune: bool,
    /// Always.
    pub inference: bool,
    /// Never.
    pub completion: bool,
    /// Never.
    pub chat_completion: bool,
    /// Never.
    pub embeddings: bool,
}

/// `GET /openai/deployments`
#[derive(Debug, Serialize, ToSchema)]
pub struct DeploymentList {
    /// `list`
    pub object: &'static str,
    /// Names of `[deployments]` and of the default model.
    pub data: Vec<Deployment>,
}

/// A name that leads to a model.
#[derive(Debug, Serialize, ToSchema)]
pub struct Deployment {
    /// The name.
    pub id: String,
    /// `deployment`
    pub object: &'static str,
    /// The model behind it.
    pub model: String,
    /// `organization-owner`
    pub owner: &'static str,
    /// `succeeded`
    pub status: &'static str,
    /// Seconds since 1970.
    pub created_at: i64,
    /// Seconds since 1970.
    pub updated_at: i64,
    /// Always standard.
    pub scale_settings: ScaleSettings,
}

/// How Azure would scale it.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScaleSettings {
    /// `standard`
    pub scale_type: &'static str,
}

async fn list_models(State(app): State<AppState>, Extension(context): Extension<RequestContext>) -> Response {
    list(&app, context.dialect).await
}

/// Every model that can be asked for now.
pub(super) async fn list(app: &AppState, dialect: Dialect) -> Response {
    Json(ModelList {
        object: "list",
        data: all(app, dialect).await,
    })
    .into_response()
}

/// Asks the runner on a thread that may wait: it looks into the model folder.
async fn ask<T: Default + Send + 'static>(
    app: &AppState,
    question: impl FnOnce(&dyn JobRunner) -> T + Send + 'static,
) -> T {
    let jobs = app.jobs.clone();
    tokio::task::spawn_blocking(move || question(&*jobs))
        .await
        .unwrap_or_default()
}

/// Name of the model behind a name.
pub(super) async fn lookup(app: &AppState, name: &str) -> Result<String, ApiError> {
    let (jobs, name) = (app.jobs.clone(), name.to_owned());
    let found = tokio::task::spawn_blocking(move || jobs.lookup(&name)).await;
    let found = found.map_err(|panic| ApiError::Internal {
        detail: panic.to_string(),
        permanent: false,
    })?;
    Ok(found?)
}

async fn all(app: &AppState, dialect: Dialect) -> Vec<Model> {
    let (known, lenient) = ask(app, |jobs| (jobs.models(), jobs.lookup(WHISPER_1).is_ok())).await;
    let usable = |info: &ModelInfo| info.installed || info.deployment || info.default;
    let known = known.into_iter().filter(usable);
    let mut models: Vec<Model> = known.map(|info| model(info.id, info.created, dialect)).collect();
    if lenient && !models.iter().any(|model| model.id == WHISPER_1) {
        models.push(model(WHISPER_1.to_owned(), WHISPER_1_CREATED, dialect));
    }
    models
}

fn model(id: String, created: i64, dialect: Dialect) -> Model {
    let azure = dialect == Dialect::AzureClassic;
    Model {
        id,
        object: "model",
        created,
        owned_by: "local",
        status: azure.then_some("succeeded"),
        created_at: azure.then_some(created),
        lifecycle_status: azure.then_some("generally-available"),
        deprecation: azure.then_some(Deprecation {}),
        capabilities: azure.then_some(Capabilities {
            fine_tune: false,
            inference: true,
            completion: false,
            chat_completion: false,
            embeddings: false,
        }),
    }
}

/// The id may hold slashes, raw (Python 1.109) or as `%2F`; the router decodes once.
async fn retrieve_model(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
    uri: axum::http::Uri,
) -> Result<Json<Model>, ApiError> {
    let prefix = PATHS
        .iter()
        .find(|prefix| uri.path().starts_with(&format!("{prefix}/")));
    let raw = prefix.map_or("", |prefix| &uri.path()[prefix.len() + 1..]);
    let name = decode(raw);
    let found = all(&app, context.dialect)
        .await
        .into_iter()
        .find(|model| model.id == name);
    if let Some(found) = found {
        return Ok(Json(found));
    }
    // The service's other ids are served too where unknown names are, though they are not listed.
    let service_id = Family::of(&name) != Family::Whisper;
    if service_id && lookup(&app, &name).await.is_ok() {
        return Ok(Json(model(name, WHISPER_1_CREATED, context.dialect)));
    }
    Err(ApiError::UnknownModelId { name })
}

async fn deployments(State(app): State<AppState>) -> Json<DeploymentList> {
    Json(DeploymentList {
        object: "list",
        data: all_deployments(&app).await,
    })
}

async fn all_deployments(app: &AppState) -> Vec<Deployment> {
    ask(app, |jobs| {
        let known = jobs
            .models()
            .into_iter()
            .filter(|info| info.deployment || info.default);
        let named = known.map(|info| Deployment {
            model: jobs.lookup(&info.id).unwrap_or_else(|_| info.id.clone()),
            id: info.id,
            object: "deployment",
            owner: "organization-owner",
            status: "succeeded",
            created_at: info.created,
            updated_at: info.created,
            scale_settings: ScaleSettings {
                scale_type: "standard",
            },
        });
        named.collect()
    })
    .await
}

/// `GET /openai/deployments/{id}`
pub(super) async fn deployment(app: &AppState, name: &str) -> Result<Response, ApiError> {
    match all_deployments(app)
        .await
        .into_iter()
        .find(|deployment| deployment.id == name)
    {
        Some(found) => Ok(Json(found).into_response()),
        None => Err(ApiError::UnknownModel {
            name: name.to_owned(),
        }),
    }
}
