"""Pictures of each view for the documentation, in both languages: `run.py --screenshots DIR`."""

import json
import subprocess

from playwright.sync_api import expect

# Public domain: the address of 20 January 1961, and the beginning of Natsume Soseki's novel of 1905.
TEXTS = {
    "en": ("Inaugural address.mp3", "english", [
        "And so, my fellow Americans: ask not what your country can do for you — ask what you can do for your country.",
        "My fellow citizens of the world: ask not what America will do for you, but what together we can do for the freedom of man.",
        "Finally, whether you are citizens of America or citizens of the world, ask of us here the same high standards of strength and sacrifice which we ask of you.",
        "With a good conscience our only sure reward, with history the final judge of our deeds, let us go forth to lead the land we love,",
        "asking His blessing and His help, but knowing that here on earth God's work must truly be our own.",
    ]),
    "ja": ("吾輩は猫である.m4a", "japanese", [
        "吾輩は猫である。名前はまだ無い。", "どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所でニャーニャー泣いていた事だけは記憶している。",
        "吾輩はここで始めて人間というものを見た。しかもあとで聞くとそれは書生という人間中で一番獰悪な種族であったそうだ。",
        "この書生というのは時々我々を捕えて煮て食うという話である。しかしその当時は何という考もなかったから別段恐しいとも思わなかった。",
        "ただ彼の掌に載せられてスーと持ち上げられた時何だかフワフワした感じがあったばかりである。",
    ]),
}
# Words take their time by length; the recording is noise as loud as they are.
PUT = """async ([name, language, lines]) => {
    const store = await import('/page/store.js'); const { fromServer, tokens } = await import('/page/transcript.js');
    let at = 0.4; let seed = 5; const random = () => (seed = (seed * 48271) % 2147483647) / 2147483647;
    const wide = language === 'japanese';
    const segments = lines.map((text) => {
        const start = at;
        const words = tokens(text).map(([from, to]) => {
            const word = { word: text.slice(from, to), start: at, end: (at += wide ? 0.13 : 0.16 + 0.055 * (to - from)), probability: random() < 0.06 ? 0.3 : 0.95 };
            if (/[,.:;。、]/.test(text[to] || '')) at += 0.35;
            return word;
        });
        const made = fromServer({ start, end: at, text: ' ' + text, words }); made.gap = !wide; at += 0.5; return made;
    });
    const rate = 8000; const samples = new Int16Array(Math.ceil(at * rate));
    for (const { words } of segments) for (const [, , start, end] of words) { const loud = 4000 + 22000 * random() ** 1.5;
        for (let i = Math.floor(start * rate); i < end * rate; i++) samples[i] = loud * Math.sin(Math.PI * (i / rate - start) / (end - start)) * (random() - 0.5); }
    const head = new DataView(new ArrayBuffer(44));
    [[0, 'RIFF'], [8, 'WAVE'], [12, 'fmt '], [36, 'data']].forEach(([place, tag]) => [...tag].forEach((c, i) => head.setUint8(place + i, c.charCodeAt(0))));
    head.setUint32(4, 36 + samples.length * 2, true); head.setUint32(16, 16, true); head.setUint16(20, 1, true); head.setUint16(22, 1, true);
    head.setUint32(24, rate, true); head.setUint32(28, rate * 2, true); head.setUint16(32, 2, true); head.setUint16(34, 16, true); head.setUint32(40, samples.length * 2, true);
    const blob = new Blob([head, samples], { type: 'audio/wav' });
    await store.add({ id: 'picture', name, created: Date.now(), duration: at, language, model: 'large-v3-turbo', speakers: {}, size: blob.size, took: at / 14, first: lines[0] }, segments, blob);
    return segments[1].words[4][2];
}"""


def captions(lines):
    """A session that is in the middle of a sentence: what the server would send, without waiting for a voice."""

    def serve(socket):
        def answer(message):
            if json.loads(message)["type"] != "session.update":
                return
            prefix = "conversation.item.input_audio_transcription."
            socket.send(json.dumps({"type": "session.updated"}))
            for index, line in enumerate(lines):
                item = f"item_{index}"
                last = index == len(lines) - 1
                socket.send(json.dumps({"type": "input_audio_buffer.speech_started", "item_id": item, "audio_start_ms": index * 4000}))
                cut = len(line) * 3 // 5 if last else len(line)
                # Words are settled as wholes.
                cut = line.rfind(" ", 0, cut) if last and " " in line else cut
                socket.send(json.dumps({"type": prefix + "delta", "item_id": item, "delta": line[:cut]}))
                end = {"type": prefix + "intermediate", "intermediate": line[cut:]} if last else {"type": prefix + "completed", "transcript": line}
                socket.send(json.dumps({**end, "item_id": item}))

        socket.on_message(answer)

    return serve


def take(bench, folder):
    """Five views, English in light and Japanese in dark colours, as WebP."""
    folder.mkdir(parents=True, exist_ok=True)
    for language, locale, scheme in (("en", "en-US", "light"), ("ja", "ja-JP", "dark")):
        with bench.page(locale=locale, color_scheme=scheme, permissions=["microphone"], viewport={"width": 1000, "height": 700}) as page:

            def shoot(view):
                picture = folder / f"{view}-{language}.png"
                page.screenshot(path=picture)
                subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", picture, "-quality", "82", picture.with_suffix(".webp")], check=True)
                picture.unlink()

            moment = page.evaluate(PUT, list(TEXTS[language]))
            page.evaluate("location.hash = '#/history'")
            page.locator(".entry").wait_for()
            page.wait_for_timeout(700)
            shoot("library")
            page.evaluate("location.hash = '#/read/picture'")
            page.locator(".segment").first.wait_for()
            while not page.evaluate("document.querySelector('audio')?.readyState > 0"):
                page.wait_for_timeout(100)
            page.evaluate(f"document.querySelector('audio').currentTime = {moment + 0.05}")
            page.locator(".segment.now").wait_for()
            page.wait_for_timeout(1500)
            shoot("read")
            page.route_web_socket("**/realtime**", captions(TEXTS[language][2][:3]))
            page.evaluate("location.hash = '#/live'")
            for _ in range(2):
                page.locator("[aria-label^='A+']").click()
            page.locator(".live-actions .primary").click()
            page.locator(".captions .said + .pale").first.wait_for()
            page.wait_for_timeout(1500)
            shoot("live")
            page.reload()
            page.evaluate("location.hash = '#/'")
            expect(page.locator(".runs")).to_contain_text("CPU")
            page.locator("#files").set_input_files(str(bench.audio["m4a"]))
            expect(page.locator(".job.done")).to_have_count(1, timeout=600_000)
            page.locator("#files").set_input_files(str(bench.audio["long"]))
            expect(page.locator(".job.working .job-state")).to_contain_text("10:05", timeout=600_000)
            page.wait_for_timeout(3000)
            shoot("transcribe")
            page.evaluate("location.hash = '#/status'")
            page.wait_for_timeout(40_000)
            shoot("status")
