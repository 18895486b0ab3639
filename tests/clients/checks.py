"""What must come back: one function a kind of answer. Each returns the list of what is wrong; empty is good.

A result is what a runner prints: `value` (a JSON answer as its user holds it), `text` (a plain one), `events` (of a
stream), `models`, or `error`.
"""

import math
import re

SEGMENT_KEYS = {"id", "seek", "start", "end", "text", "tokens", "temperature", "avg_logprob", "compression_ratio", "no_speech_prob"}
SRT = re.compile(r"(\d+\n\d\d:\d\d:\d\d,\d{3} --> \d\d:\d\d:\d\d,\d{3}\n[^\n]+\n\n)+\n")
VTT = re.compile(r"WEBVTT\n\n(\d\d:\d\d:\d\d\.\d{3} --> \d\d:\d\d:\d\d\.\d{3}\n[^\n]+\n\n)+")
CONTENT_TYPES = {
    "json": "application/json",
    "verbose_json": "application/json",
    "text": "text/plain; charset=utf-8",
    "srt": "text/plain; charset=utf-8",
    "vtt": "text/plain; charset=utf-8",
    "stream": "text/event-stream; charset=utf-8",
    "no events": "application/json",
    "models": "application/json",
    "error": "application/json",
}
# The classes of `openai`'s two packages by status (contract of both: their `APIStatusError` and `APIError`).
TYPED = {400: "BadRequestError", 401: "AuthenticationError", 404: "NotFoundError"}
# The first name that a client's begins with counts.
ERROR_CLASS = {
    # azure-core's classes by status.
    "python-azure": {400: "HttpResponseError", 401: "ClientAuthenticationError", 404: "ResourceNotFoundError"},
    "python": {**TYPED, 413: "APIStatusError"},
    "langchain": {**TYPED, 413: "APIStatusError"},
    "npm-openai": {**TYPED, 413: "APIError"},
    # This one throws the body's `error` object as it is, without the status.
    "npm-azure-openai": dict.fromkeys((400, 401, 404, 413), "Object"),
    "npm-ai-sdk": dict.fromkeys((400, 401, 404, 413), "AI_APICallError"),
    "curl": dict.fromkeys((400, 401, 404, 413), "HTTP"),
}


def words_of(text):
    """Lower-case words without punctuation: what two transcripts have in common."""
    return re.sub(r"[^\w\s']", " ", text.lower()).split()


def check(job, result, clip):
    """`clip`: `words` said in the recording, and its `seconds`."""
    expect = job["expect"]
    if "error" in expect:
        return error(job, result, expect["error"])
    if "error" in result:
        failure = result["error"]
        return [f"raised {failure.get('class')} {failure.get('status')}: {failure.get('message')}"]
    try:
        wrong = KINDS[expect["format"]](job, result, clip)
    except (AttributeError, KeyError, TypeError, ValueError) as failure:
        wrong = [f"{failure!r} in {result!r}"]
    return wrong + envelope(job, result, expect["format"])


def envelope(job, result, kind):
    """Headers, where this client shows them."""
    wrong = []
    if "content_type" in result and result["content_type"] != CONTENT_TYPES[kind]:
        wrong.append(f"content type is {result['content_type']!r}, not {CONTENT_TYPES[kind]!r}")
    shows_id = "request_id" in result and "request-id" not in job["lacks"]
    if shows_id and not result["request_id"]:
        wrong.append("no x-request-id")
    if result.get("compact") is False:
        wrong.append("the JSON is not compact")
    return wrong


def same_words(text, clip):
    if not isinstance(text, str):
        return [f"the text is {text!r}"]
    return [] if words_of(text) == words_of(clip["words"]) else [f"heard {text!r}, not {clip['words']!r}"]


def usage(value, clip):
    given = value.get("usage")
    if given is None:
        return []
    if given.get("type") == "tokens":
        # What the `gpt-4o-…` names report.
        whole = given["input_tokens"] + given["output_tokens"] == given["total_tokens"]
        return [] if whole else [f"tokens do not add up: {given!r}"]
    expected = {"type": "duration", "seconds": math.ceil(clip["seconds"])}
    return [] if given == expected else [f"usage is {given!r}, not {expected!r}"]


def json_answer(job, result, clip):
    if result.get("type") == "document":
        return same_words(result.get("text"), clip)
    value = result.get("value")
    if not isinstance(value, dict):
        return [f"not an object: {result!r}"]
    wrong = same_words(value.get("text"), clip) + usage(value, clip)
    if value.get("text", "").strip() != value.get("text", ""):
        wrong.append("the text has spaces around it")
    # Some versions give their class every field of every format; empty ones are theirs.
    extra = {key for key in value if value[key] is not None} - {"text", "usage"}
    if job["expect"].get("logprobs"):
        extra.discard("logprobs")
        wrong += logprobs(value.get("logprobs"), value.get("text"))
    return wrong + ([f"unexpected keys {sorted(extra)}"] if extra else [])


