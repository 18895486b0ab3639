//! Puts the layers together: defaults ← `config.toml` ← `config.local.toml` ← environment ← flags.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use super::{Config, TlsSetting};
use crate::languages;
use crate::transcript::wording::{LONGEST_PHRASE_BYTES, MOST_PHRASES};

/// The file as it is shipped and as it is written at the first start.
pub const TEMPLATE: &str = include_str!("../../config.toml");
/// `WHISPER_BACKEND__SERVER__PORT=8081` sets `server.port`.
const PREFIX: &str = "WHISPER_BACKEND__";

/// Values from flags; `None` leaves the layer below.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--host`
    pub host: Option<String>,
    /// `--port`
    pub port: Option<u16>,
    /// `--model`
    pub model: Option<String>,
    /// `--cpu`
    pub cpu: bool,
}

/// The effective settings and where each came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// The file, when there is one.
    pub path: Option<PathBuf>,
    /// True when the file was written just now.
    pub written: bool,
    /// Dotted key → where its value came from, for everything that is not a default.
    pub origins: BTreeMap<String, String>,
}

impl Loaded {
    /// Folder that relative paths count from.
    pub fn folder(&self) -> PathBuf {
        let parent = self
            .path
            .as_deref()
            .and_then(Path::parent)
            .filter(|p| !p.as_os_str().is_empty());
        parent.map_or_else(|| PathBuf::from("."), Path::to_path_buf)
    }

    /// Folder of the models that are fetched and found by name.
    pub fn models_folder(&self) -> PathBuf {
        self.folder().join(&self.config.models.folder)
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is there but cannot be read.
    #[error("cannot read `{}`: {source}; check its permissions or give another with --config", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong kind.
    #[error("`{}`: {message}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Line, key and what is accepted.
        message: String,
    },
    /// A variable that names no key, or holds a value of the wrong kind.
    #[error("environment variable `{name}`: {message}")]
    Environment {
        /// The variable.
        name: String,
        /// What is accepted.
        message: String,
    },
    /// A value outside its range.
    #[error("`{key}` = {value}: {accepted} ({origin})")]
    Value {
        /// Dotted key.
        key: String,
        /// As given.
        value: String,
        /// What is accepted.
        accepted: String,
        /// File, variable or flag.
        origin: String,
    },
}

/// Loads the settings. A `path` that does not exist is written from the template when `write` is set.
///
/// # Errors
///
/// Each names the file or variable, the key, and what is accepted.
pub fn load(
    path: &Path,
    write: bool,
    environment: impl IntoIterator<Item = (String, String)>,
    overrides: &Overrides,
) -> Result<Loaded, ConfigError> {
    let mut origins = BTreeMap::new();
    let first = read(path)?;
    let written = first.is_none() && write && write_template(path).is_ok();
    let mut table = first.unwrap_or_default();
    note(&table, "", &path.display().to_string(), &mut origins);
    let local = local_path(path);
    if let Some(above) = read(&local)? {
        note(&above, "", &local.display().to_string(), &mut origins);
        lay(&mut table, above);
    }
    table = with_environment(table, environment, &mut origins)?;
    let mut config = Config::deserialize(table).map_err(|e| ConfigError::File {
        path: path.to_owned(),
        message: e.message().trim().to_owned(),
    })?;
    apply_flags(&mut config, overrides, &mut origins);
    validate(&config, &origins)?;
    Ok(Loaded {
        config,
        path: Some(path.to_owned()),
        written,
        origins,
    })
}

/// `config.local.toml` beside `config.toml`: keys and other private settings, which git ignores.
fn local_path(path: &Path) -> PathBuf {
    path.with_extension("local.toml")
}

/// A file as a table; `None` when there is none.
fn read(path: &Path) -> Result<Option<Table>, ConfigError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(ConfigError::Read {
                path: path.to_owned(),
                source,
            });
        }
    };
    let broken = |e: toml::de::Error| ConfigError::File {
        path: path.to_owned(),
        message: e.to_string().trim().to_owned(),
    };
    // Once as settings, for errors with line and key; once as a table to lay the next layers on.
    toml::from_str::<Config>(&text).map_err(broken)?;
    toml::from_str::<Table>(&text).map(Some).map_err(broken)
}

