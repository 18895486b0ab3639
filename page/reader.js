// The transcript on the screen. Plain DOM, one text node a segment, so that hours scroll as lightly as minutes.
import { edit, heardAt, join, split } from './transcript.js';
import { clock } from './ui.js';
import { t } from './text.js';

/** Words below this probability are marked softly. */
const DOUBT = 0.5;
const MARKS = ['doubt', 'found', 'heard'];

export class Reader {
	/** `on`: changed(segments), play(seconds), speaker(channel). */
	constructor(root, segments, on) {
		Object.assign(this, { root, segments, on, editing: false, showDoubt: true, found: [], foundNow: -1, heard: [-1, -1] });
		this.marks = {};
		if (globalThis.Highlight) for (const name of MARKS) CSS.highlights.set(name, (this.marks[name] = new Highlight()));
		this.visible = new Set();
		this.sight = new IntersectionObserver(
			(all) => {
				for (const each of all) each.isIntersecting ? this.visible.add(each.target) : this.visible.delete(each.target);
				this.mark();
			},
			{ rootMargin: '300px' },
		);
		root.addEventListener('click', this);
		root.addEventListener('input', this);
		root.addEventListener('beforeinput', this);
		root.addEventListener('keydown', this);
		this.render();
	}

	close() {
		this.sight.disconnect();
		for (const name of MARKS) CSS.highlights?.delete(name);
	}

	speakerName = () => '';

	render() {
		this.sight.disconnect();
		this.visible.clear();
		this.rows = this.segments.map((segment, index) => this.row(segment, index));
		this.root.replaceChildren(...this.rows);
		for (const row of this.rows) this.sight.observe(row);
		this.heard = [-1, -1];
	}

	row(segment, index) {
		const row = document.createElement('div');
		row.className = 'segment';
		row.dataset.index = index;
		const time = document.createElement('button');
		time.className = 'time';
		time.textContent = clock(segment.start);
		time.setAttribute('aria-label', t('playFrom', { time: clock(segment.start) }));
		const text = document.createElement('p');
		text.textContent = segment.text;
		row.append(time, text);
		const previous = this.segments[index - 1];
		if (segment.channel != null && previous?.channel !== segment.channel) {
			const speaker = document.createElement('button');
			speaker.className = 'speaker';
			speaker.dataset.channel = segment.channel;
			speaker.textContent = this.speakerName(segment);
			speaker.setAttribute('aria-label', t('rename', { name: this.speakerName(segment) }));
			row.insertBefore(speaker, text);
			row.classList.add('turn');
		}
		if (this.editing) this.open(text, segment);
		return row;
	}

	open(text, segment) {
		text.contentEditable = 'plaintext-only';
		text.setAttribute('role', 'textbox');
		text.setAttribute('aria-multiline', 'true');
		text.setAttribute('aria-label', t('textAt', { time: clock(segment.start) }));
	}

	setEditing(editing) {
		this.editing = editing;
		this.root.classList.toggle('editing', editing);
		this.rows.forEach((row, index) => {
			const text = row.querySelector('p');
			if (editing) this.open(text, this.segments[index]);
			else for (const name of ['contenteditable', 'role', 'aria-label', 'aria-multiline']) text.removeAttribute(name);
		});
	}

	indexOf(node) {
		const row = (node.nodeType === 1 ? node : node.parentElement)?.closest('.segment');
		return row ? Number(row.dataset.index) : -1;
	}

	handleEvent(event) {
		if (event.type === 'click') this.click(event);
		else if (event.type === 'input') this.typed(event);
		else if (event.type === 'beforeinput' && /^insert(Paragraph|LineBreak)$/.test(event.inputType)) {
			event.preventDefault();
			this.splitHere();
		} else if (event.type === 'keydown' && event.key === 'Backspace' && this.editing) this.joinHere(event);
	}

	click(event) {
		const time = event.target.closest('.time');
		if (time) return this.on.play(this.segments[this.indexOf(time)].start);
		const speaker = event.target.closest('.speaker');
		if (speaker) return this.on.speaker(Number(speaker.dataset.channel), speaker);
		if (this.editing || !event.target.closest('p') || !getSelection().isCollapsed) return undefined;
		const place = document.caretPositionFromPoint
			? document.caretPositionFromPoint(event.clientX, event.clientY)
			: document.caretRangeFromPoint?.(event.clientX, event.clientY);
		const index = this.indexOf(event.target);
		const at = place ? (place.offset ?? place.startOffset) : 0;
		const { words, start } = this.segments[index];
		const word = words.find((each) => each[1] >= at) || words.at(-1);
		return this.on.play(word ? word[2] : start);
	}

