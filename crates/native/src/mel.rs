//! Whisper's log-mel spectrogram (openai-whisper `audio.py`, `log_mel_spectrogram`).

use std::sync::{Arc, Mutex, PoisonError};

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};
use thiserror::Error;

use crate::Team;

/// Samples in a Fourier transform: 25 ms at 16 kHz (`N_FFT`).
const FFT: usize = 400;
/// Samples from one frame to the next: 10 ms (`HOP_LENGTH`).
pub const HOP: usize = 160;
/// Frequencies of a transform of real samples.
pub const BINS: usize = FFT / 2 + 1;
/// Power below this counts as this, and everything more than 8 orders below the loudest as that.
const FLOOR: f32 = 1e-10;
const RANGE: f32 = 8.0;
/// Frames that one thread computes at a time: some 50 µs.
const CHUNK: usize = 32;

/// The filter bank of a model is not of the size that its number of bands asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a filter bank of {len} values for {n_mels} bands; {expected} are needed", expected = n_mels * BINS)]
pub struct FilterError {
    /// Values given.
    pub len: usize,
    /// Bands of the model.
    pub n_mels: usize,
}

/// Computes spectrograms with one model's filter bank.
pub struct LogMel {
    n_mels: usize,
    /// First frequency and weights of each band: a band covers a few of the 201.
    bands: Vec<(usize, Vec<f32>)>,
    window: [f32; FFT],
    transform: Arc<dyn RealToComplex<f32>>,
}

impl LogMel {
    /// `filters` are `n_mels` rows of [`BINS`] weights.
    ///
    /// # Errors
    ///
    /// [`FilterError`] for any other number of weights.
    pub fn new(filters: &[f32], n_mels: usize) -> Result<Self, FilterError> {
        if n_mels == 0 || n_mels.checked_mul(BINS) != Some(filters.len()) {
            return Err(FilterError {
                len: filters.len(),
                n_mels,
            });
        }
        let band = |filter: &[f32]| {
            let first = filter.iter().position(|w| *w != 0.0).unwrap_or(0);
            let end = filter
                .iter()
                .rposition(|w| *w != 0.0)
                .map_or(first, |last| last + 1);
            (first, filter[first..end].to_vec())
        };
        // The periodic form of Hann's window (`torch.hann_window`).
        let window = std::array::from_fn(|i| {
            let angle = std::f64::consts::TAU * i as f64 / FFT as f64;
            (0.5 - 0.5 * angle.cos()) as f32
        });
        Ok(Self {
            n_mels,
            bands: filters.chunks(BINS).map(band).collect(),
            window,
            transform: RealFftPlanner::new().plan_fft_forward(FFT),
        })
    }

    /// The spectrogram of mono samples at 16 kHz, as if silence followed them for ever.
    pub fn compute(&self, team: &mut Team, samples: &[f32]) -> Spectrogram {
        // The last frame that a sample reaches, and one frame for no samples.
        let frames = (samples.len() + FFT / 2).div_ceil(HOP).max(1);
        let mut values = vec![0.0; frames * self.n_mels];
        let chunks: Vec<Mutex<(&mut [f32], f32)>> = values
            .chunks_mut(CHUNK * self.n_mels)
            .map(|chunk| Mutex::new((chunk, f32::MIN)))
            .collect();
        team.parallel(chunks.len(), &|index| {
            let mut chunk = chunks[index].lock().unwrap_or_else(PoisonError::into_inner);
            chunk.1 = self.frames(samples, index * CHUNK, chunk.0);
        });
        let loudest = chunks
            .into_iter()
            .map(|chunk| chunk.into_inner().unwrap_or_else(PoisonError::into_inner).1)
            .fold(f32::MIN, f32::max);
        let least = loudest - RANGE;
        let scaled = |value: f32| (value.max(least) + 4.0) / 4.0;
        for value in &mut values {
            *value = scaled(*value);
        }
        Spectrogram {
            n_mels: self.n_mels,
            values,
            silence: scaled(FLOOR.log10()),
        }
    }

    /// Logarithms of the frames from `first` on, time-major; returns the greatest.
    fn frames(&self, samples: &[f32], first: usize, out: &mut [f32]) -> f32 {
        let mut frame = self.transform.make_input_vec();
        let mut spectrum = self.transform.make_output_vec();
        let mut scratch = self.transform.make_scratch_vec();
        let mut power = [0.0_f32; BINS];
        let mut loudest = f32::MIN;
        for (number, bands) in out.chunks_mut(self.n_mels).enumerate() {
            self.cut(samples, first + number, &mut frame);
            if self
                .transform
                .process_with_scratch(&mut frame, &mut spectrum, &mut scratch)
                .is_err()
            {
                // Only for buffers of another length; these are the transform's own.
                spectrum.fill(Complex::default());
            }
            for (power, value) in power.iter_mut().zip(&spectrum) {
                *power = value.norm_sqr();
            }
            for (value, (from, weights)) in bands.iter_mut().zip(&self.bands) {
                let sum: f32 = weights.iter().zip(&power[*from..]).map(|(w, p)| w * p).sum();
                *value = sum.max(FLOOR).log10();
                loudest = loudest.max(*value);
            }
        }
        loudest
    }

