//! Keys with names and limits, as clients meet them.

use axum::body::Body;
use axum::http::Request;
use serde_json::json;
use whisper_backend_api::config::KeyConfig;
use whisper_backend_api::keys::digest_of;

use crate::support::*;

const PATHS: [&str; 3] = [
    "/openai/deployments/small/audio/transcriptions?api-version=2024-02-01",
    "/openai/v1/audio/transcriptions",
    "/v1/audio/transcriptions",
];

fn limited(change: impl Fn(&mut KeyConfig)) -> Server {
    server(Scripted::default(), |config| {
        for name in ["first", "second"] {
            let mut key = KeyConfig {
                name: name.to_owned(),
                sha256: digest_of(&format!("{name} secret")),
                ..KeyConfig::default()
            };
            change(&mut key);
            config.keys.push(key);
        }
    })
}

fn with_key(mut request: Request<Body>, key: &str) -> Request<Body> {
    request.headers_mut().insert("api-key", key.parse().unwrap());
    request
}

#[tokio::test]
async fn requests_beyond_a_keys_minute_are_told_when_to_come_back_and_others_are_served() {
    for path in PATHS {
        let server = limited(|key| key.requests_per_minute = Some(2));
        let ask = |key: &'static str| with_key(upload(path, &[("model", "small")]), key);
        for left in ["1", "0"] {
            let reply = server.send(ask("first secret")).await;
            assert_eq!(reply.status, 200, "{path}: {}", reply.body);
            assert_eq!(reply.header("x-ratelimit-limit-requests"), "2");
            assert_eq!(reply.header("x-ratelimit-remaining-requests"), left);
            assert!(reply.header("x-ratelimit-reset-requests").ends_with('s'));
        }
        let reply = server.send(ask("first secret")).await;
        let azure = path.starts_with("/openai");
        let code = if azure { "429" } else { "rate_limit_exceeded" };
        assert_eq!(
            reply.error(),
            (429, json!("requests"), json!(null), json!(code)),
            "{path}"
        );
        assert!(
            reply.message().contains("requests_per_minute"),
            "{}",
            reply.message()
        );
        let wait: u64 = reply.header("retry-after-ms").parse().unwrap();
        assert!(
            (25_000..=30_000).contains(&wait),
            "half a minute brings one back: {wait}"
        );
        assert_eq!(reply.header("retry-after"), "30");
        assert_eq!(reply.header("x-ratelimit-remaining-requests"), "0");
        assert_eq!(server.send(ask("second secret")).await.status, 200);
        // Lists cost nothing.
        let list = with_key(
            Request::get("/v1/models").body(Body::empty()).unwrap(),
            "first secret",
        );
        assert_eq!(server.send(list).await.status, 200);
    }
}

#[tokio::test]
async fn a_key_opens_the_models_of_its_list_alone() {
    let server = limited(|key| key.models = vec!["small".to_owned()]);
    for (path, model, status) in [
        (PATHS[0], "ignored", 200),
        ("/openai/deployments/large/audio/transcriptions", "small", 404),
        (PATHS[2], "small", 200),
        (PATHS[2], "large", 404),
    ] {
        let request = with_key(upload(path, &[("model", model)]), "first secret");
        let reply = server.send(request).await;
        assert_eq!(reply.status, status, "{path} {model}: {}", reply.body);
    }
}

#[tokio::test]
async fn a_wrong_key_is_none_and_a_server_with_named_keys_is_not_open() {
    let server = limited(|_| {});
    assert_eq!(server.post(PATHS[2], &[("model", "small")]).await.status, 401);
    // What stands in the settings is no key.
    let digest = digest_of("first secret");
    let reply = server
        .send(with_key(upload(PATHS[2], &[("model", "small")]), &digest))
        .await;
    assert_eq!(reply.status, 401);
    let reply = server
        .send(with_key(upload(PATHS[2], &[("model", "small")]), "first secret"))
        .await;
    assert_eq!(
        (reply.status.as_u16(), reply.header("x-ratelimit-limit-requests")),
        (200, "")
    );
}
