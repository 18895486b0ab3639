// How the server is doing, as a person would say it.
import { useEffect, useState } from './vendor/hooks.js';
import { html, clock, moment, number, about, useStore } from './ui.js';
import { get } from './api.js';
import { runs, speed } from './transcribe.js';
import { jobs, saved } from './queue.js';
import * as store from './store.js';
import { t, language as shown } from './text.js';

const EVERY_MS = 2000;
const KEPT = 150;
/** Samples outlive the view, so that coming back shows what was. */
const samples = [];

async function sample() {
	const stats = await get('/stats');
	const now = performance.now() / 1000;
	const last = samples.at(-1);
	const span = last ? now - last.at : 0;
	// A restarted server counts from 0.
	const grown = (value, before) => (span > 0 && value >= before ? (value - before) / span : 0);
	samples.push({
		at: now,
		inside: stats.admission.places,
		windows: stats.queue.windows_running + stats.queue.windows_waiting,
		busy: last ? grown(stats.inference_seconds, last.inference) : 0,
		speech: last ? grown(stats.speech_seconds, last.speechTotal) : 0,
		sessions: stats.realtime.sessions,
		inference: stats.inference_seconds,
		speechTotal: stats.speech_seconds,
	});
	if (samples.length > KEPT) samples.shift();
	return stats;
}

export function Status() {
	const state = useStore(runs);
	const turn = useStore(saved);
	const all = useStore(jobs);
	const [recent, setRecent] = useState([]);
	const [, draw] = useState(0);
	const [away, setAway] = useState(false);
	useEffect(() => {
		const look = async () => {
			if (document.hidden) return;
			try {
				const stats = await sample();
				runs.set((old) => (old ? { ...old, stats } : old));
				setAway(false);
			} catch {
				setAway(true);
			}
			draw((n) => n + 1);
		};
		const facts = async () => {
			try {
				const [health, stats, gpu] = await Promise.all([get('/health'), get('/stats'), get('/gpu-status')]);
				runs.set({ health, stats, gpu });
			} catch {
				setAway(true);
			}
		};
		facts();
		look();
		const timers = [setInterval(look, EVERY_MS), setInterval(facts, 20000)];
		return () => timers.forEach(clearInterval);
	}, []);
	useEffect(() => {
		store.list().then((list) => setRecent(list.filter((entry) => entry.took).slice(0, 8)), () => {});
	}, [turn]);
	if (!state) return html`<h1>${t('status')}</h1><p class="soft" role="status">${t(away ? 'noServer' : 'connecting')}</p>`;
	const { health, stats, gpu } = state;
	const last = samples.at(-1);
	const times = speed(state);
	const facts = [
		['factDevice', health.device && `${health.device.description || health.device.name} (${health.device.gpu ? 'GPU' : 'CPU'})`],
		['factModel', health.model],
		['factEngine', [health.engine.name, health.engine.precision, health.engine.isa].filter(Boolean).join(' · ')],
		['factSpeed', times ? t('timesLive', { n: number(times, times < 10 ? 1 : 0) }) : t('notMeasured')],
		['factCores', number(stats.queue.cores)],
		['factUp', about(stats.uptime_seconds)],
		['factDone', t('factDoneSaid', { n: number(stats.requests.succeeded), length: about(stats.audio_seconds) })],
		['factTrouble', trouble(stats)],
		['factVersion', health.version],
	];
	const failed = all.filter((job) => job.state === 'failed');
	return html`
		<h1>${t('status')}</h1>
		<p class="lead ${health.status}" role="status"><span class="dot ${away ? 'reconnecting' : health.status === 'ok' ? 'listening' : 'connecting'}"></span>
			${away ? t('noServer') : t(`health_${health.status}`, { why: health.reason || '' })}</p>
		<${Diagnosis} gpu=${gpu} health=${health} />
		<h2>${t('now')}</h2>
		<div class="plots">
			<${Plot} label=${t('plotInside')} values=${samples.map((each) => each.inside)} shown=${number(last?.inside ?? 0)} />
			<${Plot} label=${t('plotWindows')} values=${samples.map((each) => each.windows)} shown=${number(last?.windows ?? 0)} />
			<${Plot} label=${t('plotBusy')} values=${samples.map((each) => each.busy)} shown=${number(last?.busy ?? 0, 1)} />
			<${Plot} label=${t('plotSpeech')} values=${samples.map((each) => each.speech)} shown=${`${number(last?.speech ?? 0, 1)}×`} />
			<${Plot} label=${t('plotLive')} values=${samples.map((each) => each.sessions)} shown=${number(last?.sessions ?? 0)} />
		</div>
		<h2>${t('facts')}</h2>
		<dl class="facts">${facts.map(([name, value]) => value && html`<div><dt>${t(name)}</dt><dd>${value}</dd></div>`)}</dl>
		<h2>${t('recent')}</h2>
		${!recent.length && !failed.length && html`<p class="soft">${t('historyEmpty')}</p>`}
		<ul class="recent">
			${failed.map((job) => html`<li key=${job.id}><span>${job.name}</span><span class="bad">${job.error}</span></li>`)}
			${recent.map((entry) => html`<li key=${entry.id}><a href=${`#/read/${entry.id}`}>${entry.name}</a>
				<span class="soft">${moment(entry.created)} · ${clock(entry.duration)} · ${t('took', { time: about(entry.took), n: number(entry.duration / entry.took, 1) })}</span></li>`)}
		</ul>`;
}

