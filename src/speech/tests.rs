//! Behaviour of the whole module on made speech, noise and silence.

use std::time::Duration;

use super::*;

/// Numbers from 0 to 1 that are the same on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }

    fn between(&mut self, from: f32, to: f32) -> f32 {
        from + (to - from) * self.roll()
    }
}

/// Something the detector takes for a voice: a glottal pulse train through three moving formants, in syllables of a
/// quarter of a second.
fn voice(seconds: f32, level: f32) -> Vec<f32> {
    let rate = SAMPLE_RATE_HZ as f32;
    let vowels = [
        [700.0, 1200.0, 2600.0],
        [300.0, 2200.0, 3000.0],
        [400.0, 800.0, 2500.0],
        [550.0, 1800.0, 2500.0],
    ];
    let mut state = [[0.0_f32; 2]; 3];
    let mut phase = 0.0_f32;
    (0..(seconds * rate) as usize)
        .map(|at| {
            let time = at as f32 / rate;
            let syllable = time / 0.25;
            let vowel = vowels[syllable as usize % vowels.len()];
            let pitch = 120.0 + 25.0 * (time * 1.7).sin();
            phase += pitch / rate;
            let pulse = if phase >= 1.0 {
                phase -= 1.0;
                1.0
            } else {
                0.0
            };
            let mut sum = 0.0;
            for (memory, (formant, bandwidth)) in
                state.iter_mut().zip(vowel.iter().zip([80.0_f32, 100.0, 140.0]))
            {
                let radius = (-std::f32::consts::PI * bandwidth / rate).exp();
                let angle = 2.0 * std::f32::consts::PI * formant / rate;
                let out = pulse + 2.0 * radius * angle.cos() * memory[0] - radius * radius * memory[1];
                *memory = [out, memory[0]];
                sum += out;
            }
            let envelope = (std::f32::consts::PI * syllable.fract()).sin().max(0.1);
            (sum * envelope * 0.08 * level).clamp(-1.0, 1.0)
        })
        .collect()
}

fn silence(seconds: f32) -> Vec<f32> {
    vec![0.0; (seconds * SAMPLE_RATE_HZ as f32) as usize]
}

fn noise(seconds: f32, level: f32, seed: u64) -> Vec<f32> {
    let mut dice = Dice(seed);
    (0..(seconds * SAMPLE_RATE_HZ as f32) as usize)
        .map(|_| dice.between(-level, level))
        .collect()
}

fn windows_of(options: WindowerOptions, samples: &[f32]) -> Vec<Window> {
    let mut windower = Windower::new(options);
    let mut windows = windower.push(samples);
    windows.extend(windower.finish());
    windows
}

fn seconds(samples: u64) -> f32 {
    samples as f32 / SAMPLE_RATE_HZ as f32
}

fn end(window: &Window) -> u64 {
    window.start_sample + window.samples.len() as u64
}

/// What holds for every recording and every option.
fn check(recording: &[f32], options: &WindowerOptions, windows: &[Window]) {
    let longest = (options.max_window.as_secs_f32() * SAMPLE_RATE_HZ as f32) as usize;
    let mut reached = 0;
    for window in windows {
        assert!(!window.samples.is_empty(), "an empty window");
        assert!(
            window.samples.len() <= longest + FRAME_SAMPLES,
            "a window of {} samples",
            window.samples.len()
        );
        assert!(
            window.start_sample >= reached,
            "windows overlap at {reached}: {}",
            window.start_sample
        );
        reached = end(window);
        let start = window.start_sample as usize;
        assert_eq!(
            window.samples,
            recording[start..start + window.samples.len()],
            "a window is a piece of the recording"
        );
        let mut last = 0;
        for segment in &window.speech {
            assert!(segment.start >= last && segment.start < segment.end);
            assert!(segment.end <= window.samples.len());
            last = segment.end;
        }
        assert!(!options.vad || !window.speech.is_empty());
    }
    assert!(reached <= recording.len() as u64);
}