def logprobs(items, text):
    """Tokens with their probabilities; their bytes make the text."""
    if not items:
        return ["no logprobs"]
    wrong = [f"not a log probability: {item!r}" for item in items if not isinstance(item["logprob"], (int, float)) or item["logprob"] > 0]
    # Python's package reads them as floats.
    whole = b"".join(bytes(int(byte) for byte in item["bytes"]) for item in items).decode()
    if whole.strip() != text:
        wrong.append(f"the tokens make {whole!r}, not {text!r}")
    return wrong


def text_answer(job, result, clip):
    text = result.get("text")
    wrong = same_words(text, clip)
    if not wrong and not (text.endswith("\n") and text.strip() + "\n" == text):
        wrong.append(f"not the text and one line end: {text!r}")
    return wrong


def subtitles(pattern, number_lines):
    def answer(job, result, clip):
        text = result.get("text")
        if not isinstance(text, str) or not pattern.fullmatch(text):
            return [f"not in the format's shape: {text!r}"]
        cues = [block.split("\n", 2 if number_lines else 1)[-1] for block in text.strip().split("\n\n")]
        return same_words(" ".join(cue for cue in cues if cue != "WEBVTT"), clip)

    return answer


def verbose_json(job, result, clip):
    if result.get("type") == "document":
        return same_words(result.get("text"), clip)
    value = result.get("value")
    if not isinstance(value, dict):
        return [f"not an object: {result!r}"]
    expect = job["expect"]
    task = expect.get("task", "transcribe")
    wrong = same_words(value.get("text"), clip) + usage(value, clip)
    if value.get("task", task) != task:
        wrong.append(f"task is {value.get('task')!r}, not {task!r}")
    if value.get("language") != "english":
        wrong.append(f"language is {value.get('language')!r}, not 'english'")
    duration = value.get("duration")
    # Python's package typed it as a string for years; the wire has a number.
    if isinstance(duration, bool) or not isinstance(duration, (int, float)) or abs(duration - clip["seconds"]) > 0.05:
        wrong.append(f"duration is {duration!r}, not about {clip['seconds']}")
        duration = clip["seconds"]
    for key in ("segments", "words"):
        present = value.get(key) is not None
        if present != expect[key]:
            wrong.append(f"`{key}` {'is there unasked' if present else 'is missing'}")
    wrong += segments(value.get("segments") or [], clip) + words(value.get("words") or [], duration, clip)
    if "sdk" in result:
        wrong += ai_sdk(result["sdk"], clip)
    return wrong


def segments(items, clip):
    wrong = []
    for index, item in enumerate(items):
        absent = SEGMENT_KEYS - set(item)
        if absent:
            wrong.append(f"segment {index} lacks {sorted(absent)}")
            continue
        if item["id"] != index or isinstance(item["id"], float) or not isinstance(item["seek"], int):
            wrong.append(f"segment {index}: id {item['id']!r}, seek {item['seek']!r}")
        numbers = [item[key] for key in SEGMENT_KEYS - {"id", "seek", "text", "tokens"}]
        if not all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers):
            wrong.append(f"segment {index} has a number that is none: {numbers}")
        elif not 0 <= item["start"] <= item["end"]:
            wrong.append(f"segment {index} runs from {item['start']} to {item['end']}")
        if not item["text"].startswith(" "):
            wrong.append(f"segment {index} lost its leading space: {item['text']!r}")
        if not item["tokens"] or not all(isinstance(token, int) for token in item["tokens"]):
            wrong.append(f"segment {index} has the tokens {item['tokens']!r}")
    return wrong + (same_words("".join(item.get("text", "") for item in items), clip) if items else [])


def words(items, duration, clip):
    wrong = []
    before = 0.0
    for item in items:
        word, start, end = item.get("word"), item.get("start"), item.get("end")
        if not isinstance(word, str) or word != word.strip() or not word or word[-1] in ".,!?;:":
            wrong.append(f"word {word!r} has spaces or punctuation")
        if not before - 1e-6 <= start <= end <= duration + 1e-6:
            wrong.append(f"word {word!r} runs from {start} to {end}, after {before}, in {duration}")
        before = end
    return wrong + (same_words(" ".join(item.get("word", "") for item in items), clip) if items else [])


def ai_sdk(sdk, clip):
    wrong = same_words(sdk.get("text"), clip)
    if sdk.get("language") != "en":
        wrong.append(f"the package made the language {sdk.get('language')!r}")
    if not sdk.get("segments"):
        wrong.append("the package made no segments")
    return wrong


def stream(job, result, clip):
    events = result.get("events")
    if not events:
        return [f"no events: {result!r}"]
    wrong = []
    kinds = [event.get("type") for event in events]
    if kinds != ["transcript.text.delta"] * (len(events) - 1) + ["transcript.text.done"] or len(events) < 2:
        return [f"events are {kinds}"]
    deltas = "".join(event["delta"] for event in events[:-1])
    if deltas != events[-1]["text"]:
        wrong.append(f"the deltas make {deltas!r}, the end says {events[-1]['text']!r}")
    if result.get("ended") is False:
        wrong.append("no [DONE]")
    if job["expect"].get("logprobs"):
        wrong += logprobs(events[-1].get("logprobs"), events[-1]["text"])
    return wrong + same_words(events[-1]["text"], clip)


