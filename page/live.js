// Captions of what the microphone hears.
import { useEffect, useRef, useState } from './vendor/hooks.js';
import { html, Icon, clock, canRecord, say } from './ui.js';
import { Session } from './session.js';
import { LanguageSelect, models, refresh } from './transcribe.js';
import { enqueue, saved } from './queue.js';
import * as transcript from './transcript.js';
import * as store from './store.js';
import { t, language as shown } from './text.js';

const SIZES = [1, 1.35, 1.8, 2.4, 3.2];

export function Live() {
	const session = useRef();
	const screen = useRef();
	const meter = useRef();
	const [items, setItems] = useState([]);
	const [state, setState] = useState('idle');
	const [detail, setDetail] = useState('');
	const [seconds, setSeconds] = useState(0);
	const [size, setSize] = useState(Number(localStorage.getItem('live-size')) || 1);
	const [language, setLanguage] = useState(localStorage.getItem('live-language') || '');
	const [kept, setKept] = useState(null);
	const running = !['idle', 'ended'].includes(state);

	useEffect(() => {
		refresh().catch(() => {});
		return () => session.current && finish();
	}, []);
	useEffect(() => {
		if (!running) return undefined;
		const timer = setInterval(() => setSeconds(session.current?.began ? (performance.now() - session.current.began) / 1000 : 0), 500);
		return () => clearInterval(timer);
	}, [running]);
	useEffect(() => {
		const box = screen.current;
		if (box) box.scrollTop = box.scrollHeight;
	}, [items, size]);

	const start = async () => {
		setItems([]);
		setKept(null);
		setDetail('');
		setSeconds(0);
		const model = models.get().find((each) => each.default)?.id;
		const made = new Session({ language, model }, {
			change: (all) => setItems([...all]),
			level: (level) => meter.current && (meter.current.style.transform = `scaleX(${Math.min(1, Math.sqrt(level)).toFixed(3)})`),
			state: (name, why) => {
				if (name === 'error') setDetail(why || '');
				else setState(name);
			},
			ended: () => finish(),
		});
		session.current = made;
		setState('connecting');
		try {
			await made.start();
		} catch (error) {
			session.current = null;
			made.stream?.getTracks().forEach((track) => track.stop());
			made.ended = true;
			setState('idle');
			setDetail(error.name === 'NotAllowedError' ? t('micRefused', { why: error.message }) : t('liveFailed', { why: error.message }));
		}
	};

	const finish = async () => {
		const made = session.current;
		if (!made) return;
		session.current = null;
		if (document.fullscreenElement) document.exitFullscreen();
		const { blob, seconds: length } = await made.stop();
		setState('ended');
		const words = made.items.filter((item) => item.text.trim());
		if (!words.length) return;
		const segments = words.map((item) => transcript.fromServer({ start: item.start, end: Math.max(item.end, item.start + 0.2), text: ` ${item.text}`, words: [] }));
		const name = `${t('liveTitle')} ${new Date().toLocaleString(shown())}`;
		const entry = {
			id: store.newId(), name, created: Date.now(), duration: length, language: '', model: made.options.model, task: 'transcribe', source: 'live',
			size: blob.size, type: blob.type, speakers: {}, first: transcript.plain(segments).slice(0, 160),
		};
		await store.add(entry, segments, blob).catch((error) => say(t('notKept', { why: error?.message || '' })));
		saved.set((n) => n + 1);
		setKept({ entry, blob });
	};

	const exact = () => {
		const file = new File([kept.blob], `${kept.entry.name.replace(/[/\\:]/g, '-')}.${kept.blob.type.includes('mp4') ? 'm4a' : 'webm'}`, { type: kept.blob.type });
		file.seconds = kept.entry.duration;
		file.source = 'record';
		enqueue([file], { model: kept.entry.model, language });
		location.hash = '#/';
	};

	if (!canRecord()) return html`<h1>${t('liveTitle')}</h1><${Insecure} />`;
	const grow = (step) => {
		const next = Math.max(0, Math.min(SIZES.length - 1, size + step));
		setSize(next);
		localStorage.setItem('live-size', next);
	};
	const text = items.filter((item) => item.text || item.pending);
	return html`
		<div class="live-head"><h1>${t('liveTitle')}</h1>
			${running ? html`<p class="live-state soft" role="status"><span class="dot ${state}"></span>${t(`live_${state}`)} <span class="clock">${clock(seconds)}</span></p>` : ''}</div>
		<div class="actions live-actions">
			${running
				? html`<button class="primary recording" disabled=${state === 'finishing'} onClick=${finish}><${Icon} name="stop" />${t('liveStop')}</button>`
				: html`<button class="primary" onClick=${start}><${Icon} name="mic" />${t('liveStart')}</button>`}
			${!running && html`<label class="inline">${t('spoken')}<${LanguageSelect} value=${language} onChange=${(code) => {
				setLanguage(code);
				localStorage.setItem('live-language', code);
			}} /></label>`}
			<span class="spring"></span>
			<button class="quiet" aria-label=${`A− ${t('smaller')}`} disabled=${size === 0} onClick=${() => grow(-1)}>A−</button>
			<button class="quiet" aria-label=${`A+ ${t('larger')}`} disabled=${size === SIZES.length - 1} onClick=${() => grow(1)}>A+</button>
			<button class="quiet" aria-label=${t('fullScreen')} onClick=${() => screen.current.requestFullscreen?.().catch(() => {})}><${Icon} name="full" /></button>
		</div>
		<div class="meter" aria-hidden="true"><span ref=${meter}></span></div>
		${detail && html`<p class="warn" role="alert">${detail}</p>`}
		<div class="captions" ref=${screen} tabindex="0" role="log" aria-label=${t('captions')} lang="" style=${{ fontSize: `${SIZES[size]}rem` }}>
			${!text.length && html`<p class="pale">${running ? t('liveListening') : t('liveHint')}</p>`}
			${text.map((item) => html`<p key=${item.id}><span class="said">${item.text.trim()}</span>${item.pending && html`<span class="pale" aria-hidden="true">${item.pending}</span>`}</p>`)}
		</div>
		${kept && html`<p class="actions end" role="status"><span class="soft">${t('liveKept')}</span>
			<a class="button primary" href=${`#/read/${kept.entry.id}`}>${t('read')}</a><button onClick=${exact}>${t('liveExact')}</button></p>`}`;
}

/** What to type, instead of a button that does nothing. */
function Insecure() {
	const port = location.port || '80';
	const host = location.hostname;
	return html`<p>${t('insecure')}</p>
		<ol class="ways">
			<li><p>${t('insecureTunnel')}</p><pre tabindex="0"><code>ssh -N -L ${port}:localhost:${port} ${host}</code></pre><p>${t('insecureOpen')} <code>http://localhost:${port}/</code></p></li>
			<li><p>${t('insecureProxy')}</p><pre tabindex="0"><code>[server]${'\n'}tls = "self-signed"</code></pre><p>${t('insecureOpen')} <code>https://${host}:${port}/</code></p></li>
		</ol>
		<p class="soft">${t('insecureFiles')} <a href="#/">${t('transcribe')}</a></p>`;
}