	typed(event) {
		const index = this.indexOf(event.target);
		const text = event.target.closest('p');
		if (!text) return;
		if (text.textContent.includes('\n')) text.textContent = text.textContent.replace(/\s*\n\s*/g, ' ');
		this.segments[index] = edit(this.segments[index], text.textContent);
		this.mark();
		this.on.changed(this.segments);
	}

	caret() {
		const selection = getSelection();
		if (!selection.rangeCount) return null;
		const range = selection.getRangeAt(0);
		const index = this.indexOf(range.startContainer);
		if (index < 0) return null;
		const before = document.createRange();
		before.setStart(this.rows[index].querySelector('p'), 0);
		before.setEnd(range.startContainer, range.startOffset);
		return { index, at: before.toString().length, collapsed: range.collapsed };
	}

	splitHere() {
		const caret = this.caret();
		const halves = caret && split(this.segments[caret.index], caret.at);
		if (!halves) return;
		this.replace([...this.segments.slice(0, caret.index), ...halves, ...this.segments.slice(caret.index + 1)]);
		this.focus(caret.index + 1, 0);
	}

	joinHere(event) {
		const caret = this.caret();
		if (!caret || caret.at > 0 || !caret.collapsed || caret.index === 0) return;
		const [first, second] = [this.segments[caret.index - 1], this.segments[caret.index]];
		if (first.channel !== second.channel) return;
		event.preventDefault();
		const place = first.text.length + (second.gap ? 1 : 0);
		this.replace([...this.segments.slice(0, caret.index - 1), join(first, second), ...this.segments.slice(caret.index + 1)]);
		this.focus(caret.index - 1, place);
	}

	focus(index, at) {
		const text = this.rows[index].querySelector('p');
		text.focus({ preventScroll: true });
		getSelection().collapse(text.firstChild || text, Math.min(at, text.textContent.length));
	}

	/** Other segments, all at once. */
	replace(segments) {
		const place = this.rows[0]?.offsetParent ? scrollY : 0;
		this.segments = segments;
		this.render();
		scrollTo({ top: place, behavior: 'instant' });
		this.on.changed(segments);
	}

	range(index, from, to) {
		const text = this.rows[index]?.querySelector('p');
		if (!text) return null;
		text.normalize();
		const node = text.firstChild;
		if (!node || to > node.length) return null;
		const range = document.createRange();
		range.setStart(node, from);
		range.setEnd(node, to);
		return range;
	}

	/** Doubtful words and places found, in what can be seen. */
	mark() {
		if (!this.marks.doubt) return;
		this.marks.doubt.clear();
		this.marks.found.clear();
		const add = (mark, ...place) => {
			const range = this.range(...place);
			if (range) mark.add(range);
		};
		for (const row of this.visible) {
			const index = Number(row.dataset.index);
			if (this.showDoubt) {
				for (const [from, to, , , probability] of this.segments[index].words) if (probability < DOUBT) add(this.marks.doubt, index, from, to);
			}
			for (const [where, at] of this.found) if (where === index) add(this.marks.found, index, at, at + this.foundLength);
		}
	}

	showFound(found, length, now) {
		Object.assign(this, { found, foundLength: length, foundNow: now });
		if (found[now]) this.rows[found[now][0]].scrollIntoView({ block: 'center' });
		this.mark();
	}

	/** Marks what is heard; true when that is another segment than before. */
	showHeard(seconds) {
		const [index, word] = heardAt(this.segments, seconds);
		if (index === this.heard[0] && word === this.heard[1]) return false;
		const moved = index !== this.heard[0];
		if (moved) {
			this.rows[this.heard[0]]?.classList.remove('now');
			this.rows[index]?.classList.add('now');
		}
		this.heard = [index, word];
		if (this.marks.heard) {
			this.marks.heard.clear();
			const place = this.segments[index]?.words[word];
			const range = place && this.range(index, place[0], place[1]);
			if (range) this.marks.heard.add(range);
		}
		return moved;
	}

	/** Start of the word before or after the one that is heard. */
	neighbour(step) {
		let [index, word] = this.heard;
		word += step;
		while (index >= 0 && index < this.segments.length && !this.segments[index].words[word]) {
			index += step;
			word = step > 0 ? 0 : (this.segments[index]?.words.length || 0) - 1;
		}
		return this.segments[index]?.words[word]?.[2];
	}
}
