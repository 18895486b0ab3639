//! Times the encoder and decoder steps of random weights:
//! `forward [SHAPE] [PRECISION,...] [ISA,...] [THREADS,...] [POSITIONS,...] [PART,...] [FILE]`, `-` for a default.
//!
//! Parts are `encode`, `steps` and `prompts`. With FILE the weights are written there and mapped, as the server has them.
//! Prints medians, GMAC/s and the share of what the multiplying instructions do in registers, measured in the same run.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use whisper_native::random::{Random, RandomTensors};
use whisper_native::{
    Encoded, Isa, Logits, Precision, Region, Row, Sequence, Shape, Team, Weights, register_peak,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |index: usize, default: &str| -> String {
        arguments
            .get(index)
            .filter(|text| *text != "-")
            .cloned()
            .unwrap_or_else(|| default.to_owned())
    };
    let name = argument(0, "base");
    let shape = Shape::named(&name).ok_or_else(|| format!("no shape `{name}`"))?;
    let all: Vec<&str> = Precision::ALL.map(Precision::name).to_vec();
    let chosen = argument(1, &all.join(","));
    let precisions = Precision::ALL
        .into_iter()
        .filter(|p| chosen.split(',').any(|name| name == p.name()));
    let isas = argument(2, Isa::detect().name());
    let isas = isas
        .split(',')
        .map(Isa::from_name)
        .collect::<Result<Vec<_>, _>>()?;
    let numbers = |text: String| text.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>();
    let threads = numbers(argument(3, "1,2"))?;
    let positions = numbers(argument(4, "742"))?;
    let parts = argument(5, "encode,steps,prompts");
    let file = arguments.get(6);

    for precision in precisions {
        let start = Instant::now();
        let mut tensors = RandomTensors::new(shape, 1);
        let packed = Weights::pack(shape, precision, isas[0], &mut tensors)?;
        let region = region(packed.bytes(), file)?;
        println!(
            "{name} {}: {} MB made and packed in {:.1} s",
            precision.name(),
            packed.bytes().len() / 1_000_000,
            start.elapsed().as_secs_f64()
        );
        drop(packed);
        for isa in &isas {
            let weights = Weights::open(shape, precision, *isa, region.clone())?;
            for threads in &threads {
                for positions in &positions {
                    measure(&weights, *threads, *positions, &parts)?;
                }
            }
        }
    }
    Ok(())
}

/// Packed weights in memory, or in a mapped file.
fn region(bytes: &[u8], file: Option<&String>) -> Result<Region, Box<dyn std::error::Error>> {
    let Some(path) = file else {
        return Ok(Arc::new(Aligned::copy(bytes)));
    };
    std::fs::write(path, bytes)?;
    // SAFETY: the file is this process's own and nobody changes it meanwhile.
    let map = unsafe { memmap2::Mmap::map(&std::fs::File::open(path)?) }?;
    if std::env::var("HUGE").is_ok() {
        map.advise(memmap2::Advice::HugePage)?;
    }
    Ok(Arc::new(map))
}

/// Packed bytes at a cache line, as a mapped file would have them.
struct Aligned(Vec<Line>);

#[repr(align(64))]
#[derive(Clone, Copy)]
struct Line([u8; 64]);

impl Aligned {
    fn copy(bytes: &[u8]) -> Self {
        let mut lines = vec![Line([0; 64]); bytes.len().div_ceil(64)];
        for (line, bytes) in lines.iter_mut().zip(bytes.chunks(64)) {
            line.0[..bytes.len()].copy_from_slice(bytes);
        }
        Self(lines)
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: lines are 64 bytes each without padding.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 64) }
    }
}

/// Milliseconds of some runs.
struct Times {
    median: f64,
    least: f64,
    /// Processor time a run, all threads together: what a run costs on a machine that does other work too.
    processor: f64,
}

fn time(runs: usize, mut work: impl FnMut()) -> Times {
    work();
    let before = processor_ms();
    let mut times: Vec<f64> = (0..runs)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    let processor = (processor_ms() - before) / runs as f64;
    times.sort_by(f64::total_cmp);
    Times {
        median: times[times.len() / 2],
        least: times[0],
        processor,
    }
}

/// Processor time of all threads so far; not a number where the system does not say.
fn processor_ms() -> f64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
        return f64::NAN;
    };
    let nanoseconds = tasks.flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() / 1e6
}

