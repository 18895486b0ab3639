// The frame: which view, which language, light or dark, and the key.
import { render } from './vendor/preact.js';
import { useEffect, useRef, useState } from './vendor/hooks.js';
import { html, Icon, notice, store, useStore } from './ui.js';
import { answerKey, keyWanted } from './api.js';
import { Transcribe } from './transcribe.js';
import { jobs } from './queue.js';
import { language, setLanguage, t } from './text.js';

const VIEWS = { '': 'transcribe', live: 'live', history: 'history', status: 'status' };
const route = store(where());
function where() {
	const [, view = '', id = ''] = location.hash.split('/');
	return { view, id };
}
addEventListener('hashchange', () => route.set(where()));

/** Fetched after the first view, all of them: what was written can be read when the server is gone. */
const LATER = {
	read: () => import('./read.js').then((file) => file.Read),
	live: () => import('./live.js').then((file) => file.Live),
	history: () => import('./history.js').then((file) => file.History),
	status: () => import('./status.js').then((file) => file.Status),
};
const loaded = { '': Transcribe };
addEventListener('load', () => setTimeout(() => Object.values(LATER).forEach((fetched) => fetched()), 300));

function theme(change) {
	const order = ['auto', 'light', 'dark'];
	let now = localStorage.getItem('theme') || 'auto';
	if (change) {
		now = order[(order.indexOf(now) + 1) % order.length];
		localStorage.setItem('theme', now);
	}
	document.documentElement.dataset.theme = now;
	dispatchEvent(new Event('theme'));
	return now;
}
theme(false);

function App() {
	const { view, id } = useStore(route);
	const all = useStore(jobs);
	const [, turn] = useState(0);
	const [scheme, setScheme] = useState(theme(false));
	const main = useRef();
	const first = useRef(true);
	const known = view in LATER ? view : '';
	const View = loaded[known];
	useEffect(() => {
		if (!loaded[known]) {
			LATER[known]().then((made) => {
				loaded[known] = made;
				turn((n) => n + 1);
			});
		}
		document.title = known ? `${t(known === 'read' ? 'history' : VIEWS[known])} · Whisper` : 'Whisper';
		// A new view begins at its top, also for whoever hears it.
		if (!first.current) {
			scrollTo({ top: 0, behavior: 'instant' });
			main.current.focus({ preventScroll: true });
		}
		first.current = false;
	}, [known, id]);
	const switchLanguage = () => {
		setLanguage(language() === 'ja' ? 'en' : 'ja');
		turn((n) => n + 1);
	};
	const busy = all.filter((job) => !['done', 'failed'].includes(job.state)).length;
	return html`
		<a class="skip" href="#main" onClick=${(event) => {
			event.preventDefault();
			main.current.focus();
		}}>${t('skip')}</a>
		<header class="top"><div class="top-in">
			<a class="mark" href="#/" aria-label="Whisper"><${Icon} name="mark" /><span>Whisper</span></a>
			<nav aria-label=${t('views')}>${Object.entries(VIEWS).map(([path, name]) => html`<a href=${`#/${path}`}
				aria-current=${known === path || (known === 'read' && path === 'history') ? 'page' : undefined}>${t(name)}${path === '' && busy > 0
					? html`<span class="badge" aria-label=${t('busy', { n: busy })}>${busy}</span>` : ''}</a>`)}</nav>
			<div class="switches">
				<button class="quiet" lang=${language() === 'ja' ? 'en' : 'ja'} onClick=${switchLanguage}>${language() === 'ja' ? 'English' : '日本語'}</button>
				<button class="quiet" aria-label=${t('theme', { now: t(`theme_${scheme}`) })} title=${t('theme', { now: t(`theme_${scheme}`) })}
					onClick=${() => setScheme(theme(true))}><${Icon} name="sun" /></button>
			</div>
		</div></header>
		<main id="main" ref=${main} tabindex="-1" class=${`view-${known || 'transcribe'}`}>
			${View && html`<${View} key=${`${known}-${id}-${language()}`} id=${id} />`}
		</main>
		<${Notice} />
		<${KeyDialog} />`;
}

function Notice() {
	const said = useStore(notice);
	const act = () => {
		said.action.run();
		notice.set(null);
	};
	return html`<div class="notices" role="status" aria-live="polite">${said && html`<div class="notice"><span>${said.text}</span>
		${said.action && html`<button class="quiet" onClick=${act}>${said.action.label}</button>`}</div>`}</div>`;
}

function KeyDialog() {
	const wanted = useStore(keyWanted);
	const box = useRef();
	useEffect(() => {
		if (wanted && !box.current.open) box.current.showModal();
	}, [wanted]);
	if (!wanted) return null;
	const submit = (event) => {
		event.preventDefault();
		const value = event.target.elements.key.value.trim();
		if (!value) return;
		box.current.close();
		answerKey(value);
	};
	return html`<dialog ref=${box} class="dialog" aria-labelledby="key-title" onCancel=${() => answerKey('')}>
		<form method="dialog" onSubmit=${submit}>
			<h2 id="key-title">${t('keyTitle')}</h2>
			<p>${t('keyText')}</p>
			${wanted.wrong && html`<p class="warn" role="alert">${t('keyWrong')}</p>`}
			<label>${t('key')}<input name="key" type="password" autocomplete="off" required /></label>
			<p class="actions end"><button type="button" onClick=${() => {
				box.current.close();
				answerKey('');
			}}>${t('later')}</button><button class="primary">${t('go')}</button></p>
		</form>
	</dialog>`;
}

const root = document.getElementById('app');
root.replaceChildren();
render(html`<${App} />`, root);