#[test]
fn two_sentences_far_apart_are_two_windows_with_padding() {
    let mut recording = silence(3.0);
    recording.extend(voice(3.0, 1.0));
    recording.extend(silence(5.0));
    recording.extend(voice(4.0, 1.0));
    recording.extend(silence(3.0));
    let options = WindowerOptions::default();
    let windows = windows_of(options, &recording);
    check(&recording, &options, &windows);
    assert_eq!(windows.len(), 2, "{windows:?}");
    for (window, (from, to)) in windows.iter().zip([(3.0, 6.0), (11.0, 15.0)]) {
        assert!(seconds(window.start_sample) < from, "first sound kept");
        assert!(seconds(window.start_sample) > from - 1.0, "silence dropped");
        assert!(seconds(end(window)) > to - 0.1, "last sound kept");
        assert!(seconds(end(window)) < to + 1.0, "silence dropped");
    }
}

#[test]
fn a_short_pause_does_not_split_a_window() {
    let mut recording = voice(2.0, 1.0);
    recording.extend(silence(0.6));
    recording.extend(voice(2.0, 1.0));
    let windows = windows_of(WindowerOptions::default(), &recording);
    assert_eq!(windows.len(), 1);
    assert!(windows[0].start_sample < 1_000);
    assert!(seconds(end(&windows[0])) > 4.5);
}

#[test]
fn silence_and_steady_noise_reach_no_model() {
    for (what, recording) in [
        ("digital silence", silence(60.0)),
        ("hiss of 16-bit audio", noise(60.0, 2e-5, 7)),
        ("faint hiss", noise(60.0, 1e-3, 7)),
        ("loud hiss", noise(60.0, 0.3, 7)),
    ] {
        let windows = windows_of(WindowerOptions::default(), &recording);
        let heard: usize = windows.iter().map(|window| window.samples.len()).sum();
        assert_eq!(heard, 0, "{what}");
    }
}

#[test]
fn hum_and_held_chords_reach_no_model_but_speech_over_hum_does() {
    let tone = |seconds: f32, depth: f32, hertz: &[f32]| -> Vec<f32> {
        (0..(seconds * SAMPLE_RATE_HZ as f32) as usize)
            .map(|at| {
                let time = at as f32 / SAMPLE_RATE_HZ as f32;
                let swell = 1.0 - depth * (3.0 * time).sin();
                let sum: f32 = hertz
                    .iter()
                    .map(|hertz| (2.0 * std::f32::consts::PI * hertz * time).sin())
                    .sum();
                0.1 * swell * sum / hertz.len() as f32
            })
            .collect()
    };
    let heard = |recording: &[f32]| -> usize {
        windows_of(WindowerOptions::default(), recording)
            .iter()
            .map(|window| window.samples.len())
            .sum()
    };
    let hum = tone(60.0, 0.0, &[50.0, 100.0, 150.0, 200.0, 250.0, 300.0]);
    assert_eq!(heard(&hum), 0, "mains hum");
    assert_eq!(heard(&tone(60.0, 0.5, &[220.0, 277.0, 330.0])), 0, "a held chord");
    let mut speech = voice(8.0, 0.3);
    for (sample, hum) in speech.iter_mut().zip(&hum) {
        *sample += hum;
    }
    assert!(heard(&speech) > 6 * SAMPLE_RATE_HZ as usize, "speech over hum");
}

#[test]
fn a_quiet_recording_is_heard_like_a_loud_one() {
    let make = |level| {
        let mut recording = noise(2.0, level * 1e-3, 3);
        recording.extend(voice(5.0, level));
        recording.extend(noise(2.0, level * 1e-3, 4));
        recording
    };
    let speech = |level| {
        let mut windower = Windower::new(WindowerOptions::default());
        windower.push(&make(level));
        windower.finish();
        seconds(windower.speech_samples())
    };
    let loud = speech(1.0);
    assert!(loud > 4.0, "{loud}");
    for level in [0.1, 0.01, 0.003] {
        let quiet = speech(level);
        assert!((quiet - loud).abs() < 1.0, "level {level}: {quiet} of {loud} s");
    }
}

#[test]
fn short_recordings_reach_the_model_whole_unless_they_are_silent() {
    for length in [0.1, 0.3, 1.0, 1.9] {
        let recording = noise(length, 0.05, 11);
        let windows = windows_of(WindowerOptions::default(), &recording);
        assert_eq!(windows.len(), 1, "{length} s");
        assert_eq!(windows[0].samples, recording);
        assert!(windows_of(WindowerOptions::default(), &silence(length)).is_empty());
    }
    assert!(windows_of(WindowerOptions::default(), &[]).is_empty());
}