    /// The windowed samples around the middle of frame `number`. Before the first sample the signal is mirrored
    /// (`torch.stft`, `center = True`), after the last it is silent.
    fn cut(&self, samples: &[f32], number: usize, frame: &mut [f32]) {
        let middle = number * HOP;
        for (i, (value, weight)) in frame.iter_mut().zip(&self.window).enumerate() {
            let at = (middle + i).abs_diff(FFT / 2);
            *value = samples.get(at).map_or(0.0, |sample| sample * weight);
        }
    }
}

/// The spectrogram of a recording.
pub struct Spectrogram {
    n_mels: usize,
    /// Time-major.
    values: Vec<f32>,
    silence: f32,
}

impl Spectrogram {
    /// Frames of 10 ms that any sample reaches; all later ones are silent.
    pub fn frames(&self) -> usize {
        self.values.len() / self.n_mels
    }

    /// Value of every band of a silent frame.
    pub fn silence(&self) -> f32 {
        self.silence
    }

    /// `frames` frames from `first` on, a row for each band, as an encoder takes them. Frames from `end` on are `padding`.
    pub fn rows(&self, first: usize, frames: usize, end: usize, padding: f32) -> Vec<f32> {
        let mut rows = vec![padding; frames * self.n_mels];
        let known = end.min(first + frames);
        for number in first..known {
            let frame = self.values.get(number * self.n_mels..(number + 1) * self.n_mels);
            for band in 0..self.n_mels {
                rows[band * frames + number - first] = frame.map_or(self.silence, |frame| frame[band]);
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    /// A bank whose bands are single frequencies.
    fn single(bins: &[usize]) -> LogMel {
        let mut filters = vec![0.0; bins.len() * BINS];
        for (band, bin) in bins.iter().enumerate() {
            filters[band * BINS + bin] = 1.0;
        }
        LogMel::new(&filters, bins.len()).unwrap()
    }

    fn tone(hz: f32, samples: usize) -> Vec<f32> {
        (0..samples)
            .map(|i| (std::f32::consts::TAU * hz * i as f32 / 16_000.0).sin())
            .collect()
    }

    #[test]
    fn a_tone_is_loud_at_its_frequency_alone() {
        // 25 = 1,000 Hz. A sine under a Hann window has the amplitude 400 / 4 at its own bin: 10^4, scaled (4 + 4) / 4.
        let mel = single(&[25, 60]);
        let spectrogram = mel.compute(&mut Team::new(1), &tone(1_000.0, 16_000));
        assert_eq!(spectrogram.frames(), 102);
        let rows = spectrogram.rows(10, 80, 102, 0.0);
        assert!(rows[..80].iter().all(|v| (v - 2.0).abs() < 1e-3), "{rows:?}");
        assert!(
            rows[80..].iter().all(|v| (v - 0.0).abs() < 1e-6),
            "8 orders below the loudest"
        );
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let mel = single(&[3, 25, 60, 180]);
        let samples = tone(333.3, 50_000);
        let one = mel.compute(&mut Team::new(1), &samples);
        let four = mel.compute(&mut Team::new(4), &samples);
        assert_eq!(one.values, four.values);
    }

    #[test]
    fn what_lies_past_the_samples_is_silence_or_padding() {
        let mel = single(&[25]);
        let spectrogram = mel.compute(&mut Team::new(1), &tone(1_000.0, 1_600));
        // Frame 11 is the last one that reaches a sample: 1,760 - 200 < 1,600.
        assert_eq!(spectrogram.frames(), 12);
        let rows = spectrogram.rows(8, 10, 14, -9.0);
        let all = |values: &[f32], value: f32| values.iter().all(|v| (v - value).abs() < 1e-6);
        assert!(all(&rows[4..6], spectrogram.silence()));
        assert!(all(&rows[6..], -9.0));
        assert_eq!(mel.compute(&mut Team::new(1), &[]).frames(), 2);
    }

    #[test]
    fn a_bank_of_another_size_is_refused() {
        assert!(LogMel::new(&[0.0; 10], 80).is_err());
        assert!(LogMel::new(&[], 0).is_err());
        assert!(LogMel::new(&[0.0; BINS], usize::MAX).is_err());
    }
}
