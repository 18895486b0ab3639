"""What a person does with the page, and what they must see. Each function is one check; its doc string says what holds."""

import json
import re
import statistics
import time
import traceback
from contextlib import contextmanager

from playwright.sync_api import TimeoutError as PlaywrightTimeout
from playwright.sync_api import expect, sync_playwright

import pictures
from run import KEY

WORDS = "ask not what your country can do for you"
VIEWS = ("", "live", "history", "status")
# Told of everything that the browser's policy refused, before the page's own scripts run.
WATCH = "window.refused = []; addEventListener('securitypolicyviolation', (e) => window.refused.push(`${e.violatedDirective} ${e.blockedURI}`));"
SLOW = 240_000
# A shared machine may be busy.
expect.set_options(timeout=60_000)
SAMPLE_SECONDS = 7200


class Bench:
    """A browser, a server, and what went wrong beside the checks themselves."""

    def __init__(self, options, folder, audio, axe, server):
        self.options, self.folder, self.audio, self.start_server = options, folder, audio, server
        self.axe = axe.read_text(encoding="utf-8")
        self.done = 0
        self.patience = 60_000
        self.strays, self.refused, self.errors = [], [], []

    def __enter__(self):
        self.playwright = sync_playwright().start()
        microphone = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
                      f"--use-file-for-fake-audio-capture={self.audio['microphone']}%noloop"]
        self.browser = self.playwright.chromium.launch(
            executable_path=self.options.chromium,
            args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--host-resolver-rules=MAP studio.test 127.0.0.1", *microphone],
        )
        self.running = self.start_server(self.options, self.folder, "open")
        self.server = self.running.__enter__()
        return self

    def __exit__(self, *failure):
        self.browser.close()
        self.playwright.stop()
        self.running.__exit__(None, None, None)

    def run(self):
        checks = [check for name, check in globals().items() if name.startswith(("check_", "demand_"))]
        if not self.options.long:
            checks = [check for check in checks if not check.__name__.startswith("demand_")]
        failed = 0
        for check in checks:
            if self.options.only not in check.__name__:
                continue
            began = time.monotonic()
            try:
                check(self)
                problem = None
            except Exception:  # a check may fail in any way
                problem = traceback.format_exc(limit=-3)
            self.done += 1
            failed += bool(problem)
            print(f"{'FAIL' if problem else 'ok  '} {check.__name__.partition('_')[2]} ({time.monotonic() - began:.1f} s)", flush=True)
            if problem:
                print(problem, flush=True)
        for name, found in (("requests to other origins", self.strays), ("refused by the policy", self.refused), ("errors of scripts", self.errors)):
            self.done += 1
            failed += bool(found)
            print(f"{'FAIL' if found else 'ok  '} no {name} {found or ''}", flush=True)
        if self.options.screenshots:
            self.patience = 200_000
            pictures.take(self, self.options.screenshots)
        return failed

    @contextmanager
    def page(self, address=None, errors=True, **settings):
        """A tab of a fresh browser profile, watched."""
        address = address or self.server.address
        context = self.browser.new_context(**{"locale": "en-US", "viewport": {"width": 1100, "height": 760}, **settings})
        context.set_default_timeout(self.patience)
        context.add_init_script(WATCH)
        host = address.split("/")[2]

        def asked(request):
            if not request.url.startswith(("blob:", "data:")) and request.url.split("/")[2] != host:
                self.strays.append(request.url)

        context.on("request", asked)
        page = context.new_page()
        page.on("websocket", lambda socket: None if socket.url.split("/")[2] == host else self.strays.append(socket.url))
        if errors:
            page.on("pageerror", lambda error: self.errors.append(f"{error} {error.stack}"))
        page.goto(address)
        yield page
        if not page.is_closed():
            self.refused += page.evaluate("window.refused")
        context.close()


def until(page, expression):
    """Waits until it holds. Playwright's own way polls with `eval`, which the page's policy refuses."""
    end = time.monotonic() + 60
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        time.sleep(0.05)


