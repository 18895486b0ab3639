// Runs cases with the npm package `openai`, of whatever version stands in node_modules beside this file.
// Reads a JSON list of jobs from the file named first, writes one JSON line a job: what the client's user would hold.
import fs from 'node:fs';
import OpenAI, { AzureOpenAI, toFile } from 'openai';

const ENDPOINTS = { 'azure-v1': '/openai/v1', openai: '/v1' };

function client(job) {
  const slash = job.trailing_slash ? '/' : '';
  const timeout = job.timeout * 1000;
  if (job.dialect === 'azure') {
    const options = { endpoint: job.endpoint + slash, apiVersion: job.api_version, timeout };
    if (job.deployment) options.deployment = job.deployment;
    if (job.entra) options.azureADTokenProvider = async () => job.key;
    else options.apiKey = job.key;
    return new AzureOpenAI(options);
  }
  return new OpenAI({ baseURL: job.endpoint + ENDPOINTS[job.dialect] + slash, apiKey: job.key, timeout });
}

async function upload(job) {
  if (job.upload === 'stream') return fs.createReadStream(job.audio);
  const content = fs.readFileSync(job.audio);
  return job.upload === 'unnamed' ? toFile(content) : toFile(content, job.file_name);
}

async function run(job) {
  const withClient = client(job);
  if (job.call === 'models.list') return { models: (await withClient.models.list()).data };
  if (job.call === 'models.retrieve') return { models: [await withClient.models.retrieve(job.model)] };
  const resource = job.call === 'translate' ? withClient.audio.translations : withClient.audio.transcriptions;
  const answer = await resource.create({ model: job.model, file: await upload(job), ...job.params });
  if (typeof answer === 'string') return { text: answer, type: 'str' };
  if (job.params.stream) {
    const events = [];
    for await (const event of answer) events.push(event);
    return { events };
  }
  return { value: answer, type: 'object', request_id: answer._request_id };
}

for (const job of JSON.parse(fs.readFileSync(process.argv[2], 'utf8'))) {
  let result;
  try {
    result = await run(job);
  } catch (failure) {
    const { message, status, code, type, param } = failure;
    const request_id = failure.requestID ?? failure.request_id;
    result = { error: { class: failure.constructor.name, message, status, code, type, param, request_id } };
  }
  process.stdout.write(JSON.stringify({ id: job.id, ...result }) + '\n');
}
