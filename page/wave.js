// How loud a recording is over its length: `BINS` numbers from 0 to 255.
export const BINS = 1200;
/** Longest recording that is decoded as a whole: at 8 kHz half an hour takes about 60 MB for each channel meanwhile. */
const WHOLE_SECONDS = 1800;
const WHOLE_BYTES = 64e6;
const WAV_SAMPLES_A_BIN = 2000;
const AT_ONCE = 40;

/** From the samples where that is cheap, else from where words are. */
export async function peaks(blob, duration, segments) {
	try {
		const wav = blob && (await fromWav(blob));
		if (wav) return wav;
		if (blob && duration < WHOLE_SECONDS && blob.size < WHOLE_BYTES) {
			const context = new OfflineAudioContext(1, 1, 8000);
			const decoded = await context.decodeAudioData(await blob.arrayBuffer());
			return level(decoded.getChannelData(0), BINS);
		}
	} catch {
		// A container that this browser cannot read.
	}
	return fromWords(segments, duration);
}

function level(samples, bins) {
	const loud = new Float32Array(bins);
	const step = samples.length / bins;
	for (let bin = 0; bin < bins; bin++) {
		let most = 0;
		for (let i = Math.floor(bin * step); i < (bin + 1) * step && i < samples.length; i++) most = Math.max(most, Math.abs(samples[i]));
		loud[bin] = most;
	}
	return scale(loud);
}

function scale(loud) {
	const most = loud.reduce((a, b) => Math.max(a, b), 0) || 1;
	return Uint8Array.from(loud, (value) => Math.round(255 * Math.sqrt(value / most)));
}

/** 16-bit PCM. Of long recordings some samples of every bin, read where they lie. */
async function fromWav(blob) {
	const head = new DataView(await blob.slice(0, 4096).arrayBuffer());
	const tag = (at) => head.getUint32(at);
	if (head.byteLength < 44 || tag(0) !== 0x52494646 || tag(8) !== 0x57415645) return null;
	let [at, format] = [12, null];
	while (at + 8 <= head.byteLength && tag(at) !== 0x64617461) {
		if (tag(at) === 0x666d7420) format = at + 8;
		at += 8 + head.getUint32(at + 4, true) + (head.getUint32(at + 4, true) & 1);
	}
	if (!format || at + 8 > head.byteLength || head.getUint16(format, true) !== 1 || head.getUint16(format + 14, true) !== 16) return null;
	const channels = head.getUint16(format + 2, true);
	const frames = Math.floor((blob.size - at - 8) / 2 / channels);
	if (blob.size < WHOLE_BYTES) return level(new Int16Array(await blob.slice(at + 8, at + 8 + frames * channels * 2).arrayBuffer()), BINS);
	const loud = new Float32Array(BINS);
	const read = async (bin) => {
		const count = Math.min(Math.ceil(frames / BINS), WAV_SAMPLES_A_BIN);
		const start = at + 8 + Math.floor((bin * frames) / BINS) * channels * 2;
		const samples = new Int16Array(await blob.slice(start, start + count * channels * 2).arrayBuffer());
		for (const sample of samples) loud[bin] = Math.max(loud[bin], Math.abs(sample));
	};
	for (let bin = 0; bin < BINS; bin += AT_ONCE) await Promise.all(Array.from({ length: AT_ONCE }, (_, i) => read(bin + i)));
	return scale(loud);
}

function fromWords(segments, duration) {
	const loud = new Float32Array(BINS);
	for (const segment of segments) {
		for (const [from, to, start, end] of segment.words) {
			const last = Math.min(BINS - 1, Math.floor((end / duration) * BINS));
			for (let bin = Math.max(0, Math.floor((start / duration) * BINS)); bin <= last; bin++) {
				loud[bin] = Math.max(loud[bin], 0.25 + 0.05 * Math.min(8, to - from));
			}
		}
	}
	return scale(loud);
}

/** Bars, played ones in the accent's colour. */
export function draw(canvas, loud, part) {
	const ratio = devicePixelRatio || 1;
	const [width, height] = [canvas.clientWidth, canvas.clientHeight];
	if (canvas.width !== Math.round(width * ratio)) [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
	const pen = canvas.getContext('2d');
	const style = getComputedStyle(canvas);
	pen.setTransform(ratio, 0, 0, ratio, 0, 0);
	pen.clearRect(0, 0, width, height);
	const bars = Math.max(1, Math.floor(width / 3));
	for (let bar = 0; bar < bars; bar++) {
		let value = 0;
		for (let bin = Math.floor((bar / bars) * BINS); bin < ((bar + 1) / bars) * BINS; bin++) value = Math.max(value, loud[bin] || 0);
		const tall = Math.max(2, (value / 255) * height);
		pen.fillStyle = style.getPropertyValue(bar / bars < part ? '--accent' : '--bar');
		pen.fillRect(bar * 3, (height - tall) / 2, 2, tall);
	}
}
