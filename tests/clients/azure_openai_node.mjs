// Runs cases with the retired but still installed npm package `@azure/openai` (beta). See openai_node.mjs.
import fs from 'node:fs';
import { AzureKeyCredential, OpenAIClient } from '@azure/openai';

// The package renames every key of an answer to camel case.
function snakeCase(value) {
  if (Array.isArray(value)) return value.map(snakeCase);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, inner]) => inner !== undefined)
      .map(([key, inner]) => [key.replace(/[A-Z]/g, (letter) => '_' + letter.toLowerCase()), snakeCase(inner)]),
  );
}

async function run(job) {
  const client = new OpenAIClient(job.endpoint + (job.trailing_slash ? '/' : ''), new AzureKeyCredential(job.key), {
    allowInsecureConnection: true,
    apiVersion: job.api_version,
    retryOptions: { maxRetries: 2 },
  });
  const { response_format, timestamp_granularities, ...options } = job.params;
  if (timestamp_granularities) options.timestampGranularities = timestamp_granularities;
  const format = response_format ? [response_format] : [];
  const method = job.call === 'translate' ? 'getAudioTranslation' : 'getAudioTranscription';
  const answer = await client[method](job.deployment ?? job.model, fs.readFileSync(job.audio), ...format, options);
  if (typeof answer === 'string') return { text: answer, type: 'str' };
  return { value: snakeCase(answer), type: 'object' };
}

for (const job of JSON.parse(fs.readFileSync(process.argv[2], 'utf8'))) {
  let result;
  try {
    result = await run(job);
  } catch (failure) {
    const { message, statusCode, status, code, type, param } = failure;
    result = { error: { class: failure.constructor.name, message, status: statusCode ?? Number(status), code, type, param } };
  }
  process.stdout.write(JSON.stringify({ id: job.id, ...result }) + '\n');
}
