// One live session: microphone → our Realtime route → words. Knows no screen.
import { sessionKey } from './api.js';

const RATE = 24000;
/** Seconds of audio kept while the connection is away. */
const KEPT_SECONDS = 60;
const LAST_WORDS_MS = 15000;

/** `on`: change(items), level(0 to 1), state(name, detail), ended(). An item is { id, start, end, final, text, pending }. */
export class Session {
	constructor(options, on) {
		Object.assign(this, { options, on, items: [], sent: 0, base: 0, waiting: [], stopping: false, tries: 0 });
	}

	async start() {
		this.stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true } });
		try {
			this.context = new AudioContext({ sampleRate: RATE });
			this.source = this.context.createMediaStreamSource(this.stream);
		} catch {
			// A browser that does not join two rates: the worklet converts.
			this.context = new AudioContext();
			this.source = this.context.createMediaStreamSource(this.stream);
		}
		await this.context.audioWorklet.addModule('/page/capture.js');
		this.node = new AudioWorkletNode(this.context, 'capture', { numberOfOutputs: 0 });
		this.node.port.onmessage = ({ data }) => this.heard(data);
		this.recorder = new MediaRecorder(this.stream);
		this.parts = [];
		this.recorder.ondataavailable = ({ data }) => this.parts.push(data);
		await this.connect();
		this.source.connect(this.node);
		this.recorder.start(1000);
		this.began = performance.now();
	}

	async connect() {
		this.on.state('connecting');
		const key = await sessionKey();
		const address = new URL('/mai/v1/realtime?intent=transcription', location.href);
		address.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
		const socket = new WebSocket(address, key ? ['realtime', `openai-insecure-api-key.${key}`] : ['realtime']);
		this.socket = socket;
		this.ready = false;
		socket.onmessage = ({ data }) => this.take(JSON.parse(data));
		socket.onclose = () => this.closed(socket);
		return new Promise((resolve, reject) => {
			socket.onopen = () => {
				// Times of a session count from its own first sample.
				this.base = this.sent / RATE;
				const input = {
					format: { type: 'audio/pcm', rate: RATE },
					transcription: { model: this.options.model, delay: 'low', ...(this.options.language ? { language: this.options.language } : {}) },
					turn_detection: { type: 'server_vad', silence_duration_ms: 500 },
				};
				socket.send(JSON.stringify({ type: 'session.update', session: { type: 'transcription', audio: { input } } }));
			};
			this.opened = resolve;
			this.refused = reject;
		});
	}

	heard({ samples, level }) {
		this.on.level(level);
		if (this.ended) return;
		this.waiting.push(samples);
		if (this.waiting.length > KEPT_SECONDS * 10) this.waiting.shift();
		this.flush();
	}

	flush() {
		if (!this.ready) return;
		for (const samples of this.waiting.splice(0)) {
			const bytes = new Uint8Array(samples.buffer);
			let text = '';
			for (let i = 0; i < bytes.length; i += 4096) text += String.fromCharCode(...bytes.subarray(i, i + 4096));
			this.socket.send(JSON.stringify({ type: 'input_audio_buffer.append', audio: btoa(text) }));
			this.sent += samples.length;
		}
	}

	item(id) {
		let item = this.items.find((each) => each.id === id);
		if (!item) this.items.push((item = { id, start: this.sent / RATE, end: this.sent / RATE, text: '', pending: '', final: false }));
		return item;
	}

	take(event) {
		const item = event.item_id && this.item(event.item_id);
		switch (event.type.replace('conversation.item.input_audio_transcription.', '')) {
			case 'session.updated':
				this.ready = true;
				this.tries = 0;
				this.on.state('listening');
				this.opened();
				this.flush();
				return;
			case 'input_audio_buffer.speech_started':
				item.start = this.base + event.audio_start_ms / 1000;
				break;
			case 'input_audio_buffer.speech_stopped':
				item.end = this.base + event.audio_end_ms / 1000;
				break;
			case 'delta':
				item.text += event.delta;
				item.pending = '';
				break;
			case 'intermediate':
				item.pending = event.intermediate;
				break;
			case 'completed':
				Object.assign(item, { text: event.transcript, pending: '', final: true });
				break;
			case 'failed':
				Object.assign(item, { pending: '', final: true, failed: event.error?.message });
				break;
			case 'error':
				if (event.error?.code !== 'input_audio_buffer_commit_empty') this.on.state('error', event.error?.message);
				else this.last?.();
				break;
			default:
				return;
		}
		this.on.change(this.items);
		if (this.stopping && this.items.every((each) => each.final)) this.last?.();
	}

	closed(socket) {
		if (socket !== this.socket || this.ended) return;
		this.ready = false;
		for (const item of this.items) Object.assign(item, { pending: '', final: true });
		this.on.change(this.items);
		if (this.stopping) return void this.last?.();
		if (!this.began) return void this.refused(new Error('refused'));
		if (this.tries >= 6) return void this.on.ended();
		this.on.state('reconnecting');
		setTimeout(() => this.ended || this.stopping || this.connect().catch(() => {}), 500 * 2 ** this.tries++);
	}

	/** Ends the turn that is open, waits for its words, and gives what was recorded. */
	async stop() {
		this.stopping = true;
		this.source?.disconnect();
		const recording = new Promise((resolve) => {
			if (!this.recorder || this.recorder.state === 'inactive') return resolve();
			this.recorder.onstop = resolve;
			this.recorder.stop();
		});
		if (this.ready && this.socket.readyState === WebSocket.OPEN) {
			this.on.state('finishing');
			const last = new Promise((resolve) => {
				this.last = resolve;
				setTimeout(resolve, LAST_WORDS_MS);
			});
			this.socket.send(JSON.stringify({ type: 'input_audio_buffer.commit' }));
			await last;
		}
		this.ended = true;
		this.socket?.close();
		await recording;
		this.stream?.getTracks().forEach((track) => track.stop());
		await this.context?.close();
		const type = this.recorder?.mimeType.split(';')[0];
		return { blob: new Blob(this.parts, { type }), seconds: this.sent / RATE };
	}
}
