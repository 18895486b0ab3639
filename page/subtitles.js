// Files to take along: text, SubRip, WebVTT, JSON. Cues keep the limits of a broadcaster's style.
import { plain } from './transcript.js';

/** Columns of a line (a wide character takes two), lines of a cue, characters a second: the server's own styles. */
export const STYLES = {
	none: null,
	netflix: { width: 42, lines: 2, rate: 20 },
	bbc: { width: 37, lines: 2, rate: 18 },
};
/** Netflix's limits for scripts of wide characters, in columns and in wide characters a second. */
const WIDE_NETFLIX = { width: 26, lines: 2, rate: 4 };
/** Seconds that a cue stands: 5/6 to 7, as Netflix's guide has it. */
const [SHORTEST, LONGEST] = [5 / 6, 7];

const WIDE = /[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Hangul}\u3000-\u303f\uff00-\uff60]/u;
const MUST_NOT_BEGIN = /^[\p{Pe}\p{Pf}、。，．！？,.!?:;ー々ぁぃぅぇぉっゃゅょァィゥェォッャュョ]/u;
const BEFORE = /^(and|or|but|nor|so|because|that|which|who|if|when|where|while|to|of|in|on|at|for|with|from|by)$/i;

export const isWide = (segments) => WIDE.test(segments.slice(0, 20).map((segment) => segment.text).join(''));

export function rules(style, custom, wide) {
	const base = style === 'netflix' && wide ? WIDE_NETFLIX : STYLES[style];
	const set = Object.fromEntries(Object.entries(custom || {}).filter(([, value]) => value > 0));
	return base || Object.keys(set).length ? { width: 1000, lines: 1, rate: 1000, ...base, ...set } : null;
}

const columns = (text) => [...text].reduce((sum, letter) => sum + (WIDE.test(letter) ? 2 : 1), 0);