fn measure(
    weights: &Weights,
    threads: usize,
    positions: usize,
    parts: &str,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut team = Team::new(threads);
    let mut random = Random::new(1);
    let mel: Vec<f32> = (0..weights.shape().n_mels * 2 * positions)
        .map(|_| random.normal() * 0.3)
        .collect();
    println!(
        "  {} {}, {threads} threads, {positions} positions",
        weights.isa().name(),
        weights.precision().name()
    );
    let chosen = |part: &str| parts.split(',').any(|name| name == part);
    if chosen("encode") {
        encoder(weights, &mut team, &mel, positions)?;
    }
    if chosen("steps") {
        let windows: Vec<Encoded> = (0..8)
            .map(|_| weights.encode(&mut team, &mel, positions, &|| false))
            .collect::<Result<_, _>>()?;
        let mut text = String::new();
        let batches = [
            (1, false),
            (2, true),
            (4, true),
            (8, true),
            (5, false),
            (8, false),
        ];
        for (batch, own) in batches {
            let times = steps(weights, &mut team, &windows, batch, own)?;
            let kind = if own { "own" } else { "one" };
            write!(
                text,
                "  {batch} {kind} {:.2} ({:.2}, {:.2})",
                times.median, times.least, times.processor
            )?;
        }
        println!("    steps, ms (least, processor) by rows and windows:{text}");
    }
    if chosen("prompts") {
        prompts(weights, &mut team, &mel, positions)?;
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(peak) = status.lines().find_map(|line| line.strip_prefix("VmHWM:")) {
        println!("    most memory so far {}", peak.trim());
    }
    Ok(())
}

fn encoder(
    weights: &Weights,
    team: &mut Team,
    mel: &[f32],
    positions: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    let shape = weights.shape();
    let runs = if shape.audio_state > 768 { 3 } else { 11 };
    weights.encode(team, mel, positions, &|| false)?;
    let encode = time(runs, || {
        let _ = weights.encode(team, mel, positions, &|| false);
    });
    let (linear, attention) = macs(shape, positions);
    let threads = team.threads() as f64;
    let format = if weights.precision() == Precision::F32 {
        Precision::F32
    } else {
        Precision::Bf16
    };
    let peak = register_peak(weights.isa(), weights.precision()) * threads;
    let attention_peak = register_peak(weights.isa(), format) * threads;
    let limit = (linear / peak + attention / attention_peak) * 1e3;
    println!(
        "    encode {:.1} ms (least {:.1}, processor {:.1}), {:.0} GMAC/s, {:.0} % of the limit {limit:.1} ms \
         (peak {peak:.0} and {attention_peak:.0})",
        encode.median,
        encode.least,
        encode.processor,
        (linear + attention) / encode.least * 1e3,
        limit / encode.least * 100.0
    );
    Ok(())
}

fn prompts(
    weights: &Weights,
    team: &mut Team,
    mel: &[f32],
    positions: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    let shape = weights.shape();
    let encoded = weights.encode(team, mel, positions, &|| false)?;
    let mut random = Random::new(2);
    let mut logits = vec![0.0; shape.n_vocab];
    let tokens: Vec<u32> = (0..64).map(|_| random.below(shape.n_vocab) as u32).collect();
    let mut least = [0.0; 2];
    for (least, count) in least.iter_mut().zip([4, 64]) {
        *least = time(5, || {
            let mut sequence = Sequence::new(weights);
            let row = Row {
                encoded: &encoded,
                sequence: &mut sequence,
                tokens: &tokens[..count],
                logits: Logits::Last,
            };
            let _ = weights.step(team, &mut [row], &mut logits);
        })
        .least;
    }
    let heads: Vec<(usize, usize)> = (0..8)
        .map(|i| (shape.text_layers - 1 - i % 2, i % shape.text_heads))
        .collect();
    let attend = time(5, || {
        let _ = weights.attend(team, &encoded, &tokens[..40], &heads);
    });
    println!(
        "    prefill of 4 tokens {:.2} ms, of 64 {:.2} ms; attend over 40 tokens {:.2} ms (least)",
        least[0], least[1], attend.least
    );
    Ok(())
}

/// Milliseconds a step over 100 steps after a short prompt.
fn steps(
    weights: &Weights,
    team: &mut Team,
    windows: &[Encoded],
    batch: usize,
    own: bool,
) -> Result<Times, Box<dyn std::error::Error>> {
    let mut sequences: Vec<Sequence> = (0..batch).map(|_| Sequence::new(weights)).collect();
    let mut logits = vec![0.0; batch * weights.shape().n_vocab];
    let mut failed = None;
    let mut first = true;
    let times = time(100, || {
        let mut rows: Vec<Row<'_>> = sequences
            .iter_mut()
            .enumerate()
            .map(|(index, sequence)| Row {
                encoded: &windows[if own { index } else { 0 }],
                sequence,
                tokens: &[1, 2, 3, 4][..if first { 4 } else { 1 }],
                logits: Logits::Last,
            })
            .collect();
        first = false;
        failed = weights.step(team, &mut rows, &mut logits).err().or(failed.take());
    });
    failed.map_or(Ok(times), |error| Err(error.into()))
}

/// Multiplications of the encoder in 10^9: linear (with the decoder's keys and values) and attention.
fn macs(shape: &Shape, positions: usize) -> (f64, f64) {
    let (t, d) = (positions as f64, shape.audio_state as f64);
    let layer = 12.0 * d * d;
    let convolutions = 2.0 * 3.0 * shape.n_mels as f64 * d + 3.0 * d * d;
    let cross = shape.text_layers as f64 * 2.0 * d * shape.text_state as f64;
    let linear = t * (shape.audio_layers as f64 * layer + convolutions + cross);
    let attention = shape.audio_layers as f64 * 2.0 * t * t * d;
    (linear / 1e9, attention / 1e9)
}
