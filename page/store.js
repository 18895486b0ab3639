// Recordings and transcripts in this browser, and nowhere else.
const NAME = 'whisper-page';
const STORES = ['entries', 'transcripts', 'audio'];

let opened;
function database() {
	opened ||= new Promise((resolve, reject) => {
		const request = indexedDB.open(NAME, 1);
		request.onupgradeneeded = () => {
			for (const name of STORES) request.result.createObjectStore(name, { keyPath: 'id' });
		};
		request.onsuccess = () => resolve(request.result);
		request.onerror = () => reject(request.error);
	});
	return opened;
}

async function run(names, mode, work) {
	const transaction = (await database()).transaction(names, mode);
	const result = work(...names.map((name) => transaction.objectStore(name)));
	return new Promise((resolve, reject) => {
		transaction.oncomplete = () => resolve(result?.result);
		transaction.onabort = transaction.onerror = () => reject(transaction.error);
	});
}

export const newId = () => `${Date.now().toString(36)}-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`;

/** `entry` is what the list shows; `segments` the transcript; `blob` the recording, where it is kept. */
export function add(entry, segments, blob) {
	return run(STORES, 'readwrite', (entries, transcripts, audio) => {
		entries.put(entry);
		transcripts.put({ id: entry.id, segments });
		if (blob) audio.put({ id: entry.id, blob });
	});
}

export const saveEntry = (entry) => run(['entries'], 'readwrite', (entries) => entries.put(entry));

export const saveSegments = (id, segments) =>
	run(['transcripts'], 'readwrite', (transcripts) => transcripts.put({ id, segments }));

export async function list() {
	const all = await run(['entries'], 'readonly', (entries) => entries.getAll());
	return all.sort((a, b) => b.created - a.created);
}

export async function load(id) {
	const [entry, transcript, audio] = await Promise.all(
		STORES.map((name) => run([name], 'readonly', (store) => store.get(id))),
	);
	return entry && { entry, segments: transcript?.segments || [], blob: audio?.blob };
}

export const remove = (id) => run(STORES, 'readwrite', (...stores) => stores.forEach((store) => store.delete(id)));

export const clear = () => run(STORES, 'readwrite', (...stores) => stores.forEach((store) => store.clear()));
