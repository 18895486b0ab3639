//! `/openapi.json`: an OpenAPI 3.1 description made from the types and path lists that the routes use.

mod forms;

use axum::routing::get;
use axum::{Json, Router};
use utoipa::OpenApi as _;
use utoipa::openapi::path::{
    HttpMethod, Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{AnyOfBuilder, ObjectBuilder, SchemaType, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{
    ContentBuilder, HeaderBuilder, OpenApi, Ref, RefOr, Required, Response, ResponseBuilder, Schema,
};

use forms::{FastTranscriptionForm, TranscriptionForm};

use super::error::ErrorBody;
use super::fast_transcription::{self, SpeechError};
use super::{AppState, health, models, realtime, stats, transcriptions};
use crate::render::{FastTranscriptionResult, StreamEvent, Transcription, VerboseTranscription};
use crate::transcript::Task;

pub(super) fn routes() -> Router<AppState> {
    Router::new().route("/openapi.json", get(|| async { Json(document()) }))
}

/// Schemas only; paths are added from the route tables.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "WhisperBackendAPI",
        description = "Speech to text on this computer, in the dialects of Azure OpenAI (classic and v1) and OpenAI."
    ),
    components(schemas(
        TranscriptionForm,
        FastTranscriptionForm,
        FastTranscriptionResult,
        SpeechError,
        Transcription,
        VerboseTranscription,
        StreamEvent,
        ErrorBody,
        models::ModelList,
        models::Model,
        models::DeploymentList,
        models::Deployment,
        health::Health,
        health::Liveness,
        health::Readiness,
        stats::Stats,
        realtime::ClientSecretRequest,
        realtime::ExpiresAfter,
        realtime::ClientSecret
    ))
)]
struct Schemas;

/// The form where the path names no deployment: `model` is required.
const NAMED_FORM: &str = "NamedTranscriptionForm";

/// The whole description.
pub fn document() -> OpenApi {
    let mut api = Schemas::openapi();
    if let Some(components) = api.components.as_mut() {
        if let Some(RefOr::T(Schema::Object(form))) = components.schemas.get("TranscriptionForm") {
            let mut named = form.clone();
            named.required.push("model".to_owned());
            components
                .schemas
                .insert(NAMED_FORM.to_owned(), RefOr::T(Schema::Object(named)));
        }
        components.add_security_scheme(
            "api-key",
            SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("api-key"))),
        );
        components.add_security_scheme(
            "bearer",
            SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build()),
        );
    }
    let mut add = |path: &str, method: HttpMethod, operation: Operation| {
        api.paths.add_path_operation(path, vec![method], operation);
    };
    for (path, task) in transcriptions::PATHS {
        add(path, HttpMethod::Post, recording(path, task, false));
    }
    for (path, task) in [
        (
            "/openai/deployments/{deployment}/audio/transcriptions",
            Task::Transcribe,
        ),
        (
            "/openai/deployments/{deployment}/audio/translations",
            Task::Translate,
        ),
    ] {
        add(path, HttpMethod::Post, recording(path, task, true));
    }
    add(fast_transcription::PATH, HttpMethod::Post, fast());
    for path in realtime::SECRET_PATHS {
        add(path, HttpMethod::Post, secret(path));
    }
    for path in models::PATHS {
        add(
            path,
            HttpMethod::Get,
            reading(path, "List models", "ModelList", &[]),
        );
        let one = format!("{path}/{{id}}");
        add(
            &one,
            HttpMethod::Get,
            reading(&one, "Describe one model", "Model", &["id"]),
        );
    }
    let deployments = "/openai/deployments";
    add(
        deployments,
        HttpMethod::Get,
        reading(deployments, "List deployments", "DeploymentList", &[]),
    );
    let one = "/openai/deployments/{deployment}";
    add(
        one,
        HttpMethod::Get,
        reading(one, "Describe one deployment", "Deployment", &["deployment"]),
    );
    for (path, summary, schema, unavailable) in DIAGNOSTICS {
        let operation = diagnostic(path, summary, schema, unavailable);
        add(path, HttpMethod::Get, operation);
    }
    let alias = "/openai/deployments/{deployment}/models";
    add(
        alias,
        HttpMethod::Get,
        reading(alias, "List models", "ModelList", &["deployment"]),
    );
    api
}

fn text(name: &str, place: ParameterIn) -> Parameter {
    let required = if place == ParameterIn::Path {
        Required::True
    } else {
        Required::False
    };
    let schema = ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::String))
        .min_length(Some(1));
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(required)
        .schema(Some(schema))
        .build()
}

fn api_version() -> Parameter {
    let schema = ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::String))
        .pattern(Some(r"^(\d{4}-\d{2}-\d{2}(-preview)?|v1|preview|latest)$"));
    ParameterBuilder::new()
        .name("api-version")
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .schema(Some(schema))
        .build()
}

