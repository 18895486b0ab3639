// Reading, hearing and correcting one transcript.
import { useEffect, useLayoutEffect, useRef, useState } from './vendor/hooks.js';
import { html, Icon, clock, moment, number, save, say } from './ui.js';
import { find, replaceAll } from './transcript.js';
import { Reader } from './reader.js';
import { draw, peaks } from './wave.js';
import * as files from './subtitles.js';
import * as store from './store.js';
import { languageName, t } from './text.js';

const SPEEDS = [0.5, 0.75, 1, 1.25, 1.5, 2];
const SKIP = 5;

export function Read({ id }) {
	const [loaded, setLoaded] = useState();
	useEffect(() => {
		store.load(id).then((found) => setLoaded(found || null), () => setLoaded(null));
	}, [id]);
	if (loaded === undefined) return null;
	if (!loaded) return html`<h1>${t('gone')}</h1><p><a href="#/history">${t('history')}</a></p>`;
	return html`<${Transcript} key=${id} ...${loaded} />`;
}

function Transcript({ entry, segments, blob }) {
	const root = useRef();
	const reader = useRef();
	const player = useRef();
	const [editing, setEditing] = useState(false);
	const [doubt, setDoubt] = useState(true);
	const [searching, setSearching] = useState(false);
	const [away, setAway] = useState(false);
	const [help, setHelp] = useState(false);
	const [facts, setFacts] = useState(entry);
	const speakerOf = (segment) => (segment.channel == null ? '' : entry.speakers[segment.channel] || t('speaker', { n: segment.channel + 1 }));

	const keep = (values) => {
		Object.assign(entry, values);
		setFacts({ ...entry });
		store.saveEntry({ ...entry }).catch((error) => say(t('notKept', { why: error.message })));
	};

	useLayoutEffect(() => {
		let timer;
		const write = () => {
			clearTimeout(timer);
			timer = null;
			store.saveSegments(entry.id, made.segments).catch((error) => say(t('notKept', { why: error.message })));
			if (!entry.edited) keep({ edited: true });
		};
		const made = new Reader(root.current, segments, {
			changed: () => {
				clearTimeout(timer);
				timer = setTimeout(write, 400);
			},
			play: (seconds) => player.current.playFrom(seconds),
			speaker: (channel, button) => rename(channel, button),
		});
		made.speakerName = speakerOf;
		if (segments.some((segment) => segment.channel != null)) made.render();
		reader.current = made;
		const flush = () => timer && write();
		addEventListener('pagehide', flush);
		return () => {
			flush();
			removeEventListener('pagehide', flush);
			made.close();
		};
	}, []);

	/** The name becomes a field in its place. */
	const rename = (channel, button) => {
		const field = document.createElement('input');
		field.className = 'speaker-field';
		field.value = button.textContent;
		field.setAttribute('aria-label', t('rename', { name: button.textContent }));
		let open = true;
		const end = (take) => {
			if (!open) return;
			open = false;
			field.replaceWith(button);
			const name = field.value.trim();
			if (!take || !name || name === button.textContent) return;
			keep({ speakers: { ...entry.speakers, [channel]: name } });
			for (const each of root.current.querySelectorAll(`.speaker[data-channel="${channel}"]`)) {
				each.textContent = name;
				each.setAttribute('aria-label', t('rename', { name }));
			}
			button.focus();
		};
		field.onkeydown = (event) => {
			if (event.key === 'Enter') end(true);
			if (event.key === 'Escape') end(false);
		};
		field.onblur = () => end(true);
		button.replaceWith(field);
		field.select();
	};

	const edits = (on) => {
		reader.current.setEditing(on);
		setEditing(on);
		if (on) reader.current.focus(Math.max(0, reader.current.heard[0]), 0);
	};

	const follow = useRef(true);
	const onHeard = (seconds, playing) => {
		const moved = reader.current.showHeard(seconds);
		if (moved && playing && follow.current && !editing) jump();
	};
	const jump = () => {
		follow.current = true;
		setAway(false);
		const row = reader.current.rows[reader.current.heard[0]];
		if (!row) return;
		const box = row.getBoundingClientRect();
		if (box.top < 190 || box.bottom > innerHeight - 40) row.scrollIntoView({ block: 'center', behavior: 'smooth' });
	};
	useEffect(() => {
		const left = () => {
			if (!player.current?.playing()) return;
			follow.current = false;
			setAway(true);
		};
		addEventListener('wheel', left, { passive: true });
		addEventListener('touchmove', left, { passive: true });
		return () => {
			removeEventListener('wheel', left);
			removeEventListener('touchmove', left);
		};
	}, []);

	useEffect(() => {
		const keys = (event) => {
			const typing = event.target.closest('input, select, textarea, [contenteditable], dialog');
			const { key, ctrlKey, metaKey, altKey, shiftKey } = event;
			const act = (work) => {
				event.preventDefault();
				work();
			};
			if (key === 'Escape' && editing) return act(() => edits(false));
			if (altKey && key.toLowerCase() === 'p') return act(() => player.current.toggle());
			if ((ctrlKey || metaKey) && key.toLowerCase() === 'h') return act(() => setSearching(true));
			if (typing || ctrlKey || metaKey || altKey) return undefined;
			if (key === ' ' && !event.target.closest('button, a, summary')) return act(() => player.current.toggle());
			if (key === 'ArrowLeft' || key === 'ArrowRight') {
				const step = key === 'ArrowLeft' ? -1 : 1;
				if (!shiftKey) return act(() => player.current.seek(player.current.now() + step * SKIP));
				const place = reader.current.neighbour(step);
				return place == null ? undefined : act(() => player.current.seek(place));
			}
			if (localStorage.getItem('single-keys') === 'off') return undefined;
			const work = { e: () => edits(!editing), '/': () => setSearching(true), '?': () => setHelp(true), j: jump }[key];
			return work && act(work);
		};
		document.addEventListener('keydown', keys);
		return () => document.removeEventListener('keydown', keys);
	}, [editing]);

	const speed = facts.took ? facts.duration / facts.took : 0;
	return html`
		<p class="crumb"><a href="#/history"><${Icon} name="back" />${t('history')}</a></p>
		<h1 class="read-title">${facts.name}</h1>
		<p class="soft">${[moment(facts.created), clock(facts.duration), languageName(facts.language), facts.model,
			speed > 1 && t('tookTimes', { n: number(speed, speed < 10 ? 1 : 0) }), facts.edited && t('edited')].filter(Boolean).join(' · ')}</p>
		${facts.partial && html`<p class="warn" role="status">${t('partialSaid', { time: clock(facts.duration) })}</p>`}
		<${Player} blob=${blob} duration=${facts.duration} segments=${segments} onHeard=${onHeard} handle=${player}>
			<div class="tools">
				<button aria-pressed=${editing} onClick=${() => edits(!editing)}>${t(editing ? 'editDone' : 'edit')}</button>
				<button aria-expanded=${searching} onClick=${() => setSearching(!searching)}>${t('find')}</button>
				<${Download} entry=${facts} reader=${reader} speakerOf=${speakerOf} />
				<label class="check"><input type="checkbox" checked=${doubt} onChange=${(event) => {
					reader.current.showDoubt = event.target.checked;
					reader.current.mark();
					setDoubt(event.target.checked);
				}} /><span class="doubt-sample">${t('doubt')}</span></label>
				<button class="quiet keys" aria-label=${t('keys')} onClick=${() => setHelp(true)}>?</button>
			</div>
			${searching && html`<${Search} reader=${reader} close=${() => setSearching(false)} />`}
		<//>
		${!segments.length && html`<p class="empty">${t('noSpeech')}</p>`}
		${editing && html`<p class="soft hint">${t('editHint')}</p>`}
		<div class="transcript" ref=${root} role="region" aria-label=${t('transcript')} lang=""></div>
		${away && html`<button class="pill" onClick=${jump}>${t('jump')}</button>`}
		${help && html`<${Keys} close=${() => setHelp(false)} />`}`;
}