def eventually(condition, what):
    """Waits until a look at the page holds."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.05)


def send(page, *files):
    page.locator("#files").set_input_files([str(file) for file in files])


def finished(page, count=1):
    expect(page.locator(".job.done")).to_have_count(count, timeout=SLOW)


def opened(page, file):
    """A transcript on the screen."""
    send(page, file)
    finished(page)
    page.get_by_role("link", name="Read", exact=True).first.click()
    expect(page.locator(".segment").first).to_be_visible()


def said(page):
    return " ".join(page.locator(".segment p").all_inner_texts()).lower()


def bare(text):
    return re.sub(r"[^\w ]", "", text.lower())


def downloaded(page, kind):
    if not page.locator(".menu .panel").is_visible():
        page.locator(".menu summary").click()
    with page.expect_download() as download:
        page.locator(".formats button", has_text=kind).first.click()
    with open(download.value.path(), encoding="utf-8") as file:
        return file.read()


def check_four_containers(bench):
    """Four files at once become four transcripts; progress goes forward; a reload keeps them."""
    with bench.page() as page:
        page.evaluate("""() => { window.states = []; new MutationObserver(() => {
            for (const line of document.querySelectorAll('.job-state')) window.states.push(line.textContent); })
            .observe(document.body, { subtree: true, childList: true, characterData: true }); }""")
        send(page, *(bench.audio[kind] for kind in ("wav", "mp3", "m4a", "webm")))
        finished(page, 4)
        states = page.evaluate("window.states")
        assert any("written" in state for state in states), states
        assert any("Waits for its turn" in state for state in states), states
        page.reload()
        page.goto(bench.server.address + "#/history")
        expect(page.locator(".entry")).to_have_count(4)
        for index in range(4):
            page.goto(bench.server.address + "#/history")
            page.locator(".entry").nth(index).click()
            expect(page.locator(".segment").first).to_be_visible()
            assert WORDS in bare(said(page)), said(page)
        page.goto(bench.server.address + "#/history")
        page.get_by_role("button", name="Delete everything").click()
        page.get_by_role("button", name="Delete all 4 for good").click()
        expect(page.locator(".entry")).to_have_count(0)
        page.reload()
        expect(page.get_by_text("Nothing here yet.")).to_be_visible()


def check_words_play_and_edits_keep_times(bench):
    """A click on a word plays from it; the word that is heard is marked; an edit leaves the times of all other words."""
    with bench.page() as page:
        opened(page, bench.audio["wav"])
        before = json.loads(downloaded(page, "json"))
        words = [word for segment in before["segments"] for word in segment["words"]]
        word = next(word for word in words if word["word"] == "country")
        box = page.evaluate("""() => { const text = [...document.querySelectorAll('.segment p')].find((p) => p.textContent.includes('country'));
            const range = document.createRange(); const at = text.textContent.indexOf('country');
            range.setStart(text.firstChild, at + 2); range.setEnd(text.firstChild, at + 4);
            const { x, y, width, height } = range.getBoundingClientRect(); return [x + width / 2, y + height / 2]; }""")
        page.keyboard.press("Escape")
        page.mouse.click(*box)
        until(page, f"document.querySelector('audio').currentTime >= {word['start']} - 0.01")
        until(page, "!document.querySelector('audio').paused")
        until(page, "[...CSS.highlights.get('heard')].some((range) => /country|can|do/.test(range.toString()))")
        page.get_by_role("button", name="Pause").click()

        srt_before = downloaded(page, "srt")
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Edit").click()
        page.evaluate("""() => { const text = [...document.querySelectorAll('.segment p')].find((p) => p.textContent.includes('fellow'));
            text.focus(); getSelection().setBaseAndExtent(text.firstChild, text.textContent.indexOf('fellow'), text.firstChild, text.textContent.indexOf('fellow') + 6); }""")
        page.keyboard.type("dear old neighbours and")
        page.get_by_role("button", name="Done").click()
        after = json.loads(downloaded(page, "json"))
        assert "dear old neighbours and americans" in bare(after["text"]), after["text"]
        changed = [word for segment in after["segments"] for word in segment["words"]]
        fellow = next(word for word in words if word["word"] == "fellow")
        fresh = ["dear", "old", "neighbours", "and"]
        kept = [word for word in words if word is not fellow]
        index = words.index(fellow)
        assert [word["word"] for word in changed[index : index + 4]] == fresh, changed
        assert changed[:index] + changed[index + 4 :] == kept, (changed, kept)
        assert all(fellow["start"] - 0.01 <= word["start"] <= word["end"] <= fellow["end"] + 0.01 for word in changed[index : index + 4])
        srt = downloaded(page, "srt")
        stamps = re.findall(r"\d\d:\d\d:\d\d,\d\d\d --> \d\d:\d\d:\d\d,\d\d\d", srt)
        assert stamps == re.findall(r"\d\d:\d\d:\d\d,\d\d\d --> \d\d:\d\d:\d\d,\d\d\d", srt_before) and stamps, srt
        assert "dear old neighbours" in srt and "fellow" not in srt, srt

        page.locator(".panel select").select_option("bbc")
        cues = [cue.split("\n") for cue in downloaded(page, "srt").strip().split("\n\n")]
        assert all(len(line) <= 37 for cue in cues for line in cue[2:]) and all(len(cue) <= 4 for cue in cues), cues
        assert downloaded(page, "vtt").startswith("WEBVTT\n\n00:00:0")
        page.wait_for_timeout(700)
        page.reload()
        expect(page.locator(".segment").first).to_be_visible()
        assert "dear old neighbours" in said(page)


def check_find_and_replace(bench):
    """Every place is found and counted; replacing all is one step that can be undone."""
    with bench.page() as page:
        opened(page, bench.audio["wav"])
        text = said(page)
        page.keyboard.press("/")
        page.get_by_role("searchbox", name="Find").fill("COUNTRY")
        expect(page.locator(".count")).to_have_text(f"1 of {text.count('country')}")
        page.get_by_role("textbox", name="Replace by").fill("village")
        page.get_by_role("button", name="Replace all").click()
        eventually(lambda: said(page) == text.replace("country", "village"), lambda: said(page))
        page.get_by_role("button", name="Undo").click()
        eventually(lambda: said(page) == text, lambda: said(page))


def check_channels_are_speakers(bench):
    """Each channel is a speaker with a name that can be given, also in subtitles."""
    with bench.page() as page:
        page.get_by_text("More").click()
        page.get_by_label("Each channel is a speaker").check()
        opened(page, bench.audio["stereo"])
        expect(page.locator(".speaker")).to_have_text(["Speaker 1", "Speaker 2"])
        page.locator(".speaker").first.click()
        page.keyboard.type("Kennedy")
        page.keyboard.press("Enter")
        assert "Kennedy: " in downloaded(page, "srt")
        assert "<v Speaker 2>" in downloaded(page, "vtt")
        page.reload()
        expect(page.locator(".speaker").first).to_have_text("Kennedy")


def check_keys(bench):
    """A wrong key is told, the right one is asked for once, kept in the tab only, and never in an address."""
    with bench.start_server(bench.options, bench.folder, "locked", [KEY]) as server:
        addresses = []
        with bench.page(server.address) as page:
            page.context.on("request", lambda request: addresses.append(request.url))
            dialog = page.get_by_role("dialog")
            expect(dialog).to_be_visible()
            page.get_by_label("Key", exact=True).fill("not-the-key")
            page.keyboard.press("Enter")
            expect(dialog.get_by_text("That key is not accepted.")).to_be_visible()
            page.get_by_label("Key", exact=True).fill(KEY)
            page.keyboard.press("Enter")
            expect(page.get_by_text("Runs on")).to_be_visible()
            opened(page, bench.audio["mp3"])
            assert WORDS in bare(said(page))
            page.reload()
            expect(page.locator(".segment").first).to_be_visible()
            page.goto(server.address + "#/live")
            page.get_by_role("button", name="Start").click()
            expect(page.get_by_text("Listening")).to_be_visible()
            page.get_by_role("button", name="Stop and keep").click()
            expect(page.get_by_role("button", name="Start")).to_be_visible(timeout=SLOW)
            assert page.evaluate("sessionStorage.getItem('key')") == KEY
            assert KEY not in json.dumps(page.evaluate("Object.values(localStorage)"))
            assert page.get_by_role("dialog").count() == 0
        assert not [address for address in addresses if KEY in address], addresses


def check_server_gone_in_mid_stream(bench):
    """When the server is gone, the page says so and keeps what was written."""
    with bench.start_server(bench.options, bench.folder, "mortal") as server, bench.page(server.address) as page:
        send(page, bench.audio["long"])
        expect(page.locator(".job-state")).to_contain_text("left", timeout=SLOW)
        expect(page.locator(".job-state")).to_contain_text("of 10:05")
        server.process.kill()
        expect(page.get_by_role("alert")).to_contain_text("The connection to the server was lost", timeout=SLOW)
        page.get_by_role("link", name="Read what there is").click()
        expect(page.get_by_text("Unfinished: the connection was lost")).to_be_visible()
        assert WORDS in bare(said(page))
        page.evaluate("location.hash = '#/history'")
        expect(page.locator(".entry-facts")).to_contain_text("unfinished")


def check_live_captions(bench):
    """What stands on the screen at the end is what the server's final events say; provisional words were shown before."""
    finals, deltas = {}, {}

    def received(frame):
        event = json.loads(frame)
        kind = event["type"].rpartition(".")[2]
        if kind == "completed" and "transcription" in event["type"]:
            finals[event["item_id"]] = event["transcript"]
        elif kind == "delta":
            deltas[event["item_id"]] = deltas.get(event["item_id"], "") + event["delta"]

    with bench.page(permissions=["microphone"]) as page:
        page.on("websocket", lambda socket: socket.on("framereceived", received))
        page.goto(bench.server.address + "#/live")
        page.evaluate("""() => { window.pale = false; new MutationObserver(() => { window.pale ||= !!document.querySelector('.captions .said + .pale'); })
            .observe(document.body, { subtree: true, childList: true }); }""")
        page.get_by_role("button", name="Start").click()
        expect(page.locator(".captions")).to_contain_text("country", timeout=SLOW)
        page.wait_for_timeout(3000)
        page.get_by_role("button", name="Stop and keep").click()
        expect(page.get_by_text("Kept in the library")).to_be_visible(timeout=SLOW)
        shown = page.locator(".captions .said").all_inner_texts()
        assert shown == [text.strip() for text in finals.values() if text.strip()], (shown, finals)
        assert finals == {item: text for item, text in deltas.items() if item in finals} | {i: t for i, t in finals.items() if not t}, (finals, deltas)
        assert "country" in bare(" ".join(shown)), shown
        assert page.evaluate("window.pale"), "no provisional words"
        page.get_by_role("link", name="Read", exact=True).click()
        expect(page.locator(".segment").first).to_be_visible()
        assert "country" in said(page)
        expect(page.get_by_role("button", name="Play", exact=True)).to_be_enabled()