#[test]
fn endless_speech_is_cut_at_its_quietest_place_and_nothing_is_lost() {
    // Every 5.5 s one syllable is nearly silent, but no pause is long enough to end a segment.
    let mut recording = Vec::new();
    for _ in 0..20 {
        recording.extend(voice(5.5, 1.0));
        recording.extend(silence(0.15));
    }
    let options = WindowerOptions {
        min_silence: Duration::from_millis(500),
        max_window: Duration::from_secs(20),
        ..WindowerOptions::default()
    };
    let windows = windows_of(options, &recording);
    check(&recording, &options, &windows);
    assert!(windows.len() >= 5);
    for pair in windows.windows(2) {
        assert_eq!(end(&pair[0]), pair[1].start_sample, "nothing between two windows");
        let phase = seconds(end(&pair[0])) % 5.65;
        assert!(
            (5.4..5.65).contains(&phase) || phase < 0.1,
            "cut {phase} s into a phrase"
        );
    }
    assert!(windows[0].start_sample == 0);
    assert!(recording.len() as u64 - end(windows.last().expect("windows")) < 8_000);
}

#[test]
fn without_detection_windows_join_without_gaps_and_end_in_quiet_places() {
    let mut recording = Vec::new();
    for _ in 0..12 {
        recording.extend(voice(9.0, 1.0));
        recording.extend(silence(0.5));
    }
    let options = WindowerOptions {
        vad: false,
        ..WindowerOptions::default()
    };
    let windows = windows_of(options, &recording);
    check(&recording, &options, &windows);
    let mut reached = 0;
    for window in &windows {
        assert_eq!(window.start_sample, reached);
        reached = end(window);
        let phase = seconds(reached) % 9.5;
        assert!(!(0.1..=8.9).contains(&phase), "cut {phase} s into a phrase");
    }
    assert_eq!(reached, recording.len() as u64);
}

#[test]
fn not_a_number_and_overshoot_are_survived() {
    let mut recording = voice(4.0, 1.0);
    for sample in recording.iter_mut().step_by(997) {
        *sample = f32::NAN;
    }
    for sample in recording.iter_mut().skip(5).step_by(10_009) {
        *sample = 40.0;
    }
    recording.push(f32::INFINITY);
    let windows = windows_of(WindowerOptions::default(), &recording);
    assert_eq!(windows.len(), 1);
}

/// A recording of random voices, pauses, levels and noises.
fn random_recording(dice: &mut Dice) -> Vec<f32> {
    let mut recording = Vec::new();
    for _ in 0..=(dice.roll() * 10.0) as usize {
        let pause = dice.roll().powi(3) * 5.0;
        let level = dice.between(0.01, 1.0);
        if dice.roll() < 0.3 {
            recording.extend(noise(pause, level * 0.1, (pause * 1e6) as u64 + 1));
        } else {
            recording.extend(silence(pause));
        }
        let length = dice.roll().powi(2) * 40.0;
        recording.extend(voice(length, level));
    }
    recording.truncate(recording.len() - (dice.roll() * 300.0) as usize);
    recording
}

fn random_options(dice: &mut Dice) -> WindowerOptions {
    let seconds = |dice: &mut Dice, from, to| Duration::from_secs_f32(dice.between(from, to));
    let max_window = seconds(dice, 2.0, 30.0);
    WindowerOptions {
        vad: dice.roll() < 0.85,
        threshold: dice.between(0.2, 0.9),
        threshold_end: dice.between(0.1, 0.9),
        min_silence: seconds(dice, 0.0, 1.0),
        min_speech: seconds(dice, 0.0, 0.5),
        padding: seconds(dice, 0.0, 0.6),
        max_window,
        target_window: seconds(dice, 1.0, 30.0),
        min_window: seconds(dice, 0.0, 10.0),
        join_gap: seconds(dice, 0.0, 4.0),
    }
}

