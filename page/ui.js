// What all views share: the template tag, small components, numbers as people read them.
import { h } from './vendor/preact.js';
import { useEffect, useState } from './vendor/hooks.js';
import htm from './vendor/htm.js';
import { t, language } from './text.js';

export const html = htm.bind(h);

/** A value that components follow. */
export function store(value) {
	const followers = new Set();
	return {
		get: () => value,
		set(next) {
			value = typeof next === 'function' ? next(value) : next;
			for (const follow of [...followers]) follow(value);
		},
		follow(follower) {
			followers.add(follower);
			return () => followers.delete(follower);
		},
	};
}

export function useStore(source) {
	const [, turn] = useState(0);
	useEffect(() => source.follow(() => turn((n) => n + 1)), [source]);
	return source.get();
}

/** 3725.4 → 1:02:05 */
export function clock(seconds) {
	const whole = Math.max(0, Math.floor(seconds || 0));
	const two = (n) => String(n).padStart(2, '0');
	const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
	return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** A length in words: 95 → about 2 minutes. */
export function about(seconds) {
	if (seconds < 55) return t('seconds', { n: Math.max(1, Math.round(seconds)) });
	if (seconds < 3300) return t('minutes', { n: Math.max(1, Math.round(seconds / 60)) });
	return t('hours', { n: number(seconds / 3600, 1) });
}

export function number(value, digits = 0) {
	return new Intl.NumberFormat(language(), { maximumFractionDigits: digits }).format(value);
}

export function bytes(count) {
	if (count < 1e6) return `${number(count / 1e3)} kB`;
	return count < 1e9 ? `${number(count / 1e6, count < 1e7 ? 1 : 0)} MB` : `${number(count / 1e9, 1)} GB`;
}

export function moment(time) {
	return new Intl.DateTimeFormat(language(), { dateStyle: 'medium', timeStyle: 'short' }).format(time);
}

const PATHS = {
	play: 'M8 5.5v13l11-6.5z',
	pause: 'M8 5h3v14H8zM14 5h3v14h-3z',
	upload: 'M12 16V5m0 0L7.5 9.5M12 5l4.5 4.5M5 19h14',
	mic: 'M12 4a2.5 2.5 0 0 0-2.5 2.5v5a2.5 2.5 0 0 0 5 0v-5A2.5 2.5 0 0 0 12 4zM6.5 11.5a5.5 5.5 0 0 0 11 0M12 17v3',
	stop: 'M7 7h10v10H7z',
	full: 'M5 9V5h4M15 5h4v4M19 15v4h-4M9 19H5v-4',
	bin: 'M6 7h12M10 7V5h4v2M8 7l.7 12h6.600L16 7',
	sun: 'M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 3v1.5M12 19.5V21M3 12h1.5M19.5 12H21M5.6 5.6l1.1 1.1M17.3 17.3l1.1 1.1M18.4 5.6l-1.1 1.1M6.7 17.3l-1.1 1.1',
	close: 'M6.5 6.5l11 11M17.5 6.5l-11 11',
	back: 'M14.5 6l-6 6 6 6',
	mark: 'M4 10.5v3M8 8v8M12 4.5v15M16 8v8M20 10.5v3',
};
const SOLID = new Set(['play', 'pause', 'stop']);

export function Icon({ name }) {
	const solid = SOLID.has(name);
	return html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true" fill=${solid ? 'currentColor' : 'none'}
		stroke=${solid ? 'none' : 'currentColor'} stroke-width="1.7" stroke-linecap="round" stroke-linejoin="round"><path d=${PATHS[name]} /></svg>`;
}

/** A short message at the foot of the page, read out by screen readers. */
export const notice = store(null);
let fade;
export function say(text, action) {
	notice.set({ text, action });
	clearTimeout(fade);
	fade = setTimeout(() => notice.set(null), action ? 12000 : 5000);
}

export function save(blob, name) {
	const link = document.createElement('a');
	link.href = URL.createObjectURL(blob);
	link.download = name;
	link.click();
	setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

/** Where the browser lets a page have the microphone. */
export const canRecord = () => window.isSecureContext && !!navigator.mediaDevices?.getUserMedia;