def check_without_secure_context(bench):
    """Where the browser gives no microphone, the page says what to do; everything else works."""
    address = bench.server.address.replace("localhost", "studio.test")
    with bench.page(address) as page:
        page.get_by_role("button", name="Record").click()
        expect(page.get_by_text("Browsers give the microphone only")).to_be_visible()
        expect(page.locator("pre").first).to_contain_text(f"ssh -N -L {bench.server.port}:localhost:{bench.server.port} studio.test")
        assert page.get_by_role("button", name="Start").count() == 0
        page.goto(address + "#/")
        send(page, bench.audio["mp3"])
        finished(page)


def check_recording(bench):
    """What is recorded in the page is transcribed."""
    with bench.page(permissions=["microphone"]) as page:
        page.get_by_role("button", name="Record").click()
        page.wait_for_timeout(4000)
        page.get_by_role("button", name="Stop at").click()
        finished(page)
        page.get_by_role("link", name="Read", exact=True).click()
        expect(page.locator(".segment, .empty").first).to_be_visible()


def check_keyboard_only(bench):
    """From the file to the subtitle without a pointer."""
    with bench.page() as page:
        expect(page.get_by_text("Runs on")).to_be_visible()

        def tab_to(name, role="button", most=40):
            for _ in range(most):
                page.keyboard.press("Tab")
                held = page.evaluate("""() => { const e = document.activeElement; return [e.tagName, e.getAttribute('aria-label') || e.textContent.trim()]; }""")
                if name in held[1]:
                    return
            raise AssertionError(f"{name} cannot be reached")

        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        chosen = None
        for _ in range(3):
            tab_to("Choose files")
            try:
                with page.expect_file_chooser(timeout=10_000) as chooser:
                    page.keyboard.press("Enter")
                chosen = chooser.value
                break
            except PlaywrightTimeout:
                # The browser opens no dialog while it is busy with the page's first frames; a person presses again.
                continue
        assert chosen, "Enter on the button opens no dialog"
        chosen.set_files(str(bench.audio["wav"]))
        finished(page)
        tab_to("Read")
        page.keyboard.press("Enter")
        expect(page.locator(".segment").first).to_be_visible()
        page.keyboard.press("Space")
        until(page, "!document.querySelector('audio').paused")
        page.keyboard.press("Space")
        until(page, "document.querySelector('audio').paused")
        page.keyboard.press("ArrowRight")
        until(page, "document.querySelector('audio').currentTime >= 5")
        at = page.evaluate("document.querySelector('audio').currentTime")
        page.keyboard.press("Shift+ArrowLeft")
        until(page, f"document.querySelector('audio').currentTime < {at}")
        page.keyboard.press("e")
        page.keyboard.press("Home")
        page.keyboard.type("Well, ")
        page.keyboard.press("Escape")
        assert "well, " in said(page), said(page)
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.press("Escape")
        tab_to("Download")
        page.keyboard.press("Enter")
        tab_to("srt")
        with page.expect_download() as download:
            page.keyboard.press("Enter")
        assert download.value.suggested_filename == "speech.srt"


