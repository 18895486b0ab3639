// One recording through npm's `openai` over wss (it knows no other): realtime_node.mjs ENDPOINT RECORDING.wav
// Prints one JSON line: the final transcripts in order, and how many partial results came before.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const FRAME_SECONDS = 0.1;
const SPEED = 4;
const TAIL_SECONDS = 2;
const QUIET_SECONDS = 90;

const [endpoint, path] = process.argv.slice(2);
// The package is installed beside the working folder, not beside this file.
const resolve = createRequire(`${process.cwd()}/`).resolve;
const load = (name) => import(pathToFileURL(resolve(name)).href);
const { default: OpenAI } = await load("openai");
const { OpenAIRealtimeWS } = await load("openai/realtime/ws");

const client = new OpenAI({ baseURL: `${endpoint}/v1`, apiKey: "key" });
// 6.x wants a model in the address, 7.x knows what the session is for.
const [major] = JSON.parse(readFileSync(`${process.cwd()}/node_modules/openai/package.json`, "utf8")).version.split(".");
const session = new OpenAIRealtimeWS(Number(major) >= 7 ? { intent: "transcription" } : { model: "whisper-1" }, client);

/** At 24 kHz, by linear interpolation, with silence behind it. */
function recording() {
  const file = readFileSync(path);
  const samples = new Int16Array(file.buffer, file.byteOffset + 44, (file.length - 44) >> 1);
  const out = new Int16Array(Math.floor((samples.length - 1) * 1.5) + TAIL_SECONDS * 24000);
  for (let n = 0; n < Math.floor((samples.length - 1) * 1.5); n += 1) {
    const place = n / 1.5;
    const at = Math.floor(place);
    out[n] = samples[at] * (1 - (place - at)) + samples[at + 1] * (place - at);
  }
  return Buffer.from(out.buffer);
}

const finals = [];
let partials = 0;
let committed = 0;
let cleared = false;
let timer;

function fail(error) {
  console.error(error);
  process.exit(1);
}

function progress() {
  clearTimeout(timer);
  timer = setTimeout(() => fail(`nothing came for ${QUIET_SECONDS} s`), QUIET_SECONDS * 1000);
  if (cleared && finals.length === committed) {
    clearTimeout(timer);
    console.log(JSON.stringify({ transcripts: finals, partials }));
    session.close();
  }
}

session.on("error", fail);
session.on("event", (event) => {
  if (event.type === "input_audio_buffer.committed") committed += 1;
  else if (event.type === "conversation.item.input_audio_transcription.delta") partials += 1;
  else if (event.type === "conversation.item.input_audio_transcription.completed") finals.push(event.transcript);
  else if (event.type === "conversation.item.input_audio_transcription.failed") fail(JSON.stringify(event));
  else if (event.type === "input_audio_buffer.cleared") cleared = true;
  progress();
});
session.socket.on("open", async () => {
  session.send({
    type: "session.update",
    session: {
      type: "transcription",
      audio: {
        input: {
          format: { type: "audio/pcm", rate: 24000 },
          transcription: { model: "whisper-1", language: "en" },
          turn_detection: { type: "server_vad", silence_duration_ms: 500 },
        },
      },
    },
  });
  const audio = recording();
  const size = 24000 * FRAME_SECONDS * 2;
  for (let at = 0; at < audio.length; at += size) {
    session.send({ type: "input_audio_buffer.append", audio: audio.subarray(at, at + size).toString("base64") });
    await new Promise((done) => setTimeout(done, (FRAME_SECONDS / SPEED) * 1000));
  }
  session.send({ type: "input_audio_buffer.clear" });
});
