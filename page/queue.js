// Recordings on their way to a transcript: two at a time, the others in the order in which they came.
import { ApiError, askKey, transcribe } from './api.js';
import { store, say } from './ui.js';
import * as transcript from './transcript.js';
import * as history from './store.js';
import { t } from './text.js';

const AT_ONCE = 2;
/** Jobs: { id, name, state: waiting|sending|heard|working|done|failed, sent, size, done, duration, rate, text, error }. */
export const jobs = store([]);
/** Grows with every change of the history. */
export const saved = store(0);

const change = (job, values) => {
	Object.assign(job, values);
	jobs.set((all) => [...all]);
};

export function enqueue(files, options) {
	const fresh = [...files].map((file) => {
		const job = {
			id: history.newId(), file, name: file.name || t('recording'), size: file.size, options, source: file.source || 'file',
			state: 'waiting', sent: 0, done: 0, duration: file.seconds || 0, text: '', segments: [], abort: new AbortController(),
		};
		if (!job.duration) measure(file).then((duration) => duration && change(job, { duration }));
		return job;
	});
	jobs.set((all) => [...fresh, ...all]);
	next();
}

export function cancel(job) {
	job.abort.abort();
	jobs.set((all) => all.filter((other) => other !== job));
	next();
}

export const dismiss = (job) => jobs.set((all) => all.filter((other) => other !== job));

export function retry(job) {
	change(job, { state: 'waiting', error: null, sent: 0, done: 0, text: '', segments: [], abort: new AbortController() });
	next();
}

/** The length that the browser itself reads, in seconds; 0 where it cannot. */
export function measure(file) {
	return new Promise((resolve) => {
		const audio = new Audio();
		const end = (value) => {
			URL.revokeObjectURL(audio.src);
			resolve(value);
		};
		audio.preload = 'metadata';
		audio.onloadedmetadata = () => end(Number.isFinite(audio.duration) ? audio.duration : 0);
		audio.onerror = () => end(0);
		audio.src = URL.createObjectURL(file);
	});
}

function next() {
	const all = jobs.get();
	const busy = all.filter((job) => ['sending', 'heard', 'working'].includes(job.state)).length;
	const waiting = all.filter((job) => job.state === 'waiting' && !job.pause).reverse();
	for (const job of waiting.slice(0, Math.max(0, AT_ONCE - busy))) work(job);
}

async function work(job) {
	const began = performance.now();
	let first = 0;
	change(job, { state: 'sending' });
	try {
		const body = await transcribe(job.file, job.options, {
			sent: (sent, size) => change(job, { sent, size }),
			uploaded: () => change(job, { state: 'heard' }),
			segment: (segment) => {
				const made = transcript.fromServer(segment);
				job.segments.push(made);
				first ||= performance.now();
				const rate = made.end / ((performance.now() - began) / 1000);
				change(job, { state: 'working', done: Math.max(job.done, made.end), rate, text: made.text });
			},
		}, job.abort.signal);
		await keep(job, body, (performance.now() - began) / 1000);
		change(job, { state: 'done', done: job.duration, segments: [] });
	} catch (error) {
		if (job.abort.signal.aborted) return;
		if (error instanceof ApiError && error.status === 429) {
			const wait = Math.min(60, error.retryAfter || 5);
			change(job, { state: 'waiting', pause: wait });
			setTimeout(() => {
				change(job, { pause: 0 });
				next();
			}, wait * 1000);
		} else if (error instanceof ApiError && error.status === 401) {
			change(job, { state: 'waiting', pause: 1 });
			const given = await askKey();
			change(job, given ? { pause: 0 } : { state: 'failed', pause: 0, error: t('keyNeeded') });
		} else {
			const lost = error instanceof ApiError && error.message === 'lost';
			// What was heard until then is not thrown away.
			const kept = job.segments.length > 0;
			if (kept) await keep(job, { duration: job.done, language: '' }, (performance.now() - began) / 1000, true);
			change(job, { state: 'failed', kept, error: lost ? t('lost') : error.message });
		}
	}
	next();
}

async function keep(job, body, took, partial = false) {
	const segments = job.segments;
	const entry = {
		id: job.id, name: job.name, created: Date.now(), duration: body.duration, language: body.language, model: job.options.model,
		task: job.options.translate ? 'translate' : 'transcribe', source: job.source, took, partial, size: job.file.size,
		type: job.file.type, speakers: {}, first: transcript.plain(segments.slice(0, 6)).slice(0, 160),
	};
	job.duration = body.duration;
	try {
		await history.add(entry, segments, job.file);
	} catch (error) {
		say(t('notKept', { why: error?.message || '' }));
	}
	saved.set((n) => n + 1);
}