/** Sticks to the top. The slider over the waveform is an ordinary range input: keys, touch and screen readers know it. */
function Player({ blob, duration, segments, onHeard, handle, children }) {
	const [url] = useState(() => (blob ? URL.createObjectURL(blob) : null));
	const audio = useRef();
	const canvas = useRef();
	const slider = useRef();
	const loud = useRef(new Uint8Array(0));
	const [playing, setPlaying] = useState(false);
	const [shown, setShown] = useState(0);
	const [broken, setBroken] = useState(!blob);
	const now = () => audio.current?.currentTime || 0;
	const paint = () => canvas.current && draw(canvas.current, loud.current, now() / (duration || 1));
	const seek = (seconds) => {
		if (!audio.current || broken) return;
		audio.current.currentTime = Math.max(0, Math.min(duration, seconds));
		tick();
	};
	const tick = () => {
		const seconds = now();
		onHeard(seconds, audio.current && !audio.current.paused);
		setShown(Math.floor(seconds));
		if (slider.current && document.activeElement !== slider.current) slider.current.value = seconds;
		paint();
	};
	const toggle = () => (audio.current.paused ? audio.current.play().catch(() => {}) : audio.current.pause());
	handle.current = {
		now, seek, toggle,
		playing: () => audio.current && !audio.current.paused,
		playFrom: (seconds) => {
			seek(seconds);
			audio.current?.play().catch(() => {});
		},
	};
	useEffect(() => {
		let alive = true;
		slider.current.value = 0;
		peaks(blob, duration, segments).then((made) => {
			loud.current = made;
			if (alive) paint();
		});
		const size = new ResizeObserver(paint);
		size.observe(canvas.current);
		const scheme = matchMedia('(prefers-color-scheme: dark)');
		scheme.addEventListener('change', paint);
		addEventListener('theme', paint);
		return () => {
			alive = false;
			size.disconnect();
			scheme.removeEventListener('change', paint);
			removeEventListener('theme', paint);
			if (url) URL.revokeObjectURL(url);
		};
	}, []);
	useEffect(() => {
		if (!playing) return undefined;
		let frame = requestAnimationFrame(function step() {
			tick();
			frame = requestAnimationFrame(step);
		});
		return () => cancelAnimationFrame(frame);
	}, [playing]);
	return html`<div class="player">
		<div class="transport">
			<button class="primary play" disabled=${broken} aria-label=${t(playing ? 'pause' : 'play')} onClick=${toggle}><${Icon} name=${playing ? 'pause' : 'play'} /></button>
			<div class="wave"><canvas ref=${canvas} aria-hidden="true"></canvas>
				<input ref=${slider} type="range" min="0" max=${duration || 1} step="any" disabled=${broken} aria-label=${t('position')}
					aria-valuetext=${t('positionOf', { time: clock(shown), of: clock(duration) })} onInput=${(event) => seek(Number(event.target.value))} /></div>
			<span class="clock">${clock(shown)}<span class="soft"> / ${clock(duration)}</span></span>
			<select class="speed" aria-label=${t('speed')} onChange=${(event) => (audio.current.playbackRate = Number(event.target.value))}>
				${SPEEDS.map((speed) => html`<option value=${speed} selected=${speed === 1}>${number(speed, 2)}×</option>`)}
			</select>
		</div>
		${url && html`<audio ref=${audio} src=${url} preload="metadata" onPlay=${() => setPlaying(true)} onPause=${() => setPlaying(false)}
			onEnded=${() => setPlaying(false)} onSeeked=${tick} onError=${() => setBroken(true)}></audio>`}
		${broken && html`<p class="soft small">${t('cannotPlay')}</p>`}
		${children}
	</div>`;
}

