"""What the user of a live session sees, and when: for realtime.py and realtime_peers.py."""

import asyncio
import difflib
import re
import time

RATE = 16_000
STEP_SECONDS = 0.05
STEP_BYTES = int(RATE * STEP_SECONDS) * 2
# Words at the end of what is shown, and seconds of the reference, that are compared each time something is shown.
SHOWN_WORDS, SHOWN_SECONDS = 30, 30.0


def plain(text):
    return [word for word in re.sub(r"[^\w' ]", " ", text.lower()).split() if word]


class View:
    """What a user of one session saw, and when; times count from the first sample."""

    def __init__(self):
        self.began, self.stayed, self.shown, self.changed, self.turn_delays = 0.0, [], [], 0, []

    def now(self):
        return time.monotonic() - self.began

    def sees(self, staying, provisional=""):
        """All that stays so far, and what stands behind it for now."""
        now, words = self.now(), plain(staying)
        old = [word for word, _ in self.stayed]
        same = next((at for at, (a, b) in enumerate(zip(old, words)) if a != b), min(len(old), len(words)))
        self.changed += len(old) - same
        self.stayed[same:] = [(word, now) for word in words[same:]]
        visible = words[-SHOWN_WORDS:] + plain(provisional)
        if not self.shown or self.shown[-1][1] != visible:
            self.shown.append((now, visible))

    def text(self):
        return " ".join(word for word, _ in self.stayed)

    def delays(self, reference):
        """For words that were heard right: (end of the word, seconds until it stays, seconds until it is first shown)."""
        names = [word for word, _ in reference]
        first = {}
        for now, words in self.shown:
            near = [at for at, (_, end) in enumerate(reference) if now - SHOWN_SECONDS < end < now + 1]
            for a, _, size in matching([names[at] for at in near], words):
                if size > 1 or len(words) < 3:
                    for k in range(size):
                        first.setdefault(near[a + k], now)
        found = []
        for a, b, size in matching(names, [word for word, _ in self.stayed]):
            for k in range(size):
                end = reference[a + k][1]
                found.append((end, self.stayed[b + k][1] - end, first.get(a + k, self.stayed[b + k][1]) - end))
        return found

    async def pace(self, audio, send, before=0.0, ready=None):
        """Hands out the audio as it is spoken; the first `before` seconds as fast as they are taken, then waits for `ready`."""
        early = int(before / STEP_SECONDS)
        self.began = time.monotonic()
        for number, at in enumerate(range(0, len(audio), STEP_BYTES)):
            if number == early and ready:
                await ready()
            if number == early:
                self.began = time.monotonic() - early * STEP_SECONDS
            pause = self.began + (number + 1) * STEP_SECONDS - time.monotonic()
            if number >= early and pause > 0:
                await asyncio.sleep(pause)
            await send(audio[at : at + STEP_BYTES])


def matching(a, b):
    blocks = difflib.SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    return [block for block in blocks if block.size]