/// What every route has: an id, parameters, keys, errors.
fn operation(path: &str, method: &str, summary: &str, path_parameters: &[&str]) -> OperationBuilder {
    let id: Vec<&str> = path
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|s| !s.is_empty())
        .collect();
    let mut operation = OperationBuilder::new()
        .operation_id(Some(format!("{method}_{}", id.join("_"))))
        .summary(Some(summary))
        .securities(Some([
            SecurityRequirement::default(),
            SecurityRequirement::new::<_, [&str; 0], &str>("api-key", []),
            SecurityRequirement::new::<_, [&str; 0], &str>("bearer", []),
        ]));
    for name in path_parameters {
        operation = operation.parameter(text(name, ParameterIn::Path));
    }
    if path.starts_with("/openai") || path.starts_with("/speechtotext") {
        operation = operation.parameter(api_version());
    }
    for (status, description) in [
        (
            "400",
            "A field or the recording is wrong, or the `api-version` is unknown",
        ),
        ("401", "No key, or a wrong one"),
        ("404", "Unknown path, `api-version`, deployment or model"),
        ("405", "Another method is meant"),
        ("500", "The server failed"),
    ] {
        operation = operation.response(status, error(description));
    }
    operation
}

fn error(description: &str) -> Response {
    ResponseBuilder::new()
        .description(description)
        .header("x-request-id", HeaderBuilder::new().build())
        .content(
            "application/json",
            ContentBuilder::new()
                .schema(Some(schema_ref("ErrorBody")))
                .build(),
        )
        .build()
}

fn schema_ref(name: &str) -> RefOr<Schema> {
    RefOr::Ref(Ref::from_schema_name(name))
}

fn reading(path: &str, summary: &str, schema: &str, path_parameters: &[&str]) -> Operation {
    let found = ResponseBuilder::new().description("Found").content(
        "application/json",
        ContentBuilder::new().schema(Some(schema_ref(schema))).build(),
    );
    operation(path, "get", summary, path_parameters)
        .tag("models")
        .response("200", found.build())
        .build()
}

/// What the server says of itself: path, summary, schema, and whether it may be 503. A body without a schema grows with
/// the server; only its kind is promised.
const DIAGNOSTICS: [(&str, &str, Option<&str>, bool); 7] = [
    (
        "/health",
        "Whether requests can be served now",
        Some("Health"),
        true,
    ),
    (
        "/health/live",
        "Whether the program answers",
        Some("Liveness"),
        false,
    ),
    (
        "/health/ready",
        "Whether to send requests here",
        Some("Readiness"),
        true,
    ),
    ("/gpu-status", "Which device runs the model, and why", None, false),
    (
        "/stats",
        "Counters and times since the start",
        Some("Stats"),
        false,
    ),
    ("/models", "Every model of the catalogue and on disk", None, false),
    ("/languages", "Languages the models know", None, false),
];

fn diagnostic(path: &str, summary: &str, schema: Option<&str>, unavailable: bool) -> Operation {
    let schema = schema.map_or_else(
        || {
            let object = ObjectBuilder::new().schema_type(SchemaType::new(Type::Object));
            RefOr::T(object.build().into())
        },
        schema_ref,
    );
    let body = |description: &str| {
        ResponseBuilder::new()
            .description(description)
            .content(
                "application/json",
                ContentBuilder::new().schema(Some(schema.clone())).build(),
            )
            .build()
    };
    let mut operation = operation(path, "get", summary, &[])
        .tag("diagnostics")
        .response("200", body("A report"));
    if unavailable {
        operation = operation.response("503", body("Not now; the report says why"));
    }
    operation.build()
}

