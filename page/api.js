// The server's public routes, with the key if there is one.
import { store } from './ui.js';

/** Asks for a key: { wrong } while the dialog is open. */
export const keyWanted = store(null);
let waiting = [];

export const key = () => sessionStorage.getItem('key') || '';

/** The dialog's answer. An empty key gives up. */
export function answerKey(value) {
	if (value) sessionStorage.setItem('key', value);
	keyWanted.set(null);
	const all = waiting;
	waiting = [];
	for (const done of all) done(!!value);
}

/** True when one was given. */
export function askKey() {
	return new Promise((done) => {
		waiting.push(done);
		if (!keyWanted.get()) keyWanted.set({ wrong: !!key() });
	});
}

const headers = () => (key() ? { authorization: `Bearer ${key()}` } : {});

export async function get(path, { ask = true } = {}) {
	for (;;) {
		const used = key();
		const answer = await fetch(path, { headers: headers(), cache: 'no-store' });
		if (answer.status === 401) {
			// Another call may have brought the key meanwhile.
			if (ask && (key() !== used || (await askKey()))) continue;
			throw new ApiError(401, 'key');
		}
		const body = await answer.json();
		if (!answer.ok && path !== '/health') throw new ApiError(answer.status, body.error?.message || answer.statusText);
		return body;
	}
}

/** A short-lived key for a WebSocket, which cannot carry headers; null where the server asks for none. */
export async function sessionKey() {
	for (;;) {
		const used = key();
		const answer = await fetch('/v1/realtime/client_secrets', { method: 'POST', headers: headers() });
		if (answer.status === 401) {
			if (key() !== used || (await askKey())) continue;
			throw new ApiError(401, 'key');
		}
		if (!answer.ok) throw new ApiError(answer.status, (await answer.json()).error?.message || answer.statusText);
		return used ? (await answer.json()).value : null;
	}
}

export class ApiError extends Error {
	constructor(status, message, retryAfter) {
		super(message);
		Object.assign(this, { status, retryAfter });
	}
}

/**
 * Sends a recording. `on` is told `sent(bytes, of)`, `uploaded()`, `segment(segment)`. Gives the whole verbose body.
 * XMLHttpRequest, since `fetch` does not say how much of a body has been sent.
 */
export function transcribe(file, options, on, signal) {
	return new Promise((resolve, reject) => {
		const form = new FormData();
		form.set('model', options.model);
		form.set('response_format', 'verbose_json');
		form.set('stream', 'true');
		form.append('timestamp_granularities[]', 'segment');
		form.append('timestamp_granularities[]', 'word');
		if (options.language) form.set('language', options.language);
		if (options.channels) form.set('separate_channels', 'true');
		for (const word of options.keywords || []) form.append('keywords[]', word);
		form.set('file', file, file.name || 'recording');
		const request = new XMLHttpRequest();
		request.open('POST', options.translate ? '/v1/audio/translations' : '/v1/audio/transcriptions');
		for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
		let [read, ended, verbose, failure] = [0, false, null, null];
		const take = () => {
			// An error's body is no stream.
			if (request.status !== 200) return;
			const text = request.responseText;
			for (;;) {
				const end = text.indexOf('\n\n', read);
				if (end < 0) return;
				const frame = text.slice(read, end);
				read = end + 2;
				if (!frame.startsWith('data: ')) continue;
				const data = frame.slice(6);
				if (data === '[DONE]') {
					ended = true;
					continue;
				}
				const event = JSON.parse(data);
				if (event.error) failure = event.error.message;
				else if (event.segment) on.segment(event.segment);
				else if (event.verbose) verbose = event.verbose;
			}
		};
		request.upload.onprogress = (event) => on.sent(event.loaded, event.total);
		request.upload.onload = () => on.uploaded();
		request.onprogress = take;
		request.onload = () => {
			take();
			if (request.status !== 200) {
				let message = request.statusText;
				try {
					message = JSON.parse(request.responseText).error.message;
				} catch {
					// A proxy's page says nothing to a person.
				}
				const retry = Number(request.getResponseHeader('retry-after')) || 0;
				reject(new ApiError(request.status, message, retry));
			} else if (failure) reject(new ApiError(500, failure));
			else if (ended && verbose) resolve(verbose);
			else reject(new ApiError(0, 'lost'));
		};
		request.onerror = () => reject(new ApiError(0, 'lost'));
		request.onabort = () => reject(new ApiError(0, 'aborted'));
		signal.addEventListener('abort', () => request.abort());
		request.send(form);
	});
}
