//! The words of the start banner and the run lines, in English and Japanese.
//!
//! The Japanese wording is fixed: existing users' scripts search for it.

use std::time::Duration;

use crate::config::LocaleSetting;

/// Language of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Locale {
    /// English.
    #[default]
    English,
    /// Japanese.
    Japanese,
}

/// What the banner shows; every value measured, none assumed.
#[derive(Debug, Clone, Default)]
pub struct Banner {
    /// `whisper.enable_gpu`.
    pub gpu_enabled: bool,
    /// What was asked of whisper.cpp.
    pub use_gpu: bool,
    /// `WHISPER_CUBLAS` of the environment.
    pub whisper_cublas: Option<String>,
    /// GPU backends compiled in, for example `CUDA`.
    pub compiled_backends: Vec<String>,
    /// Device the engine really runs on.
    pub actual: Option<(bool, String)>,
    /// Why the GPU is not used, when it was wanted.
    pub reason: Option<String>,
    /// Model file.
    pub model: String,
}

impl Locale {
    /// From the setting, or `LC_ALL`, `LC_MESSAGES`, `LANG` in this order.
    pub fn new(setting: LocaleSetting) -> Self {
        match setting {
            LocaleSetting::En => Self::English,
            LocaleSetting::Ja => Self::Japanese,
            LocaleSetting::Auto => {
                let value = ["LC_ALL", "LC_MESSAGES", "LANG"]
                    .iter()
                    .filter_map(|name| std::env::var(name).ok())
                    .find(|value| !value.is_empty());
                Self::from_language(value.as_deref().unwrap_or(""))
            }
        }
    }

    /// `ja*` is Japanese, all else English.
    pub fn from_language(value: &str) -> Self {
        if value.to_ascii_lowercase().starts_with("ja") {
            Self::Japanese
        } else {
            Self::English
        }
    }

    /// Picks one of two.
    pub fn pick<T>(self, english: T, japanese: T) -> T {
        match self {
            Self::English => english,
            Self::Japanese => japanese,
        }
    }

    /// The block printed once the model is loaded.
    pub fn banner(self, banner: &Banner) -> Vec<String> {
        let cublas = banner.whisper_cublas.as_deref();
        let mut lines = vec![
            self.pick("=== GPU configuration ===", "=== GPU設定情報 ===")
                .to_owned(),
            format!(
                "{}: {}",
                self.pick("GPU enabled in the configuration", "設定でGPU有効化"),
                banner.gpu_enabled
            ),
            format!("WhisperContextParameters.use_gpu: {}", banner.use_gpu),
            format!(
                "{}: {}",
                self.pick("WHISPER_CUBLAS environment variable", "WHISPER_CUBLAS環境変数"),
                cublas.unwrap_or(self.pick("not set", "未設定"))
            ),
        ];
        if banner.compiled_backends.is_empty() {
            lines.push(
                self.pick(
                    "No GPU feature is enabled (CPU build)",
                    "GPU featureは無効です (CPUビルド)",
                )
                .to_owned(),
            );
        }
        for backend in &banner.compiled_backends {
            lines.push(format!("{backend} feature is enabled"));
        }
        let gpu = banner.actual.as_ref().is_some_and(|a| a.0);
        if let Some((_, device)) = &banner.actual {
            if gpu {
                lines.push(
                    self.pick(
                        "✓ The Whisper context was initialised on the GPU",
                        "✓ GPU対応のWhisperコンテキストの初期化に成功しました",
                    )
                    .to_owned(),
                );
                lines.push(format!(
                    "{} ({device})",
                    self.pick("✓ GPU acceleration is on", "✓ GPUアクセラレーションが有効です")
                ));
            } else {
                if let (true, Some(reason)) = (banner.use_gpu, &banner.reason) {
                    lines.push(self.gpu_failed(reason));
                }
                lines.push(format!(
                    "{} ({device})",
                    self.pick("✓ Running on the CPU", "✓ CPUで実行します")
                ));
            }
        }
        let state = |on: bool| match (self, on) {
            (Self::English, true) => "on",
            (Self::English, false) => "off",
            (Self::Japanese, true) => "有効",
            (Self::Japanese, false) => "無効",
        };
        lines.push(format!(
            "{}: {} (GPU: {}{} -> {}: {})",
            self.pick("✓ Whisper model loaded", "✓ Whisperモデルを読み込みました"),
            banner.model,
            self.pick("configured ", "設定"),
            state(banner.gpu_enabled),
            self.pick("actual", "実際"),
            state(gpu),
        ));
        lines.push("==================".to_owned());
        lines
    }