/// Puts the values of `above` over those of `table`, section by section.
fn lay(table: &mut Table, above: Table) {
    for (key, value) in above {
        match (table.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(value)) => lay(inner, value),
            (_, value) => {
                table.insert(key, value);
            }
        }
    }
}

/// Puts `WHISPER_MODEL` and `WHISPER_BACKEND__…` over the files.
fn with_environment(
    mut table: Table,
    environment: impl IntoIterator<Item = (String, String)>,
    origins: &mut BTreeMap<String, String>,
) -> Result<Table, ConfigError> {
    let defaults = Table::try_from(Config::default()).unwrap_or_default();
    let mut variables: Vec<(String, String)> = environment.into_iter().collect();
    variables.sort();
    for (name, value) in &variables {
        if name == "WHISPER_MODEL" && !value.is_empty() {
            set(
                &mut table,
                &["whisper", "model_path"],
                Value::String(value.clone()),
            );
            origins.insert("whisper.model_path".to_owned(), name.clone());
        }
    }
    for (name, value) in variables {
        let Some(rest) = name.strip_prefix(PREFIX) else {
            continue;
        };
        let key = rest.to_ascii_lowercase().replace("__", ".");
        let parts: Vec<&str> = key.split('.').collect();
        let known = matches!(parts.as_slice(), [section, key]
            if defaults.get(*section).and_then(Value::as_table).is_some_and(|t| t.contains_key(*key))
                || (*section == "audio" && *key == "spool_dir"));
        if !known && !matches!(parts.first(), Some(&"deployments" | &"replacements")) {
            let message = format!("there is no setting `{key}`; `check-config` lists all");
            return Err(ConfigError::Environment { name, message });
        }
        let mut trial = table.clone();
        set(&mut trial, &parts, value_of(&value));
        if let Err(e) = Config::deserialize(trial.clone()) {
            // A number given for a text, for example an all-digit key.
            set(&mut trial, &parts, Value::String(value));
            if Config::deserialize(trial.clone()).is_err() {
                return Err(ConfigError::Environment {
                    name,
                    message: e.message().trim().to_owned(),
                });
            }
        }
        table = trial;
        origins.insert(key, name);
    }
    Ok(table)
}

fn apply_flags(config: &mut Config, overrides: &Overrides, origins: &mut BTreeMap<String, String>) {
    let mut flag = |key: &str, flag: &str| {
        origins.insert(key.to_owned(), flag.to_owned());
    };
    if let Some(host) = &overrides.host {
        config.server.host.clone_from(host);
        flag("server.host", "--host");
    }
    if let Some(port) = overrides.port {
        config.server.port = port;
        flag("server.port", "--port");
    }
    if let Some(model) = &overrides.model {
        config.whisper.model_path.clone_from(model);
        flag("whisper.model_path", "--model");
    }
    if overrides.cpu {
        config.whisper.enable_gpu = false;
        flag("whisper.enable_gpu", "--cpu");
    }
}

fn write_template(path: &Path) -> std::io::Result<()> {
    let mut file = std::fs::File::create_new(path)?;
    file.write_all(TEMPLATE.as_bytes())
}

fn note(table: &Table, prefix: &str, origin: &str, origins: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        let dotted = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        match value {
            Value::Table(inner) => note(inner, &dotted, origin, origins),
            _ => {
                origins.insert(dotted, origin.to_owned());
            }
        }
    }
}

fn set(table: &mut Table, parts: &[&str], value: Value) {
    match parts {
        [] => {}
        [key] => {
            table.insert((*key).to_owned(), value);
        }
        [section, rest @ ..] => {
            let inner = table
                .entry(*section)
                .or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                set(inner, rest, value);
            }
        }
    }
}

