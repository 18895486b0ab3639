//! Several channels into one, or not.

use super::ChannelMode;

/// Largest sample kept before mixing. Float recordings may exceed full scale; what is far beyond it is damage.
const MAX_SAMPLE: f32 = 16.0;

/// Zeroes what is not a number and bounds the rest: one NaN would spread through a filter's whole block.
pub(super) fn sanitize(samples: &mut [f32]) {
    for sample in samples {
        *sample = if sample.is_finite() {
            sample.clamp(-MAX_SAMPLE, MAX_SAMPLE)
        } else {
            0.0
        };
    }
}

/// Appends `planes` (all of one length) to `out`, which holds one vector or `out.len()` channels.
///
/// Mixing takes the mean, which never clips and treats all channels alike. Sound that is in two channels with
/// opposite signs cancels; recordings made that way (balanced lines, some karaoke tracks) need
/// [`ChannelMode::Separate`]. A recording that changes its channel count in the middle keeps the first count:
/// channels that vanish fall silent, channels that appear are dropped.
pub(super) fn mix(planes: &[Vec<f32>], mode: ChannelMode, out: &mut [Vec<f32>]) {
    let Some(frames) = planes.first().map(Vec::len) else {
        return;
    };
    match mode {
        ChannelMode::Mixed => {
            let Some(out) = out.first_mut() else { return };
            let start = out.len();
            out.extend_from_slice(&planes[0]);
            for plane in &planes[1..] {
                for (sum, sample) in out[start..].iter_mut().zip(plane) {
                    *sum += sample;
                }
            }
            if planes.len() > 1 {
                let share = 1.0 / planes.len() as f32;
                out[start..].iter_mut().for_each(|sample| *sample *= share);
            }
        }
        ChannelMode::Separate => {
            for (channel, out) in out.iter_mut().enumerate() {
                match planes.get(channel) {
                    Some(plane) => out.extend_from_slice(plane),
                    None => out.resize(out.len() + frames, 0.0),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixing_takes_the_mean_of_all_channels() {
        let planes = [vec![1.0, 0.5], vec![0.0, 0.5], vec![0.5, -1.0]];
        let mut out = [vec![9.0]];
        mix(&planes, ChannelMode::Mixed, &mut out);
        assert_eq!(out[0], [9.0, 0.5, 0.0]);
    }

    #[test]
    fn separate_channels_keep_their_number() {
        let mut out = [Vec::new(), Vec::new()];
        mix(&[vec![1.0], vec![2.0]], ChannelMode::Separate, &mut out);
        mix(&[vec![3.0]], ChannelMode::Separate, &mut out);
        mix(
            &[vec![4.0], vec![5.0], vec![6.0]],
            ChannelMode::Separate,
            &mut out,
        );
        assert_eq!(out, [vec![1.0, 3.0, 4.0], vec![2.0, 0.0, 5.0]]);
    }

    #[test]
    fn numbers_that_are_none_become_silence() {
        let mut samples = [f32::NAN, f32::INFINITY, -1e30, 0.25];
        sanitize(&mut samples);
        assert_eq!(
            samples.map(|sample| format!("{sample}")),
            ["0", "0", "-16", "0.25"]
        );
    }
}
