//! Other settings while the program runs.

use std::sync::Arc;

use toml::{Table, Value};

use super::App;
use crate::config::Config;

/// Settings that are taken at once; a name without a key stands for its whole section. The certificate's files are
/// watched by themselves.
const TAKEN: [&str; 5] = [
    "keys",
    "server.api_keys",
    "deployments",
    "whisper.model_path",
    "log.level",
];

impl App {
    /// Takes what can be taken of other settings, and says what needs a restart. Requests inside go on as they began.
    pub async fn reload(&self, new: Config) {
        let mut current = self.current.lock().await;
        let changes = changes(&current, &new);
        let (taken, waiting): (Vec<&String>, Vec<&String>) = changes.iter().partition(|key| is_taken(key));
        if !waiting.is_empty() {
            let keys = waiting
                .iter()
                .map(|key| key.as_str())
                .collect::<Vec<_>>()
                .join(", ");
            tracing::warn!(%keys, "changed settings that need a restart; they stay as they were");
        }
        let keys = taken
            .iter()
            .map(|key| key.as_str())
            .collect::<Vec<_>>()
            .join(", ");
        tracing::info!(%keys, "settings read again");
        let keys = self.admission.keys();
        let was_open = keys.is_open();
        keys.replace(&new);
        if keys.is_open() && !was_open {
            tracing::warn!("no keys are left: everybody who reaches this port is served");
        }
        crate::telemetry::set_level(new.log.level);
        let registry = self.jobs.registry();
        if new.deployments != current.deployments {
            registry.set_deployments(new.deployments.clone());
        }
        let mut applied = Config {
            keys: new.keys.clone(),
            deployments: new.deployments.clone(),
            log: crate::config::LogConfig {
                level: new.log.level,
                ..current.log
            },
            ..current.clone()
        };
        applied.server.api_keys.clone_from(&new.server.api_keys);
        if new.whisper.model_path != current.whisper.model_path {
            applied.whisper.model_path.clone_from(&new.whisper.model_path);
            match registry.change_default(Arc::new(applied.clone())).await {
                Ok(()) => tracing::info!(model = %new.whisper.model_path, "another model serves"),
                Err(reason) => {
                    tracing::error!(model = %new.whisper.model_path, %reason, "the old model serves on");
                    applied.whisper.model_path.clone_from(&current.whisper.model_path);
                }
            }
        }
        *current = applied;
    }
}

fn is_taken(key: &str) -> bool {
    TAKEN
        .iter()
        .any(|taken| key == *taken || key.strip_prefix(taken).is_some_and(|rest| rest.starts_with('.')))
}

/// Dotted keys whose values differ.
fn changes(old: &Config, new: &Config) -> Vec<String> {
    let table = |config: &Config| Table::try_from(config).unwrap_or_default();
    let mut out = Vec::new();
    compare(&table(old), &table(new), "", &mut out);
    out
}

fn compare(old: &Table, new: &Table, prefix: &str, out: &mut Vec<String>) {
    let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        let dotted = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        match (old.get(name), new.get(name)) {
            (Some(Value::Table(old)), Some(Value::Table(new))) => compare(old, new, &dotted, out),
            (old, new) if old != new => out.push(dotted),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KeyConfig;

    #[test]
    fn what_differs_is_named_and_told_apart_by_whether_it_can_be_taken() {
        let old = Config::default();
        let mut new = old.clone();
        new.server.port = 1;
        new.server.api_keys.push("k".to_owned());
        new.deployments.insert("a".to_owned(), "small".to_owned());
        new.keys.push(KeyConfig::default());
        new.log.format = crate::config::LogFormat::Json;
        let changes = changes(&old, &new);
        let (taken, waiting): (Vec<_>, Vec<_>) = changes.iter().partition(|key| is_taken(key));
        assert_eq!(taken, ["deployments.a", "keys", "server.api_keys"]);
        assert_eq!(waiting, ["log.format", "server.port"]);
    }
}
