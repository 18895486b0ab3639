//! Whisper's forward pass on the processor, in Rust: no C or C++ anywhere.
//!
//! The crate `whisper-native` multiplies; this folder loads the model ([`packed`]), runs windows on threads ([`pool`]) and
//! answers what the rules of decoding ask for ([`window`]). A lone window runs on all the cores it was given. Windows that
//! share the processor are spread over the cores, one [`conductor`] for each: it encodes its windows one after another and
//! takes their decoder steps together, so that the weights are read once a step and no core ever waits for another.

mod conductor;
mod packed;
mod pool;
mod window;

use std::sync::Arc;

use whisper_native::mel::LogMel;
use whisper_native::timing::alignment_heads;
use whisper_native::{Isa, Precision, Team, Weights};

use super::child::{Backend, Slot};
use super::decode::Vocabulary;
use super::message::{EngineSpec, PrecisionSetting};
use super::preemption::Control;
use crate::domain::DeviceReport;
use crate::models::Checkpoint;
use crate::transcript::WindowTranscript;
use pool::Pool;

/// Positions that the encoder looks past the end of the sound: the first look, then that of a doubtful result; the whole
/// context comes last (docs/performance.md has the words each of them costs).
const MARGINS: [usize; 2] = [256, 640];
/// Texts followed side by side where nobody says how many (docs/performance.md has words and time of each number).
const BEAM: u32 = 5;
/// Most windows that one core decodes together: beyond it reading the weights is no longer what a step spends its time on.
const MOST_WINDOWS_PER_CORE: usize = 4;
/// What the keys and values of the windows of one core may take, in bytes.
const WINDOW_MEMORY: usize = 256 << 20;
/// Shortest piece of sound for a first run: one second.
const WARM_SAMPLES: usize = 16_000;

/// A model ready to run; shared by all windows.
struct Model {
    weights: Weights,
    vocabulary: Vocabulary,
    mel: LogMel,
    /// (layer, head) pairs that follow the sound; `None` when they are not known for this shape.
    heads: Option<&'static [(usize, usize)]>,
}

/// Whether a model on the processor is run here rather than by whisper.cpp: the processor has kernels, and the file's
/// format is read.
#[cfg(feature = "whisper")]
pub(super) fn suits(spec: &EngineSpec) -> bool {
    let kernels = Isa::from_environment() != Ok(Isa::Portable);
    kernels && Checkpoint::open_ggml(&spec.model).is_ok()
}

/// Opens the model of `spec`.
///
/// # Errors
///
/// One sentence: the model file, the instruction set that was asked for, or memory.
pub(super) fn open(spec: &EngineSpec) -> Result<Box<dyn Backend>, String> {
    let isa = Isa::from_environment().map_err(|e| e.to_string())?;
    let mut checkpoint = Checkpoint::open_ggml(&spec.model).map_err(|e| e.with_causes())?;
    let shape = checkpoint.shape();
    let precision = precision(spec.precision);
    let mel = LogMel::new(checkpoint.mel_filters(), shape.n_mels).map_err(|e| e.to_string())?;
    let vocabulary = Vocabulary::new(shape.n_vocab, shape.text_ctx, checkpoint.take_tokens())?;
    let (model_type, model_ftype) = (
        checkpoint.size().to_string(),
        checkpoint.format().file_type() as i32,
    );
    let weights = packed::open(&mut checkpoint, &spec.model, precision, isa)?;
    let model = Arc::new(Model {
        weights,
        vocabulary,
        mel,
        heads: alignment_heads(&shape),
    });
    let pool = Pool::start(model.clone(), spec.threads.max(1) as usize)?;
    pool.warm(spec.threads.max(1) as usize)?;
    Ok(Box::new(Native {
        model,
        pool: Arc::new(pool),
        model_type,
        model_ftype,
        cores: spec.threads.max(1) as usize,
    }))
}

/// The number format for a setting; what `auto` takes loses no words that were found (docs/performance.md).
fn precision(setting: PrecisionSetting) -> Precision {
    match setting {
        PrecisionSetting::Int8 => Precision::Int8Row,
        PrecisionSetting::Auto | PrecisionSetting::Int8Block => Precision::Int8Block64,
        PrecisionSetting::Bf16 => Precision::Bf16,
        PrecisionSetting::Exact => Precision::F32,
    }
}