#[test]
fn any_recording_any_option_any_block_size() {
    let mut dice = Dice(0x5eed);
    for round in 0..40 {
        let recording = random_recording(&mut dice);
        let options = random_options(&mut dice);
        let whole = windows_of(options, &recording);
        check(&recording, &options, &whole);

        let mut windower = Windower::new(options);
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < recording.len() {
            let size = 1 + (dice.roll().powi(4) * 50_000.0) as usize;
            let to = (at + size).min(recording.len());
            pieces.extend(windower.push(&recording[at..to]));
            at = to;
        }
        pieces.extend(windower.finish());
        assert!(whole == pieces, "round {round}: block sizes change the windows");
        assert_eq!(windower.samples_seen(), recording.len() as u64);
        let speech: usize = if options.vad {
            whole
                .iter()
                .flat_map(|window| &window.speech)
                .map(Range::len)
                .sum()
        } else {
            recording.len()
        };
        assert_eq!(windower.speech_samples(), speech as u64);
    }
}

#[test]
fn every_detected_sample_is_in_exactly_one_window() {
    let mut dice = Dice(0xfeed);
    for round in 0..25 {
        let recording = random_recording(&mut dice);
        let options = WindowerOptions {
            vad: true,
            ..random_options(&mut dice)
        };
        // What the detector hears does not depend on how windows are packed: compare with one rule that packs loosely.
        let loose = WindowerOptions {
            max_window: Duration::from_secs(30),
            target_window: Duration::from_secs(30),
            min_window: Duration::ZERO,
            join_gap: Duration::from_secs(2),
            ..options
        };
        let marks = |options| {
            let mut heard = vec![0_u8; recording.len()];
            for window in windows_of(options, &recording) {
                for segment in window.speech {
                    let start = window.start_sample as usize;
                    for mark in &mut heard[start + segment.start..start + segment.end] {
                        *mark += 1;
                    }
                }
            }
            heard
        };
        let (tight, loose) = (marks(options), marks(loose));
        assert!(tight.iter().all(|&count| count <= 1), "round {round}");
        assert!(tight == loose, "round {round}: packing lost or made up speech");
    }
}

#[test]
fn memory_stays_bounded() {
    let mut windower = Windower::new(WindowerOptions::default());
    let minute = voice(60.0, 1.0);
    let mut most = 0;
    for part in 0..10 {
        if part % 3 == 2 {
            windower.push(&silence(60.0));
        } else {
            windower.push(&minute);
        }
        most = most.max(windower.buffered_samples());
    }
    assert!(seconds(most as u64) < 60.0, "{} s are held", seconds(most as u64));
}

/// Seconds of frames at or above the threshold, and the first of them, when these samples arrive as they are spoken.
fn heard_live(samples: &[f32]) -> (f32, Option<f32>) {
    let mut live = LiveVoice::default();
    let mut frames = std::collections::VecDeque::new();
    for piece in samples.chunks(317) {
        live.push(piece, &mut frames);
    }
    assert!(
        samples.len() / FRAME_SAMPLES - frames.len() < 3,
        "judged as it comes"
    );
    let voiced: Vec<usize> = (0..frames.len())
        .filter(|&at| frames[at].voice() >= 0.5)
        .collect();
    let length = |frames: usize| frames as f32 * FRAME_SAMPLES as f32 / SAMPLE_RATE_HZ as f32;
    (length(voiced.len()), voiced.first().map(|&at| length(at)))
}

#[test]
fn live_speech_is_heard_within_three_tenths_of_a_second_at_any_level() {
    for level in [1.0, 0.1, 0.02] {
        let mut samples = noise(2.0, 0.000_5, 3);
        samples.extend(voice(3.0, level));
        let (seconds, first) = heard_live(&samples);
        let first = first.unwrap_or(99.0);
        assert!((1.9..2.3).contains(&first), "level {level}: heard at {first} s");
        assert!(seconds > 2.0, "level {level}: {seconds} s of 3");
    }
}

#[test]
fn live_silence_and_steady_noise_are_no_voice() {
    assert_eq!(heard_live(&silence(5.0)).1, None);
    for level in [0.001, 0.01, 0.1] {
        let (seconds, _) = heard_live(&noise(10.0, level, 5));
        assert!(seconds < 0.1, "noise {level}: {seconds} s");
    }
}
