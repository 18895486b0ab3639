// Runs cases with the npm packages `ai` and `@ai-sdk/azure`. See openai_node.mjs.
import fs from 'node:fs';
import { createAzure } from '@ai-sdk/azure';
import { experimental_transcribe as transcribe } from 'ai';

// `azure-bare` is what a user gets who writes the endpoint as the package's documentation does, without `/v1`.
const ENDPOINTS = { azure: '/openai', 'azure-v1': '/openai/v1', 'azure-bare': '/openai' };

async function run(job) {
  const azure = createAzure({
    baseURL: job.endpoint + ENDPOINTS[job.dialect],
    apiKey: job.key,
    useDeploymentBasedUrls: job.dialect === 'azure',
    ...(job.dialect === 'azure' ? { apiVersion: job.api_version } : {}),
  });
  const { response_format, timestamp_granularities, ...options } = job.params;
  if (timestamp_granularities) options.timestampGranularities = timestamp_granularities;
  // With any option of its own the package asks for verbose_json, without one for nothing.
  const own = response_format === 'verbose_json' || Object.keys(options).length > 0;
  const answer = await transcribe({
    model: azure.transcription(job.model),
    audio: fs.readFileSync(job.audio),
    abortSignal: AbortSignal.timeout(job.timeout * 1000),
    ...(own ? { providerOptions: { openai: options } } : {}),
  });
  const { text, segments, language, durationInSeconds } = answer;
  return { value: answer.responses[0].body, type: 'object', sdk: { text, segments, language, durationInSeconds } };
}

for (const job of JSON.parse(fs.readFileSync(process.argv[2], 'utf8'))) {
  let result;
  try {
    result = await run(job);
  } catch (failure) {
    const error = failure.lastError ?? failure;
    const { code, type, param } = error.data?.error ?? {};
    result = { error: { class: error.name, message: error.message, status: error.statusCode, code, type, param } };
  }
  process.stdout.write(JSON.stringify({ id: job.id, ...result }) + '\n');
}
