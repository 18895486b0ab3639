#!/usr/bin/env python3
"""Makes one clip in every encoding the server reads, and ffmpeg's decode of each to compare with.

    python3 tests/audio/matrix.py tests/fixtures/jfk.wav OUT

Writes OUT/NAME.EXT, OUT/NAME.EXT.f32 (mono, 16 kHz, little-endian float, by ffmpeg, or by sox where ffmpeg
cannot) and OUT/manifest.tsv with a line for each: file, least correlation asked for, container, codec.
Needs ffmpeg and sox.
Files that are there already are kept when OUT/version names this script's own text.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import wave
from concurrent.futures import ThreadPoolExecutor

CLIP, OUT = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
FF = ["ffmpeg", "-nostdin", "-hide_banner", "-loglevel", "error", "-y"]
# What is sampled at 8 kHz has lost half the band; decoders then differ most in how they fill the rest.
NARROW = 0.95
FULL = 0.99
# Only the core is decoded; from about 6 kHz up the encoder has left the sound to what is not.
HE = 0.98
FIXTURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures")


def run(*command, **kwargs):
    subprocess.run(command, check=True, **kwargs)


def ffmpeg(name, *args, source=CLIP):
    run(*FF, "-i", source, *args, name)


def sox(name, *args, source=CLIP):
    run("sox", "-V1", "-R", source, *args[: args.index("--")] if "--" in args else args, name,
        *(args[args.index("--") + 1:] if "--" in args else ()))


def read(name):
    with open(name, "rb") as file:
        return file.read()


def write(name, data):
    with open(name, "wb") as file:
        file.write(data)


# --- makers that need more than one command -------------------------------------------------------------------


def wav_with_sizes(name, riff, data):
    """The clip with made-up sizes in its header, as recorders leave them when they are cut off."""
    body = bytearray(read(CLIP))
    at = body.index(b"data")
    body[4:8] = riff.to_bytes(4, "little")
    body[at + 4:at + 8] = data.to_bytes(4, "little")
    write(name, body)


def wav_with_odd_chunks(name):
    """Chunks of odd length, and one nobody knows, before the samples; a LIST behind them."""
    body = read(CLIP)
    at = body.index(b"data")
    extra = b"junk" + (3).to_bytes(4, "little") + b"abc\0" + b"zzzz" + (5).to_bytes(4, "little") + b"12345\0"
    tail = b"LIST" + (12).to_bytes(4, "little") + b"INFOISFT" + (0).to_bytes(4, "little")
    write(name, body[:at] + extra + body[at:] + tail)


def behind(name, prefix, source_args, suffix=b""):
    """An encoding with bytes before and behind it."""
    inner = name + ".inner" + os.path.splitext(name)[1]
    ffmpeg(inner, *source_args)
    write(name, prefix + read(inner) + suffix)
    os.remove(inner)


def id3(size):
    return b"ID3\x04\0\0" + bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0)) + b"\0" * size


def chained(name, codec_args):
    """Two Ogg streams, one behind the other, the way internet radio changes titles."""
    parts = []
    with wave.open(CLIP) as clip:
        half = clip.getnframes() / clip.getframerate() / 2
    for index, (start, length) in enumerate(((0, half), (half, half))):
        part = f"{name}.{index}.ogg"
        run(*FF, "-ss", str(start), "-t", str(length), "-i", CLIP, *codec_args, "-serial_offset", str(index), part)
        parts.append(part)
    write(name, b"".join(read(part) for part in parts))
    for part in parts:
        os.remove(part)


def cover_art(name):
    picture = name + ".png"
    run(*FF, "-f", "lavfi", "-i", "testsrc=size=640x480:rate=1", "-frames:v", "1", picture)
    run(*FF, "-i", CLIP, "-i", picture, "-map", "0:a", "-map", "1:v", "-c:v", "copy", "-c:a", "libmp3lame",
        "-b:a", "64k", "-id3v2_version", "3", "-metadata:s:v", "comment=Cover (front)", name)
    os.remove(picture)


def with_video(name, *args):
    run(*FF, "-f", "lavfi", "-i", "testsrc=size=160x120:rate=10", "-i", CLIP, "-shortest", *args, name)


def camera_stream(name):
    """A transport stream with a time code before each packet, as camcorders write them."""
    plain = name + ".ts"
    with_video(plain, *DVD, "-c:a", "libmp3lame", "-f", "mpegts")
    data = read(plain)
    os.remove(plain)
    write(name, b"".join(b"\0\0\0\0" + data[at:at + 188] for at in range(0, len(data), 188)))


def two_tracks(name):
    """Silence in the second track: only the first may be heard."""
    run(*FF, "-i", CLIP, "-f", "lavfi", "-i", "anullsrc=r=16000:cl=mono", "-map", "0:a", "-map", "1:a",
        "-c:a", "aac", "-shortest", name)


def he_aac(name, version):
    """Frames with headers that say nothing of what is built upon the core."""
    shutil.copy(os.path.join(FIXTURES, f"he_aac_{version}.aac"), name)


def copied(name, version):
    """The same frames in another container."""
    ffmpeg(name, "-c:a", "copy", source=os.path.join(FIXTURES, f"he_aac_{version}.aac"))


def explicit_sbr(name, version):
    """An MP4 whose configuration says that there is more than a core (ISO 14496-3, 1.6.2.1), as Apple's encoders do."""
    copied(name, version)
    body = bytearray(read(name))
    at = body.index(b"\x05\x80\x80\x80", body.index(b"esds"))
    plain = int.from_bytes(body[at + 5:at + 7], "big")
    rate, channels = plain >> 7 & 15, plain >> 3 & 15
    # The object type of the whole, the core's rate and channels, the whole's rate, the object type of the core.
    fields = ((29 if version == "v2" else 5, 5), (rate, 4), (channels, 4), (rate - 3, 4), (2, 5), (0, 10))
    config = 0
    for value, bits in fields:
        config = config << bits | value
    longer = 4 - body[at + 4]
    for box in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"mp4a", b"esds"):
        size = body.index(box) - 4
        body[size:size + 4] = (int.from_bytes(body[size:size + 4], "big") + longer).to_bytes(4, "big")
    for descriptor in (b"\x03\x80\x80\x80", b"\x04\x80\x80\x80", b"\x05\x80\x80\x80"):
        body[body.index(descriptor, body.index(b"esds")) + 4] += longer
    body[at + 5:at + 5 + 4 - longer] = config.to_bytes(4, "big")
    write(name, body)


