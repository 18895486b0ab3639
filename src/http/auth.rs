//! Who are you: every form in which clients show a key.

use axum::http::{HeaderMap, Method, Uri, header};

use super::dialect::{Dialect, query_value, version_is_acceptable};
use super::error::ApiError;
use super::page;
use crate::keys::{Client, Keys};

/// Paths answered without a key: what probes ask, the page (which shows nothing without one), and the description of
/// the rest.
const OPEN_PATHS: [&str; 5] = ["/", "/health", "/health/live", "/health/ready", "/openapi.json"];

/// Everything in a request that may be a key. Some clients show two, one of them wrong: any valid one will do.
pub(super) fn shown_keys(headers: &HeaderMap, uri: &Uri) -> Vec<String> {
    let text = |name: &str| {
        headers
            .get_all(name)
            .into_iter()
            .filter_map(|value| value.to_str().ok())
    };
    let mut keys: Vec<String> = text("api-key").map(|key| key.trim().to_owned()).collect();
    keys.extend(text("ocp-apim-subscription-key").map(|key| key.trim().to_owned()));
    keys.extend(
        text(header::AUTHORIZATION.as_str())
            .filter_map(bearer)
            .map(str::to_owned),
    );
    // Browsers cannot set headers on a WebSocket: they put the key into the query or the subprotocol.
    if headers.contains_key(header::UPGRADE) {
        keys.extend(query_value(uri, "api-key"));
        keys.extend(
            text(header::SEC_WEBSOCKET_PROTOCOL.as_str())
                .flat_map(|list| list.split(','))
                .filter_map(|item| item.trim().strip_prefix("openai-insecure-api-key."))
                .map(str::to_owned),
        );
    }
    keys.retain(|key| !key.is_empty());
    keys
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, key) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

fn is_open(path: &str) -> bool {
    OPEN_PATHS.contains(&path) || path.starts_with(page::FOLDER)
}

/// Who asks, or why they may not. Reads no byte of the body. `also` knows whose keys open only what is asked for.
pub(super) fn check(
    keys: &Keys,
    also: impl Fn(&str) -> Option<Client>,
    strict_version: bool,
    dialect: Dialect,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Client, ApiError> {
    let mut client = Client::Anonymous;
    if !keys.is_open() && method != Method::OPTIONS && !is_open(uri.path()) {
        let shown = shown_keys(headers, uri);
        client = match shown.iter().find_map(|key| keys.holder_of(key)) {
            Some(client) => client,
            None => match (shown.iter().find_map(|key| also(key)), shown.first()) {
                (Some(client), _) => client,
                (None, Some(key)) => return Err(ApiError::WrongKey { masked: mask(key) }),
                (None, None) => return Err(ApiError::NoKey),
            },
        };
    }
    let version = query_value(uri, "api-version");
    if dialect.is_azure() && !version_is_acceptable(dialect, version.as_deref(), strict_version) {
        return Err(ApiError::UnknownApiVersion);
    }
    Ok(client)
}

/// Enough of a key to recognise it, never enough to use it.
fn mask(key: &str) -> String {
    let letters: Vec<char> = key.chars().filter(|c| !c.is_control()).collect();
    if letters.len() < 16 {
        return "****".to_owned();
    }
    let (head, tail) = (&letters[..3], &letters[letters.len() - 4..]);
    format!(
        "{}****{}",
        head.iter().collect::<String>(),
        tail.iter().collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn allowed(pairs: &[(&'static str, &str)], uri: &str) -> bool {
        let mut config = crate::config::Config::default();
        config.server.api_keys = vec!["first-key".to_owned(), "second-key".to_owned()];
        let keys = Keys::new(&config);
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        check(
            &keys,
            |key| (key == "issued-key" && uri == "/v1/realtime").then_some(Client::Anonymous),
            false,
            Dialect::OpenAi,
            &Method::GET,
            &uri.parse().unwrap(),
            &headers,
        )
        .is_ok()
    }

    #[test]
    fn every_form_of_a_key() {
        assert!(allowed(&[("api-key", "second-key")], "/v1/models"));
        assert!(allowed(
            &[("ocp-apim-subscription-key", "second-key")],
            "/v1/models"
        ));
        assert!(allowed(&[("authorization", "Bearer first-key")], "/v1/models"));
        assert!(allowed(&[("authorization", "bearer  first-key")], "/v1/models"));
        assert!(allowed(
            &[("authorization", "Bearer wrong"), ("api-key", "first-key")],
            "/v1/models"
        ));
        assert!(allowed(
            &[("authorization", "Bearer first-key"), ("api-key", "wrong")],
            "/v1/models"
        ));
        assert!(allowed(
            &[("upgrade", "websocket")],
            "/v1/realtime?api-key=first-key"
        ));
        let protocols = "realtime, openai-insecure-api-key.second-key, openai-beta.realtime-v1";
        assert!(allowed(
            &[("upgrade", "websocket"), ("sec-websocket-protocol", protocols)],
            "/v1/realtime"
        ));
        assert!(allowed(&[("authorization", "Bearer issued-key")], "/v1/realtime"));
        assert!(allowed(&[], "/health"));
    }

    #[test]
    fn what_is_no_key() {
        assert!(!allowed(&[], "/v1/models"));
        assert!(!allowed(&[], "/v1/models?api-key=first-key"));
        assert!(!allowed(&[("authorization", "Basic first-key")], "/v1/models"));
        assert!(!allowed(&[("authorization", "first-key")], "/v1/models"));
        assert!(!allowed(&[("api-key", "first-ke")], "/v1/models"));
        assert!(!allowed(&[("api-key", "")], "/v1/models"));
    }

    #[test]
    fn keys_are_never_echoed() {
        assert_eq!(mask("sk-0oJ1Kabcdefghijklmnop-cMnE"), "sk-****cMnE");
        assert_eq!(mask("short"), "****");
        assert_eq!(mask("日本語の鍵"), "****");
    }
}