function Search({ reader, close }) {
	const [needle, setNeedle] = useState('');
	const [text, setText] = useState('');
	const [now, setNow] = useState(0);
	const [, turn] = useState(0);
	const field = useRef();
	const places = find(reader.current.segments, needle);
	useEffect(() => {
		field.current.focus();
		return () => reader.current?.showFound([], 0, -1);
	}, []);
	const show = (place, of = places, length = needle.length) => {
		const next = of.length ? (place + of.length) % of.length : 0;
		setNow(next);
		reader.current.showFound(of, length, next);
	};
	const replace = (some) => {
		const { segments } = reader.current;
		if (!some.length) return;
		reader.current.replace(replaceAll(segments, some, needle.length, text));
		const undo = () => {
			reader.current.replace(segments);
			turn((n) => n + 1);
		};
		say(t('replaced', { n: some.length }), { label: t('undo'), run: undo });
		show(now, find(reader.current.segments, needle));
	};
	const keys = (event) => {
		if (event.key === 'Escape') close();
		if (event.key === 'Enter') show(now + (event.shiftKey ? -1 : 1));
	};
	return html`<div class="search" role="search">
		<input ref=${field} type="search" value=${needle} placeholder=${t('find')} aria-label=${t('find')} onKeyDown=${keys}
			onInput=${(event) => {
				setNeedle(event.target.value);
				show(0, find(reader.current.segments, event.target.value), event.target.value.length);
			}} />
		<span class="soft count" role="status">${needle && (places.length ? t('foundAt', { n: now + 1, of: places.length }) : t('foundNone'))}</span>
		<input type="text" value=${text} placeholder=${t('replaceBy')} aria-label=${t('replaceBy')} onInput=${(event) => setText(event.target.value)}
			onKeyDown=${(event) => event.key === 'Escape' && close()} />
		<button disabled=${!places.length} onClick=${() => replace(places.slice(now, now + 1))}>${t('replaceOne')}</button>
		<button disabled=${!places.length} onClick=${() => replace(places)}>${t('replaceAll')}</button>
	</div>`;
}

