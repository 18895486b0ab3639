// A transcript that can be edited without losing its words' times.
//
// A segment is { start, end, text, gap, channel?, words }, where a word is [from, to, start, end, probability]: `from` and
// `to` count UTF-16 units of `text`, `start` and `end` are seconds of the recording. `gap`: a space stood before the text.

const UNSPACED = /[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Thai}\p{sc=Lao}\p{sc=Khmer}\p{sc=Myanmar}ー]/u;
const EDGES = /^[\s\p{P}\p{S}]+|[\s\p{P}\p{S}]+$/gu;

/** A segment of the server's, with its words found in its text. */
export function fromServer(segment) {
	const text = segment.text.trim();
	const made = { start: segment.start, end: segment.end, text, gap: /^\s/.test(segment.text), words: [] };
	if (segment.channel != null) made.channel = segment.channel;
	let from = 0;
	for (const word of segment.words || []) {
		const at = text.indexOf(word.word, from);
		if (at < 0 || !word.word) continue;
		from = at + word.word.length;
		made.words.push([at, from, word.start, word.end, word.probability ?? 1]);
	}
	if (!made.words.length) made.words = shared(text, 0, made.start, made.end);
	return made;
}

/** Words of a text: by spaces, or by characters in scripts that have none, as the server counts them. */
export function tokens(text, offset = 0) {
	const found = [];
	for (const piece of text.matchAll(/\S+/gu)) {
		if (UNSPACED.test(piece[0])) {
			for (const letter of piece[0].matchAll(/[\p{L}\p{N}]\p{M}*/gu)) {
				found.push([offset + piece.index + letter.index, offset + piece.index + letter.index + letter[0].length]);
			}
			continue;
		}
		const lead = piece[0].match(/^[\p{P}\p{S}]*/u)[0].length;
		const core = piece[0].replace(EDGES, '');
		if (core) found.push([offset + piece.index + lead, offset + piece.index + lead + core.length]);
	}
	return found;
}

/** Words that share a span of time by their length. */
function shared(text, offset, start, end) {
	const found = tokens(text, offset);
	const letters = found.reduce((sum, [from, to]) => sum + to - from, 0) || 1;
	let seen = 0;
	return found.map(([from, to]) => {
		const begin = start + ((end - start) * seen) / letters;
		seen += to - from;
		return [from, to, begin, start + ((end - start) * seen) / letters, 1];
	});
}

/** The segment with another text. Words that were not touched keep their times; new ones share those of the words they replace. */
export function edit(segment, text) {
	const old = segment.text;
	if (old === text) return segment;
	const most = Math.min(old.length, text.length);
	let head = 0;
	while (head < most && old[head] === text[head]) head++;
	let tail = 0;
	while (tail < most - head && old[old.length - 1 - tail] === text[text.length - 1 - tail]) tail++;
	const [low, high, shift] = [head, old.length - tail, text.length - old.length];
	const before = segment.words.filter((word) => word[1] < low);
	const after = segment.words.filter((word) => word[0] > high && word[1] > low);
	const touched = segment.words.slice(before.length, segment.words.length - after.length);
	const from = Math.min(low, touched[0]?.[0] ?? low);
	const to = Math.max(high, touched.at(-1)?.[1] ?? high);
	let fresh = tokens(text.slice(from, to + shift), from);
	let gone = touched;
	// What is the same at both ends of the changed part is not changed.
	const same = (word, token) => old.slice(word[0], word[1]) === text.slice(token[0], token[1]);
	const first = [];
	while (gone.length && fresh.length && same(gone[0], fresh[0])) {
		first.push([...fresh[0], ...gone[0].slice(2)]);
		[gone, fresh] = [gone.slice(1), fresh.slice(1)];
	}
	const last = [];
	while (gone.length && fresh.length && same(gone.at(-1), fresh.at(-1))) {
		last.unshift([...fresh.at(-1), ...gone.at(-1).slice(2)]);
		[gone, fresh] = [gone.slice(0, -1), fresh.slice(0, -1)];
	}
	const moved = after.map((word) => [word[0] + shift, word[1] + shift, ...word.slice(2)]);
	const [left, right] = [[...before, ...first], [...last, ...moved]];
	let made;
	if (gone.length === fresh.length) made = fresh.map((token, i) => [...token, gone[i][2], gone[i][3], 1]);
	else {
		const begin = gone[0]?.[2] ?? left.at(-1)?.[3] ?? segment.start;
		const end = gone.at(-1)?.[3] ?? right[0]?.[2] ?? segment.end;
		const letters = fresh.reduce((sum, token) => sum + token[1] - token[0], 0) || 1;
		let seen = 0;
		made = fresh.map((token) => {
			const start = begin + ((end - begin) * seen) / letters;
			seen += token[1] - token[0];
			return [...token, start, begin + ((end - begin) * seen) / letters, 1];
		});
	}
	return { ...segment, text, words: [...left, ...made, ...right] };
}

/** Two segments, cut at a place in the text. */
export function split(segment, at) {
	const word = segment.words.findIndex((each) => each[1] > at);
	if (word < 0 || at <= 0) return null;
	const lead = segment.text.slice(at).match(/^\s*/)[0].length;
	const first = { ...segment, text: segment.text.slice(0, at).trimEnd(), words: segment.words.slice(0, word) };
	const base = at + lead;
	const rest = segment.words.slice(word).map((each) => [Math.max(0, each[0] - base), each[1] - base, ...each.slice(2)]);
	if (!first.words.length || !rest.length) return null;
	first.end = first.words.at(-1)[3];
	return [first, { ...segment, gap: lead > 0 || segment.gap, text: segment.text.slice(base), start: rest[0][2], words: rest }];
}

export function join(first, second) {
	const glue = second.gap ? ' ' : '';
	const base = first.text.length + glue.length;
	const moved = second.words.map((word) => [word[0] + base, word[1] + base, ...word.slice(2)]);
	return { ...first, end: second.end, text: first.text + glue + second.text, words: [...first.words, ...moved] };
}

/** Places of `needle`: [segment, from] each. */
export function find(segments, needle) {
	const found = [];
	const wanted = needle.toLocaleLowerCase();
	if (!wanted) return found;
	segments.forEach((segment, index) => {
		const text = segment.text.toLocaleLowerCase();
		for (let at = text.indexOf(wanted); at >= 0; at = text.indexOf(wanted, at + wanted.length)) found.push([index, at]);
	});
	return found;
}

/** Replaces every place that `find` gave, last first, so that each is an edit of its own. */
export function replaceAll(segments, places, length, text) {
	const changed = [...segments];
	for (const [index, at] of [...places].reverse()) {
		const old = changed[index].text;
		changed[index] = edit(changed[index], old.slice(0, at) + text + old.slice(at + length));
	}
	return changed;
}

/** Index of the segment, and of its word, that is heard at a time; the last one begun. */
export function heardAt(segments, seconds) {
	let [low, high] = [0, segments.length];
	while (low < high) {
		const middle = (low + high) >> 1;
		if (segments[middle].start <= seconds) low = middle + 1;
		else high = middle;
	}
	let index = low - 1;
	// Channels overlap: an earlier segment may still be the one that is heard.
	if (index > 0 && segments[index].end < seconds && segments[index - 1].end >= seconds) index--;
	if (index < 0) return [-1, -1];
	const words = segments[index].words;
	let word = -1;
	while (word + 1 < words.length && words[word + 1][2] <= seconds + 0.02) word++;
	return [index, word];
}

export function plain(segments) {
	return segments.map((segment, i) => (i && segment.gap ? ' ' : '') + segment.text).join('').trim();
}
