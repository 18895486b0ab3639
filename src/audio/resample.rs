//! Any sample rate to [`SAMPLE_RATE_HZ`], as a stream.

use std::collections::VecDeque;

use rubato::audioadapter_buffers::direct::SequentialSliceOfVecs;
use rubato::{
    Async, Fft, FixedAsync, FixedSync, SincInterpolationParameters, SincInterpolationType, WindowFunction,
    calculate_cutoff,
};

use super::SAMPLE_RATE_HZ;

/// Output samples a step aims at; also the step of recordings that need no resampling.
const STEP_SAMPLES: usize = 4096;

/// Longest block of input that is transformed as a whole. Rates that share few factors with 16,000 (37,813
/// Hz) need a block of one second; beyond this length they are interpolated instead, to bound memory.
const MAX_BLOCK_FRAMES: usize = 32_768;

/// Taps of the interpolating filter, for those rates only.
const SINC_TAPS: usize = 256;

/// Converts channels of one rate, keeping them in step. Output lags by no more than two steps and is complete
/// after [`finish`](Self::finish).
pub(super) struct Resampler {
    rate_hz: u32,
    /// Absent when the rate is right already.
    filter: Option<Filter>,
    /// Input that waits, a channel each.
    queue: Vec<VecDeque<f32>>,
    taken: u64,
    given: u64,
}

struct Filter {
    inner: Box<dyn rubato::Resampler<f32>>,
    input: Vec<Vec<f32>>,
    output: Vec<Vec<f32>>,
    /// Samples of the filter's own delay that are still to be dropped.
    delay: usize,
}

impl Filter {
    fn new(rate_hz: u32, channels: usize) -> Result<Self, String> {
        let divisor = gcd(rate_hz, SAMPLE_RATE_HZ);
        let frames_in = (rate_hz / divisor) as usize;
        let frames_out = (SAMPLE_RATE_HZ / divisor) as usize;
        // An even number of the smallest blocks: the filter's delay, half a block, is then a whole number of
        // samples on both sides, and the output is not shifted by a fraction of one.
        let blocks = STEP_SAMPLES.div_ceil(frames_out).next_multiple_of(2);
        let inner: Box<dyn rubato::Resampler<f32>> = if frames_in * 2 <= MAX_BLOCK_FRAMES {
            let (from, to) = (rate_hz as usize, SAMPLE_RATE_HZ as usize);
            let window = WindowFunction::BlackmanHarris2;
            let fft = Fft::new_custom(from, to, blocks * frames_in, 1, channels, window, FixedSync::Both);
            Box::new(fft.map_err(|error| error.to_string())?)
        } else {
            let ratio = f64::from(SAMPLE_RATE_HZ) / f64::from(rate_hz);
            let window = WindowFunction::BlackmanHarris2;
            let parameters = SincInterpolationParameters {
                sinc_len: SINC_TAPS,
                f_cutoff: Some(calculate_cutoff(SINC_TAPS, window)),
                oversampling_factor: 256,
                interpolation: SincInterpolationType::Cubic,
                window,
            };
            let sinc = Async::new_sinc(ratio, 1.0, &parameters, STEP_SAMPLES, channels, FixedAsync::Input);
            Box::new(sinc.map_err(|error| error.to_string())?)
        };
        let input = vec![vec![0.0; inner.input_frames_max()]; channels];
        let output = vec![vec![0.0; inner.output_frames_max()]; channels];
        let delay = inner.output_delay();
        Ok(Self {
            inner,
            input,
            output,
            delay,
        })
    }
}

