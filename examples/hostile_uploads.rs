//! Mutants of every encoding against a running server, beside ordinary requests: the server must live, every ordinary
//! request be right, memory stay flat.
//!
//! ```sh
//! scripts/hostile_uploads.sh            # 10,000 mutants, four at a time, 200 ordinary requests; prints the figures
//! ```
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../tests/audio/mutants.rs"]
mod mutants;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use mutants::{Random, mutant};

/// Mutants sent side by side.
const SENDERS: usize = 4;

#[derive(Debug, Parser)]
struct Arguments {
    /// Port of the server on this machine
    #[arg(long)]
    port: u16,
    /// Process id of the server
    #[arg(long)]
    pid: u32,
    /// Folder of recordings to change
    #[arg(long)]
    specimens: PathBuf,
    /// A recording that is sent unchanged
    #[arg(long)]
    clip: PathBuf,
    /// Words that its transcript must contain
    #[arg(long, default_value = "ask not what your country can do for you")]
    words: String,
    /// Mutants in all
    #[arg(long, default_value_t = 10_000)]
    mutants: usize,
    /// Ordinary requests in all
    #[arg(long, default_value_t = 200)]
    ordinary: usize,
    /// First seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where a mutant is kept that got no answer, or blamed the server
    #[arg(long, default_value = "hostile-findings")]
    findings: PathBuf,
}

/// What happened so far.
#[derive(Debug, Default)]
struct Tally {
    statuses: BTreeMap<u16, usize>,
    unanswered: Vec<String>,
    slowest: Duration,
}