fn recording(path: &str, task: Task, deployment: bool) -> Operation {
    let (summary, tag) = match task {
        Task::Transcribe => (
            "Write down what is said, in the language spoken",
            "transcriptions",
        ),
        Task::Translate => ("Write down what is said, in English", "translations"),
    };
    let plain = || {
        ObjectBuilder::new()
            .schema_type(SchemaType::new(Type::String))
            .build()
    };
    let either = AnyOfBuilder::new()
        .item(schema_ref("Transcription"))
        .item(schema_ref("VerboseTranscription"));
    // What a reader of server-sent events gets of each; `data` holds a `StreamEvent`, at last `[DONE]`.
    let event = ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::Object))
        .property("data", plain());
    let event = event.required("data").build();
    let done = ResponseBuilder::new()
        .description("The transcript, in the form that `response_format` and `stream` ask for")
        .header("x-request-id", HeaderBuilder::new().build())
        .content(
            "application/json",
            ContentBuilder::new()
                .schema(Some(Schema::AnyOf(either.build())))
                .build(),
        )
        .content("text/plain", ContentBuilder::new().schema(Some(plain())).build())
        .content(
            "text/event-stream",
            ContentBuilder::new().schema(Some(event)).build(),
        );
    let form = if deployment {
        "TranscriptionForm"
    } else {
        NAMED_FORM
    };
    let form = ContentBuilder::new().schema(Some(schema_ref(form))).build();
    let body = RequestBodyBuilder::new()
        .content("multipart/form-data", form)
        .required(Some(Required::True))
        .build();
    let parameters: &[&str] = if deployment { &["deployment"] } else { &[] };
    let mut operation = operation(path, "post", summary, parameters)
        .tag(tag)
        .request_body(Some(body))
        .response("200", done.build());
    for (status, description) in [
        ("408", "The body stopped coming"),
        ("413", "The body is too large"),
        ("415", "The body is no multipart form"),
        (
            "429",
            "Every place is taken; `retry-after` says when to come back",
        ),
        ("503", "No model can be had now"),
    ] {
        operation = operation.response(status, error(description));
    }
    let mut operation = operation.build();
    if path.starts_with("/openai/audio/") {
        operation.description = Some("An alias that @ai-sdk/azure asks for.".to_owned());
    }
    operation
}

/// A short-lived key for live sessions. The sessions themselves are WebSockets, which OpenAPI has no words for.
fn secret(path: &str) -> Operation {
    let content = |name| ContentBuilder::new().schema(Some(schema_ref(name))).build();
    let body = RequestBodyBuilder::new()
        .content("application/json", content("ClientSecretRequest"))
        .build();
    let done = ResponseBuilder::new()
        .description("The key")
        .header("x-request-id", HeaderBuilder::new().build())
        .content("application/json", content("ClientSecret"));
    operation(path, "post", "Issue a short-lived key for live sessions", &[])
        .tag("realtime")
        .request_body(Some(body))
        .response("200", done.build())
        .response("408", error("The body stopped coming"))
        .response("413", error("The body is too large"))
        .build()
}

/// Azure's fast transcription.
fn fast() -> Operation {
    let content = |name| ContentBuilder::new().schema(Some(schema_ref(name))).build();
    let done = ResponseBuilder::new()
        .description("The transcript")
        .header("x-request-id", HeaderBuilder::new().build())
        .content("application/json", content("FastTranscriptionResult"));
    let body = RequestBodyBuilder::new()
        .content("multipart/form-data", content("FastTranscriptionForm"))
        .required(Some(Required::True))
        .build();
    let either = AnyOfBuilder::new()
        .item(schema_ref("ErrorBody"))
        .item(schema_ref("SpeechError"));
    let either = RefOr::T(Schema::AnyOf(either.build()));
    let mut operation = operation(
        fast_transcription::PATH,
        "post",
        "Azure Speech's fast transcription",
        &[],
    )
    .tag("transcriptions")
    .request_body(Some(body))
    .response("200", done.build());
    // The gateway's errors have one shape, the service's another.
    for (status, description) in [
        ("400", "A field or the recording is wrong"),
        ("404", "Unknown `api-version`"),
        ("408", "The body stopped coming"),
        ("413", "The body is too large"),
        ("415", "The body is no multipart form"),
        (
            "429",
            "Every place is taken; `retry-after` says when to come back",
        ),
        ("500", "The server failed"),
        ("503", "No model can be had now"),
    ] {
        let content = ContentBuilder::new().schema(Some(either.clone())).build();
        let answer = ResponseBuilder::new()
            .description(description)
            .header("x-request-id", HeaderBuilder::new().build())
            .content("application/json", content);
        operation = operation.response(status, answer.build());
    }
    operation.build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::fields::{KNOWN, REFUSED};

    #[test]
    fn the_form_described_is_the_form_read() {
        let api = serde_json::to_value(document()).unwrap();
        let described = api["components"]["schemas"]["TranscriptionForm"]["properties"]
            .as_object()
            .unwrap();
        let mut described: Vec<&str> = described
            .keys()
            .map(|name| name.trim_end_matches("[]"))
            .filter(|name| *name != "file")
            .collect();
        let mut read: Vec<&str> = KNOWN
            .iter()
            .map(|known| known.name)
            .filter(|name| *name != "definition")
            .chain(REFUSED)
            .collect();
        described.sort_unstable();
        read.sort_unstable();
        assert_eq!(described, read);
    }

    #[test]
    fn it_is_openapi_3_1_and_its_references_resolve() {
        let api = serde_json::to_value(document()).unwrap();
        assert_eq!(api["openapi"], "3.1.0");
        let text = api.to_string();
        for reference in text.split("\"$ref\":\"").skip(1) {
            let target = reference.split('"').next().unwrap().trim_start_matches('#');
            assert!(api.pointer(target).is_some(), "{target}");
        }
    }
}