def check_accessibility(bench):
    """axe finds nothing in any view, in both languages, light and dark."""
    wrong = []
    for language in ("en-US", "ja-JP"):
        for scheme in ("light", "dark"):
            with bench.page(locale=language, color_scheme=scheme) as page:
                assert page.evaluate("document.documentElement.lang") == language[:2]
                send(page, bench.audio["wav"])
                finished(page)
                read = page.locator(".job-name a").get_attribute("href")
                for view in (*VIEWS, read[2:]):
                    page.evaluate(f"location.hash = '#/{view}'")
                    page.wait_for_timeout(600)
                    if view.startswith("read"):
                        page.locator(".menu summary").click()
                        page.keyboard.press("/")
                    page.evaluate(bench.axe)
                    found = page.evaluate("axe.run().then((result) => result.violations.map((each) => [each.id, each.nodes.map((node) => node.html.slice(0, 120))]))")
                    wrong += [(language, scheme, view, *each) for each in found]
    assert not wrong, "\n".join(map(str, wrong))


def check_language_and_zoom(bench):
    """The switch changes every word at once; at 200 % zoom of a small screen nothing is cut off at the side."""
    # Half of 1280 × 720: what a zoom of 200 % leaves.
    with bench.page(viewport={"width": 640, "height": 360}, device_scale_factor=2, has_touch=True) as page:
        page.get_by_role("button", name="日本語").click()
        expect(page.get_by_role("heading", name="録音をここにドロップ")).to_be_visible()
        page.reload()
        expect(page.get_by_role("heading", name="録音をここにドロップ")).to_be_visible()
        send(page, bench.audio["mp3"])
        finished(page)
        read = page.locator(".job-name a").get_attribute("href")
        for view in (*VIEWS, read[2:]):
            page.evaluate(f"location.hash = '#/{view}'")
            page.wait_for_timeout(400)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
        page.locator(".segment p").first.tap()
        until(page, "!document.querySelector('audio').paused")


