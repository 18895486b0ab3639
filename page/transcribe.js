// The first view: recordings in, progress, and what the server runs on.
import { useEffect, useRef, useState } from './vendor/hooks.js';
import { get } from './api.js';
import { html, Icon, useStore, store, clock, about, bytes, number, canRecord, save, say } from './ui.js';
import { jobs, enqueue, cancel, dismiss, retry } from './queue.js';
import { load } from './store.js';
import { languages, t, language as shown } from './text.js';

const FORMATS = ['txt', 'srt', 'vtt'];

/** What is chosen stays for the next visit. */
const chosen = store({ model: '', language: '', channels: false, translate: false, keywords: '', ...stored() });
function stored() {
	try {
		return JSON.parse(localStorage.getItem('options')) || {};
	} catch {
		return {};
	}
}
function choose(values) {
	chosen.set((all) => ({ ...all, ...values }));
	localStorage.setItem('options', JSON.stringify(chosen.get()));
}

export const models = store([]);
export const runs = store(null);
export async function refresh() {
	const [listed, health, stats, gpu] = await Promise.all([get('/models'), get('/health'), get('/stats'), get('/gpu-status')]);
	models.set(listed.data.filter((model) => model.installed || model.deployment || model.default));
	runs.set({ health, stats, gpu });
}

/** Seconds of audio a second, measured; 0 before the first recording. */
export function speed({ health, stats }) {
	const cost = stats.engine.core_seconds_per_second;
	return cost ? (health.device?.gpu ? 1 : stats.queue.cores) / cost : 0;
}

const modelName = () => chosen.get().model || models.get().find((model) => model.default)?.id || 'whisper-1';

export function send(files) {
	const { language, channels, translate, keywords } = chosen.get();
	const words = keywords.split(/[,、\n]/).map((word) => word.trim()).filter(Boolean);
	enqueue(files, { model: modelName(), language, channels, translate, keywords: words });
}

export function Transcribe() {
	const list = useStore(jobs);
	const [over, setOver] = useState(false);
	const input = useRef();
	useEffect(() => {
		const paste = (event) => event.clipboardData.files.length && send(event.clipboardData.files);
		const stop = (event) => event.preventDefault();
		const drop = (event) => {
			event.preventDefault();
			setOver(false);
			if (event.dataTransfer.files.length) send(event.dataTransfer.files);
		};
		const enter = (event) => {
			event.preventDefault();
			setOver(true);
		};
		const leave = (event) => event.relatedTarget || setOver(false);
		const all = { paste, dragover: stop, dragenter: enter, dragleave: leave, drop };
		for (const [name, handler] of Object.entries(all)) document.addEventListener(name, handler);
		refresh().catch(() => {});
		const timer = setInterval(() => document.hidden || refresh().catch(() => {}), 30000);
		return () => {
			clearInterval(timer);
			for (const [name, handler] of Object.entries(all)) document.removeEventListener(name, handler);
		};
	}, []);
	const pick = (event) => {
		send(event.target.files);
		event.target.value = '';
	};
	return html`
		<section class="drop ${over ? 'over' : ''}" aria-labelledby="drop-title">
			<h1 id="drop-title">${t('dropTitle')}</h1>
			<p class="soft">${t('dropHint')}</p>
			<p class="actions">
				<button class="primary" onClick=${() => input.current.click()}><${Icon} name="upload" />${t('choose')}</button>
				<${Record} />
			</p>
			<input ref=${input} id="files" type="file" multiple accept="audio/*,video/*,.amr,.opus,.caf,.au" class="hidden" tabindex="-1"
				aria-label=${t('choose')} onChange=${pick} />
		</section>
		<${Options} />
		<${RunsOn} />
		${list.length > 0 && html`<h2 class="list-title">${t('queue')}</h2>`}
		<ul class="jobs">${list.map((job) => html`<${Job} key=${job.id} job=${job} />`)}</ul>
		${!list.length && html`<p class="soft where">${t('where')}</p>`}`;
}

function Options() {
	const options = useStore(chosen);
	const all = useStore(models);
	const usual = all.find((model) => model.default);
	return html`<div class="options">
		<label>${t('model')}
			<select value=${options.model} onChange=${(event) => choose({ model: event.target.value })}>
				<option value="">${usual ? t('modelDefault', { name: usual.id }) : t('modelAny')}</option>
				${all.filter((model) => !model.default).map((model) => html`<option value=${model.id}>${model.id}</option>`)}
			</select></label>
		<label>${t('spoken')}<${LanguageSelect} value=${options.language} onChange=${(language) => choose({ language })} /></label>
		<details class="more"><summary>${t('more')}</summary><div class="more-body">
			<label class="check"><input type="checkbox" checked=${options.channels}
				onChange=${(event) => choose({ channels: event.target.checked })} /><span>${t('channels')}</span></label>
			<label class="check"><input type="checkbox" checked=${options.translate}
				onChange=${(event) => choose({ translate: event.target.checked })} /><span>${t('translate')}</span></label>
			<label>${t('keywords')}<input type="text" value=${options.keywords} placeholder=${t('keywordsHint')}
				onChange=${(event) => choose({ keywords: event.target.value })} /></label>
		</div></details>
	</div>`;
}

export function LanguageSelect({ value, onChange }) {
	return html`<select value=${value} onChange=${(event) => onChange(event.target.value)}>
		<option value="">${t('detect')}</option>
		${languages().map(([code, name]) => html`<option value=${code}>${name}</option>`)}
	</select>`;
}