function Download({ entry, reader, speakerOf }) {
	const [style, setStyle] = useState(localStorage.getItem('subtitle-style') || 'none');
	const [custom, setCustom] = useState({});
	const [speakers, setSpeakers] = useState(true);
	const menu = useRef();
	const channels = () => reader.current?.segments.some((segment) => segment.channel != null);
	const wide = reader.current && files.isWide(reader.current.segments);
	const shown = files.rules(style, {}, wide);
	useEffect(() => {
		const outside = (event) => menu.current.contains(event.target) || (menu.current.open = false);
		document.addEventListener('pointerdown', outside);
		return () => document.removeEventListener('pointerdown', outside);
	}, []);
	const take = (format) => {
		const { segments } = reader.current;
		const name = (segment) => (speakers ? speakerOf(segment) : '');
		save(...files.file(format, entry, segments, name, files.rules(style, custom, wide)));
	};
	const field = (name, label) => html`<label>${t(label)}<input type="number" min="1" max="1000" value=${custom[name] ?? ''}
		placeholder=${shown && shown[name] < 1000 ? shown[name] : ''} onInput=${(event) => setCustom({ ...custom, [name]: Number(event.target.value) })} /></label>`;
	return html`<details class="menu" ref=${menu} onKeyDown=${(event) => {
		if (event.key !== 'Escape') return;
		menu.current.open = false;
		menu.current.firstElementChild.focus();
	}}><summary class="button">${t('download')}</summary><div class="panel">
		<div class="formats">${['txt', 'srt', 'vtt', 'json'].map((format) => html`<button onClick=${() => take(format)}><strong>${format}</strong>
			<span>${t(`format_${format}`)}</span></button>`)}</div>
		<fieldset><legend>${t('subtitles')}</legend>
			<label>${t('style')}<select value=${style} onChange=${(event) => {
				setStyle(event.target.value);
				localStorage.setItem('subtitle-style', event.target.value);
			}}><option value="none">${t('styleNone')}</option><option value="netflix">Netflix</option><option value="bbc">BBC</option></select></label>
			${field('width', 'lineWidth')}${field('lines', 'lineCount')}${field('rate', 'letterRate')}
		</fieldset>
		${channels() && html`<label class="check"><input type="checkbox" checked=${speakers} onChange=${(event) => setSpeakers(event.target.checked)} /><span>${t('withSpeakers')}</span></label>`}
	</div></details>`;
}

function Keys({ close }) {
	const box = useRef();
	useEffect(() => box.current.showModal(), []);
	const rows = [['Space', 'keyPlay'], ['Alt P', 'keyPlayAlways'], ['← →', 'keySkip'], ['Shift ← →', 'keyWord'], ['E', 'edit'], ['Esc', 'keyLeave'],
		['Enter', 'keySplit'], ['Backspace', 'keyJoin'], ['/', 'keyFind'], ['J', 'keyJump']];
	return html`<dialog ref=${box} class="dialog" aria-labelledby="keys-title" onClose=${close}>
		<h2 id="keys-title">${t('keys')}</h2>
		<dl class="keylist">${rows.map(([key, what]) => html`<div><dt><kbd>${key}</kbd></dt><dd>${t(what)}</dd></div>`)}</dl>
		<label class="check"><input type="checkbox" checked=${localStorage.getItem('single-keys') !== 'off'}
			onChange=${(event) => localStorage.setItem('single-keys', event.target.checked ? 'on' : 'off')} /><span>${t('singleKeys')}</span></label>
		<p class="actions end"><button class="primary" onClick=${() => box.current.close()}>${t('close')}</button></p>
	</dialog>`;
}
