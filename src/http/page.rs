//! `GET /`: the page for people, and its files below `/page/`. Everything it asks of the server are the public routes.

use std::io::Write as _;

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use rust_embed::RustEmbed;

use super::AppState;

/// Where the files are; answered without a key, as they hold nothing of the server's.
pub(super) const FOLDER: &str = "/page/";

/// The files of `page/`, from the binary in release builds and from the disk in debug builds.
#[derive(RustEmbed)]
#[folder = "page/"]
struct Files;

/// Nothing from elsewhere, nothing inline, no frame round it. `blob:` is the recording that the page plays.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self' blob:; \
                      connect-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

pub(super) fn routes(enabled: bool) -> Router<AppState> {
    if !enabled {
        return Router::new();
    }
    Router::new()
        .route("/", get(|headers: HeaderMap| async move { index(&headers) }))
        .route(
            "/page/{*path}",
            get(|Path(path): Path<String>, headers: HeaderMap| async move { file(&path, &headers) }),
        )
}

/// The document says its language before any script runs.
fn index(headers: &HeaderMap) -> Response {
    let Some(file) = Files::get("index.html") else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let language = preferred_language(headers);
    let tag = format!("W/\"{}-{language}\"", digest(&file));
    let text =
        String::from_utf8_lossy(&file.data).replacen("lang=\"en\"", &format!("lang=\"{language}\""), 1);
    respond(headers, &tag, "text/html; charset=utf-8", text.into_bytes())
}

fn file(path: &str, headers: &HeaderMap) -> Response {
    let kind = path
        .rsplit_once('.')
        .and_then(|(_, extension)| content_type(extension));
    let (Some(kind), Some(file)) = (kind, Files::get(path)) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let tag = format!("W/\"{}\"", digest(&file));
    respond(headers, &tag, kind, file.data.into_owned())
}

fn content_type(extension: &str) -> Option<&'static str> {
    Some(match extension {
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "svg" => "image/svg+xml",
        "webmanifest" => "application/manifest+json",
        _ => return None,
    })
}

/// Enough of the content's SHA-256 to tell two versions apart.
fn digest(file: &rust_embed::EmbeddedFile) -> String {
    hex::encode(&file.metadata.sha256_hash()[..12])
}

/// A third of the bytes, for browsers on a slow network.
fn packed(body: &[u8]) -> Option<Vec<u8>> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(body).ok()?;
    packer.finish().ok()
}

fn takes_gzip(request: &HeaderMap) -> bool {
    let values = request.get_all(header::ACCEPT_ENCODING);
    let mut items = values
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','));
    items.any(|item| item.trim().eq_ignore_ascii_case("gzip"))
}

/// `tag` is weak: it names the content, however it is packed.
fn respond(request: &HeaderMap, tag: &str, kind: &'static str, body: Vec<u8>) -> Response {
    let known = request.get_all(header::IF_NONE_MATCH).iter().any(|value| {
        let tags = value.to_str().unwrap_or_default().split(',');
        tags.map(str::trim).any(|known| known == tag)
    });
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else if let Some(packed) = takes_gzip(request).then(|| packed(&body)).flatten() {
        let headers = [(header::CONTENT_TYPE, kind), (header::CONTENT_ENCODING, "gzip")];
        (headers, packed).into_response()
    } else {
        ([(header::CONTENT_TYPE, kind)], body).into_response()
    };
    let headers = response.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, tag);
    }
    for (name, value) in [
        // Kept, but asked for each time: a new binary is a new page at once.
        (header::CACHE_CONTROL, "no-cache"),
        (header::VARY, "accept-encoding, accept-language"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("permissions-policy"),
            "microphone=(self), camera=(), geolocation=()",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Which of the page's two languages `Accept-Language` (RFC 9110, 12.5.4) puts first.
fn preferred_language(headers: &HeaderMap) -> &'static str {
    let (mut best, mut language) = (0.0, "en");
    let values = headers.get_all(header::ACCEPT_LANGUAGE);
    for item in values
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
    {
        let mut parts = item.split(';').map(str::trim);
        let tag = parts.next().unwrap_or_default().to_ascii_lowercase();
        let weight = parts.find_map(|part| part.strip_prefix("q="));
        let weight: f32 = weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
        let known = match tag.split('-').next() {
            Some("ja") => "ja",
            Some("en") => "en",
            _ => continue,
        };
        if weight > best {
            (best, language) = (weight, known);
        }
    }
    language
}

#[cfg(test)]
mod tests {
    use super::*;

    fn language(header: &str) -> &'static str {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_LANGUAGE, HeaderValue::from_str(header).unwrap());
        preferred_language(&headers)
    }

    #[test]
    fn the_language_that_the_browser_prefers() {
        assert_eq!(language("ja,en-US;q=0.9,en;q=0.8"), "ja");
        assert_eq!(language("en-GB, ja;q=0.9"), "en");
        assert_eq!(language("fr, ja;q=0.4, en;q=0.6"), "en");
        assert_eq!(language("de-DE, ja-JP;q=0.1"), "ja");
        assert_eq!(language("de"), "en");
        assert_eq!(language("ja;q=nonsense"), "en");
        assert_eq!(preferred_language(&HeaderMap::new()), "en");
    }

    #[test]
    fn every_file_of_the_page_has_a_content_type_and_all_are_small() {
        let mut bytes = 0;
        for path in Files::iter().filter(|path| path != "index.html" && !path.ends_with(".LICENSE")) {
            let response = file(&path, &HeaderMap::new());
            assert_eq!(response.status(), StatusCode::OK, "{path}");
            bytes += Files::get(&path).unwrap().data.len();
        }
        bytes += Files::get("index.html").unwrap().data.len();
        assert!(bytes < 150_000, "the page has {bytes} bytes");
        assert_eq!(
            file("../Cargo.toml", &HeaderMap::new()).status(),
            StatusCode::NOT_FOUND
        );
        assert_eq!(
            file("vendor/preact.LICENSE", &HeaderMap::new()).status(),
            StatusCode::NOT_FOUND
        );
    }

    #[test]
    fn a_page_that_the_browser_has_is_not_sent_again() {
        let first = index(&HeaderMap::new());
        let tag = first.headers()[header::ETAG].clone();
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_NONE_MATCH, tag);
        assert_eq!(index(&headers).status(), StatusCode::NOT_MODIFIED);
        headers.insert(header::ACCEPT_LANGUAGE, HeaderValue::from_static("ja"));
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, br"));
        let other = index(&headers);
        assert_eq!(
            (other.status(), &other.headers()[header::CONTENT_ENCODING]),
            (StatusCode::OK, &HeaderValue::from_static("gzip"))
        );
    }
}
