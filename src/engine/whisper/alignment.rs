//! Word times: the model's alignment heads, in a context of their own.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use whisper_rs::{
    DtwMode, DtwModelPreset, DtwParameters, WhisperContext, WhisperContextParameters, WhisperState,
};

use crate::transcript::WindowTranscript;

/// The context that also gives word times.
pub(super) struct Alignment {
    model: PathBuf,
    preset: Option<DtwModelPreset>,
    gpu_device: Option<u32>,
    /// Absent until asked for, and after a failure: memory that was short may be free the next time.
    context: Mutex<Option<Arc<WhisperContext>>>,
}

impl Alignment {
    /// For the model in `context`; nothing is loaded yet.
    pub(super) fn new(model: PathBuf, context: &WhisperContext, gpu_device: Option<u32>) -> Self {
        Self {
            model,
            preset: alignment_preset(context),
            gpu_device,
            context: Mutex::default(),
        }
    }

    /// Whether the model's alignment heads are known.
    pub(super) fn is_known(&self) -> bool {
        self.preset.is_some()
    }

    /// A state whose runs give word times; the first call loads the context.
    pub(super) fn state(&self) -> Result<WhisperState, String> {
        let mut loaded = self.context.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.is_none() {
            let preset = self
                .preset
                .clone()
                .ok_or("word times cannot be had from this model")?;
            let mut parameters = WhisperContextParameters::default();
            parameters.use_gpu(self.gpu_device.is_some());
            parameters.gpu_device(self.gpu_device.unwrap_or(0) as i32);
            parameters.flash_attn(false); // alignment needs the attention matrix that flash attention never makes
            parameters.dtw_parameters(DtwParameters {
                mode: DtwMode::ModelPreset { model_preset: preset },
                ..DtwParameters::default()
            });
            let context =
                WhisperContext::new_with_params(&self.model, parameters).map_err(|e| e.to_string())?;
            *loaded = Some(Arc::new(context));
        }
        let context = loaded
            .as_ref()
            .ok_or("the context for word times is not loaded")?;
        context.create_state().map_err(|e| e.to_string())
    }
}

/// The model's alignment heads (openai-whisper `_ALIGNMENT_HEADS`), by its shape.
fn alignment_preset(context: &WhisperContext) -> Option<DtwModelPreset> {
    let multilingual = context.is_multilingual();
    let preset = match (
        context.model_n_audio_layer(),
        context.model_n_text_layer(),
        multilingual,
    ) {
        (4, 4, true) => DtwModelPreset::Tiny,
        (4, 4, false) => DtwModelPreset::TinyEn,
        (6, 6, true) => DtwModelPreset::Base,
        (6, 6, false) => DtwModelPreset::BaseEn,
        (12, 12, true) => DtwModelPreset::Small,
        (12, 12, false) => DtwModelPreset::SmallEn,
        (24, 24, true) => DtwModelPreset::Medium,
        (24, 24, false) => DtwModelPreset::MediumEn,
        // v1 and v2 have one shape; v2 replaced v1 within weeks.
        (32, 32, true) if context.model_n_mels() == 80 => DtwModelPreset::LargeV2,
        (32, 32, true) => DtwModelPreset::LargeV3,
        (32, 4, true) => DtwModelPreset::LargeV3Turbo,
        _ => return None,
    };
    Some(preset)
}

/// whisper.cpp's alignment drops one row too many at the front: what it stores with a token is where the next one
/// begins (openai-whisper `timing.py` keeps the row of `<|notimestamps|>`, which belongs to the first token).
pub(super) fn ends_to_onsets(transcript: &mut WindowTranscript) {
    let mut before = None;
    for token in transcript.segments.iter_mut().flat_map(|s| &mut s.tokens) {
        if !token.bytes.is_empty() {
            before = std::mem::replace(&mut token.onset, before);
        }
    }
}