fn main() -> Result<()> {
    let arguments = Arc::new(Arguments::parse());
    let mut specimens = Vec::new();
    for entry in fs::read_dir(&arguments.specimens)? {
        let path = entry?.path();
        let made = path.extension().is_some_and(|e| e == "f32" || e == "tsv");
        if path.is_file() && !made && path.file_name().is_some_and(|name| name != "version") {
            specimens.push(fs::read(&path)?);
        }
    }
    ensure!(
        specimens.len() > 10,
        "too few recordings in `{}`",
        arguments.specimens.display()
    );
    specimens.sort();
    let specimens = Arc::new(specimens);
    let (next, sent) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let tally = Arc::new(Mutex::new(Tally::default()));
    let began = Instant::now();
    // The first requests fill pools and caches.
    for _ in 0..3 {
        ordinary(&arguments)?;
    }
    let mut memory = vec![(0, resident_kib(arguments.pid)?, descriptors(arguments.pid)?)];

    let senders: Vec<_> = (0..SENDERS)
        .map(|_| {
            let (arguments, specimens) = (arguments.clone(), specimens.clone());
            let (next, sent, tally) = (next.clone(), sent.clone(), tally.clone());
            std::thread::spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= arguments.mutants {
                        return;
                    }
                    send(&arguments, &specimens, number, &tally);
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();

    // Ordinary requests are spread over the whole run.
    let (mut right, mut wrong, mut latencies) = (0, Vec::new(), Vec::new());
    for number in 0..arguments.ordinary {
        let due = arguments.mutants * number / arguments.ordinary.max(1);
        while sent.load(Ordering::Relaxed) < due {
            std::thread::sleep(Duration::from_millis(20));
        }
        let started = Instant::now();
        match ordinary(&arguments) {
            Ok(text) if text.to_lowercase().replace(',', "").contains(&arguments.words) => right += 1,
            Ok(text) => wrong.push(format!("{number}: {text}")),
            Err(error) => wrong.push(format!("{number}: {error:#}")),
        }
        latencies.push(started.elapsed());
        if number % (arguments.ordinary / 10).max(1) == 0 {
            memory.push((
                sent.load(Ordering::Relaxed),
                resident_kib(arguments.pid)?,
                descriptors(arguments.pid)?,
            ));
        }
    }
    for sender in senders {
        let _ = sender.join();
    }
    memory.push((
        arguments.mutants,
        resident_kib(arguments.pid)?,
        descriptors(arguments.pid)?,
    ));
    let tally = tally.lock().unwrap();
    latencies.sort();
    println!(
        "mutants            {} in {:.0} s, {SENDERS} at a time",
        arguments.mutants,
        began.elapsed().as_secs_f64()
    );
    println!("answers            {:?}", tally.statuses);
    println!("unanswered         {}", tally.unanswered.len());
    println!("slowest mutant     {:.1} s", tally.slowest.as_secs_f64());
    println!("ordinary requests  {right} of {} right", arguments.ordinary);
    if !latencies.is_empty() {
        println!(
            "their latency      median {:.2} s, slowest {:.2} s",
            latencies[latencies.len() / 2].as_secs_f64(),
            latencies[latencies.len() - 1].as_secs_f64()
        );
    }
    println!("server             mutants sent: KiB resident, descriptors");
    for (sent, kib, files) in &memory {
        println!("                   {sent:6}: {kib:8} {files:5}");
    }
    for line in wrong.iter().chain(&tally.unanswered) {
        println!("!! {line}");
    }
    let blamed = tally.statuses.keys().any(|status| *status >= 500);
    ensure!(
        wrong.is_empty() && tally.unanswered.is_empty() && !blamed,
        "not survived"
    );
    Ok(())
}

fn send(arguments: &Arguments, specimens: &[Vec<u8>], number: usize, tally: &Mutex<Tally>) {
    let seed = arguments.seed + number as u64;
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let specimen = &specimens[number % specimens.len()];
    let donor = &specimens[random.below(specimens.len())];
    let bytes = mutant(specimen, donor, &mut random);
    let started = Instant::now();
    let answer = post(arguments.port, &bytes);
    let took = started.elapsed();
    let mut tally = tally.lock().unwrap();
    tally.slowest = tally.slowest.max(took);
    let keep = match answer {
        Ok((status, _)) => {
            *tally.statuses.entry(status).or_default() += 1;
            status >= 500
        }
        Err(error) => {
            tally
                .unanswered
                .push(format!("mutant {number} (seed {seed}): {error:#}"));
            true
        }
    };
    if keep {
        let _ = fs::create_dir_all(&arguments.findings);
        let _ = fs::write(arguments.findings.join(format!("mutant-{seed}")), &bytes);
    }
}

fn ordinary(arguments: &Arguments) -> Result<String> {
    let (status, body) = post(arguments.port, &fs::read(&arguments.clip)?)?;
    ensure!(status == 200, "{status}: {body}");
    let body: serde_json::Value = serde_json::from_str(&body)?;
    Ok(body["text"].as_str().unwrap_or_default().to_owned())
}

fn post(port: u16, file: &[u8]) -> Result<(u16, String)> {
    let boundary = "----a-boundary-nobody-uses-twice";
    let mut body = Vec::with_capacity(file.len() + 300);
    write!(
        body,
        "--{boundary}\r\nContent-Disposition: form-data; name=\"language\"\r\n\r\nen\r\n--{boundary}\r\n\
         Content-Disposition: form-data; name=\"file\"; filename=\"recording\"\r\n\r\n"
    )?;
    body.extend_from_slice(file);
    write!(body, "\r\n--{boundary}--\r\n")?;
    let agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(300)))
        .build()
        .new_agent();
    let mut response = agent
        .post(format!(
            "http://127.0.0.1:{port}/openai/deployments/whisper/audio/transcriptions?api-version=2024-02-01"
        ))
        .header(
            "content-type",
            format!("multipart/form-data; boundary={boundary}"),
        )
        .send(&body[..])?;
    Ok((response.status().as_u16(), response.body_mut().read_to_string()?))
}

fn resident_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the server has ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).context("no VmRSS")
}

fn descriptors(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))
        .context("the server has ended")?
        .count())
}