def live_webm(name):
    """As a browser's recorder writes it: sizes unknown, no index."""
    with open(name, "wb") as file:
        run(*FF, "-i", CLIP, "-c:a", "libopus", "-f", "webm", "-live", "1", "-", stdout=file)


def piped_wav(name):
    with open(name, "wb") as file:
        run(*FF, "-i", CLIP, "-f", "wav", "-", stdout=file)


S44 = ("-ar", "44100", "-ac", "2")
S48 = ("-ar", "48000", "-ac", "2")
M8 = ("-ar", "8000")
DVD = (*S48, "-r", "25", "-c:v", "mpeg2video")

# file name → (least correlation, container, codec, how)
MATRIX = {
    # WAV
    "wav_u8.wav": (FULL, "wav", "pcm_u8", lambda n: ffmpeg(n, "-c:a", "pcm_u8")),
    "wav_s16.wav": (FULL, "wav", "pcm_s16le", lambda n: shutil.copy(CLIP, n)),
    "wav_s24.wav": (FULL, "wav", "pcm_s24le", lambda n: ffmpeg(n, "-c:a", "pcm_s24le")),
    "wav_s32.wav": (FULL, "wav", "pcm_s32le", lambda n: ffmpeg(n, "-c:a", "pcm_s32le")),
    "wav_f32.wav": (FULL, "wav", "pcm_f32le", lambda n: ffmpeg(n, "-c:a", "pcm_f32le")),
    "wav_f64.wav": (FULL, "wav", "pcm_f64le", lambda n: ffmpeg(n, "-c:a", "pcm_f64le")),
    "wav_extensible_s24_sox.wav": (FULL, "wav", "pcm_s24le", lambda n: sox(n, "-b", "24", "-e", "signed")),
    "wav_alaw_8k.wav": (NARROW, "wav", "pcm_alaw", lambda n: ffmpeg(n, *M8, "-c:a", "pcm_alaw")),
    "wav_mulaw_8k.wav": (NARROW, "wav", "pcm_mulaw", lambda n: ffmpeg(n, *M8, "-c:a", "pcm_mulaw")),
    "wav_mulaw_8k_stereo_sox.wav":
        (NARROW, "wav", "pcm_mulaw", lambda n: sox(n, "-r", "8000", "-c", "2", "-e", "mu-law")),
    "wav_adpcm_ms.wav": (FULL, "wav", "adpcm_ms", lambda n: ffmpeg(n, "-c:a", "adpcm_ms")),
    "wav_adpcm_ms_stereo.wav": (FULL, "wav", "adpcm_ms", lambda n: ffmpeg(n, *S44, "-c:a", "adpcm_ms")),
    "wav_adpcm_ima.wav": (FULL, "wav", "adpcm_ima_wav", lambda n: ffmpeg(n, "-c:a", "adpcm_ima_wav")),
    "wav_adpcm_ima_stereo.wav":
        (FULL, "wav", "adpcm_ima_wav", lambda n: ffmpeg(n, *S44, "-c:a", "adpcm_ima_wav")),
    "wav_8k_s16.wav": (NARROW, "wav", "pcm_s16le", lambda n: ffmpeg(n, *M8)),
    "wav_11025.wav": (FULL, "wav", "pcm_s16le", lambda n: ffmpeg(n, "-ar", "11025")),
    "wav_22050.wav": (FULL, "wav", "pcm_s16le", lambda n: ffmpeg(n, "-ar", "22050")),
    "wav_44100_stereo.wav": (FULL, "wav", "pcm_s16le", lambda n: ffmpeg(n, *S44)),
    "wav_96k_s24_stereo.wav":
        (FULL, "wav", "pcm_s24le", lambda n: ffmpeg(n, "-ar", "96000", "-ac", "2", "-c:a", "pcm_s24le")),
    "wav_odd_rate.wav": (FULL, "wav", "pcm_s16le", lambda n: ffmpeg(n, "-ar", "37813")),
    "wav_5_1.wav": (FULL, "wav", "pcm_s16le", lambda n: ffmpeg(n, "-af", "pan=5.1|c0=c0|c1=c0|c2=c0")),
    "wav_rf64.wav": (FULL, "wav", "pcm_s16le", lambda n: ffmpeg(n, "-rf64", "always")),
    "wav_data_size_0.wav": (FULL, "wav", "pcm_s16le", lambda n: wav_with_sizes(n, 0, 0)),
    "wav_data_size_max.wav": (FULL, "wav", "pcm_s16le", lambda n: wav_with_sizes(n, 2**32 - 1, 2**32 - 1)),
    "wav_odd_chunks.wav": (FULL, "wav", "pcm_s16le", wav_with_odd_chunks),
    "wav_from_a_pipe.wav": (FULL, "wav", "pcm_s16le", piped_wav),
    "wav_mp3_inside.wav": (FULL, "wav", "mp3", lambda n: ffmpeg(n, "-c:a", "libmp3lame", "-b:a", "64k")),
    "wave64.w64": (FULL, "w64", "pcm_s16le", lambda n: ffmpeg(n)),
    # AU, AIFF, CAF
    "au_s16.au": (FULL, "au", "pcm_s16be", lambda n: ffmpeg(n, "-c:a", "pcm_s16be")),
    "au_mulaw_8k_sox.au": (NARROW, "au", "pcm_mulaw", lambda n: sox(n, "-r", "8000", "-e", "mu-law")),
    "au_f32_sox.au": (FULL, "au", "pcm_f32be", lambda n: sox(n, "-e", "float", "-b", "32")),
    "aiff_s16.aiff": (FULL, "aiff", "pcm_s16be", lambda n: ffmpeg(n)),
    "aiff_s24_sox.aiff": (FULL, "aiff", "pcm_s24be", lambda n: sox(n, "-b", "24")),
    "aifc_sowt.aifc": (FULL, "aiff", "pcm_s16le", lambda n: ffmpeg(n, "-c:a", "pcm_s16le", "-f", "aiff")),
    "aifc_alaw_8k.aifc": (NARROW, "aiff", "pcm_alaw", lambda n: ffmpeg(n, *M8, "-c:a", "pcm_alaw", "-f", "aiff")),
    "aifc_ima4.aifc":
        (FULL, "aiff", "adpcm_ima_qt", lambda n: ffmpeg(n, "-c:a", "adpcm_ima_qt", "-f", "aiff")),
    "aifc_f32_stereo_sox.aifc":
        (FULL, "aiff", "pcm_f32be", lambda n: sox(n, "-c", "2", "-e", "float", "-b", "32")),
    "caf_s16.caf": (FULL, "caf", "pcm_s16le", lambda n: ffmpeg(n, "-c:a", "pcm_s16le")),
    "caf_f32_be_stereo.caf":
        (FULL, "caf", "pcm_f32be", lambda n: ffmpeg(n, *S48, "-c:a", "pcm_f32be")),
    "caf_ulaw_8k.caf": (NARROW, "caf", "pcm_mulaw", lambda n: ffmpeg(n, *M8, "-c:a", "pcm_mulaw")),
    "caf_ima4.caf": (FULL, "caf", "adpcm_ima_qt", lambda n: ffmpeg(n, "-c:a", "adpcm_ima_qt")),
    "caf_alac.caf": (FULL, "caf", "alac", lambda n: ffmpeg(n, "-c:a", "alac")),
    # FLAC
    "flac_16.flac": (FULL, "flac", "flac", lambda n: ffmpeg(n)),
    "flac_24_48k_stereo.flac": (FULL, "flac", "flac", lambda n: ffmpeg(n, *S48, "-sample_fmt", "s32")),
    "flac_sox_8k.flac": (NARROW, "flac", "flac", lambda n: sox(n, "-r", "8000")),
    "flac_behind_id3.flac": (FULL, "flac", "flac", lambda n: behind(n, id3(3000), ())),
    "flac_from_a_pipe.flac": (FULL, "flac", "flac", lambda n: run(*FF, "-i", CLIP, "-f", "flac", "pipe:1",
                                                                  stdout=open(n, "wb"))),
    # MPEG audio
    "mp3_8k.mp3": (NARROW, "mp3", "mp3", lambda n: ffmpeg(n, *M8, "-b:a", "16k")),
    "mp3_16k_mono.mp3": (FULL, "mp3", "mp3", lambda n: ffmpeg(n, "-b:a", "32k")),
    "mp3_44100_cbr.mp3": (FULL, "mp3", "mp3", lambda n: ffmpeg(n, *S44, "-b:a", "128k")),
    "mp3_48k_vbr.mp3": (FULL, "mp3", "mp3", lambda n: ffmpeg(n, *S48, "-q:a", "4")),
    "mp3_without_xing.mp3": (FULL, "mp3", "mp3", lambda n: ffmpeg(n, *S44, "-write_xing", "0", "-b:a", "96k")),
    "mp3_shine.mp3": (FULL, "mp3", "mp3", lambda n: ffmpeg(n, *S44, "-c:a", "libshine", "-b:a", "128k")),
    "mp3_with_cover.mp3": (FULL, "mp3", "mp3", cover_art),
    "mp3_behind_garbage.mp3":
        (FULL, "mp3", "mp3", lambda n: behind(n, b"\x00\x17garbage\xff\xfb\x00" * 700, (*S44, "-b:a", "128k"))),
    "mp3_two_id3_tags.mp3":
        (FULL, "mp3", "mp3", lambda n: behind(n, id3(100) + id3(5000), ("-b:a", "64k"), b"TAG" + b" " * 125)),
    "mp3_named_wav.wav": (FULL, "mp3", "mp3", lambda n: run(*FF, "-i", CLIP, "-f", "mp3", n)),
    "mp2_44100.mp2": (FULL, "mp3", "mp2", lambda n: ffmpeg(n, *S44, "-b:a", "192k")),
    # AAC
    "aac_adts_16k.aac": (FULL, "aac", "aac", lambda n: ffmpeg(n, "-b:a", "64k")),
    "aac_adts_44100_stereo.aac": (FULL, "aac", "aac", lambda n: ffmpeg(n, *S44, "-b:a", "128k")),
    "aac_adts_he_v1.aac": (HE, "aac", "aac", lambda n: he_aac(n, "v1")),
    "aac_adts_he_v2.aac": (HE, "aac", "aac", lambda n: he_aac(n, "v2")),
    "m4a_he_v1_implicit.m4a": (HE, "mp4", "aac", lambda n: copied(n, "v1")),
    "m4a_he_v1_explicit.m4a": (HE, "mp4", "aac", lambda n: explicit_sbr(n, "v1")),
    "m4a_he_v2_explicit.m4a": (HE, "mp4", "aac", lambda n: explicit_sbr(n, "v2")),
    "mka_he_v1.mka": (HE, "matroska", "aac", lambda n: copied(n, "v1")),
    "m4a_aac_16k.m4a": (FULL, "mp4", "aac", lambda n: ffmpeg(n, "-b:a", "64k")),
    "m4a_aac_8k.m4a": (NARROW, "mp4", "aac", lambda n: ffmpeg(n, *M8, "-b:a", "32k")),
    "m4a_aac_44100_stereo.m4a": (FULL, "mp4", "aac", lambda n: ffmpeg(n, *S44, "-b:a", "128k")),
    "m4a_aac_5_1.m4a":
        (FULL, "mp4", "aac", lambda n: ffmpeg(n, "-af", "pan=5.1|c0=c0|c1=c0|c2=c0", "-b:a", "256k")),
    "m4a_faststart.m4a": (FULL, "mp4", "aac", lambda n: ffmpeg(n, *S48, "-movflags", "+faststart")),
    "mp4_fragmented.mp4":
        (FULL, "mp4", "aac", lambda n: ffmpeg(n, *S48, "-movflags", "frag_keyframe+empty_moov+default_base_moof",
                                              "-frag_duration", "1000000")),
    "m4a_alac.m4a": (FULL, "mp4", "alac", lambda n: ffmpeg(n, "-c:a", "alac")),
    "mp4_mp3.mp4": (FULL, "mp4", "mp3", lambda n: ffmpeg(n, *S44, "-c:a", "libmp3lame")),
    "mp4_opus.mp4": (FULL, "mp4", "opus", lambda n: ffmpeg(n, "-c:a", "libopus", "-b:a", "48k")),
    "mp4_flac.mp4": (FULL, "mp4", "flac", lambda n: ffmpeg(n, "-c:a", "flac", "-strict", "-2")),
    "mov_pcm.mov": (FULL, "mp4", "pcm_s16le", lambda n: ffmpeg(n, "-c:a", "pcm_s16le")),
    "mov_pcm_s24_be_stereo.mov": (FULL, "mp4", "pcm_s24be", lambda n: ffmpeg(n, *S48, "-c:a", "pcm_s24be")),
    "mov_pcm_f32_faststart.mov":
        (FULL, "mp4", "pcm_f32le", lambda n: ffmpeg(n, "-c:a", "pcm_f32le", "-movflags", "+faststart")),
    "mov_alaw_8k.mov": (NARROW, "mp4", "pcm_alaw", lambda n: ffmpeg(n, *M8, "-c:a", "pcm_alaw")),
    "mov_pcm_fragmented.mov":
        (FULL, "mp4", "pcm_s16le", lambda n: ffmpeg(n, "-c:a", "pcm_s16le", "-movflags",
                                                    "frag_keyframe+empty_moov", "-frag_duration", "1000000")),
    "3gp_aac.3gp": (FULL, "mp4", "aac", lambda n: ffmpeg(n, "-c:a", "aac")),
    # Ogg
    "ogg_vorbis_16k.ogg": (FULL, "ogg", "vorbis", lambda n: ffmpeg(n, "-c:a", "libvorbis")),
    "ogg_vorbis_44100_stereo.ogg": (FULL, "ogg", "vorbis", lambda n: ffmpeg(n, *S44, "-c:a", "libvorbis")),
    "ogg_vorbis_8k.ogg": (NARROW, "ogg", "vorbis", lambda n: ffmpeg(n, *M8, "-c:a", "libvorbis")),
    "ogg_opus_voip.opus":
        (FULL, "ogg", "opus", lambda n: ffmpeg(n, "-c:a", "libopus", "-b:a", "24k", "-application", "voip")),
    "ogg_opus_48k_stereo.ogg": (FULL, "ogg", "opus", lambda n: ffmpeg(n, *S48, "-c:a", "libopus", "-b:a", "96k")),
    "ogg_opus_8k_60ms.opus":
        (NARROW, "ogg", "opus", lambda n: ffmpeg(n, *M8, "-c:a", "libopus", "-b:a", "16k", "-frame_duration", "60")),
    "ogg_opus_chained.opus": (FULL, "ogg", "opus", lambda n: chained(n, ("-c:a", "libopus", "-b:a", "48k"))),
    "ogg_flac.oga": (FULL, "ogg", "flac", lambda n: ffmpeg(n, "-c:a", "flac")),
    # Matroska
    "webm_opus.webm": (FULL, "matroska", "opus", lambda n: ffmpeg(n, "-c:a", "libopus", "-b:a", "48k")),
    "webm_opus_live.webm": (FULL, "matroska", "opus", live_webm),
    "webm_vorbis.webm": (FULL, "matroska", "vorbis", lambda n: ffmpeg(n, *S48, "-c:a", "libvorbis")),
    "mka_aac.mka": (FULL, "matroska", "aac", lambda n: ffmpeg(n, *S44, "-c:a", "aac")),
    "mka_pcm.mka": (FULL, "matroska", "pcm_s16le", lambda n: ffmpeg(n, "-c:a", "pcm_s16le")),
    "mka_flac.mka": (FULL, "matroska", "flac", lambda n: ffmpeg(n, "-c:a", "flac")),
    "mka_mp3.mka": (FULL, "matroska", "mp3", lambda n: ffmpeg(n, *S44, "-c:a", "libmp3lame")),
    # AMR
    "amr_nb_12k_with_pauses.amr": (NARROW, "amr", "amr_nb", lambda n: sox(n, "-r", "8000", "-C", "7", "-t", "amr-nb")),
    "amr_nb_5k.amr": (NARROW, "amr", "amr_nb", lambda n: sox(n, "-r", "8000", "-C", "1", "-t", "amr-nb")),
    # Video: the first audio track
    "video_mp4.mp4": (FULL, "mp4", "aac", lambda n: with_video(n, "-c:v", "mpeg4", "-c:a", "aac")),
    "video_mov_pcm_s16_stereo.mov":
        (FULL, "mp4", "pcm_s16be", lambda n: with_video(n, *S44, "-c:v", "mpeg4", "-c:a", "pcm_s16be")),
    "video_mov_2_tracks.mov": (FULL, "mp4", "aac", two_tracks),
    "video_mpeg_ps.mpg": (FULL, "mpeg", "mp2", lambda n: with_video(n, *DVD, "-c:a", "mp2", "-f", "vob")),
    "video_mpeg1.mpeg":
        (FULL, "mpeg", "mp2", lambda n: with_video(n, *S48, "-r", "25", "-c:v", "mpeg1video", "-f", "mpeg")),
    "video_ts_aac.ts": (FULL, "mpegts", "aac", lambda n: with_video(n, *DVD, "-c:a", "aac", "-f", "mpegts")),
    "video_m2ts_mp3.mts": (FULL, "mpegts", "mp3", camera_stream),
    "video_webm.webm": (FULL, "matroska", "opus", lambda n: with_video(n, "-c:v", "libvpx", "-c:a", "libopus")),
    "video_mkv.mkv": (FULL, "matroska", "mp3", lambda n: with_video(n, "-c:v", "mpeg4", "-c:a", "libmp3lame")),
}


# ffmpeg does not know the comfort noise of AMR's pauses.
DECODED_BY_SOX = {"amr_nb_12k_with_pauses.amr"}


def make(name):
    least, container, codec, how = MATRIX[name]
    path = os.path.join(OUT, name)
    how(path)
    if name in DECODED_BY_SOX:
        run("sox", path, "-t", "f32", "-r", "16000", path + ".f32")
    else:
        run(*FF, "-i", path, "-map", "0:a:0", "-f", "f32le", "-ac", "1", "-ar", "16000", path + ".f32")
    return f"{name}\t{least}\t{container}\t{codec}\n"


def main():
    os.makedirs(OUT, exist_ok=True)
    version = hashlib.sha256(read(__file__) + read(CLIP)).hexdigest()
    stamp = os.path.join(OUT, "version")
    if os.path.exists(stamp) and read(stamp).decode() == version:
        return
    with ThreadPoolExecutor(2) as pool:
        lines = list(pool.map(make, MATRIX))
    write(os.path.join(OUT, "manifest.tsv"), "".join(lines).encode())
    write(stamp, version.encode())


main()