/// Greatest common divisor of two numbers, one of them above zero.
fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Resampler {
    /// For `channels` channels at `rate_hz`, both at least one.
    ///
    /// # Errors
    ///
    /// A sentence, when the library refuses the rate.
    pub(super) fn new(rate_hz: u32, channels: usize) -> Result<Self, String> {
        let filter = if rate_hz == SAMPLE_RATE_HZ {
            None
        } else {
            Some(Filter::new(rate_hz, channels)?)
        };
        Ok(Self {
            rate_hz,
            filter,
            queue: vec![VecDeque::new(); channels],
            taken: 0,
            given: 0,
        })
    }

    /// Rate of the input in Hz.
    pub(super) fn rate_hz(&self) -> u32 {
        self.rate_hz
    }

    /// Queues `planes`, one a channel, all of one length.
    pub(super) fn push(&mut self, planes: &[Vec<f32>]) {
        for (queue, plane) in self.queue.iter_mut().zip(planes) {
            queue.extend(plane);
        }
        self.taken += planes.first().map_or(0, Vec::len) as u64;
    }

    /// Converts one step if enough input waits; appends to `out`. False when there was too little.
    ///
    /// # Errors
    ///
    /// A sentence, when the library fails.
    pub(super) fn step(&mut self, out: &mut [Vec<f32>]) -> Result<bool, String> {
        let waiting = self.queue.first().map_or(0, VecDeque::len);
        match &self.filter {
            None if waiting == 0 => Ok(false),
            None => {
                let count = waiting.min(STEP_SAMPLES);
                for (queue, out) in self.queue.iter_mut().zip(out) {
                    out.extend(queue.drain(..count).map(|sample| sample.clamp(-1.0, 1.0)));
                }
                self.given += count as u64;
                Ok(true)
            }
            Some(filter) if waiting < filter.inner.input_frames_next() => Ok(false),
            Some(_) => {
                self.convert(u64::MAX, out)?;
                Ok(true)
            }
        }
    }

    /// Converts what is left after the last input, one step a call; false when everything has been given.
    ///
    /// # Errors
    ///
    /// A sentence, when the library fails.
    pub(super) fn finish(&mut self, out: &mut [Vec<f32>]) -> Result<bool, String> {
        if self.filter.is_none() {
            return self.step(out);
        }
        // As many samples as the input lasted, to the nearest one.
        let rate = u64::from(self.rate_hz);
        let whole =
            (u128::from(self.taken) * u128::from(SAMPLE_RATE_HZ) + u128::from(rate / 2)) / u128::from(rate);
        let whole = whole.min(u128::from(u64::MAX)) as u64;
        if self.given >= whole {
            return Ok(false);
        }
        self.convert(whole, out)?;
        Ok(true)
    }

    /// One step of the filter, padded with silence where the queue runs out; gives at most up to sample
    /// `until`.
    fn convert(&mut self, until: u64, out: &mut [Vec<f32>]) -> Result<(), String> {
        let Some(filter) = &mut self.filter else {
            return Ok(());
        };
        let frames = filter.inner.input_frames_next();
        for (queue, input) in self.queue.iter_mut().zip(&mut filter.input) {
            let count = queue.len().min(frames);
            for (slot, sample) in input.iter_mut().zip(queue.drain(..count)) {
                *slot = sample;
            }
            input[count..frames].fill(0.0);
        }
        let channels = filter.input.len();
        let room = filter.output[0].len();
        let source =
            SequentialSliceOfVecs::new(&filter.input, channels, frames).map_err(|e| e.to_string())?;
        let mut sink =
            SequentialSliceOfVecs::new_mut(&mut filter.output, channels, room).map_err(|e| e.to_string())?;
        let (_, produced) = filter
            .inner
            .process_into_buffer(&source, &mut sink, None)
            .map_err(|error| error.to_string())?;
        let skip = filter.delay.min(produced);
        filter.delay -= skip;
        let count = ((produced - skip) as u64).min(until.saturating_sub(self.given)) as usize;
        for (output, out) in filter.output.iter().zip(out) {
            out.extend(
                output[skip..skip + count]
                    .iter()
                    .map(|sample| sample.clamp(-1.0, 1.0)),
            );
        }
        self.given += count as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::TAU;

    /// What a tone of `hz` at `rate_hz` becomes, fed in uneven pieces.
    fn tone(rate_hz: u32, hz: f64, seconds: f64) -> Vec<f32> {
        let frames = (f64::from(rate_hz) * seconds) as usize;
        let input: Vec<f32> = (0..frames)
            .map(|n| (0.5 * (TAU * hz * n as f64 / f64::from(rate_hz)).sin()) as f32)
            .collect();
        let mut resampler = Resampler::new(rate_hz, 1).unwrap();
        let mut out = [Vec::new()];
        for piece in input.chunks(1_237) {
            resampler.push(&[piece.to_vec()]);
            while resampler.step(&mut out).unwrap() {}
        }
        while resampler.finish(&mut out).unwrap() {}
        let [out] = out;
        out
    }

    /// Decibels by which `out` differs from the ideal tone, away from its ends.
    fn error_db(out: &[f32], hz: f64) -> f64 {
        let middle = 2_000..out.len() - 2_000;
        let (mut error, mut signal) = (0.0, 0.0);
        for n in middle {
            let ideal = 0.5 * (TAU * hz * n as f64 / f64::from(SAMPLE_RATE_HZ)).sin();
            error += (f64::from(out[n]) - ideal).powi(2);
            signal += ideal * ideal;
        }
        10.0 * (error / signal).log10()
    }

    #[test]
    fn tones_keep_their_length_phase_and_level_at_every_rate() {
        for rate_hz in [
            8_000, 11_025, 12_000, 22_050, 24_000, 32_000, 37_813, 44_100, 44_101, 48_000, 96_000,
        ] {
            for hz in [100.0, 1_000.0, 3_000.0] {
                let out = tone(rate_hz, hz, 1.5);
                assert!(
                    out.len().abs_diff(24_000) <= 1,
                    "{rate_hz} Hz: {} samples",
                    out.len()
                );
                let error = error_db(&out, hz);
                assert!(error < -60.0, "{hz} Hz at {rate_hz} Hz: error {error:.1} dB");
            }
        }
    }

    #[test]
    fn what_is_above_the_new_band_does_not_come_back_as_alias() {
        for rate_hz in [22_050, 32_000, 44_100, 44_101, 48_000, 96_000] {
            for hz in [8_400.0, 9_000.0, 10_500.0] {
                let out = tone(rate_hz, hz, 1.0);
                let power: f64 = out[2_000..14_000]
                    .iter()
                    .map(|sample| f64::from(*sample).powi(2))
                    .sum::<f64>();
                let left = 10.0 * (power / 12_000.0 / 0.125).log10();
                assert!(left < -60.0, "{hz} Hz at {rate_hz} Hz: {left:.1} dB left");
            }
        }
    }

    #[test]
    fn the_lowest_and_highest_rates_are_converted_in_bounded_steps() {
        for rate_hz in [1, 7, 100, 767_999, 768_000] {
            let mut resampler = Resampler::new(rate_hz, 1).unwrap();
            resampler.push(&[vec![0.25; 64]]);
            let mut out = [Vec::new()];
            let mut before = 0;
            while resampler.step(&mut out).unwrap() || resampler.finish(&mut out).unwrap() {
                let grown = out[0].len() - before;
                assert!(grown <= 3 * 16_000, "{grown} samples at once from {rate_hz} Hz");
                before = out[0].len();
            }
            assert_eq!(
                before as u64,
                (64 * 16_000 + u64::from(rate_hz) / 2) / u64::from(rate_hz)
            );
        }
    }
}
