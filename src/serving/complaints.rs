//! What libraries say when something is wrong, where their words are all there is to go by.

use crate::domain::DeviceReport;
use crate::engine::EngineError;

/// Words with which CUDA, Vulkan, ggml and whisper.cpp say that memory is short.
pub(super) fn out_of_memory(trouble: &EngineError) -> bool {
    let said = match trouble {
        EngineError::Died { log, .. } => log.join("\n"),
        EngineError::StartFailed { reason } => reason.clone(),
        _ => return false,
    };
    let said = said.to_lowercase();
    [
        "out of memory",
        "failed to allocate",
        "outofdevicememory",
        "cannot set up a state",
        "alloc_buffer",
        "alloc_tensor",
    ]
    .iter()
    .any(|words| said.contains(words))
}

pub(super) fn silent_reason(report: &DeviceReport) -> String {
    let said = report.device_log.iter().rev().find(|l| {
        ["fail", "rror", "nsupported", "no GPU", "No devices"]
            .iter()
            .any(|word| l.contains(word))
    });
    match said {
        Some(line) => format!("ggml went on with the CPU: {line}"),
        None => "ggml went on with the CPU without saying why".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::DeathCause;

    #[test]
    fn memory_trouble_is_told_from_other_trouble() {
        let died = |line: &str| EngineError::Died {
            status: "abort".to_owned(),
            cause: DeathCause::Own,
            in_flight: 1,
            log: vec![line.to_owned()],
        };
        assert!(out_of_memory(&died("CUDA error: out of memory")));
        assert!(out_of_memory(&died(
            "alloc_tensor_range: failed to allocate Vulkan0 buffer of size 1"
        )));
        assert!(!out_of_memory(&died("an illegal memory access was encountered")));
        assert!(!out_of_memory(&EngineError::Cancelled));
    }

    #[test]
    fn the_newest_line_that_says_why_a_gpu_is_not_used_is_told() {
        let report = |lines: &[&str]| DeviceReport {
            device_log: lines.iter().map(|line| (*line).to_owned()).collect(),
            ..DeviceReport::default()
        };
        let said = silent_reason(&report(&[
            "ggml_vulkan: No devices found.",
            "whisper_backend_init_gpu: no GPU found",
            "whisper_model_load: CPU total size = 77 MB",
        ]));
        assert_eq!(
            said,
            "ggml went on with the CPU: whisper_backend_init_gpu: no GPU found"
        );
        assert!(silent_reason(&report(&[])).contains("without saying why"));
    }
}