# Edits by chance: words stay where their text is, in order, inside their segment, and what was not touched keeps its time.
EDITS = """async () => {
    const { edit, split, join, fromServer, replaceAll, find, plain } = await import('/page/transcript.js');
    const { cues, rules, srt } = await import('/page/subtitles.js');
    let seed = 11; const next = (n) => (seed = (seed * 48271) % 2147483647) % n;
    const letters = ['a', 'b', 'café', ' ', ' ', ', ', '. ', 'ask', 'not', '猫', 'である', '。', '🎉', "don't", 'é'];
    const some = (n) => Array.from({ length: next(n) }, () => letters[next(letters.length)]).join('');
    const wrong = [];
    const sound = (segment, what) => {
        let [at, clock] = [0, -1];
        for (const [from, to, start, end] of segment.words) {
            if (from < at || to <= from || to > segment.text.length) wrong.push([what, 'place', segment.text, from, to]);
            if (/[\\s]/.test(segment.text.slice(from, to))) wrong.push([what, 'space in a word', segment.text.slice(from, to)]);
            if (start < clock - 1e-9 || end < start - 1e-9 || start < segment.start - 1e-9 || end > segment.end + 1e-9) wrong.push([what, 'time', start, end, clock]);
            [at, clock] = [to, start];
        }
    };
    for (let round = 0; round < 1500 && wrong.length < 5; round++) {
        const text = some(30) || 'a';
        let segment = fromServer({ start: 1, end: 9, text: ' ' + text, words: [] });
        for (let step = 0; step < 4; step++) {
            const old = segment; const from = next(old.text.length + 1); const to = from + next(old.text.length - from + 1);
            const wanted = old.text.slice(0, from) + some(5) + old.text.slice(to);
            segment = edit(old, wanted);
            if (segment.text !== wanted) wrong.push(['text', wanted]);
            sound(segment, 'edit');
            for (const word of old.words) if (word[1] < from && !segment.words.some((each) => each[0] === word[0] && each[2] === word[2] && each[3] === word[3])) wrong.push(['kept', old.text, from, to, wanted, word]);
        }
        const halves = segment.text && split(segment, next(segment.text.length + 1));
        if (halves) { halves.forEach((half) => sound(half, 'split')); sound(join(...halves), 'join'); }
        const swapped = replaceAll([segment], find([segment], 'a'), 1, 'zwei Worte')[0];
        sound(swapped, 'replace');
        for (const style of ['none', 'bbc', 'netflix']) {
            const rule = rules(style, {}, false); const made = cues([segment], rule);
            const shown = made.map((cue) => cue.lines.join(' ')).join(' ');
            if (shown.replace(/\\s/g, '') !== segment.text.replace(/\\s/g, '')) wrong.push([style, 'text', shown, segment.text]);
            made.forEach((cue, i) => { if (i && cue.start < made[i - 1].start || cue.end < cue.start) wrong.push([style, 'time', cue]); });
            if (rule && made.some((cue) => cue.lines.length > rule.lines)) wrong.push([style, 'lines', made]);
        }
    }
    return wrong;
}"""


