//! Any sample rate to [`SAMPLE_RATE_HZ`], as a stream.

use std::collections::VecDeque;

use rubato::audioadapter_buffers::direct::SequentialSliceOfVecs;
use rubato::{Fft, FixedSync, Resampler as _, WindowFunction};

use super::SAMPLE_RATE_HZ;

/// Output samples a step aims at; also the step of recordings that need no resampling.
const STEP_SAMPLES: usize = 4096;

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
    fft: Fft<f32>,
    input: Vec<Vec<f32>>,
    output: Vec<Vec<f32>>,
    /// Samples of the filter's own delay that are still to be dropped.
    delay: usize,
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
            let chunk =
                (STEP_SAMPLES as u64 * u64::from(rate_hz) / u64::from(SAMPLE_RATE_HZ)).max(1) as usize;
            let fft = Fft::<f32>::new_custom(
                rate_hz as usize,
                SAMPLE_RATE_HZ as usize,
                chunk,
                FFT_BLOCKS_A_STEP,
                channels,
                WindowFunction::BlackmanHarris2,
                FixedSync::Both,
            )
            .map_err(|error| error.to_string())?;
            let input = vec![vec![0.0; fft.input_frames_max()]; channels];
            let output = vec![vec![0.0; fft.output_frames_max()]; channels];
            let delay = fft.output_delay();
            Some(Filter {
                fft,
                input,
                output,
                delay,
            })
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
            Some(filter) if waiting < filter.fft.input_frames_next() => Ok(false),
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

    /// One step of the filter, padded with silence where the queue runs out; gives at most up to sample `until`.
    fn convert(&mut self, until: u64, out: &mut [Vec<f32>]) -> Result<(), String> {
        let Some(filter) = &mut self.filter else {
            return Ok(());
        };
        let frames = filter.fft.input_frames_next();
        for (queue, input) in self.queue.iter_mut().zip(&mut filter.input) {
            let count = queue.len().min(frames);
            for (slot, sample) in input.iter_mut().zip(queue.drain(..count)) {
                *slot = sample;
            }
            input[count..frames].fill(0.0);
        }
        let channels = filter.input.len();
        let output_frames = filter.output[0].len();
        let source =
            SequentialSliceOfVecs::new(&filter.input, channels, frames).map_err(|e| e.to_string())?;
        let mut sink = SequentialSliceOfVecs::new_mut(&mut filter.output, channels, output_frames)
            .map_err(|e| e.to_string())?;
        let (_, produced) = filter
            .fft
            .process_into_buffer(&source, &mut sink, None)
            .map_err(|error| error.to_string())?;
        let skip = filter.delay.min(produced);
        filter.delay -= skip;
        let count = ((produced - skip) as u64).min(until - self.given) as usize;
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

/// FFT blocks in a step. Larger blocks give a steeper filter; see docs/audio.md for what was measured.
const FFT_BLOCKS_A_STEP: usize = 4;