/** What stands between two words costs: nothing after a sentence, much in the middle of a phrase. */
function breakCost(before, after) {
	if (MUST_NOT_BEGIN.test(after.trimStart())) return 50;
	const text = before.trimEnd();
	if (/[.!?。！？…]["'」』)]*$/u.test(text)) return 0;
	if (/[,;:、，]["'」』)]*$/u.test(text)) return 1;
	return BEFORE.test(after.trim().replace(/[\p{P}]/gu, '')) ? 2 : 4;
}

/** Pieces of a text, one a word, with the punctuation after it; put together they are the text. */
function pieces(segment) {
	return segment.words.map((word, i) => ({
		text: segment.text.slice(i ? word[0] : 0, segment.words[i + 1]?.[0] ?? segment.text.length),
		start: word[2],
		end: word[3],
	}));
}

/** Lines of a cue, as even as its words allow; null when they do not fit. */
function lay(parts, { width, lines }) {
	const whole = parts.map((part) => part.text).join('').trim();
	if (columns(whole) <= width) return [whole];
	if (lines < 2 || parts.length < 2) return null;
	let best = null;
	for (let i = 1; i < parts.length; i++) {
		const first = parts.slice(0, i).map((part) => part.text).join('').trim();
		if (columns(first) > width) break;
		const rest = lay(parts.slice(i), { width, lines: lines - 1 });
		if (!rest) continue;
		const cost = breakCost(parts[i - 1].text, parts[i].text) * 3 + Math.abs(columns(first) - columns(rest[0]));
		if (!best || cost < best.cost) best = { cost, lines: [first, ...rest] };
	}
	return best?.lines || null;
}

/** Cues of one segment by the cheapest breaks. */
function cut(segment, rule) {
	const parts = pieces(segment);
	if (!parts.length) return [{ start: segment.start, end: segment.end, lines: [segment.text] }];
	const best = [{ cost: 0 }];
	for (let to = 1; to <= parts.length; to++) {
		for (let from = to - 1; from >= 0; from--) {
			const group = parts.slice(from, to);
			const seconds = group.at(-1).end - group[0].start;
			const laid = lay(group, rule);
			// One word alone always makes a cue, however long it is.
			if (to - from > 1 && (!laid || seconds > LONGEST)) break;
			const end = to < parts.length ? breakCost(parts[to - 1].text, parts[to].text) * 4 : 0;
			const cost = best[from].cost + 10 + end + (seconds < SHORTEST ? 6 : 0);
			if (!best[to] || cost < best[to].cost) {
				best[to] = { cost, from, cue: { start: group[0].start, end: group.at(-1).end, lines: laid || [group[0].text.trim()] } };
			}
		}
	}
	const cues = [];
	for (let at = parts.length; at > 0; at = best[at].from) cues.unshift(best[at].cue);
	cues[0].start = Math.min(cues[0].start, segment.words[0][2]);
	return cues;
}

export function cues(segments, rule, speakerOf = () => '') {
	const all = segments
		.filter((segment) => segment.text.trim())
		.flatMap((segment) => {
			const made = rule ? cut(segment, rule) : [{ start: segment.start, end: segment.end, lines: [segment.text] }];
			return made.map((cue) => ({ ...cue, speaker: speakerOf(segment) }));
		});
	if (!rule) return all;
	all.forEach((cue, i) => {
		const letters = cue.lines.reduce((sum, line) => sum + (WIDE.test(line) ? columns(line) / 2 : line.length), 0);
		const wanted = Math.min(LONGEST, Math.max(SHORTEST, letters / rule.rate, cue.end - cue.start));
		const next = all[i + 1]?.start ?? Infinity;
		cue.end = Math.max(Math.min(cue.start + wanted, Math.max(next, cue.start + 0.1)), Math.min(cue.end, next));
	});
	return all;
}

function stamp(seconds, point) {
	const ms = Math.round(seconds * 1000);
	const two = (n) => String(n).padStart(2, '0');
	return `${two(Math.floor(ms / 3600000))}:${two(Math.floor(ms / 60000) % 60)}:${two(Math.floor(ms / 1000) % 60)}${point}${String(ms % 1000).padStart(3, '0')}`;
}

export function srt(all) {
	return all
		.map((cue, i) => `${i + 1}\n${stamp(cue.start, ',')} --> ${stamp(cue.end, ',')}\n${cue.speaker ? `${cue.speaker}: ` : ''}${cue.lines.join('\n')}\n`)
		.join('\n');
}

const escape = (text) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');

export function vtt(all) {
	const body = all.map((cue) => {
		const voice = cue.speaker ? `<v ${escape(cue.speaker).replaceAll('>', '')}>` : '';
		return `${stamp(cue.start, '.')} --> ${stamp(cue.end, '.')}\n${voice}${cue.lines.map(escape).join('\n')}\n`;
	});
	return `WEBVTT\n\n${body.join('\n')}`;
}

/** Paragraphs end where a speaker does, or at a pause of two seconds. */
export function txt(segments, speakerOf) {
	const parts = [];
	let last = null;
	for (const segment of segments.filter((each) => each.text)) {
		const speaker = speakerOf(segment);
		if (last && last.speaker === speaker && segment.start - last.end < 2) last.list.push(segment);
		else parts.push((last = { speaker, list: [segment] }));
		last.end = segment.end;
	}
	return `${parts.map(({ speaker, list }) => (speaker ? `${speaker}: ` : '') + plain(list)).join('\n\n')}\n`;
}

/** A file to take along. */
export function file(format, entry, segments, nameOf, rule) {
	const made = () => cues(segments, rule, nameOf);
	const text = { txt: () => txt(segments, nameOf), srt: () => srt(made()), vtt: () => vtt(made()), json: () => json(entry, segments, nameOf) }[format]();
	const type = format === 'json' ? 'application/json' : 'text/plain;charset=utf-8';
	return [new Blob([text], { type }), `${entry.name.replace(/\.[a-z0-9]{1,5}$/i, '')}.${format}`];
}

export function json(entry, segments, speakerOf) {
	const round = (value) => Math.round(value * 1000) / 1000;
	const body = {
		task: entry.task || 'transcribe', language: entry.language, duration: entry.duration, text: plain(segments),
		segments: segments.map((segment, id) => ({
			id, start: round(segment.start), end: round(segment.end), text: segment.text,
			...(segment.channel == null ? {} : { channel: segment.channel, speaker: speakerOf(segment) }),
			words: segment.words.map(([from, to, start, end, probability]) => ({
				word: segment.text.slice(from, to), start: round(start), end: round(end), probability: round(probability),
			})),
		})),
	};
	return `${JSON.stringify(body, null, 2)}\n`;
}
