//! Which track of a recording is heard, and whether its parameters are within the limits.

use std::time::Duration;

use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::well_known::CODEC_ID_OPUS;
use symphonia::core::codecs::audio::{AudioCodecParameters, CODEC_ID_NULL_AUDIO};
use symphonia::core::formats::Track;
use symphonia::core::units::TimeBase;

use super::decoder::Decoder;
use super::mp4::Edit;
use super::{AudioError, AudioLimits, SAMPLE_RATE_HZ, names};

/// Most frames a codec may claim for one packet; FLAC's largest block is 65,535.
const MAX_FRAMES_PER_PACKET: u64 = 1 << 20;

/// Opus counts in ticks of 1/48,000 s whatever it encodes (RFC 7845, section 4).
const OPUS_CLOCK_HZ: u32 = 48_000;

/// What a codec is called that has no name here.
pub(super) const UNKNOWN: &str = "unknown";

/// Some ticks of a clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) ticks: u64,
    pub(super) numer: u32,
    pub(super) denom: u32,
}

impl Span {
    pub(super) fn per_second(ticks: u64, hz: u32) -> Self {
        Self {
            ticks,
            numer: 1,
            denom: hz,
        }
    }

    /// As a number of frames at `rate_hz`.
    pub(super) fn frames(self, rate_hz: u32) -> u64 {
        let frames = u128::from(self.ticks) * u128::from(self.numer) * u128::from(rate_hz);
        u64::try_from(frames / u128::from(self.denom.max(1))).unwrap_or(u64::MAX)
    }
}

impl Edit {
    /// What stands before the sound.
    pub(super) fn lead(&self) -> Span {
        Span::per_second(self.start, self.timescale)
    }

    pub(super) fn length(&self) -> Option<Span> {
        Some(Span::per_second(self.duration?, self.timescale))
    }
}

/// The chosen track.
#[derive(Debug, Clone)]
pub(super) struct ChosenTrack {
    pub(super) id: u32,
    pub(super) params: AudioCodecParameters,
    pub(super) time_base: Option<TimeBase>,
    pub(super) duration: Option<Duration>,
    /// What stands before the sound in the track's first packets.
    pub(super) lead: Option<Span>,
    /// How long the sound is, where packets hold more.
    pub(super) length: Option<Span>,
}

impl ChosenTrack {
    /// The only track; all of its packets are sound, and nobody says how many there are.
    pub(super) fn whole(params: AudioCodecParameters) -> Self {
        Self {
            id: 0,
            params,
            time_base: None,
            duration: None,
            lead: None,
            length: None,
        }
    }

    /// `frames` of sound that is read in blocks.
    pub(super) fn of_blocks(params: AudioCodecParameters, frames: u64) -> Self {
        let rate_hz = params.sample_rate.unwrap_or(1);
        Self {
            time_base: TimeBase::try_from_recip(rate_hz),
            duration: Duration::try_from_secs_f64(frames as f64 / f64::from(rate_hz)).ok(),
            ..Self::whole(params)
        }
    }
}

/// The first audio track that can be decoded; else says what the first audio track is.
pub(super) fn choose_track(
    tracks: &[Track],
    edits: &[Edit],
    container: &str,
    limits: &AudioLimits,
) -> Result<(ChosenTrack, Decoder), AudioError> {
    check_tracks(tracks.len(), limits)?;
    let mut refused = None;
    for track in tracks {
        let Some(CodecParameters::Audio(params)) = &track.codec_params else {
            continue;
        };
        if params.codec == CODEC_ID_NULL_AUDIO {
            refused.get_or_insert_with(|| UNKNOWN.to_owned());
            continue;
        }
        check_params(params, container, limits)?;
        let mut params = params.clone();
        let pre_skip = (params.codec == CODEC_ID_OPUS).then(|| prepare_opus(&mut params));
        let Ok(decoder) = Decoder::new(&params) else {
            refused.get_or_insert_with(|| names::codec(params.codec));
            continue;
        };
        let duration = track
            .time_base
            .zip(track.duration)
            .and_then(|(base, ticks)| base.calc_duration(ticks))
            .and_then(|time| Duration::try_from_secs_f64(time.as_secs_f64()).ok())
            .filter(|duration| !duration.is_zero());
        let edit = edits.iter().find(|edit| edit.track_id == track.id);
        let chosen = ChosenTrack {
            id: track.id,
            params,
            time_base: track.time_base,
            duration,
            lead: edit.map(Edit::lead).or(pre_skip),
            length: edit.and_then(Edit::length),
        };
        return Ok((chosen, decoder));
    }
    let container = container.to_owned();
    match refused {
        Some(codec) => Err(AudioError::UnsupportedCodec { container, codec }),
        // A track without a type is of a codec Symphonia does not know, sound or not.
        None if tracks.iter().any(|track| track.track_type().is_none()) => {
            Err(AudioError::UnsupportedCodec {
                container,
                codec: UNKNOWN.to_owned(),
            })
        }
        None => Err(AudioError::NoAudioTrack { container }),
    }
}

/// Lets libopus decode straight to [`SAMPLE_RATE_HZ`], which it does well and faster; returns what stands before
/// the sound, which is trimmed here and not in the decoder (RFC 7845, section 5.1: bytes 10 and 11).
fn prepare_opus(params: &mut AudioCodecParameters) -> Span {
    params.sample_rate = Some(SAMPLE_RATE_HZ);
    let pre_skip = params
        .extra_data
        .as_mut()
        .and_then(|head| head.get_mut(10..12))
        .map_or(0, |bytes| {
            let pre_skip = u16::from_le_bytes([bytes[0], bytes[1]]);
            bytes.fill(0);
            pre_skip
        });
    Span::per_second(u64::from(pre_skip), OPUS_CLOCK_HZ)
}

/// Refuses what is beyond the limits before a decoder allocates for it.
pub(super) fn check_params(
    params: &AudioCodecParameters,
    container: &str,
    limits: &AudioLimits,
) -> Result<(), AudioError> {
    if let Some(channels) = &params.channels {
        check_channels(channels.count(), limits)?;
    }
    if let Some(rate) = params.sample_rate {
        check_rate(rate, limits)?;
    }
    if params.max_frames_per_packet.max(params.frames_per_block) > Some(MAX_FRAMES_PER_PACKET) {
        return Err(AudioError::Corrupt {
            container: container.to_owned(),
            detail: "its packets claim absurd lengths".to_owned(),
        });
    }
    Ok(())
}

pub(super) fn check_tracks(count: usize, limits: &AudioLimits) -> Result<(), AudioError> {
    if count > limits.max_tracks {
        return Err(AudioError::Tracks {
            found: count,
            limit: limits.max_tracks,
        });
    }
    Ok(())
}

pub(super) fn check_channels(count: usize, limits: &AudioLimits) -> Result<(), AudioError> {
    if count == 0 || count > usize::from(limits.max_channels) {
        return Err(AudioError::Channels {
            found: count as u64,
            limit: limits.max_channels,
        });
    }
    Ok(())
}

pub(super) fn check_rate(rate_hz: u32, limits: &AudioLimits) -> Result<(), AudioError> {
    if rate_hz == 0 || rate_hz > limits.max_sample_rate_hz {
        return Err(AudioError::SampleRate {
            found: u64::from(rate_hz),
            limit: limits.max_sample_rate_hz,
        });
    }
    Ok(())
}