def check_edits_by_chance(bench):
    """Whatever is typed, words and times stay sound; subtitles keep the text."""
    with bench.page() as page:
        wrong = page.evaluate(EDITS)
        assert not wrong, wrong


def put_two_hours(page):
    """A transcript of two hours as the page itself would keep it: 20,000 words in 1,400 segments, with a recording beside it."""
    page.evaluate("""async (seconds) => {
        const store = await import('/page/store.js'); const { fromServer } = await import('/page/transcript.js');
        const some = 'and so my fellow citizens of the world ask not what we will do for you but together what is possible'.split(' ');
        const segments = []; let seed = 7;
        const next = (n) => (seed = (seed * 48271) % 2147483647) % n;
        for (let at = 0; at < seconds; at += 5.15) {
            const words = Array.from({ length: 14 }, (_, i) => ({ word: some[next(some.length)], start: at + i * 0.35, end: at + i * 0.35 + 0.3, probability: next(20) ? 0.9 : 0.3 }));
            segments.push(fromServer({ start: at, end: at + 5, text: ' ' + words.map((each) => each.word).join(' ') + '.', words }));
        }
        const head = new DataView(new ArrayBuffer(44)); const rate = 8000; const bytes = seconds * rate * 2;
        [[0, 'RIFF'], [8, 'WAVE'], [12, 'fmt '], [36, 'data']].forEach(([at, tag]) => [...tag].forEach((c, i) => head.setUint8(at + i, c.charCodeAt(0))));
        head.setUint32(4, 36 + bytes, true); head.setUint32(16, 16, true); head.setUint16(20, 1, true); head.setUint16(22, 1, true);
        head.setUint32(24, rate, true); head.setUint32(28, rate * 2, true); head.setUint16(32, 2, true); head.setUint16(34, 16, true); head.setUint32(40, bytes, true);
        const noise = Int16Array.from({ length: rate }, (_, i) => 9000 * Math.sin(i / 9) * Math.sin(i / 900));
        const blob = new Blob([head, ...Array(seconds).fill(noise)], { type: 'audio/wav' });
        await store.add({ id: 'two-hours', name: 'Two hours.wav', created: 1, duration: seconds, language: 'english', model: 'base', speakers: {}, size: blob.size, took: 300, first: '' }, segments, blob);
    }""", SAMPLE_SECONDS)
    page.evaluate("location.hash = '#/read/two-hours'")
    expect(page.locator(".segment").first).to_be_visible()