function trouble({ requests, engine, fallbacks, windows }) {
	const parts = [
		requests.failed && t('troubleFailed', { n: requests.failed }),
		requests.busy && t('troubleBusy', { n: requests.busy }),
		requests.rejected && t('troubleRejected', { n: requests.rejected }),
		engine.restarts && t('troubleRestarts', { n: engine.restarts }),
		fallbacks && t('troubleFallbacks', { n: fallbacks }),
		windows.retries && t('troubleRetries', { n: windows.retries }),
	].filter(Boolean);
	return parts.length ? parts.join(', ') : t('troubleNone');
}

function Diagnosis({ gpu, health }) {
	const advice = gpu.advice || [];
	const title = gpu.gpu_actually_enabled ? t('gpuUsed', { name: gpu.device?.name || gpu.backend }) : t(gpu.gpu_requested ? 'gpuUnused' : 'gpuOff');
	return html`<section class="diagnosis" aria-labelledby="diagnosis-title">
		<h2 id="diagnosis-title">${title}</h2>
		${advice.map((each) => html`<div key=${each.id}><p>${each.cause[shown()]}</p><${Remedy} text=${each.remedy[shown()]} /></div>`)}
		${!advice.length && gpu.reason && html`<p>${gpu.reason}</p>`}
		${!advice.length && gpu.gpu_actually_enabled && html`<p>${t('gpuFine')}</p>`}
		${health.slow_model && html`<p>${t('slow')}</p>`}
		${health.model_notice && html`<p>${health.model_notice}</p>`}
	</section>`;
}

/** What stands between backquotes is to be typed. */
function Remedy({ text }) {
	return html`<p>${(text || '').split('`').map((part, i) => (i % 2 ? html`<code>${part}</code>` : part))}</p>`;
}

function Plot({ label, values, shown: value }) {
	const most = Math.max(1, ...values);
	const points = values.map((each, i) => `${(100 * (KEPT - values.length + i)) / (KEPT - 1)},${(30 - (28 * each) / most).toFixed(2)}`);
	const first = points[0]?.split(',')[0];
	return html`<figure class="plot"><figcaption>${label}</figcaption><strong>${value}</strong>
		<svg viewBox="0 0 100 32" preserveAspectRatio="none" role="img" aria-label=${t('plotSaid', { label, value, most: number(most, 1) })}>
			${points.length > 1 && html`<polygon points=${`${first},31 ${points.join(' ')} 100,31`} /><polyline points=${points.join(' ')} />`}
			<line x1="0" y1="31" x2="100" y2="31" /></svg></figure>`;
}
