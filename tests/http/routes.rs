//! Which paths are served, to whom, and what is listed.

use axum::body::Body;
use axum::http::Request;
use serde_json::json;
use whisper_backend_api::transcript::Task;

use crate::support::*;

#[tokio::test]
async fn every_route_and_alias_takes_a_recording() {
    for path in [
        A,
        B,
        C,
        "/openai/deployments/my-whisper/audio/translations?api-version=2024-10-21",
        "/openai/v1/audio/translations?api-version=preview",
        "/v1/audio/translations",
        "//openai/deployments/my-whisper/audio/transcriptions?api-version=2023-12-01-preview",
        "//v1//audio/transcriptions",
        "/openai/audio/transcriptions",
        "/openai/v1/audio/transcriptions?api-version=v1",
        "/openai/deployments/my-whisper/audio/transcriptions",
        "/v1/audio/transcriptions/",
    ] {
        let reply = plain().post(path, &[MODEL]).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
        assert_eq!(reply.json()["text"], "Hello, world!", "{path}");
    }
}

#[tokio::test]
async fn the_path_names_the_deployment_whatever_the_form_says() {
    for (path, expected) in [
        (
            "/openai/deployments/my%20dep/%C3%A9/audio/transcriptions",
            "my dep/é",
        ),
        (
            "/openai/deployments/Systran%2Ffaster-whisper-small/audio/transcriptions",
            "Systran/faster-whisper-small",
        ),
        ("/openai/deployments/whisper/audio/transcriptions", "whisper"),
    ] {
        let server = plain();
        assert_eq!(server.post(path, &[("model", "other")]).await.status, 200);
        assert_eq!(server.post(path, &[]).await.status, 200, "without a model field");
        assert_eq!(*server.jobs.asked.lock().unwrap(), [expected, expected]);
    }
}