def frames(page):
    """Milliseconds between frames while the whole transcript goes by, at 3,000 pixels a second."""
    return page.evaluate("""() => new Promise((done) => { const times = []; let at = 0, last = 0;
        const step = (now) => { if (last) times.push(now - last); last = now; at += 50; scrollTo({ top: at, behavior: 'instant' });
            times.length < 300 ? requestAnimationFrame(step) : done(times); };
        requestAnimationFrame(step); })""")


def measured(session):
    return {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}


def check_two_hours_of_text(bench):
    """Two hours of text open, scroll, and are found through; only what can be seen is laid out and marked."""
    with bench.page() as page:
        began = time.monotonic()
        put_two_hours(page)
        opened_ms = (time.monotonic() - began) * 1000
        session = page.context.new_cdp_session(page)
        # Processor time of the main thread, which other work on the machine does not lengthen.
        session.send("Performance.enable")
        before = measured(session)
        times = frames(page)
        metrics = measured(session)
        busy = (metrics["ThreadTime"] - before["ThreadTime"]) * 1000 / len(times)
        session.send("HeapProfiler.collectGarbage")
        metrics = measured(session)
        marked = page.evaluate("CSS.highlights.get('doubt').size")
        assert 0 < marked < 300, marked
        assert page.locator(".segment").count() > 1300
        page.keyboard.press("/")
        page.get_by_role("searchbox", name="Find").fill("possible.")
        expect(page.locator(".count")).to_contain_text(" of ")
        # A frame of 60 a second has 16.7 ms. Three of them are the bound here: caches and cores are shared with other work.
        assert busy < 50, busy
        print(f"     two hours: opened in {opened_ms:.0f} ms, {busy:.1f} ms of the main thread a frame, frames median {statistics.median(times):.1f} ms, 99 % below "
              f"{sorted(times)[-len(times) // 100 - 1]:.1f} ms, JavaScript heap {metrics['JSHeapUsedSize'] / 1e6:.1f} MB, {metrics['Nodes']:.0f} nodes")


def check_first_paint(bench):
    """The first paint, cold, over loopback; a demand with --long only, since other work may hold a shared machine up."""
    times = []
    for _ in range(5):
        with bench.page() as page:
            until(page, "performance.getEntriesByName('first-contentful-paint').length")
            times.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
    print(f"     first paint: {', '.join(f'{each:.0f}' for each in times)} ms")
    if bench.options.long:
        assert statistics.median(times) < 300, times


def demand_two_hours_of_audio(bench):
    """A recording of two hours goes in, comes out, and plays."""
    import subprocess

    file = bench.folder / "two-hours.mp3"
    subprocess.run(["ffmpeg", "-v", "error", "-stream_loop", "654", "-i", bench.audio["mp3"], "-c", "copy", file], check=True)
    with bench.page() as page:
        send(page, file)
        began = time.monotonic()
        expect(page.locator(".job.done")).to_have_count(1, timeout=3_600_000)
        page.get_by_role("link", name="Read", exact=True).first.click()
        expect(page.locator(".segment").first).to_be_visible()
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable")
        metrics = {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}
        times = frames(page)
        print(f"     two hours of audio took {time.monotonic() - began:.0f} s, JavaScript heap {metrics['JSHeapUsedSize'] / 1e6:.1f} MB, "
              f"frames median {statistics.median(times):.1f} ms")
        assert page.locator(".segment").count() > 500