/// The setting that names a number format.
fn precision_name(precision: Precision) -> &'static str {
    match precision {
        Precision::Int8Row => "int8",
        Precision::Int8Block64 => "int8-block",
        Precision::Bf16 => "bf16",
        Precision::F32 => "exact",
    }
}

struct Native {
    model: Arc<Model>,
    pool: Arc<Pool>,
    model_type: String,
    model_ftype: i32,
    cores: usize,
}

impl Backend for Native {
    fn report(&self) -> DeviceReport {
        let weights = &self.model.weights;
        let isa = weights.isa().name();
        DeviceReport {
            backend: "CPU".to_owned(),
            device: "CPU".to_owned(),
            description: processor_name().unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            weights_bytes: [("CPU".to_owned(), weights.bytes().len() as u64)].into(),
            system_info: format!("native | {isa} | {} cores", self.cores),
            multilingual: !self.model.vocabulary.languages.is_empty(),
            model_type: self.model_type.clone(),
            model_ftype: self.model_ftype,
            word_times: self.model.heads.is_some(),
            engine: "native".to_owned(),
            precision: precision_name(weights.precision()).to_owned(),
            isa: isa.to_owned(),
            windows_per_core: windows_per_core(weights),
            ..DeviceReport::default()
        }
    }

    fn slot(&self) -> Result<Box<dyn Slot>, String> {
        Ok(Box::new(NativeSlot {
            pool: self.pool.clone(),
        }))
    }
}

/// Windows that one core decodes together: as many as their keys and values leave room for.
fn windows_per_core(weights: &Weights) -> usize {
    let shape = weights.shape();
    // Beside integers stands a scale for each head of 64.
    let bytes_of_64 = match weights.precision() {
        Precision::Int8Row | Precision::Int8Block64 => 64 + 4,
        Precision::Bf16 => 2 * 64,
        Precision::F32 => 4 * 64,
    };
    // Keys and values of each decoder layer.
    let window = shape.text_layers * 2 * shape.n_audio_ctx * (shape.text_state / 64 * bytes_of_64);
    (WINDOW_MEMORY / window.max(1)).clamp(1, MOST_WINDOWS_PER_CORE)
}

/// The processor's name, where the system tells it.
fn processor_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Hands windows to the pool; has nothing of its own.
struct NativeSlot {
    pool: Arc<Pool>,
}

impl Slot for NativeSlot {
    fn run(
        &mut self,
        samples: &[f32],
        options: &super::message::DecodeOptions,
        threads: u32,
        control: &Control,
    ) -> Result<WindowTranscript, Option<String>> {
        use super::decode::StepError;
        self.pool
            .run(samples, options, threads.max(1) as usize, control)
            .map_err(|error| match error {
                StepError::Cancelled => None,
                StepError::Engine(detail) => Some(detail),
            })
    }

    /// The pool was warmed as a whole.
    fn warm(&mut self, _threads: u32) -> Result<(), String> {
        Ok(())
    }
}

impl Model {
    /// One second of nothing through encoder and decoder: pages are read and memory is there afterwards.
    fn warm(&self, team: &mut Team) -> Result<(), String> {
        let spectrogram = self.mel.compute(team, &vec![0.0; WARM_SAMPLES]);
        let positions = 64.min(self.weights.shape().n_audio_ctx);
        let mel = spectrogram.rows(0, 2 * positions, spectrogram.frames(), 0.0);
        let encoded = self
            .weights
            .encode(team, &mel, positions, &|| false)
            .map_err(|e| format!("the first run failed: {e}"))?;
        let mut sequence = whisper_native::Sequence::new(&self.weights);
        let mut logits = vec![0.0; self.vocabulary.size];
        let row = whisper_native::Row {
            encoded: &encoded,
            sequence: &mut sequence,
            tokens: &[self.vocabulary.start_of_transcript as u32],
            logits: whisper_native::Logits::Last,
        };
        self.weights
            .step(team, &mut [row], &mut logits)
            .map_err(|e| format!("the first run failed: {e}"))?;
        Ok(())
    }
}