    /// A GPU that could not be used.
    pub fn gpu_failed(self, reason: &str) -> String {
        format!(
            "{}: {reason}",
            self.pick(
                "⚠ GPU initialisation failed. Trying again on the CPU",
                "⚠ GPU初期化に失敗しました。CPUで再試行します"
            )
        )
    }

    /// A request's windows begin to run.
    pub fn transcription_starts(self, gpu: bool) -> &'static str {
        match (self, gpu) {
            (Self::English, true) => "🚀 Transcription starts on the GPU...",
            (Self::English, false) => "🖥️  Transcription starts on the CPU...",
            (Self::Japanese, true) => "🚀 GPU使用で文字起こしを開始します...",
            (Self::Japanese, false) => "🖥️  CPU使用で文字起こしを開始します...",
        }
    }

    /// A request is done.
    pub fn inference_time(self, took: Duration, gpu: bool) -> String {
        let device = if gpu { "GPU" } else { "CPU" };
        let ms = took.as_secs_f64() * 1000.0;
        format!(
            "⏱️  {}: {ms:.2}ms ({device})",
            self.pick("Inference time", "推論処理時間")
        )
    }

    /// No model file where the configuration says.
    pub fn model_missing(self) -> &'static str {
        self.pick(
            "Whisper model file not found",
            "Whisperモデルファイルが見つかりません",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_japanese_banner_is_what_existing_users_search_for() {
        let banner = Banner {
            gpu_enabled: true,
            use_gpu: true,
            whisper_cublas: Some("1".to_owned()),
            compiled_backends: vec!["CUDA".to_owned()],
            actual: Some((true, "CUDA0".to_owned())),
            reason: None,
            model: "models/ggml-large-v3-turbo-q5_0.bin".to_owned(),
        };
        let text = Locale::Japanese.banner(&banner).join("\n");
        for line in [
            "=== GPU設定情報 ===",
            "設定でGPU有効化: true",
            "WhisperContextParameters.use_gpu: true",
            "WHISPER_CUBLAS環境変数: 1",
            "CUDA feature is enabled",
            "✓ GPU対応のWhisperコンテキストの初期化に成功しました",
            "✓ GPUアクセラレーションが有効です",
            "✓ Whisperモデルを読み込みました: models/ggml-large-v3-turbo-q5_0.bin (GPU: 設定有効 -> 実際: 有効)",
            "==================",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert_eq!(
            Locale::Japanese.inference_time(Duration::from_micros(1_234_560), true),
            "⏱️  推論処理時間: 1234.56ms (GPU)"
        );
        assert_eq!(
            Locale::Japanese.transcription_starts(false),
            "🖥️  CPU使用で文字起こしを開始します..."
        );
        assert_eq!(
            Locale::Japanese.gpu_failed("x"),
            "⚠ GPU初期化に失敗しました。CPUで再試行します: x"
        );
        assert_eq!(
            Locale::Japanese.model_missing(),
            "Whisperモデルファイルが見つかりません"
        );
    }

    #[test]
    fn a_banner_never_claims_a_gpu_that_is_not_there() {
        let banner = Banner {
            gpu_enabled: true,
            use_gpu: true,
            actual: Some((false, "CPU".to_owned())),
            reason: Some("ggml found no GPU".to_owned()),
            ..Banner::default()
        };
        let text = Locale::Japanese.banner(&banner).join("\n");
        assert!(
            text.contains("GPU: 設定有効 -> 実際: 無効") && text.contains("ggml found no GPU"),
            "{text}"
        );
        assert!(!text.contains("GPUアクセラレーションが有効です"), "{text}");
    }

    #[test]
    fn ja_anything_is_japanese() {
        assert_eq!(Locale::from_language("ja_JP.UTF-8"), Locale::Japanese);
        assert_eq!(Locale::from_language("JA"), Locale::Japanese);
        assert_eq!(Locale::from_language("C.UTF-8"), Locale::English);
    }
}