#[tokio::test]
async fn translations_ask_for_a_translation() {
    let server = plain();
    let fields = [
        MODEL,
        ("response_format", "verbose_json"),
        ("timestamp_granularities[]", "word"),
    ];
    let reply = server.post("/v1/audio/translations", &fields).await;
    let body = reply.json();
    assert_eq!(server.jobs.seen.lock().unwrap()[0].0.task, Task::Translate);
    assert_eq!(
        (body["language"].as_str(), body.get("words"), body.get("usage")),
        (Some("english"), None, None)
    );
    assert_eq!(body["segments"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_json_in_their_dialect() {
    let server = plain();
    for (method, path, status, code) in [
        ("GET", "/openai/nothing", 404, json!("404")),
        ("POST", "/openai/v1/nothing", 404, json!("404")),
        ("GET", "/v1/nothing", 404, json!(null)),
        ("GET", C, 405, json!("method_not_allowed")),
        ("DELETE", A, 405, json!("405")),
        ("POST", "/v1/models", 405, json!("method_not_allowed")),
        ("POST", "/openai/deployments/my-whisper", 405, json!("405")),
        (
            "POST",
            "/openai/deployments/d/chat/completions",
            400,
            json!("OperationNotSupported"),
        ),
    ] {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(Body::from("text"))
            .unwrap();
        let reply = server.send(request).await;
        let (found, kind, _, found_code) = reply.error();
        assert_eq!(
            (found, kind, found_code),
            (status, json!("invalid_request_error"), code),
            "{method} {path}"
        );
        assert_eq!(
            status == 405,
            !reply.header("allow").is_empty(),
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn a_panic_is_an_answer() {
    let reply = plain()
        .post("/openai/deployments/panic/audio/transcriptions", &[])
        .await;
    assert_eq!(
        reply.error(),
        (
            500,
            json!("server_error"),
            json!(null),
            json!("InternalServerError")
        )
    );
    assert!(!reply.body.contains("scripted"));
}

#[tokio::test]
async fn api_versions_lenient_and_strict() {
    let strict = server(Scripted::default(), |config| {
        config.server.strict_api_version = true;
    });
    for (path, lenient_status, strict_status, code) in [
        (A, 200, 200, ""),
        ("/openai/deployments/d/audio/transcriptions", 200, 404, "404"),
        (
            "/openai/deployments/d/audio/transcriptions?api-version=2099-01-01",
            200,
            404,
            "404",
        ),
        (
            "/openai/deployments/d/audio/transcriptions?api-version=soon",
            404,
            404,
            "404",
        ),
        (
            "/openai/v1/audio/transcriptions?api-version=2024-10-21",
            200,
            400,
            "BadRequest",
        ),
        (
            "/openai/v1/audio/transcriptions?api-version=soon",
            400,
            400,
            "BadRequest",
        ),
        ("/v1/audio/transcriptions?api-version=soon", 200, 200, ""),
    ] {
        for (server, status) in [(&plain(), lenient_status), (&strict, strict_status)] {
            let reply = server.post(path, &[MODEL]).await;
            assert_eq!(reply.status.as_u16(), status, "{path}");
            if status != 200 {
                assert_eq!(reply.error().3, code, "{path}");
            }
        }
    }
}

#[tokio::test]
async fn keys_in_every_form_on_every_dialect() {
    let server = locked();
    for path in [A, B, C] {
        for headers in [
            vec![("api-key", "secret-key")],
            vec![("API-Key", "secret-key")],
            vec![("authorization", "Bearer secret-key")],
            vec![("authorization", "BEARER secret-key"), ("api-key", "stale")],
            vec![("authorization", "Bearer stale"), ("api-key", "secret-key")],
        ] {
            let mut request = upload(path, &[MODEL]);
            for (name, value) in &headers {
                let name: axum::http::HeaderName = name.parse().unwrap();
                request.headers_mut().insert(name, value.parse().unwrap());
            }
            assert_eq!(server.send(request).await.status, 200, "{path} {headers:?}");
        }
    }
}

#[tokio::test]
async fn refusals_of_keys_in_each_dialect() {
    let server = locked();
    let wrong = "sk-0oJ1Kabcdefghijklmnop-cMnE";
    for (path, key, code, start) in [
        (
            A,
            Some(wrong),
            json!("401"),
            "Access denied due to invalid subscription key",
        ),
        (
            A,
            None,
            json!("401"),
            "Access denied due to invalid subscription key",
        ),
        (
            B,
            Some(wrong),
            json!("401"),
            "Access denied due to invalid subscription key",
        ),
        (
            C,
            Some(wrong),
            json!("invalid_api_key"),
            "Incorrect API key provided: sk-****cMnE.",
        ),
        (C, None, json!(null), "You didn't provide an API key."),
        ("/v1/models", None, json!(null), "You didn't provide an API key."),
        ("/v1/nothing", None, json!(null), "You didn't provide an API key."),
    ] {
        let mut request = upload(path, &[MODEL]);
        if let Some(key) = key {
            request
                .headers_mut()
                .insert("authorization", format!("Bearer {key}").parse().unwrap());
        }
        let reply = server.send(request).await;
        assert_eq!(
            reply.error(),
            (401, json!("invalid_request_error"), json!(null), code),
            "{path}"
        );
        assert!(reply.message().starts_with(start), "{}", reply.message());
        assert!(!reply.body.contains(wrong) && !reply.body.contains("secret-key"));
        assert_eq!(reply.header("x-should-retry"), "false");
    }
    assert!(server.jobs.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn without_configured_keys_any_or_none_will_do() {
    let mut request = upload(C, &[MODEL]);
    request
        .headers_mut()
        .insert("authorization", "Bearer whatever".parse().unwrap());
    assert_eq!(plain().send(request).await.status, 200);
    assert_eq!(plain().post(C, &[MODEL]).await.status, 200);
}

#[tokio::test]
async fn models_in_every_dialect() {
    let server = plain();
    for (path, azure) in [
        ("/v1/models", false),
        ("/openai/v1/models", false),
        ("/openai/models?api-version=2024-10-21", true),
        (
            "/openai/deployments/my-whisper/models?api-version=2024-10-21",
            true,
        ),
        ("//openai/models?api-version=2024-10-21", true),
    ] {
        let body = server.get(path).await.json();
        assert_eq!(body["object"], "list");
        let ids: Vec<&str> = body["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|model| model["id"].as_str().unwrap())
            .collect();
        assert_eq!(
            ids,
            ["base", "my-whisper", "Systran/faster-whisper-small", "whisper-1"],
            "{path}"
        );
        let first = &body["data"][0];
        assert_eq!(
            (&first["object"], &first["created"]),
            (&json!("model"), &json!(1_700_000_000))
        );
        assert!(first["owned_by"].is_string());
        assert_eq!(first.get("created_at").is_some(), azure);
        assert_eq!(first.get("capabilities").is_some(), azure);
    }
    for path in [
        "/v1/models/base",
        "/openai/v1/models/my-whisper",
        "/openai/models/whisper-1?api-version=2024-10-21",
        "/v1/models/Systran/faster-whisper-small",
        "/v1/models/Systran%2Ffaster-whisper-small",
        "/v1/models/gpt-4o-transcribe",
    ] {
        let reply = server.get(path).await;
        assert_eq!(
            (reply.status.as_u16(), &reply.json()["object"]),
            (200, &json!("model")),
            "{path}"
        );
    }
    for path in ["/v1/models/fake_id", "/openai/v1/models/fake_id"] {
        let reply = server.get(path).await;
        let expected = (
            404,
            json!("invalid_request_error"),
            json!("model"),
            json!("model_not_found"),
        );
        assert_eq!(reply.error(), expected);
        assert_eq!(reply.message(), "The model 'fake_id' does not exist");
    }
}

#[tokio::test]
async fn deployments() {
    let server = plain();
    let body = server
        .get("/openai/deployments?api-version=2022-12-01")
        .await
        .json();
    let deployment = &body["data"][1];
    assert_eq!(
        (&deployment["id"], &deployment["model"]),
        (&json!("my-whisper"), &json!("base"))
    );
    assert_eq!(
        (&deployment["object"], &deployment["status"]),
        (&json!("deployment"), &json!("succeeded"))
    );
    let body = server
        .get("/openai/deployments/my-whisper?api-version=2022-12-01")
        .await
        .json();
    assert_eq!(body["id"], "my-whisper");
    let reply = server
        .get("/openai/deployments/none?api-version=2022-12-01")
        .await;
    assert_eq!(reply.error().3, "DeploymentNotFound");
}

#[tokio::test]
async fn the_description_is_served_without_a_key() {
    let reply = locked().get("/openapi.json").await;
    let body = reply.json();
    assert_eq!(body["openapi"], "3.1.0");
    assert!(body["paths"]["/openai/deployments/{deployment}/audio/transcriptions"]["post"].is_object());
}

#[tokio::test]
async fn every_path_described_is_served() {
    let server = plain();
    let api = server.get("/openapi.json").await.json();
    let mut answered = 0;
    for (path, item) in api["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            // Diagnostics are the application's routes, not this router's; Azure Speech has a form of its own (`speech`), and
            // sessions need somebody who listens (`realtime`).
            let tag = &operation["tags"][0];
            if tag == "diagnostics" || tag == "realtime" || path.starts_with("/speechtotext/") {
                continue;
            }
            let filled = path.replace("{deployment}", "my-whisper").replace("{id}", "base");
            let mut request = upload(&filled, &[MODEL]);
            *request.method_mut() = method.to_uppercase().parse().unwrap();
            assert_eq!(server.send(request).await.status, 200, "{method} {path}");
            answered += 1;
        }
    }
    assert!(answered >= 17, "{answered}");
}

#[tokio::test]
async fn browsers_may_call_from_the_origins_that_are_named() {
    let preflight = || {
        Request::options(A)
            .header("origin", "https://app.example")
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "api-key,authorization,content-type,x-stainless-lang",
            )
            .body(Body::empty())
            .unwrap()
    };
    // As shipped: no page of another origin may call.
    let reply = server(Scripted::default(), |_| {}).send(preflight()).await;
    assert_eq!(reply.header("access-control-allow-origin"), "");

    let all = || {
        server(Scripted::default(), |config| {
            config.server.cors_origins = vec!["*".to_owned()];
            config.server.api_keys = vec!["a-key".to_owned()];
        })
    };
    let reply = all().send(preflight()).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("access-control-allow-origin"), "*");
    let allowed = reply.header("access-control-allow-headers");
    for name in ["api-key", "authorization", "content-type", "x-stainless-lang"] {
        assert!(allowed.contains(name), "{name} not in {allowed}");
    }
    let mut request = upload(A, &[]);
    request
        .headers_mut()
        .insert("origin", "https://app.example".parse().unwrap());
    let reply = all().send(request).await;
    assert_eq!(
        (reply.status.as_u16(), reply.header("access-control-allow-origin")),
        (401, "*")
    );
    assert!(
        reply
            .header("access-control-expose-headers")
            .contains("x-request-id")
    );

    let one = server(Scripted::default(), |config| {
        config.server.cors_origins = vec!["https://a.example".to_owned()];
    });
    assert_eq!(
        one.send(preflight()).await.header("access-control-allow-origin"),
        ""
    );
}

#[tokio::test]
async fn the_page_needs_no_key_and_takes_nothing_from_elsewhere() {
    let server = locked();
    let reply = server.get("/").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), "text/html; charset=utf-8");
    let policy = reply.header("content-security-policy");
    assert!(
        policy.starts_with("default-src 'none';") && !policy.contains("unsafe"),
        "{policy}"
    );
    assert_eq!(reply.header("x-content-type-options"), "nosniff");
    let document = &reply.body;
    assert!(!document.contains("://"), "{document}");
    assert_eq!(server.get("/page/style.css").await.status, 200);
    assert_eq!(server.get("/page/nothing.js").await.status, 404);
    // What the page shows is behind the key.
    assert_eq!(server.get("/v1/models").await.status, 401);
    let none = self::server(Scripted::default(), |config| config.server.page = false);
    assert_eq!(none.get("/").await.status, 404);
    assert_eq!(none.get("/page/style.css").await.status, 404);
}