/// `8081`, `true`, `["a"]` as TOML reads them; anything else is text. A comma list becomes an array of texts
/// only where TOML says so: keys may contain commas.
fn value_of(text: &str) -> Value {
    toml::from_str::<Table>(&format!("v = {text}"))
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

/// A year; sums with it fit every clock.
const MOST_SECONDS: u64 = 31_536_000;

/// `scheme://host[:port]` as browsers send it in `Origin` (RFC 6454 section 7), or `null`.
fn is_origin(text: &str) -> bool {
    let Some((scheme, host)) = text.split_once("://") else {
        return text == "null";
    };
    let scheme_ok = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    let host_ok = !host.is_empty()
        && host.is_ascii()
        && !host.contains(|c: char| "/?#@\\,*".contains(c) || c.is_whitespace() || c.is_control());
    scheme_ok && host_ok
}

/// Most `[[keys]]`; every request is compared with each.
const MOST_KEYS: usize = 1000;
/// Longest name of a key.
const LONGEST_KEY_NAME: usize = 64;

/// Whether a key may be called so: its name becomes a label of metrics.
pub fn is_key_name(name: &str) -> bool {
    (1..=LONGEST_KEY_NAME).contains(&name.len())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn validate_keys(keys: &[super::KeyConfig], origin: &str) -> Result<(), ConfigError> {
    let wrong = |key: String, value: String, accepted: &str| ConfigError::Value {
        key,
        value,
        accepted: accepted.to_owned(),
        origin: origin.to_owned(),
    };
    if keys.len() > MOST_KEYS {
        let value = format!("{} keys", keys.len());
        return Err(wrong("keys".to_owned(), value, "at most 1000 keys"));
    }
    let mut names = std::collections::BTreeSet::new();
    for (index, key) in keys.iter().enumerate() {
        let at = |field: &str| format!("keys[{index}].{field}");
        if !is_key_name(&key.name) {
            let accepted = "1 to 64 letters, digits, `-`, `_` or `.`";
            return Err(wrong(at("name"), format!("{:?}", key.name), accepted));
        }
        if !names.insert(&key.name) {
            return Err(wrong(
                at("name"),
                format!("{:?}", key.name),
                "a name that no other key has",
            ));
        }
        if key.sha256.len() != 64 || !key.sha256.chars().all(|c| c.is_ascii_hexdigit()) {
            let accepted = "64 hexadecimal digits, as `keys new NAME` prints them";
            return Err(wrong(at("sha256"), format!("{:?}", key.sha256), accepted));
        }
        let limits = [
            ("requests_per_minute", key.requests_per_minute),
            ("audio_minutes_per_hour", key.audio_minutes_per_hour),
            ("concurrent", key.concurrent),
        ];
        for (field, limit) in limits {
            if limit == Some(0) {
                return Err(wrong(
                    at(field),
                    "0".to_owned(),
                    "1 or more; leave it out for no limit",
                ));
            }
        }
    }
    Ok(())
}

fn validate(config: &Config, origins: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    let check = |ok: bool, key: &str, value: String, accepted: &str| {
        if ok {
            return Ok(());
        }
        let origin = origins.get(key).cloned().unwrap_or_else(|| "default".to_owned());
        Err(ConfigError::Value {
            key: key.to_owned(),
            value,
            accepted: accepted.to_owned(),
            origin,
        })
    };
    let origin = origins.get("keys").map_or("default", String::as_str);
    validate_keys(&config.keys, origin)?;
    let listen = &config.metrics.listen;
    check(
        listen.is_empty() || listen.parse::<std::net::SocketAddr>().is_ok(),
        "metrics.listen",
        format!("{listen:?}"),
        "an address and a port such as `127.0.0.1:9464` or `[::]:9464`, or nothing",
    )?;
    let whisper = &config.whisper;
    let code = whisper.language.as_str();
    check(
        code == "auto" || languages::code(code) == Some(code),
        "whisper.language",
        format!("{code:?}"),
        "`auto` or a code Whisper knows, such as `ja`",
    )?;
    check(
        !whisper.model_path.is_empty(),
        "whisper.model_path",
        "\"\"".to_owned(),
        "a path or a catalogue name",
    )?;
    check(
        (1..=8).contains(&whisper.beam_size.or(1)),
        "whisper.beam_size",
        whisper.beam_size.or(1).to_string(),
        "`auto` and 1 to 8 are accepted",
    )?;
    let server = &config.server;
    for (key, path) in [
        ("server.tls_certificate", &server.tls_certificate),
        ("server.tls_key", &server.tls_key),
    ] {
        check(
            server.tls != TlsSetting::Files || !path.is_empty(),
            key,
            "\"\"".to_owned(),
            "a PEM file, as server.tls = \"files\" needs one",
        )?;
    }
    let p = &config.performance;
    check(
        p.max_concurrent_requests > 0,
        "performance.max_concurrent_requests",
        p.max_concurrent_requests.to_string(),
        "at least 1",
    )?;
    check(
        p.watchdog_factor >= 1.0 && p.watchdog_factor.is_finite(),
        "performance.watchdog_factor",
        p.watchdog_factor.to_string(),
        "at least 1",
    )?;
    check(
        p.watchdog_min_seconds > 0.0 && p.watchdog_min_seconds < 1e6,
        "performance.watchdog_min_seconds",
        p.watchdog_min_seconds.to_string(),
        "more than 0",
    )?;
    let s = &config.speech;
    for (key, value) in [
        ("speech.threshold", s.threshold),
        ("speech.threshold_end", s.threshold_end),
    ] {
        check(
            (0.0..=1.0).contains(&value),
            key,
            value.to_string(),
            "0 to 1 are accepted",
        )?;
    }
    check(
        (1.0..=30.0).contains(&s.max_window_seconds),
        "speech.max_window_seconds",
        s.max_window_seconds.to_string(),
        "1 to 30 are accepted",
    )?;
    check(
        config.server.max_file_size_mb > 0,
        "server.max_file_size_mb",
        config.server.max_file_size_mb.to_string(),
        "at least 1",
    )?;
    check(
        config
            .server
            .api_keys
            .iter()
            .all(|k| !k.is_empty() && k.is_ascii()),
        "server.api_keys",
        "…".to_owned(),
        "keys are not empty and ASCII",
    )?;
    let vocabulary = &config.vocabulary;
    check(
        (0.0..=2.0).contains(&vocabulary.weight),
        "vocabulary.weight",
        vocabulary.weight.to_string(),
        "0 to 2 are accepted",
    )?;
    let bounded = |list: &[String]| {
        list.len() <= MOST_PHRASES
            && list
                .iter()
                .all(|phrase| phrase.len() <= LONGEST_PHRASE_BYTES && !phrase.contains('\0'))
    };
    for (key, list) in [
        ("vocabulary.phrases", &vocabulary.phrases),
        ("wording.profanity_words", &config.wording.profanity_words),
    ] {
        check(
            bounded(list),
            key,
            format!("{} phrases", list.len()),
            "at most 2000 phrases of at most 500 bytes, without NUL",
        )?;
    }
    for (key, mebibytes) in [
        ("server.max_file_size_mb", config.server.max_file_size_mb),
        ("performance.max_spool_mb", p.max_spool_mb),
        ("audio.spool_memory_mb", config.audio.spool_memory_mb as u64),
        ("audio.max_metadata_mb", config.audio.max_metadata_mb as u64),
    ] {
        check(
            mebibytes <= super::MOST_MEBIBYTES,
            key,
            mebibytes.to_string(),
            "at most 1099511627776 MiB are accepted",
        )?;
    }
    for (key, seconds) in [
        (
            "server.shutdown_grace_seconds",
            config.server.shutdown_grace_seconds,
        ),
        (
            "server.body_idle_timeout_seconds",
            config.server.body_idle_timeout_seconds,
        ),
    ] {
        check(
            seconds <= MOST_SECONDS,
            key,
            seconds.to_string(),
            "at most 31536000 (a year) are accepted",
        )?;
    }
    for origin in &config.server.cors_origins {
        check(
            origin == "*" || is_origin(origin),
            "server.cors_origins",
            format!("{origin:?}"),
            "`*`, or origins such as `https://app.example` or `http://localhost:3000`, without a path",
        )?;
    }
    let a = &config.audio;
    check(
        (64..=65_536).contains(&a.max_decode_memory_mb),
        "audio.max_decode_memory_mb",
        a.max_decode_memory_mb.to_string(),
        "64 to 65536",
    )?;
    check(
        a.max_decode_cpu_seconds >= 10,
        "audio.max_decode_cpu_seconds",
        a.max_decode_cpu_seconds.to_string(),
        "10 or more",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Count;

    fn load_text(text: &str, env: &[(&str, &str)], overrides: &Overrides) -> Result<Loaded, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        let env = env.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
        load(&path, false, env, overrides)
    }

    #[test]
    fn the_shipped_file_says_what_the_defaults_are() {
        let shipped: Config = toml::from_str(TEMPLATE).unwrap();
        assert_eq!(shipped, Config::default());
        let shipped = toml::from_str::<Table>(TEMPLATE).unwrap();
        for (section, keys) in Table::try_from(Config::default()).unwrap() {
            for key in keys.as_table().unwrap().keys() {
                let there = shipped.get(&section).and_then(|s| s.get(key)).is_some();
                assert!(there, "config.toml does not mention {section}.{key}");
            }
        }
    }

    #[test]
    fn a_misspelt_key_is_refused_with_its_line_and_what_is_accepted() {
        let error = load_text("[server]\nporrt = 1\n", &[], &Overrides::default())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("porrt") && error.contains("line 2") && error.contains("`port`"),
            "{error}"
        );
    }

    #[test]
    fn keys_are_checked_one_by_one() {
        let digest = "ab".repeat(32);
        let good = format!("[[keys]]\nname = \"app\"\nsha256 = \"{digest}\"\nrequests_per_minute = 60\n");
        let loaded = load_text(&good, &[], &Overrides::default()).unwrap();
        assert_eq!(loaded.config.keys[0].requests_per_minute, Some(60));
        for (file, named) in [
            (format!("{good}{good}"), "keys[1].name"),
            (good.replace("app", "two words"), "keys[0].name"),
            (good.replace("abab", "ab"), "keys[0].sha256"),
            (good.replace("= 60", "= 0"), "requests_per_minute"),
            ("[metrics]\nlisten = \"9464\"\n".to_owned(), "metrics.listen"),
        ] {
            let error = load_text(&file, &[], &Overrides::default())
                .unwrap_err()
                .to_string();
            assert!(error.contains(named) && error.contains("config.toml"), "{error}");
        }
    }

    #[test]
    fn environment_beats_the_file_and_flags_beat_both() {
        let file = "[server]\nport = 1000\nhost = \"a\"\n[whisper]\nmodel_path = \"x\"\n";
        let env = [
            ("WHISPER_BACKEND__SERVER__PORT", "2000"),
            ("WHISPER_BACKEND__SERVER__API_KEYS", "[\"k\"]"),
            ("WHISPER_BACKEND__PERFORMANCE__SLOTS", "3"),
            ("WHISPER_MODEL", "small"),
        ];
        let flags = Overrides {
            host: Some("b".to_owned()),
            ..Overrides::default()
        };
        let loaded = load_text(file, &env, &flags).unwrap();
        assert_eq!(loaded.config.server.port, 2000);
        assert_eq!(loaded.config.server.host, "b");
        assert_eq!(loaded.config.server.api_keys, ["k"]);
        assert_eq!(loaded.config.performance.slots, super::super::Count::Fixed(3));
        assert_eq!(loaded.config.whisper.model_path, "small");
        assert_eq!(loaded.origins["server.port"], "WHISPER_BACKEND__SERVER__PORT");
        assert_eq!(loaded.origins["server.host"], "--host");
    }

    #[test]
    fn private_settings_lie_over_the_shared_file_and_under_the_environment() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, "[server]\nport = 1000\nhost = \"a\"\n").unwrap();
        let local = folder.path().join("config.local.toml");
        std::fs::write(&local, "[server]\nport = 2000\napi_keys = [\"k\"]\n").unwrap();
        let load = |env: &[(&str, &str)]| {
            let env: Vec<_> = env
                .iter()
                .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
                .collect();
            load(&path, false, env, &Overrides::default())
        };
        let loaded = load(&[]).unwrap();
        let server = &loaded.config.server;
        assert_eq!((server.host.as_str(), server.port), ("a", 2000));
        assert_eq!(server.api_keys, ["k"]);
        assert!(
            loaded.origins["server.port"].ends_with("config.local.toml"),
            "{:?}",
            loaded.origins
        );
        assert!(loaded.origins["server.host"].ends_with("config.toml"));
        let loaded = load(&[("WHISPER_BACKEND__SERVER__PORT", "3000")]).unwrap();
        assert_eq!(loaded.config.server.port, 3000);
        std::fs::write(&local, "[server]\nprot = 1\n").unwrap();
        let error = load(&[]).unwrap_err().to_string();
        assert!(
            error.contains("config.local.toml") && error.contains("prot"),
            "{error}"
        );
    }

    #[test]
    fn defaults_are_safe() {
        let config = Config::default();
        assert!(config.server.cors_origins.is_empty());
        assert!(!config.models.pip);
        assert_eq!(config.server.host, "127.0.0.1");
    }

    #[test]
    fn an_unknown_variable_of_ours_is_refused_but_others_are_none_of_our_business() {
        let error = load_text(
            "",
            &[("WHISPER_BACKEND__SERVER__PROT", "1")],
            &Overrides::default(),
        );
        assert!(error.unwrap_err().to_string().contains("server.prot"));
        assert!(load_text("", &[("WHISPER_CUBLAS", "1")], &Overrides::default()).is_ok());
    }

    #[test]
    fn a_value_out_of_range_names_its_origin() {
        let error = load_text(
            "",
            &[("WHISPER_BACKEND__WHISPER__BEAM_SIZE", "99")],
            &Overrides::default(),
        );
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("beam_size") && error.contains("1 to 8") && error.contains("BEAM_SIZE"),
            "{error}"
        );
        for (text, expected) in [("auto", Count::Auto), ("3", Count::Fixed(3))] {
            let loaded = load_text(
                "",
                &[("WHISPER_BACKEND__WHISPER__BEAM_SIZE", text)],
                &Overrides::default(),
            );
            assert_eq!(loaded.unwrap().config.whisper.beam_size, expected);
        }
    }

    #[test]
    fn sizes_that_would_wrap_and_origins_that_browsers_never_send_are_refused() {
        for (file, named) in [
            (
                "[audio]\nspool_memory_mb = 17592186044416\n",
                "audio.spool_memory_mb",
            ),
            (
                "[audio]\nmax_metadata_mb = 17592186044416\n",
                "audio.max_metadata_mb",
            ),
            (
                "[server]\nmax_file_size_mb = 17592186044416\n",
                "server.max_file_size_mb",
            ),
            (
                "[performance]\nmax_spool_mb = 17592186044416\n",
                "performance.max_spool_mb",
            ),
            (
                "[server]\nshutdown_grace_seconds = 9223372036854775807\n",
                "shutdown_grace_seconds",
            ),
            ("[server]\ncors_origins = [\"app.example\"]\n", "app.example"),
            (
                "[server]\ncors_origins = [\"https://app.example/\"]\n",
                "https://app.example/",
            ),
            (
                "[server]\ncors_origins = [\"https://a.example, https://b.example\"]\n",
                "cors_origins",
            ),
            ("[server]\ncors_origins = [\"https://\\n\"]\n", "cors_origins"),
        ] {
            let error = load_text(file, &[], &Overrides::default())
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(named) && error.contains("accepted") || error.contains("origins"),
                "{error}"
            );
        }
        let good =
            "[server]\ncors_origins = [\"*\", \"null\", \"http://localhost:3000\", \"https://[::1]:8443\"]\n";
        assert!(load_text(good, &[], &Overrides::default()).is_ok());
    }

    #[test]
    fn the_first_start_writes_the_file_and_never_over_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        assert!(load(&path, true, [], &Overrides::default()).unwrap().written);
        std::fs::write(&path, "[server]\nport = 9\n").unwrap();
        let loaded = load(&path, true, [], &Overrides::default()).unwrap();
        assert!(!loaded.written && loaded.config.server.port == 9);
    }
}
