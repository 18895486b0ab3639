//! How much memory models may take.

use std::path::Path;

/// Share of the free memory that models take when nobody said how much: the rest is for recordings and the system.
const AUTOMATIC_SHARE: f64 = 0.8;
/// A state's own buffers are never less, in bytes (measured with `tiny`: 90 to 120 MiB with its scratch buffers).
const LEAST_STATE_BYTES: u64 = 128 << 20;
/// More windows side by side than this never paid on one GPU.
const MAX_GPU_SLOTS: usize = 8;
/// A state on a GPU costs at least so much beside its cache, in bytes.
const LEAST_GPU_STATE_BYTES: u64 = 256 << 20;

/// Bytes of a model's file; 0 for one that is not there, which the engine will say itself.
pub(super) fn weights(model: &Path) -> u64 {
    std::fs::metadata(model).map_or(0, |file| file.len())
}

/// Bytes that an engine on the processor takes: the weights and a tenth, and a third of the weights for each state.
pub(super) fn engine_bytes(weights: u64, slots: usize) -> u64 {
    weights + weights / 10 + slots as u64 * (weights / 3).clamp(LEAST_STATE_BYTES, 1 << 30)
}

/// Slots that fit beside the weights. A state costs about a third of an f16 model's bytes.
pub(super) fn gpu_slots(free_bytes: u64, weights: u64) -> usize {
    let each = (weights / 3).max(LEAST_GPU_STATE_BYTES);
    let room = free_bytes.saturating_sub(weights + weights / 10);
    ((room / each) as usize).clamp(1, MAX_GPU_SLOTS)
}

/// Whether one slot fits on a GPU with so much free.
pub(super) fn fits_gpu(free_bytes: u64, weights: u64) -> bool {
    free_bytes >= weights + weights / 10 + LEAST_GPU_STATE_BYTES
}

/// The automatic bound in bytes; without one where the system does not say what is free.
pub(super) fn automatic_bound() -> Option<u64> {
    available_bytes().map(|free| (free as f64 * AUTOMATIC_SHARE) as u64)
}

/// Bytes that programs can take now: what the system has free, or what the container may still use.
pub(super) fn available_bytes() -> Option<u64> {
    let system = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| mem_available(&text));
    match (system, container_bytes()) {
        (Some(system), Some(container)) => Some(system.min(container)),
        (one, other) => one.or(other),
    }
}

/// `MemAvailable:   12345 kB`
fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes << 10)
}

/// What the control group (version 2) of this process may still take.
fn container_bytes() -> Option<u64> {
    let number = |name: &str| -> Option<u64> {
        std::fs::read_to_string(format!("/sys/fs/cgroup/{name}"))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    // `max` is no number: no limit.
    Some(number("memory.max")?.saturating_sub(number("memory.current")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn slots_follow_free_memory() {
        assert_eq!(gpu_slots(80 * GIB, GIB), MAX_GPU_SLOTS);
        assert_eq!(gpu_slots(2 * GIB, 3 * GIB), 1);
        assert_eq!(gpu_slots(3 * GIB, 150 << 20), 8);
        assert_eq!(gpu_slots(GIB, 150 << 20), 3);
        assert!(fits_gpu(2 * GIB, GIB) && !fits_gpu(GIB, GIB));
    }

    #[test]
    fn an_engine_needs_its_weights_and_its_states() {
        assert!(engine_bytes(GIB, 1) > GIB + GIB / 10);
        assert!(engine_bytes(GIB, 8) > engine_bytes(GIB, 1));
    }

    #[test]
    fn the_systems_own_words_are_read() {
        let text = "MemTotal:       24641812 kB\nMemFree:  1 kB\nMemAvailable:   20480 kB\n";
        assert_eq!(mem_available(text), Some(20 << 20));
        assert_eq!(mem_available(""), None);
    }
}
