//! whisper.cpp through whisper-rs: the only folder that names `whisper_rs`.
//!
//! One context holds the weights; every slot has a state ([`slot`]). Plain windows are decoded by [`super::decode`] over
//! encoder and decoder steps ([`steps`]); beam search, temperatures above 0 and word times go through `whisper_full`.
//! Word times need a second context with attention alignment switched on ([`alignment`]), loaded when first asked for.

mod alignment;
mod device;
mod processor;
mod slot;
mod steps;

use std::sync::{Arc, Mutex};

use whisper_rs::{FullParams, WhisperContext, WhisperContextParameters, WhisperError};

use alignment::Alignment;
use device::{Device, check_gpu_memory, cpu_description, gpu_devices, install_log, no_gpu_reason};

pub(super) use device::list_gpus;
use slot::WhisperSlot;

use super::child::{Backend, Slot};
use super::decode::{StepError, Vocabulary};
use super::message::EngineSpec;
use super::thread_tuner::ThreadTuner;
use crate::domain::DeviceReport;

/// Names of the patches that this build of whisper.cpp has (`patches/*.patch`), separated by spaces.
pub(super) fn patches() -> &'static str {
    #[allow(unsafe_code, reason = "a C string of the library")]
    // SAFETY: the function returns a string literal of whisper.cpp's patched source, which lives as long as the program.
    let names = unsafe { std::ffi::CStr::from_ptr(whisper_rs_sys::whisper_backend_patches()) };
    names.to_str().unwrap_or_default()
}

/// Loads the model on the device asked for.
pub(super) fn open(spec: &EngineSpec) -> Result<Box<dyn Backend>, String> {
    processor::check()?;
    super::gpu_libraries::link();
    if spec.gpu_device.is_none() {
        super::gpu_libraries::disable();
    }
    install_log();
    let mut picked = None;
    if let Some(number) = spec.gpu_device {
        let device = gpu_devices()
            .into_iter()
            .nth(number as usize)
            .ok_or_else(|| no_gpu_reason(number))?;
        if let Some(missing) = super::gpu_libraries::missing_for(&device.backend) {
            return Err(format!("{} cannot be used: {missing}", device.name));
        }
        check_gpu_memory(&device, &spec.model)?;
        picked = Some(device);
    }
    let mut parameters = WhisperContextParameters::default();
    parameters.use_gpu(picked.is_some());
    parameters.gpu_device(spec.gpu_device.unwrap_or(0) as i32);
    parameters.flash_attn(spec.flash_attention);
    let context = WhisperContext::new_with_params(&spec.model, parameters)
        .map_err(|e| format!("whisper.cpp cannot load `{}`: {e}", spec.model.display()))?;
    let model_type = context
        .model_type_readable_str_lossy()
        .map(std::borrow::Cow::into_owned)
        .unwrap_or_default();
    let vocabulary = Arc::new(vocabulary(&context)?);
    Ok(Box::new(Whisper {
        alignment: Arc::new(Alignment::new(spec.model.clone(), &context, spec.gpu_device)),
        context: Arc::new(context),
        vocabulary,
        tuner: Arc::new(Mutex::new(ThreadTuner::new(spec.threads as usize))),
        spec: spec.clone(),
        picked,
        model_type,
    }))
}

struct Whisper {
    context: Arc<WhisperContext>,
    alignment: Arc<Alignment>,
    vocabulary: Arc<Vocabulary>,
    tuner: Arc<Mutex<ThreadTuner>>,
    spec: EngineSpec,
    picked: Option<Device>,
    model_type: String,
}

impl Backend for Whisper {
    fn report(&self) -> DeviceReport {
        let log = device::device_log();
        // ggml may list a device and still fail to use it; what it used it says in its log.
        let refused = log
            .iter()
            .any(|l| l.contains("failed to initialize") || l.contains("no GPU found"));
        let gpu = self.picked.clone().filter(|_| !refused);
        // OpenCL does not say, and gives 0.
        let memory = gpu.as_ref().map(Device::memory).filter(|(_, total)| *total > 0);
        DeviceReport {
            gpu: gpu.is_some(),
            backend: gpu
                .as_ref()
                .map_or_else(|| "CPU".to_owned(), |d| d.backend.clone()),
            device: gpu.as_ref().map_or_else(|| "CPU".to_owned(), |d| d.name.clone()),
            description: gpu
                .as_ref()
                .map_or_else(cpu_description, |d| d.description.clone()),
            memory_total_bytes: memory.map(|m| m.1),
            memory_free_bytes: memory.map(|m| m.0),
            weights_bytes: device::weights(),
            system_info: whisper_rs::print_system_info().to_owned(),
            device_log: log,
            multilingual: self.context.is_multilingual(),
            model_type: self.model_type.clone(),
            model_ftype: self.context.model_ftype(),
            word_times: self.alignment.is_known(),
            flash_attention: self.spec.flash_attention,
            load_seconds: 0.0,
            slots: 0,
            engine: "whisper.cpp".to_owned(),
            precision: String::new(),
            isa: String::new(),
            windows_per_core: 1,
            pid: 0,
        }
    }

    fn slot(&self) -> Result<Box<dyn Slot>, String> {
        let state = self
            .context
            .create_state()
            .map_err(|e| format!("whisper.cpp cannot set up a state (memory?): {e}"))?;
        Ok(Box::new(WhisperSlot::new(self, state)))
    }
}

fn engine_error(error: WhisperError) -> StepError {
    StepError::Engine(error.to_string())
}

fn quiet(params: &mut FullParams<'_, '_>, threads: u32) {
    params.set_n_threads(threads.max(1) as i32);
    params.set_print_special(false);
    params.set_print_progress(false);
    params.set_print_realtime(false);
    params.set_print_timestamps(false);
    params.set_suppress_nst(true);
    // Text of one request must never condition another's (whisper.cpp keeps it in the state otherwise).
    params.set_no_context(true);
}

fn vocabulary(context: &WhisperContext) -> Result<Vocabulary, String> {
    let texts = (0..context.token_eot())
        .map(|id| context.token_to_bytes(id).map(<[u8]>::to_vec).unwrap_or_default())
        .collect();
    let (size, room) = (context.n_vocab() as usize, context.model_n_text_ctx() as usize);
    Vocabulary::new(size, room, texts)
}