def no_events(job, result, clip):
    """`stream=true` where the service ignores it: a JSON body, in which SDKs find no event."""
    if "events" in result:
        return [] if result["events"] == [] else [f"events came: {result['events']}"]
    return json_answer(job, result, clip)


def models(job, result, clip):
    items = result.get("models")
    if not items:
        return [f"no models: {result!r}"]
    wrong = []
    for item in items:
        if item.get("object") != "model" or not item.get("id") or not isinstance(item.get("created"), int) or not item.get("owned_by"):
            wrong.append(f"not a model: {item!r}")
    return wrong


def fast(job, result, clip):
    """Azure's fast transcription, as `azure-ai-transcription` holds it."""
    expect, value = job["expect"], result["value"]
    said = {**clip, "words": expect.get("words", clip["words"])}
    wrong = [] if result["type"] == "TranscriptionResult" else [f"the result is a {result['type']}"]
    wrong += [f"unexpected keys {sorted(extra)}"] if (extra := set(value) - {"durationMilliseconds", "combinedPhrases", "phrases"}) else []
    if value["durationMilliseconds"] != round(clip["seconds"] * 1000):
        wrong.append(f"duration is {value['durationMilliseconds']!r}")
    whole = value["combinedPhrases"][0]["text"]
    wrong += same_words(whole, said)
    if expect.get("holds", "") not in whole:
        wrong.append(f"{whole!r} does not hold {expect['holds']!r}")
    clock = 0
    for phrase in value["phrases"]:
        if phrase["locale"] != expect.get("locale", "en-US") or phrase.get("channel") != expect.get("channel"):
            wrong.append(f"locale {phrase['locale']!r}, channel {phrase.get('channel')!r}")
        if not 0 < phrase["confidence"] <= 1:
            wrong.append(f"confidence is {phrase['confidence']!r}")
        for item in phrase["words"]:
            start, length = item["offsetMilliseconds"], item["durationMilliseconds"]
            if not (isinstance(start, int) and isinstance(length, int) and start >= clock and start + length <= value["durationMilliseconds"]):
                wrong.append(f"{item!r} after {clock}")
            clock = start + length
        if "".join(item["text"] for item in phrase["words"]) != phrase["text"].replace(" ", "") and "holds" not in expect:
            wrong.append(f"the words make {[item['text'] for item in phrase['words']]}, the text is {phrase['text']!r}")
    return wrong


def cues(job, result, clip):
    """Laid-out subtitles, as their readers hold them."""
    expect, found = job["expect"], result["value"]["cues"]
    wrong = same_words(" ".join(line for cue in found for line in cue[2]), clip)
    clock = 0
    for start, end, lines in found:
        if not clock <= start < end or end - start > 7001:
            wrong.append(f"a cue runs from {start} to {end}, after {clock}")
        clock = end
        if len(lines) > expect["lines"] or any(len(line) > expect["width"] for line in lines):
            wrong.append(f"a cue is {lines!r}")
    if result["value"]["ffmpeg"] != found:
        wrong.append(f"ffmpeg reads {result['value']['ffmpeg']!r}, not {found!r}")
    return wrong


KINDS = {
    "fast": fast,
    "cues": cues,
    "json": json_answer,
    "text": text_answer,
    "srt": subtitles(SRT, True),
    "vtt": subtitles(VTT, False),
    "verbose_json": verbose_json,
    "stream": stream,
    "no events": no_events,
    "models": models,
}


def by_dialect(wanted, dialect):
    return wanted.get(dialect, wanted.get("*")) if isinstance(wanted, dict) else wanted


def error(job, result, expect):
    """The typed exception, its status, code, param and message."""
    given = result.get("error")
    if given is None:
        return [f"no error but {result!r}"]
    wrong = []
    classes = next(classes for name, classes in ERROR_CLASS.items() if job["client"].startswith(name))
    if given.get("class") != classes[expect["status"]]:
        wrong.append(f"raised {given.get('class')}, not {classes[expect['status']]}")
    if given.get("status") != expect["status"] and not job["client"].startswith("npm-azure-openai"):
        wrong.append(f"status is {given.get('status')!r}, not {expect['status']}")
    message = by_dialect(expect.get("message"), job["dialect"])
    if message and message not in (given.get("message") or ""):
        wrong.append(f"the message is {given.get('message')!r}, without {message!r}")
    for key in ("code", "param"):
        wanted = by_dialect(expect.get(key), job["dialect"])
        if wanted is not None and given.get(key) != wanted:
            wrong.append(f"{key} is {given.get(key)!r}, not {wanted!r}")
    if "keys" in given and given["keys"] != ["code", "message", "param", "type"]:
        wrong.append(f"the error object has the keys {given['keys']}")
    return wrong + envelope(job, given, "error")
