//! `keys`: keys with names, made and looked at.

use std::process::ExitCode;

use anyhow::bail;
use clap::Subcommand;

use super::{CommonOptions, say, say_error};
use crate::config::is_key_name;
use crate::keys;

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Make a key; it is printed once, and only its SHA-256 is for the settings
    New {
        /// Whose key it is: letters, digits, `-`, `_`, `.`
        name: String,
    },
    /// List the named keys of the settings and their limits
    List,
}

pub(super) fn run(common: &CommonOptions, command: KeysCommand) -> anyhow::Result<ExitCode> {
    match command {
        KeysCommand::New { name } => {
            if !is_key_name(&name) {
                bail!("`{name}` is no name for a key: 1 to 64 letters, digits, `-`, `_` or `.`");
            }
            let taken = common.load(false)?.config.keys;
            if taken.iter().any(|key| key.name == name) {
                bail!("`{name}` is taken; remove its lines, or take another name");
            }
            let key = keys::generate();
            say_error("The key, shown this once:");
            say(&key);
            say_error("For config.local.toml; a running server takes it on SIGHUP:");
            say_error("");
            say_error("[[keys]]");
            say_error(&format!("name = \"{name}\""));
            say_error(&format!("sha256 = \"{}\"", keys::digest_of(&key)));
        }
        KeysCommand::List => {
            for key in common.load(false)?.config.keys {
                let limits = [
                    key.requests_per_minute.map(|n| format!("{n} requests a minute")),
                    key.audio_minutes_per_hour
                        .map(|n| format!("{n} minutes of audio an hour")),
                    key.concurrent.map(|n| format!("{n} at once")),
                    (!key.models.is_empty()).then(|| format!("models: {}", key.models.join(", "))),
                ];
                let limits: Vec<String> = limits.into_iter().flatten().collect();
                let limits = if limits.is_empty() {
                    "no limits".to_owned()
                } else {
                    limits.join("; ")
                };
                say(&format!("{}\t{limits}", key.name));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
