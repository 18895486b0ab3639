// Everything that was transcribed in this browser.
import { useEffect, useState } from './vendor/hooks.js';
import { html, Icon, useStore, clock, bytes, moment, say } from './ui.js';
import { saved } from './queue.js';
import * as store from './store.js';
import { t } from './text.js';

export function History() {
	const turn = useStore(saved);
	const [entries, setEntries] = useState(null);
	const [sure, setSure] = useState(null);
	useEffect(() => {
		store.list().then(setEntries, (error) => {
			setEntries([]);
			say(t('notKept', { why: error?.message || '' }));
		});
	}, [turn]);
	const remove = async (id) => {
		await (id === 'all' ? store.clear() : store.remove(id));
		setSure(null);
		saved.set((n) => n + 1);
		say(t('deleted'));
	};
	if (!entries) return null;
	const size = entries.reduce((sum, entry) => sum + (entry.size || 0), 0);
	return html`
		<h1>${t('history')}</h1>
		<p class="soft where">${t('where')} ${entries.length > 0 && t('historySize', { n: entries.length, size: bytes(size) })}</p>
		${!entries.length && html`<p class="empty">${t('historyEmpty')} <a href="#/">${t('historyStart')}</a></p>`}
		<ul class="entries">${entries.map(
			(entry) => html`<li key=${entry.id}>
				<a class="entry" href=${`#/read/${entry.id}`}>
					<span class="entry-name">${entry.name}</span>
					<span class="entry-first">${entry.first || t('noSpeech')}</span>
					<span class="entry-facts">${moment(entry.created)} · ${clock(entry.duration)}${entry.partial ? ` · ${t('partial')}` : ''}${entry.edited ? ` · ${t('edited')}` : ''}</span>
				</a>
				${sure === entry.id
					? html`<span class="sure"><button class="danger" onClick=${() => remove(entry.id)}>${t('deleteSure')}</button>
							<button onClick=${() => setSure(null)}>${t('keep')}</button></span>`
					: html`<button class="quiet" aria-label=${t('deleteOne', { name: entry.name })} onClick=${() => setSure(entry.id)}><${Icon} name="bin" /></button>`}
			</li>`,
		)}</ul>
		${entries.length > 0 && html`<p class="actions end">${sure === 'all'
			? html`<button class="danger" onClick=${() => remove('all')}>${t('deleteAllSure', { n: entries.length })}</button>
					<button onClick=${() => setSure(null)}>${t('keep')}</button>`
			: html`<button onClick=${() => setSure('all')}>${t('deleteAll')}</button>`}</p>`}`;
}