/** One line that says what the server runs on, and one of advice where it could be faster. */
function RunsOn() {
	const state = useStore(runs);
	if (!state) return html`<p class="runs soft">${t('connecting')}</p>`;
	const { health, gpu } = state;
	if (!health.device) return html`<p class="runs soft">${t('starting', { why: health.reason || health.status })}</p>`;
	const times = speed(state);
	const values = { device: health.device.description || health.device.name, kind: health.device.gpu ? 'GPU' : 'CPU', model: health.model };
	const advice = !gpu.gpu_actually_enabled && (gpu.advice || []).find((each) => each.id !== 'no-gpu');
	const slow = health.slow_model;
	return html`<p class="runs soft">
		${t('runsOn', values)}${times ? ` ${t('runsAt', { n: number(times, times < 10 ? 1 : 0) })}` : ''}
		${advice && html`<br /><span class="advice">${advice.cause[shown()]}</span> <a href="#/status">${t('why')}</a>`}
		${!advice && slow && html`<br /><span class="advice">${t('slow')}</span> <a href="#/status">${t('why')}</a>`}
	</p>`;
}

function Record() {
	const [recorder, setRecorder] = useState(null);
	const [seconds, setSeconds] = useState(0);
	useEffect(() => {
		if (!recorder) return undefined;
		const timer = setInterval(() => setSeconds((performance.now() - recorder.began) / 1000), 250);
		return () => clearInterval(timer);
	}, [recorder]);
	const start = async () => {
		if (!canRecord()) {
			location.hash = '#/live';
			return;
		}
		try {
			const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
			const media = new MediaRecorder(stream);
			const parts = [];
			media.ondataavailable = (event) => parts.push(event.data);
			media.onstop = () => {
				for (const track of stream.getTracks()) track.stop();
				const kind = media.mimeType.split(';')[0];
				const name = `${t('recording')} ${new Date().toLocaleString(shown())}.${kind.includes('mp4') ? 'm4a' : 'webm'}`;
				const file = new File(parts, name.replace(/[/\\:]/g, '-'), { type: kind });
				file.seconds = (performance.now() - media.began) / 1000;
				file.source = 'record';
				setRecorder(null);
				send([file]);
			};
			media.began = performance.now();
			media.start(1000);
			setSeconds(0);
			setRecorder(media);
		} catch (error) {
			say(t('micRefused', { why: error.message }));
		}
	};
	if (recorder) {
		return html`<button class="recording" onClick=${() => recorder.stop()}><${Icon} name="stop" />${t('stopRecording', { time: clock(seconds) })}</button>`;
	}
	return html`<button onClick=${start}><${Icon} name="mic" />${t('record')}</button>`;
}

/** The file as it is; its settings are where it is read. */
async function take(job, format) {
	const [{ file }, { entry, segments }] = await Promise.all([import('./subtitles.js'), load(job.id)]);
	save(...file(format, entry, segments, (segment) => (segment.channel == null ? '' : t('speaker', { n: segment.channel + 1 }))));
}

function Job({ job }) {
	const { state } = job;
	const going = ['waiting', 'sending', 'heard', 'working'].includes(state);
	const ratio = state === 'sending' ? job.sent / (job.size || 1) : job.duration ? Math.min(1, job.done / job.duration) : 0;
	const left = job.rate && job.duration > job.done ? (job.duration - job.done) / job.rate : 0;
	const words = {
		waiting: () => (job.pause ? t('jobFull', { n: job.pause }) : t('jobWaiting')),
		sending: () => t('jobSending', { sent: bytes(job.sent), size: bytes(job.size) }),
		heard: () => t('jobHeard'),
		working: () => `${job.duration ? t('jobWorking', { done: clock(job.done), of: clock(job.duration) }) : t('jobWorkingOpen', { done: clock(job.done) })}${left ? ` · ${t('jobLeft', { time: about(left) })}` : ''}`,
		done: () => t('jobDone', { length: clock(job.duration) }),
		failed: () => job.error,
	};
	const known = state === 'sending' || (state === 'working' && job.duration > 0);
	return html`<li class="job ${state}">
		<div class="job-line">
			<span class="job-name">${state === 'done' ? html`<a href=${`#/read/${job.id}`}>${job.name}</a>` : job.name}</span>
			${state === 'done' && FORMATS.map((format) => html`<button class="quiet" aria-label=${`${format} ${job.name}`} onClick=${() => take(job, format)}>${format}</button>`)}
			${state === 'done' && html`<a class="button primary" href=${`#/read/${job.id}`}>${t('read')}</a>`}
			${state === 'failed' && job.kept && html`<a class="button" href=${`#/read/${job.id}`}>${t('readKept')}</a>`}
			${state === 'failed' && html`<button onClick=${() => retry(job)}>${t('again')}</button>`}
			<button class="quiet" aria-label=${t(going ? 'cancelJob' : 'dismissJob', { name: job.name })}
				onClick=${() => (going ? cancel(job) : dismiss(job))}><${Icon} name="close" /></button>
		</div>
		${going && html`<progress class=${state} max="1" value=${known ? ratio : undefined} aria-label=${job.name}></progress>`}
		<p class="job-state" role=${state === 'failed' ? 'alert' : 'status'}>${words[state]()}</p>
		${state === 'working' && html`<p class="job-text" lang="">${job.text}</p>`}
	</li>`;
}
